"""From files of responses to scores."""

import json
import random

import pytest
from scored import ITEMS, medqa_file, replies, scored, write

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.score.__main__ import main
from mede2_jax.score.responses import how_asked
from mede2_jax.trace.__main__ import main as trace


@pytest.fixture
def data(tmp_path):
    return medqa_file(tmp_path)


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


def test_how_others_asked_is_not_known_unless_it_is_said(data, tmp_path, capsys):
    file = write(tmp_path / "r.jsonl", replies(range(3)))
    found, _ = scored(tmp_path, data, file)
    assert found["prompt"] == "cot" and found["prompt_is_known"] is False
    shown = capsys.readouterr().out
    assert "prompt not known (taken for cot)" in shown and "asked as" not in shown
    assert "how the items were asked is not known: replies are read as those to cot; --prompt=NAME says another" in shown
    trace([f"--score={tmp_path / 'out'}"])
    assert "task medqa, prompt not known (taken for cot)" in " ".join(capsys.readouterr().out.split())
    found, _ = scored(tmp_path, data, file, "--prompt=ao")
    assert found["prompt_is_known"] is True
    shown = capsys.readouterr().out
    assert "asked as ao" in shown and "not known" not in shown
    assert [how_asked("ao", known) for known in ([True, True], [True, False])] == ["asked as ao", "asked as ao (not known of some)"]


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
    write(file, [rows[0], rows[1] | {"response": {"code": 429}}, rows[2]])
    main(["--task=mmmu_pro_standard10", f"--responses={file}", "--mode=official", f"--out={out}"])
    assert json.loads((out / "score.json").read_text())["overall"]["failed"] == 1, "its owner reads any object as an empty reply"
    write(file, [*rows, rows[0] | {"answer": "A"}])
    with pytest.raises(UserError, match=r":4: the item 'test_Pharmacy_0' is another here than in a row before"):
        main(["--task=mmmu_pro_standard10", f"--responses={file}"])


def test_responses_to_another_setting_are_refused_with_the_benchmarks_files_too(tmp_path):
    row = {"id": "test_Pharmacy_1", "options": "['x', 'y']", "answer": "B", "subject": "Pharmacy"}
    data = write(tmp_path / "items.jsonl", [row])
    said = {"id": "test_Pharmacy_1", "response": "Answer: B"}
    write(tmp_path / "r.jsonl", [said | {"setting": "standard10_direct"}])
    run = [f"--data={data}", f"--responses={tmp_path / 'r.jsonl'}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match=r"r.jsonl:1: its 'setting' is standard10_direct, and not vision; take the task of that setting"):
        main(["--task=mmmu_pro_vision", *run])
    assert not (tmp_path / "out").exists()
    main(["--task=mmmu_pro_standard10", *run])


OUTPUTS = {
    "mmmu_health": (
        "mmmu",
        "validation_{}_{}",
        {"question_type": "multiple-choice", "all_choices": ["A", "B"], "index2ans": {"A": "x", "B": "y"}, "answer": "B"},
    ),
    "mmmu_pro_standard10_health": ("mmmu_pro_standard10", "test_{}_{}", {"options": "['x', 'y']", "answer": "B"}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_part_is_scored_from_the_owners_output_for_the_whole(tmp_path, name, capsys):
    whole, identity, row = OUTPUTS[name]
    subjects = ("Accounting", "Pharmacy", "Public_Health", "Art")
    rows = [
        row | {"id": identity.format(subject, n), "subject": subject, "response": f"Answer: {said}"}
        for subject in subjects
        for n, said in enumerate("BBA" if subject == "Pharmacy" else "BAA")
    ]
    file, items = write(tmp_path / "output.jsonl", rows), write(tmp_path / "items.jsonl", rows)
    out = tmp_path / "out"
    for more in ([], ["--partial"], [f"--data={items}"]):
        main([f"--task={name}", f"--responses={file}", "--mode=official", f"--out={out}", *more])
        result = json.loads((out / "score.json").read_text())
        assert (result["overall"]["items"], result["overall"]["correct"], result["outside"]) == (6, 3, 6)
        assert "6 responses to other subjects left out: " + name in capsys.readouterr().out.replace("\n", " ")
        assert list(result["by"]) == [group for group in ("subject", "question_type") if group in result["by"]]
    main([f"--task={whole}", f"--responses={file}", "--mode=official", f"--out={out}"])
    result = json.loads((out / "score.json").read_text())
    assert "outside" not in result and result["overall"]["items"] == 12
    assert {discipline: (one["items"], one["correct"]) for discipline, one in result["by"]["discipline"].items()} == {
        "Art & Design": (3, 1), "Business": (3, 1), "Health & Medicine": (6, 3)}  # fmt: skip
    write(file, [*rows, rows[0] | {"id": identity.format("Farmacy", 1)}])
    with pytest.raises(UserError, match=f"_Farmacy_1 is no item of {name}"):
        main([f"--task={name}", f"--responses={file}", f"--data={items}"])
    write(file, rows[:3])
    with pytest.raises(UserError, match=f"none of its responses is to an item of {name}, a part of its benchmark"):
        main([f"--task={name}", f"--responses={file}", f"--data={items}"])


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


@pytest.mark.parametrize(("right", "low", "high"), [(range(ITEMS), 0.757506, 1.0), ((), 0.0, 0.242494)])
def test_several_samples_that_are_all_alike_are_no_certainty(data, tmp_path, right, low, high):
    """Wilson of 12 of 12 and of 0 of 12, by hand: 12 / (12 + 1.96²)."""
    records = [one | {"sample": sample} for one in replies(right) for sample in range(3)]
    result, _ = scored(tmp_path, data, write(tmp_path / "r.jsonl", records))
    for one in (result["overall"], *(result["at"][name]["2"] for name in ("pass", "majority"))):
        assert one["interval"] == pytest.approx([low, high], abs=1e-6)
        assert one["interval_method"] == "Wilson over items, which are all alike"


def test_where_no_two_items_hang_together_it_is_wilson(tmp_path):
    """Five items in five clusters, and then in two."""
    for labels, method, low in (("abcde", "Wilson", 0.565518), ("aabbb", "Wilson over clusters, which are all alike", 0.342380)):
        rows = [{"n": str(n), "q": f"Case {n}?", "a": "A", "o": "x", "p": "y", "c": label} for n, label in enumerate(labels)]
        write(tmp_path / "data.jsonl", rows)
        (tmp_path / "mine.yaml").write_text(
            "name: mine\nfiles: data.jsonl\ncolumns: {id: n, question: q, answer: a, options: [o, p], cluster: c}\nkind: choice\n"
        )
        file, out = write(tmp_path / "r.jsonl", [{"id": str(n), "response": "<answer> A </answer>"} for n in range(5)]), tmp_path / "out"
        main([f"--task={tmp_path / 'mine.yaml'}", f"--data={tmp_path / 'data.jsonl'}", f"--responses={file}", f"--out={out}"])
        overall = json.loads((out / "score.json").read_text())["overall"]
        assert overall["interval"] == pytest.approx([low, 1.0], abs=1e-6) and overall["interval_method"] == method


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
        (
            lambda r: [{**one, "response": {"text": "A"}} for one in r],
            [],
            'r.jsonl:1: column \'response\' must be text, or a list of texts, found the object {"text": "A"}; give the text in it',
        ),
        (lambda r: [{**one, "response": ["A", {"text": "A"}]} for one in r], [], "found the object"),
        (lambda r: [*r[:-1], r[-1] | {"response": []}], [], "r.jsonl:12: column 'response' has an empty list; give an empty text"),
        (
            lambda r: [{**one, "response": ["A", "B"], "finish_reason": ["length"]} for one in r],
            [],
            "r.jsonl:1: column 'finish_reason' has a list of 1 for 2 texts; give one for each",
        ),
        (lambda r: [r[0] | {"sample": -1}, *r[1:]], [], "r.jsonl:1: column 'sample' must be the sample's number from 0, found -1"),
        (lambda r: [r[0] | {"id": ["x"]}, *r[1:]], [], "r.jsonl:1: column 'id' must be an item's id"),
        (lambda r: r, ["--k=2,0"], "error: --k: Input should be greater than or equal to 1 (got '0')"),
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


def test_a_score_does_not_hide_those_of_an_evaluation(data, tmp_path):
    """Nor does it stand among them, unless it is of the evaluation's own replies."""
    folder, among = tmp_path / "evaluation", tmp_path / "evaluation" / "medqa" / "cot"
    among.mkdir(parents=True)
    (folder / "evaluation.json").write_text("{}")
    file, own = (write(path, replies(range(3))) for path in (tmp_path / "r.jsonl", folder / "rollouts.jsonl"))
    for out, responses in ((folder, file), (folder, own), (among, file)):
        with pytest.raises(UserError, match=r"belongs to an evaluation \(evaluation\.json is there\), which has scores of its own; give"):
            main(["--task=medqa", f"--data={data}", f"--responses={responses}", f"--out={out}"])
    assert not list(folder.rglob("score.json"))
    for out, responses in ((among, own), (folder / "other", file)):
        main(["--task=medqa", f"--data={data}", f"--responses={responses}", f"--out={out}"])
        assert (out / "score.json").is_file()


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
