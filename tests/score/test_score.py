"""From files of responses to scores."""

import csv
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.score.__main__ import main

ITEMS = 12


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    """MedQA's files with twelve questions; the right answer of number n is the letter n modulo 4."""
    records = []
    for number in range(ITEMS):
        options = {letter: f"drug {letter}{number}" for letter in "ABCD"}
        answer = "ABCD"[number % 4]
        step = "step1" if number < 8 else "step2&3"
        records.append(
            {"question": f"Case {number}?", "options": options, "answer": options[answer], "answer_idx": answer, "meta_info": step}
        )
    return write(tmp_path / "phrases_no_exclude_test.jsonl", records)


def replies(right, texts="<think> … </think> <answer> {} </answer>"):
    """One reply an item, of which those numbered are right."""
    return [{"id": f"medqa-{n}", "response": texts.format("ABCD"[n % 4] if n in right else "ABCD"[(n + 1) % 4])} for n in range(ITEMS)]


def scored(tmp_path, data, file, *flags):
    out = tmp_path / "out"
    main(["--task=medqa", f"--data={data}", f"--responses={file}", f"--out={out}", *flags])
    verdicts = [json.loads(line) for line in (out / "verdicts.jsonl").read_text("utf-8").splitlines()]
    return json.loads((out / "score.json").read_text("utf-8")), verdicts


def test_a_score_says_what_was_counted(data, tmp_path, capsys):
    result, verdicts = scored(tmp_path, data, write(tmp_path / "r.jsonl", replies(range(7))))
    overall = result["overall"]
    assert (overall["items"], overall["correct"], overall["wrong"], overall["unparsed"]) == (12, 7, 5, 0)
    assert overall["accuracy"] == pytest.approx(7 / 12) and overall["interval_method"] == "Wilson"
    assert overall["interval"] == pytest.approx([0.3195, 0.8067], abs=1e-4)  # by hand from Wilson's formula
    assert {step: one["correct"] for step, one in result["by"]["step"].items()} == {"step1": 7, "step2&3": 0}
    read = {"read": "A", "step": "answer tag", "correct": True, "outcome": "correct", "finish": "stop"}
    assert verdicts[0] == {"id": "medqa-0", "sample": 0, **read}
    assert result["steps"] == {"answer tag": 12} and result["mode"] == "mede2" and result["data"]["digest"].startswith("sha256:")
    assert result["data"]["deviations"][0] == "items: 12 instead of 1,273"
    shown = capsys.readouterr().out
    assert "7 of 12" in shown and "58.33" in shown and "12 instead of 1,273" in shown


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


def test_what_is_no_answer_stays_in_the_denominator(data, tmp_path, capsys):
    records = replies(range(ITEMS))
    records[1] |= {"response": "<think> It may be B", "finish_reason": "length"}
    records[2] |= {"response": None}
    records[3] |= {"response": {"error": "overloaded"}}
    records[4] |= {"response": "", "finish_reason": "content_filter"}
    records[5] |= {"response": "<answer> A or B </answer>"}
    result, _ = scored(tmp_path, data, write(tmp_path / "r.jsonl", records))
    overall = result["overall"]
    assert {name: overall[name] for name in ("items", "correct", "wrong", "unparsed", "cut", "refused", "failed")} == {
        "items": 12, "correct": 7, "wrong": 0, "unparsed": 5, "cut": 1, "refused": 1, "failed": 2}  # fmt: skip
    assert overall["accuracy"] == pytest.approx(7 / 12)
    assert result["unparsed"] == [f"medqa-{n}#0" for n in range(1, 6)]
    assert "5 responses in which no answer could be read, counted as not correct: medqa-1#0, medqa-2#0" in capsys.readouterr().out


def test_modes_and_prompts_read_differently(data, tmp_path):
    records = replies(range(ITEMS), "A patient like this. Therefore, among A through D, the answer is {}")
    file = write(tmp_path / "r.jsonl", records)
    official, verdicts = scored(tmp_path, data, file, "--mode=official")
    assert official["overall"]["correct"] == 12 and set(official["steps"]) == {"after the trigger"}
    other, verdicts = scored(tmp_path, data, file, "--mode=official", "--prompt=boxed")
    assert other["overall"]["unparsed"] == 12 and other["prompt"] == "boxed" and {one["read"] for one in verdicts} == {None}


def test_the_items_may_be_in_the_owners_output(tmp_path):
    rows = [
        {
            "id": f"test_Pharmacy_{n}",
            "options": "['x', 'y']",
            "answer": "B",
            "subject": "Pharmacy",
            "question": "?",
            "response": f"Answer: {one}",
        }
        for n, one in enumerate("BAB")
    ]
    out = tmp_path / "out"
    file = write(tmp_path / "model_standard_cot.jsonl", rows)
    main(["--task=mmmu_pro_standard10", f"--responses={file}", "--mode=official", f"--out={out}"])
    result = json.loads((out / "score.json").read_text())
    assert result["overall"]["correct"] == 2 and result["data_is_carried"]
    write(file, [*rows, rows[0] | {"answer": "A"}])
    with pytest.raises(UserError, match=r":4: the item 'test_Pharmacy_0' is another here than in a row before"):
        main(["--task=mmmu_pro_standard10", f"--responses={file}"])


def test_the_owners_figure_stands_beside_ours_where_he_guesses(tmp_path):
    """His letters are drawn in the order of the subjects' names; with one subject less they are not known."""
    subjects = [f"Subject_{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(30)]
    rng = random.Random(5)
    rows = [
        {"id": f"validation_{subject}_{n}", "question_type": "multiple-choice", "options": "['u', 'v', 'w']", "answer": rng.choice("ABC"),
         "question": "?", "response": "(B)" if n % 3 else "?"}
        for subject in reversed(subjects) for n in range(1, 31)
    ]  # fmt: skip
    file, out = write(tmp_path / "output.jsonl", rows), tmp_path / "out"
    main(["--task=mmmu", f"--responses={file}", "--mode=official", f"--out={out}"])
    result = json.loads((out / "score.json").read_text())
    his, right = random.Random(42), 0
    for row in sorted(rows, key=lambda row: (row["id"].split("_", 1)[1].rsplit("_", 1)[0], int(row["id"].rsplit("_", 1)[1]))):
        right += (his.choice(["A", "B", "C"]) if row["response"] == "?" else "B") == row["answer"]
    assert result["owners_figure"] == pytest.approx(right / 900) != result["overall"]["accuracy"]
    assert result["overall"]["unparsed"] == 300
    write(file, rows[:-30])
    main(["--task=mmmu", f"--responses={file}", "--mode=official", f"--out={out}"])
    assert "owners_figure" not in json.loads((out / "score.json").read_text())


@pytest.mark.parametrize(("ours", "theirs", "p"), [((0,), range(1, 10), 0.021484), ((), range(6), 0.03125), (range(5), range(5, 10), 1.0)])
def test_two_models_are_compared_on_the_same_items(data, tmp_path, ours, theirs, p, capsys):
    both = [11]
    main(
        [
            "--task=medqa",
            f"--data={data}",
            f"--responses={write(tmp_path / 'a.jsonl', replies({*theirs, *both}))}",
            f"--out={tmp_path / 'a'}",
        ]
    )
    result, _ = scored(tmp_path, data, write(tmp_path / "b.jsonl", replies({*ours, *both})), f"--against={tmp_path / 'a'}")
    against = result["against"]
    assert (against["only_this"], against["only_other"]) == (len(ours), len(theirs))
    assert against["p_mcnemar"] == pytest.approx(p, abs=1e-6)
    assert against["difference"] == pytest.approx((len(ours) - len(theirs)) / 12)
    assert against["interval"][0] <= against["difference"] <= against["interval"][1]
    assert f"p = {p:.4f} (McNemar, exact)" in capsys.readouterr().out
    with pytest.raises(UserError, match="is of mode mede2, this score of official; compare scores of one kind"):
        scored(tmp_path, data, tmp_path / "b.jsonl", f"--against={tmp_path / 'a'}", "--mode=official")


def test_items_that_hang_together_are_drawn_together(tmp_path):
    rows = []
    for number in range(30):
        paths = {name: f"files/p10/p1000000{number // 10}/s{number}/{name}.jpg" for name in ("cur_image_path", "prior_image_path")}
        options = {letter: letter * 2 for letter in "ABCD"}
        rows.append({"id": number, "content_type": "worsen", "question": "?", "options": options, "answer": "A", **paths})
    responses = [{"id": n, "response": "<answer> A </answer>" if n < 10 else "<answer> B </answer>"} for n in range(30)]
    out = tmp_path / "out"
    data = write(tmp_path / "MMXU-test.jsonl", rows)
    main(["--task=mmxu", f"--data={data}", f"--responses={write(tmp_path / 'r.jsonl', responses)}", f"--out={out}"])
    overall = json.loads((out / "score.json").read_text())["overall"]
    assert overall["interval_method"].startswith("bootstrap over clusters")
    assert overall["interval"] == [0.0, 1.0], "three patients: all right, or none, is likely enough"


@pytest.mark.parametrize(
    ("change", "flags", "expected"),
    [
        (lambda r: [*r, {"id": "MM-1", "response": "A"}], [], "phrases_no_exclude_test.jsonl, whose ids are such as medqa-0; are these"),
        (lambda r: r + r[3:5], [], "ids given twice: medqa-3, medqa-4; each must be there once"),
        (lambda r: r[:-2], [], "2 items of 12 without a response (medqa-10, medqa-11); give all, or score what is there with --partial"),
        (lambda r: [*r, r[0] | {"sample": 1}], [], "11 items with fewer than 2 samples (medqa-1, "),
        (lambda r: [{"key": one["id"], "response": "A"} for one in r], [], "no column of ids is found; say which with --columns.id=NAME"),
        (
            lambda r: [one | {"prediction": "B"} for one in r],
            [],
            "'response' or 'prediction' may be the response; say which with --columns.response",
        ),
        (lambda r: r, ["--columns.response=text"], "no column 'text', which --columns.response names; the columns are id, response"),
        (lambda r: [r[0] | {"response": 5}, *r[1:]], [], "r.jsonl:1: column 'response' must be text, or a list of texts, found 5"),
        (lambda r: [r[0] | {"sample": -1}, *r[1:]], [], "r.jsonl:1: column 'sample' must be the sample's number from 0, found -1"),
        (lambda r: [r[0] | {"id": ["x"]}, *r[1:]], [], "r.jsonl:1: column 'id' must be an item's id"),
        (lambda r: r, ["--k=2"], "k=2 is more than the 1 samples that every item has"),
        (lambda r: r, ["--prompt=haiku"], "--prompt=haiku is none of medqa's: cot, ao, reasoning, boxed, mede2"),
        (lambda r: r, ["--task=medka"], "unknown task 'medka' (did you mean 'medqa'?); the tasks are "),
        (lambda r: r, ["--against={tmp}/none"], "cannot read '"),
        (lambda r: r, ["--out={tmp}/r.jsonl"], "is a file; give a folder"),
        (lambda r: r, ["--data={tmp}/none"], "there is no such file or folder"),
        (lambda r: r, ["--responses={tmp}/none.jsonl"], "cannot read '"),
        (lambda r: r, ["--mode=strict"], "--mode"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_writes_nothing(data, tmp_path, change, flags, expected, capsys):
    file = write(tmp_path / "r.jsonl", change(replies(range(ITEMS))))
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    with pytest.raises(SystemExit) as raised:
        run_command(main, ["--task=medqa", f"--data={data}", f"--responses={file}", f"--out={tmp_path / 'out'}", *flags])
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    assert expected in captured.err and not (tmp_path / "out").exists()


def test_a_partial_file_is_scored_when_asked_for_and_says_so(data, tmp_path, capsys):
    result, _ = scored(tmp_path, data, write(tmp_path / "r.jsonl", replies(range(ITEMS))[:5]), "--partial")
    assert result["partial"] == {"items": 5, "of": 12} and result["overall"]["items"] == 5
    assert "partial: 5 of 12 items" in capsys.readouterr().out


def test_nothing_foreign_is_markup_on_the_terminal(data, tmp_path, capsys):
    lines = [json.loads(line) | {"meta_info": "step[red]\u001b[31m"} for line in data.read_text().splitlines()]
    write(data, lines)
    scored(tmp_path, data, write(tmp_path / "r.jsonl", replies(range(3))))
    shown = capsys.readouterr().out
    assert "step[red]" in shown and "\u001b[31m" not in shown
