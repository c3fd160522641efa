"""One score of one file, in whatever form it comes."""

import csv
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
from scored import ITEMS, medqa_file, replies, scored, write

from mede2_jax.config import UserError


@pytest.fixture
def data(tmp_path):
    return medqa_file(tmp_path)


def test_one_file_in_every_form_gives_one_score(data, tmp_path):
    records = replies({0, 3, 4, 9}, "So the answer is {}")
    files = {"r.jsonl": write(tmp_path / "r.jsonl", records)}
    (tmp_path / "list.json").write_text(json.dumps(records))
    (tmp_path / "output.json").write_text(json.dumps({record["id"]: record["response"] for record in records}))
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["qid", "reply"])
        writer.writeheader()
        writer.writerows({"qid": record["id"], "reply": record["response"]} for record in records)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "r.parquet")
    rollouts = [
        {"id": f"{one['id']}#0", "parents": [one["id"]], "sample": 0, "response": one["response"], "finish_reason": "stop"}
        for one in records
    ]
    files["rollouts.jsonl"] = write(tmp_path / "rollouts.jsonl", rollouts)
    found = [
        scored(tmp_path, data, tmp_path / name)[1]
        for name in ("r.jsonl", "list.json", "output.json", "r.csv", "r.parquet", "rollouts.jsonl")
    ]
    assert all(one == found[0] for one in found) and sum(verdict["correct"] for verdict in found[0]) == 4


def test_samples_may_be_rows_or_lists(data, tmp_path):
    """Votes of question 0: A A B B C with A right; of the others all right."""
    said = [["A", "A", "B", "B", "C"] if n == 0 else ["ABCD"[n % 4]] * 5 for n in range(ITEMS)]
    lists = [{"id": f"medqa-{n}", "responses": said[n]} for n in range(ITEMS)]
    rows = [{"id": f"medqa-{n}", "response": one, "sample": k} for n in range(ITEMS) for k, one in enumerate(said[n])]
    random.Random(0).shuffle(rows)
    results = [scored(tmp_path, data, write(tmp_path / "r.jsonl", records), "--k=1,2,3,4,5") for records in (lists, rows)]
    assert results[0][1] == results[1][1] and results[0][0]["at"] == results[1][0]["at"]
    at = results[0][0]["at"]
    for k, majority, passed in ((1, 2 / 5, 2 / 5), (2, 2 / 5, 7 / 10), (3, 13 / 30, 9 / 10), (4, 1 / 2, 1), (5, 1 / 2, 1)):
        assert at["majority"][str(k)]["value"] == pytest.approx((11 + majority) / 12)
        assert at["pass"][str(k)]["value"] == pytest.approx((11 + passed) / 12)
        assert at["chance"][str(k)] == pytest.approx(1 - 0.75**k)
    overall = results[0][0]["overall"]
    assert overall["samples"] == 60 and overall["accuracy"] == pytest.approx((11 + 2 / 5) / 12)
    assert overall["interval_method"].startswith("bootstrap over items") and overall["standard_error"] == pytest.approx(0.05)


@pytest.mark.parametrize("written", [json.dumps, repr, lambda texts: f" {texts!r}\n"])
def test_a_list_in_a_cell_of_csv_is_several_samples(data, tmp_path, written):
    """As JSON or as Python writes it, with what each ended by."""
    said = [["<answer> A </answer>", '<think>\n"it\'s", he said', "C"] if n == 0 else ["ABCD"[n % 4]] * 3 for n in range(ITEMS)]
    rows = [{"id": f"medqa-{n}", "response": texts, "finish_reason": ["stop", "length", "stop"]} for n, texts in enumerate(said)]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({"id": row["id"], **{name: written(row[name]) for name in ("response", "finish_reason")}} for row in rows)
    lists, cells = scored(tmp_path, data, write(tmp_path / "r.jsonl", rows)), scored(tmp_path, data, tmp_path / "r.csv")
    assert lists[1] == cells[1] and cells[0]["overall"]["samples"] == 36 and cells[0]["overall"]["cut"] == ITEMS


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['A' 'E']", "r.csv:2: column 'response' begins or ends as a list of texts does, and is none in JSON's or Python's notation "),
        ("['A'\n 'E']", "(['A' 'E']); write it as JSON, or give the file as JSONL"),
        ("['A', ...]", "begins or ends as a list of texts does"),
        ("[nan, 'A']", "begins or ends as a list of texts does"),
        ('["\\ud800"]', "begins or ends as a list of texts does"),
        ('["A", 5]', "column 'response' must be text, or a list of texts, found 5"),
    ],
)
def test_a_cell_that_may_be_a_list_is_never_one_reply(data, tmp_path, cell, expected):
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "response"), *((f"medqa-{n}", cell) for n in range(ITEMS))])
    with pytest.raises(UserError) as raised:
        scored(tmp_path, data, tmp_path / "r.csv")
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_texts_in_brackets_are_texts(data, tmp_path):
    cells = ["[A]", "[1, 2] A", "[see above]", "[]", "A", *["B"] * (ITEMS - 5)]
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "response"), *((f"medqa-{n}", cell) for n, cell in enumerate(cells))])
    assert scored(tmp_path, data, tmp_path / "r.csv")[0]["overall"]["samples"] == ITEMS
