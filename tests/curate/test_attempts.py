"""Steps that go by models' own attempts, against counts made by hand."""

import json

import pytest
from curating import asked, curate, lines, read

from mede2_jax.config import UserError


def rollouts(path, answers, records):
    """A file of rollouts: for each question the letters that were answered."""
    rows = []
    for record in records:
        for sample, letter in enumerate(answers.get(record["id"], "")):
            response = f"<think> so </think> <answer> {letter} </answer>" if letter != "?" else "<think> cut"
            row = {"id": f"{record['id']}#{sample}", "parents": [record["id"]], "sample": sample, "response": response, "seed": sample}
            rows.append({**record, **row, "finish_reason": "stop", "prompt_tokens": 1, "response_tokens": 1, "model": "m"})
    lines(path, rows)
    return str(path)


RECORDS = [asked(number) for number in range(5)]  # the right answer is A


def left_out(folder):
    return {one["id"]: (one["step"], one["reason"], one.get("pass_rate")) for one in read(folder / "c.dropped.jsonl")}


def test_what_a_baseline_solves_is_left_out(tmp_path):
    one = rollouts(tmp_path / "one.jsonl", {"q0": "A", "q1": "B", "q2": "ABB", "q3": "AAB", "q4": "?"}, RECORDS)
    other = rollouts(tmp_path / "other.jsonl", {"q0": "B", "q1": "B", "q2": "AB", "q3": "B", "q4": "B"}, RECORDS)
    assert curate(tmp_path, RECORDS, f"--difficulty.rollouts={one},{other}") == ["q1", "q2", "q4"]
    solved = "a baseline solves it"
    assert left_out(tmp_path) == {"q0": ("difficulty", solved, 0.5), "q3": ("difficulty", solved, 0.5)}
    said = json.loads((tmp_path / "c.jsonl.manifest.json").read_text())
    assert [one["path"] for one in said["attempts"]["difficulty"]] == [one, other]


def test_the_pass_rate_has_two_bounds_that_count_as_within(tmp_path):
    one = rollouts(tmp_path / "one.jsonl", {"q0": "AAAA", "q1": "AAAB", "q2": "AB", "q3": "ABBB", "q4": "BBBB"}, RECORDS)
    assert curate(tmp_path, RECORDS, f"--difficulty.rollouts={one}", "--difficulty.pass_rate=0.25,0.75") == ["q1", "q2", "q3"]
    assert left_out(tmp_path) == {
        "q0": ("difficulty", "models solve it too often", 1.0),
        "q4": ("difficulty", "models solve it too seldom", 0.0),
    }


def test_what_each_expert_solves_once_stays(tmp_path):
    one = rollouts(tmp_path / "one.jsonl", {"q0": "BBBA", "q1": "AAAA", "q2": "BBBB", "q3": "A", "q4": "?A"}, RECORDS)
    other = rollouts(tmp_path / "other.jsonl", {"q0": "A", "q1": "BBBB", "q2": "B", "q3": "BBA", "q4": "A"}, RECORDS)
    assert curate(tmp_path, RECORDS, f"--solvability.rollouts={one},{other}") == ["q0", "q3", "q4"]
    assert left_out(tmp_path) == {
        "q1": ("solvability", "an expert never solves it", 0.5),
        "q2": ("solvability", "an expert never solves it", 0.0),
    }


def test_what_has_no_right_answer_cannot_be_tried(tmp_path):
    records = [RECORDS[0], {name: value for name, value in RECORDS[1].items() if name != "answer"}]
    one = rollouts(tmp_path / "one.jsonl", {"q0": "B"}, records)
    assert curate(tmp_path, records, f"--difficulty.rollouts={one}") == ["q0"]
    assert left_out(tmp_path) == {"q1": ("difficulty", "no right answer is known", None)}


def test_only_questions_that_are_left_need_responses(tmp_path):
    records = [RECORDS[0], asked(9, of=0)]
    one = rollouts(tmp_path / "one.jsonl", {"q0": "B"}, records)
    assert curate(tmp_path, records, f"--difficulty.rollouts={one}") == ["q0"]
    with pytest.raises(UserError, match=r"one.jsonl has no response to 1 question \(q9\); sample them"):
        curate(tmp_path, records, f"--difficulty.rollouts={one}", "--steps=difficulty,duplicates")


@pytest.mark.parametrize("step", ["difficulty", "solvability"])
def test_what_an_api_refuses_for_good_is_left_out_if_one_says_so(tmp_path, step):
    one = rollouts(tmp_path / "one.jsonl", {"q0": "AB", "q1": "AB"}, RECORDS)
    other = rollouts(tmp_path / "other.jsonl", {"q0": "AB", "q2": "AB"}, RECORDS)
    flags = [f"--{step}.rollouts={one},{other}", f"--steps={step}"]
    with pytest.raises(UserError, match=rf"one.jsonl has no response to 2 questions .*; or go on without: --{step}.missing=accept"):
        curate(tmp_path, RECORDS[:4], *flags)
    assert curate(tmp_path, RECORDS[:4], *flags, f"--{step}.missing=accept") == ["q0"]
    assert left_out(tmp_path) == {f"q{number}": (step, "no reply to it came", None) for number in (1, 2, 3)}


def test_responses_to_another_question_of_that_id_are_refused(tmp_path):
    one = rollouts(tmp_path / "one.jsonl", {"q0": "B"}, [asked(0, of=7)])
    with pytest.raises(UserError, match=r"one.jsonl:1: is of another question than q0 of the bank \(its prompt differs\)"):
        curate(tmp_path, RECORDS[:1], f"--difficulty.rollouts={one}")


def test_a_response_that_is_there_twice_is_refused(tmp_path):
    one = tmp_path / "one.jsonl"
    rollouts(one, {"q0": "B"}, RECORDS)
    one.write_text(one.read_text() * 2)
    with pytest.raises(UserError, match=r"one.jsonl:2: the id q0#0 is there twice"):
        curate(tmp_path, RECORDS[:1], f"--difficulty.rollouts={one}")


def test_bounds_the_wrong_way_round_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--difficulty.pass_rate: must be two shares, the lower one first"):
        curate(tmp_path, RECORDS, "--difficulty.pass_rate=0.9,0.1")


def test_steps_without_anything_to_go_by_are_told(tmp_path, capsys):
    curate(tmp_path, RECORDS)
    said = " ".join(capsys.readouterr().out.split())
    replies = ", ".join(f"{step} (no --{step}.rollouts)" for step in ("difficulty", "type", "solvability", "refinement"))
    assert f"steps that are left out: leakage (no --leakage.task), {replies}" in said
