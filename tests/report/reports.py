"""Reports of scores, and how their files are read."""

import csv
import json
import re

from report_files import answer

from mede2_jax.report.__main__ import main


def right_of(numbers):
    """Replies that are right to these items, and an earlier letter to the others."""

    def reply(item, sample):
        number = int(item.id.removeprefix("MM-"))
        return answer(item.answer if number in numbers else "ABCDE"["ABCDE".index(item.answer) - 1])

    return reply


def made(out, *flags):
    main([*flags, f"--out={out}"])
    return out


def rows(out, name):
    with (out / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def loaded(out, name):
    """A data file as the page has it."""
    text = (out / "data" / f"{name}.js").read_text("utf-8")
    match = re.fullmatch(r'mede2\("([^"]*)",(.*)\);\n', text, re.DOTALL)
    assert match and match[1] == name
    return json.loads(match[2])
