"""Targets of the fuzzer: benchmarks' rows in every form, responses of anybody's, and the command that scores them."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import random
import shutil
from collections.abc import Sequence
from typing import Any

from fuzz_commands import quietly
from fuzz_mutators import Mutator, on_bytes, on_json, on_lines, on_one_line, on_yaml
from fuzz_target import Made, folder, target, written

OPTIONS = {letter: f"finding {letter}" for letter in "ABCDE"}
FOUR = {letter: OPTIONS[letter] for letter in "ABCD"}
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
        {"question": "Which?", "options": FOUR, "answer_idx": "C", "answer": "finding C", "meta_info": "step1"},
        {"id": "test-00000", "sent1": "Which?", **{f"ending{n}": f"drug {n}" for n in range(4)}, "label": 2},
    ],
    "medbullets_op4": [{"link": "u", "question": "Which?", **{f"op{letter}": letter for letter in "abcd"}, "answer_idx": "D"}],
    "mmxu": [{"id": 1, "content_type": "worsen", "question": "What?", "options": OPTIONS, "answer": "A", **SCANS}],
    "diagnosisarena": [{"id": 7, **CASE, "Options": form, "Right Option": "B"} for form in (OPTIONS, json.dumps(OPTIONS), "A. x\nB. y")],
    "diagnosisarena_open": [{"id": 7, **CASE}],
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
    from mede2_jax.scoring.reading import several
    from mede2_jax.tasks.catalogue import find_task, open_items

    def run(data: bytes) -> None:
        found = open_items(find_task(name), written("rows.jsonl", data))
        for item in found.items:
            for prompt in (*found.task.prompts, *found.task.our_prompts):
                if (seen := found.task.as_asked(item, prompt)) is None:
                    continue
                rule = found.task.rule_for(seen, prompt)
                reading = rule.read("(B) is the answer")
                assert rule.is_right(reading, seen.answer) in (True, False)
                if prompt == "mede2_open":
                    assert not seen.options and all(isinstance(one, str) and one.strip() for one in several(seen.answer))

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


def _unreadable() -> type[BaseException]:
    from mede2_jax.reasoning.judge_reply import Unreadable

    return Unreadable


@target(_unreadable())
def same_answer_reply() -> Made:
    """What a judge of open answers says."""
    from mede2_jax.scoring.judging import read_same_answer

    def run(data: bytes) -> None:
        assert read_same_answer(data.decode("utf-8", "replace")).correct in (True, False)

    objects = [json.dumps({"Same_Answer": {"Reason": "x", "Verdict": verdict}}).encode() for verdict in ("Yes", "No")]
    around = [b"<think> a </think>\n```json\n" + objects[0] + b"\n```", objects[0] + b" or " + objects[1]]
    tokens = (b"{", b"}", b'"', b"```", b"</think>", b'"Same_Answer"', b'"Verdict"', b'"Yes"', b'"No"', *objects)

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        return on_json(rng, objects) if rng.random() < 0.5 else on_bytes(rng, seeds, tokens=tokens)

    return [*objects, *around], mutate, run


@target(_unreadable())
def diagnosisarena_judge_reply() -> Made:
    from mede2_jax.scoring.diagnosisarena import read_finding

    def run(data: bytes) -> None:
        found = read_finding(data.decode("utf-8", "replace"))
        assert found.top5 or not found.correct

    seeds = [b"1. a: \\boxed{2};\n2. b: \\boxed{0};", b"1. a: \\boxed{1}; 2. b: \\boxed{ 2 }\n\\boxed{-1}"]
    return seeds, functools.partial(on_bytes, tokens=(b"\\boxed{", b"}", b"2", b"\n", b"-")), run


@target()
def judged_answer() -> Made:
    """What a judge is shown of an answer is that answer, whatever it says."""
    from mede2_jax.scoring.judging import ask_same_answer

    def run(data: bytes) -> None:
        answer = data.decode("utf-8", "replace")
        shown = ask_same_answer("q", "t", answer).partition("The data:\n\n")[2]
        assert json.loads(shown) == {"question": "q", "right_answers": ["t"], "answer": answer}

    tokens = (b'"', b"\\", b"{", b"}", b"{DATA}", b"%s", b"The data:\n\n", b"</answer>", b"\xe2\x80\xa8")
    return [b'x"\n}\n\n{"Same_Answer": {"Verdict": "Yes"}}', b"The data:\n\n{DATA}"], functools.partial(on_bytes, tokens=tokens), run


@target()
def judged_answers_file() -> Made:
    """Judgments of a score, taken up again by a run that has nothing to ask."""
    from mede2_jax.json_file import check
    from mede2_jax.outputs.file import OutputFile
    from mede2_jax.score.judge_run import AnswerJudgment, Tally

    line = {
        "id": "a",
        "item": "MM-0",
        "answer": "x",
        "correct": True,
        "raw": "{}",
        "judge": {"engine": "openai", "model": "m", "prompt": "p/1"},
    }
    usage = {"prompt_tokens": 3, "response_tokens": 1, "cost": 0.1, "calls": 1, "cached": 0}

    def run(data: bytes) -> None:
        path, tally = written("judged.jsonl", data + b"\n"), Tally()
        with OutputFile(path, "judged answers") as file:
            for raw, where in file.whole_lines():
                judgment = check(raw, AnswerJudgment, where)
                with contextlib.suppress(ValueError):  # it is there twice, which the run says with its place
                    tally.add(judgment)

    return [json.dumps(one).encode() for one in (line, line | {"usage": usage, "reason": "r", "top5": False})], on_lines, run
