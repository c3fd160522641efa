"""Small banks, curated by the command."""

import json
from pathlib import Path

from planted import question

from mede2_jax.curate.__main__ import main


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def read(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def manifest(path):
    return json.loads(Path(f"{path}.manifest.json").read_text("utf-8"))


def stem(number):
    """Thirty words that no other number has."""
    return " ".join(chr(97 + place % 26) * (1 + place // 26) + chr(97 + number % 26) + chr(97 + number // 26) for place in range(30))


def asked(number, of=None, **fields):
    return question(f"q{number}", stem(number if of is None else of), ["gout", "sprain"], "gout") | fields


def curate(folder, records, *flags):
    lines(folder / "bank.jsonl", records)
    main([f"--questions={folder / 'bank.jsonl'}", f"--out={folder / 'c.jsonl'}", *flags])
    return [one["id"] for one in read(folder / "c.jsonl")]
