"""Targets of the fuzzer: benchmarks' rows in every form, responses of anybody's, and the command that scores them."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import shutil
from collections.abc import Sequence
from typing import Any

from fuzz_commands import quietly
from fuzz_mutators import Mutator, on_bytes, on_json, on_lines, on_one_line, on_yaml
from fuzz_target import Made, folder, target, written

OPTIONS = {letter: f"finding {letter}" for letter in "ABCDE"}
TAIL = " ".join(f"({letter}) {text}" for letter, text in OPTIONS.items())
GROUPS = {"medical_task": "Diagnosis", "body_system": "Skeletal", "question_type": "Reasoning"}
HUB = {"id": "MM-0", "question": f"Which?\nAnswer Choices: {TAIL}", "options": OPTIONS, "label": "B", "images": ["MM-0-a.jpeg"], **GROUPS}
LISTED = [{"letter": letter, "content": text} for letter, text in OPTIONS.items()]
INPUT = HUB | {"options": LISTED, "label": ["B"], "images": [{"image_path": "MM-0-a.jpeg"}]}
CHOICE = {"id": "validation_Pharmacy_1", "question": "See <image 1>", "options": "['True', 'False']", "answer": "A", "image_1": "a.png"}
SCANS = {"cur_image_path": "files/p10/p10000032/s2/a.jpg", "prior_image_path": ["files/p10/p10000032/s1/a.jpg"]}
CASE = {"Case Information": "a", "Physical Examination": "b", "Diagnostic Tests": "c", "Final Diagnosis": "gout"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "medxpertqa_mm": [HUB, INPUT],
    "mmmu": [
        CHOICE | {"question_type": "multiple-choice"},
        CHOICE | {"question_type": "open", "options": "[]", "answer": "2"},
        {"id": "validation_Art_3", "question_type": "multiple-choice", "answer": "A", "index2ans": {"A": "x", "B": "y"}, "response": "B"},
    ],
    "mmmu_pro_standard10": [CHOICE | {"subject": "Pharmacy"}],
    "mmmu_pro_vision": [{"id": "test_Art_1", "image": "a.png", "options": "[['a', 'b']]", "answer": "B", "subject": "Art"}],
    "medqa": [
        {"question": "Which?", "options": OPTIONS, "answer_idx": "C", "answer": "finding C", "meta_info": "step1"},
        {"id": "test-00000", "sent1": "Which?", **{f"ending{n}": f"drug {n}" for n in range(4)}, "label": 2},
    ],
    "medbullets_op4": [{"link": "u", "question": "Which?", **{f"op{letter}": letter for letter in "abcd"}, "answer_idx": "D"}],
    "mmxu": [{"id": 1, "content_type": "worsen", "question": "What?", "options": OPTIONS, "answer": "A", **SCANS}],
    "diagnosisarena": [{"id": 7, **CASE, "Options": form, "Right Option": "B"} for form in (OPTIONS, json.dumps(OPTIONS), "A. x\nB. y")],
}
OWN_ROWS: list[dict[str, Any]] = [
    {"id": 1, "q": "Which?", "a": "B", "o": ["x", "y"], "i": "a.png", "m": "CT", "lang": "en", "t": "pick"},
    {"id": 2, "q": "Is it?", "a": "yes", "o": "A. x\nB. y", "i": ["a.png", "b.png"], "m": None, "lang": "en", "t": "closed"},
    {"id": 3, "q": "What?", "a": ["a mass", "mass"], "i": {"bytes": None, "path": "a.png"}, "lang": "en", "t": "open"},
    {"id": 4, "q": "Which?", "a": "A", "o": "{'A': 'A. x', 'B': 'B. y'}", "i": "iVBORw0KGgo=", "m": 1.5, "lang": "en", "t": "pick"},
]
OWN = """name: mine
files: [data/*.jsonl, "*.jsonl"]
columns:
  id: id
  question: q
  answer: a
  options: o
  images: i
  groups: [m]
  cluster: q
kinds:
  column: t
  values: {pick: choice, closed: yes_no, open: open}
  others: short
where:
  lang: [en, de]
image_folder: scans
prompt: In a word.
items: 4
"""
OWN_CHOICE = """name: mine
files: "*.jsonl"
columns:
  question: q
  answer: a
  options: [o, m]
  images: [i]
kind: choice
answer_is: text
images_are: base64
"""
RESPONSES = [
    {"id": "MM-0", "response": "<think> a </think> <answer> B </answer>"},
    {"id": "MM-1", "response": ["A", "The answer is C"], "finish_reason": ["stop", "length"]},
    {"question_id": "MM-2", "prediction": None, "sample": 3, "model": "m"},
    {"id": "MM-0#0", "parents": ["MM-0"], "sample": 0, "response": "B", "finish_reason": "length"},
]


def _rows(name: str) -> Made:
    from mede2_jax.tasks.catalogue import find_task, open_items

    def run(data: bytes) -> None:
        found = open_items(find_task(name), written("rows.jsonl", data))
        for item in found.items:
            for prompt in found.task.prompts:
                rule = found.task.rule(item, prompt)
                reading = rule.read("(B) is the answer")
                assert rule.is_right(reading, item.answer) in (True, False)

    return [json.dumps(row).encode() for row in ROWS[name]], on_lines, run


for _name in ROWS:
    target(name=f"rows_{_name}")(functools.partial(_rows, _name))


def _read_own(config: bytes, rows: bytes) -> None:
    from mede2_jax.scoring.texts import shared_words
    from mede2_jax.tasks.catalogue import find_task, open_items

    task = find_task(str(written("own.yaml", config)))
    for item in open_items(task, written("own/rows.jsonl", rows).parent).items:
        rule = task.rule(item, "official")
        assert rule is not None and rule.is_right(rule.read("(B) is the answer"), item.answer) in (True, False)
        assert 0 <= shared_words("the answer", item.answer).recall <= 1


@target()
def own_yaml() -> Made:
    rows = "\n".join(map(json.dumps, OWN_ROWS)).encode()
    keys = ("name", "files", "columns", "options", "groups", "kind", "kinds", "values", "others", "where", "answer_is", "items", "yes")
    return [OWN.encode(), OWN_CHOICE.encode()], on_yaml(*keys), functools.partial(_read_own, rows=rows)


@target()
def rows_own() -> Made:
    return [json.dumps(row).encode() for row in OWN_ROWS], on_lines, functools.partial(_read_own, OWN.encode())


@target()
def rows_own_base64() -> Made:
    row = OWN_ROWS[3] | {"o": "one", "m": "two", "a": "two"}
    return [json.dumps(row).encode()], on_lines, functools.partial(_read_own, OWN_CHOICE.encode())


def _table(suffix: str, mutate: Mutator, seeds: Sequence[bytes]) -> Made:
    from mede2_jax.score.config import ColumnsConfig
    from mede2_jax.score.responses import read_responses

    def run(data: bytes) -> None:
        read_responses(written(f"responses{suffix}", data), ColumnsConfig())

    return seeds, mutate, run


@target()
def responses_csv() -> Made:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([["id", "response"], ["MM-0", 'A, "B"\nC'], ["MM-1", ""]])
    return _table(".csv", functools.partial(on_bytes, tokens=(b'"', b'""', b",", b"\n", b"\r", b"\0")), [text.getvalue().encode()])


@target()
def responses_json() -> Made:
    columns = {"id": {"0": "MM-0", "1": "MM-1"}, "response": {"0": "A", "1": "B"}}
    return _table(".json", on_json, [json.dumps(one).encode() for one in ({"MM-0": "A", "MM-1": ["B", "C"]}, columns, RESPONSES)])


@target()
def responses_jsonl() -> Made:
    return _table(".jsonl", on_lines, [json.dumps(one).encode() for one in RESPONSES])


@target()
def responses_parquet() -> Made:
    import pyarrow
    import pyarrow.parquet

    path = folder() / "seed.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"id": "MM-0", "response": "A"}] * 3), path)
    return _table(".parquet", on_bytes, [path.read_bytes()])


@target()
def score() -> Made:
    from mede2_jax.score.__main__ import main

    data = written("mm.jsonl", "".join(json.dumps(HUB | {"id": f"MM-{n}"}) + "\n" for n in range(3)).encode())
    out = folder() / "scores"

    def run(changed: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(out)
        quietly(
            main,
            ["--task=medxpertqa_mm", f"--data={data}", f"--responses={written('r.jsonl', changed)}", f"--out={out}", "--resamples=100"],
        )

    lines = [json.dumps({"id": f"MM-{n}", "response": f"<answer> {letter} </answer>"}) for n, letter in enumerate("ABC")]
    return ["\n".join(lines).encode()], on_one_line, run
