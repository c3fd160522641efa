"""Planted duplicates and leaks, of every kind, are found, and nothing else is; the shares are printed."""

import collections
import json

import pytest
from curating import lines, read
from planted import changed, originals, others

from mede2_jax.curate.__main__ import main

APART = ("mirrored", "reworded")
"""Kinds whose recall is told, and not asked for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def planted(folder):
    """(originals, (kind, original, copy), others)."""
    return [record for _, _, record, _ in originals(folder)], list(changed(folder)), list(others(folder))


def told(what, found, copies, wrong):
    """Recall by kind and of all that count, and precision; printed."""
    kinds = collections.Counter(kind for kind, _, _ in copies)
    hits = collections.Counter(kind for kind, _, copy in copies if copy["id"] in found)
    for kind, count in kinds.items():
        print(f"{what}, {kind}: {hits[kind]} of {count}{' (apart)' if kind in APART else ''}")
    counted = [copy["id"] in found for kind, _, copy in copies if kind not in APART]
    recall, precision = sum(counted) / len(counted), hits.total() / max(hits.total() + len(wrong), 1)
    print(f"{what}: recall {recall:.3f}, precision {precision:.3f}")
    return recall, precision


def test_planted_duplicates_are_found_and_nothing_else(folder, planted):
    first, copies, like = planted
    lines(folder / "bank.jsonl", [*first, *(copy for _, _, copy in copies), *like])
    main([f"--questions={folder / 'bank.jsonl'}", f"--out={folder / 'c.jsonl'}", "--steps=duplicates"])
    dropped = {one["id"]: one for one in read(folder / "c.dropped.jsonl")}
    of = {copy["id"]: original for _, original, copy in copies}
    wrong = [id for id, one in dropped.items() if of.get(id) != one["by"]]
    recall, precision = told("duplicates", dropped, copies, wrong)
    assert recall >= 0.95 and precision >= 0.99, wrong
    assert {one["id"] for one in read(folder / "c.jsonl")} | dropped.keys() == {one["id"] for one in read(folder / "bank.jsonl")}


BENCHMARK = """name: ward
files: [items.jsonl]
columns: {id: id, question: q, answer: a, options: o, images: i}
some_without_images: true
kind: choice
"""


def test_planted_leaks_are_found_and_nothing_else(folder, planted):
    first, copies, like = planted
    place = folder / "benchmark"
    place.mkdir()
    lines(place / "items.jsonl", map(as_item, first))
    (place / "ward.yaml").write_text(BENCHMARK)
    own = [fresh(one, number) for number, one in enumerate(one for one in like if one["id"].startswith("film"))]
    lines(folder / "leaky.jsonl", [*(copy for _, _, copy in copies), *own])
    flags = [f"--leakage.task={place / 'ward.yaml'}", f"--leakage.data={place}", f"--leakage.images={folder}", "--steps=leakage"]
    main([f"--questions={folder / 'leaky.jsonl'}", f"--out={folder / 'l.jsonl'}", *flags])
    dropped = {one["id"]: one for one in read(folder / "l.dropped.jsonl")}
    wrong = [id for id in dropped if not id.startswith("copy-")]
    recall, precision = told("leaks", dropped, copies, wrong)
    assert recall >= 0.95 and precision >= 0.99, wrong
    (certificate,) = json.loads((folder / "l.jsonl.manifest.json").read_text("utf-8"))["leakage"]["checked"]
    assert certificate["benchmark"] == "ward" and {match["record"] for match in certificate["matches"]} == dropped.keys()
    assert {match["by"] for match in certificate["matches"]} == {"text", "image"}


def as_item(record):
    """A question as a row of the benchmark."""
    content = record["prompt"][0]["content"]
    said = content if isinstance(content, str) else content[-1]["text"]
    stem = said.partition("\nAnswer Choices:")[0]
    return {"id": record["id"], "q": stem, "a": record["answer"], "o": record["options"], "i": record["images"]}


def fresh(record, number):
    """A question that is in no benchmark: other words, and its own picture."""
    words = [f"word{(number * 31 + place * 7) % 997}" for place in range(40)]
    content = [{"type": "image"}, {"type": "text", "text": " ".join(words)}]
    return {**record, "id": f"own-{number}", "prompt": [{"role": "user", "content": content}]}
