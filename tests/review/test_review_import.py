"""What people said comes back as judgments and reviews: every annotation is one, or counted with its reason; pair and distill follow."""

import json
from collections import Counter

import pytest
from reviewing import all_met, annotation, lines, manifest, project, read, review, tasks

from mede2_jax.config import UserError
from mede2_jax.data.records import Judgment
from mede2_jax.distill.__main__ import main as distill
from mede2_jax.pair.__main__ import main as pair
from mede2_jax.reasoning.answers import grade
from mede2_jax.reasoning.rubric import ASPECTS, MMRP
from mede2_jax.trace.__main__ import main as trace

MERITS = ("correct_answer", "logical_structure", "plausible_reasoning")


@pytest.fixture
def exported(sample, judged, tmp_path):
    """Forty responses that are to be reviewed."""
    review("export", rollouts=sample / "rollouts.jsonl", judgments=judged, limit=40, out=tmp_path / "review")
    return tmp_path


def bring_in(folder, sample, name="people.jsonl"):
    review("import", rollouts=sample / "rollouts.jsonl", export=folder / "export.json", out=folder / name)
    return [Judgment.model_validate(one) for one in read(folder / name)]


def test_every_annotation_is_a_judgment_or_says_why_not(exported, sample):
    some = tasks(exported / "review")
    ids = [one["data"]["id"] for one in some]

    def said(data):
        place = ids.index(data["id"])
        if place == 0:  # two people, of whom one thought better of it
            later = annotation(7, all_met(reflection=False), "no doubt at all", updated="2026-01-02T10:00:00Z")
            return [annotation(7, all_met(), updated="2026-01-01T10:00:00Z"), later, annotation(3, all_met(logical_consistency=False))]
        if place == 1:
            return [annotation(3, {}, was_cancelled=True), annotation(7, all_met(image_analysis=None))]
        return [annotation(3, all_met())] if place < 10 else []

    project(exported / "export.json", some, said)
    found = bring_in(exported, sample)
    assert len(found) == 2 + 8 and {one.judge.model for one in found} == {"annotator-3", "annotator-7"}
    first = {one.judge.model: one for one in found if one.rollout == ids[0]}
    assert first["annotator-7"].verdicts == all_met(reflection=False) and first["annotator-7"].metadata == {"comment": "no doubt at all"}
    assert [first[f"annotator-{number}"].repeat for number in (3, 7)] == [0, 1] and first["annotator-3"].judge.engine == "people"
    order = [one["id"] for one in read(sample / "rollouts.jsonl")]
    assert [order.index(one.rollout) for one in found] == sorted(order.index(one.rollout) for one in found)
    written = manifest(exported / "people.jsonl")
    assert written["counts"] == {"annotations": 13, "reviews": 10, "responses": 9}
    assert written["dropped"] == {
        "skipped by the annotator": 1,
        "without a verdict on every criterion": 1,
        "an earlier one of the same person": 1,
    }
    assert written["annotators"] == {"annotator-3": 9, "annotator-7": 1}
    assert "@" not in json.dumps(written["annotators"]), "nobody's address is kept"


def test_people_replace_the_judge_where_they_have_judged(exported, sample, judged, capsys, monkeypatch):
    """The judge's verdicts turned round in forty responses; pairs are then those of the judgments with these forty changed by hand."""
    some = tasks(exported / "review")
    judge = {one["parents"][0]: one for one in read(judged)}

    def turned(data):
        verdicts = {name: judge[data["id"]][name]["met"] for name in ASPECTS}
        return all_met() if not all(verdicts[name] for name in MMRP) else all_met(no_hallucination=False)

    project(exported / "export.json", some, lambda data: [annotation(1, turned(data))])
    bring_in(exported, sample)
    base = [f"--rollouts={sample / 'rollouts.jsonl'}", "--max_pairs=none", "--max_similarity=1", "--max_length_ratio=none"]
    pair([*base, f"--judgments={judged}", f"--people={exported / 'people.jsonl'}", f"--out={exported / 'pairs.jsonl'}"])
    by_hand = []
    people = {one["parents"][0]: one for one in read(exported / "people.jsonl")}
    for one in read(judged):
        changed = {name: people[one["parents"][0]][name] for name in ASPECTS} if one["parents"][0] in people else {}
        by_hand.append(one | changed)
    expected = lines(exported / "by_hand.jsonl", by_hand)
    pair([*base, f"--judgments={expected}", f"--out={exported / 'expected.jsonl'}"])
    made, wanted = ({one["id"]: one for one in read(exported / name)} for name in ("pairs.jsonl", "expected.jsonl"))
    assert set(made) == set(wanted) and len(made) > 100
    pair([*base, f"--judgments={judged}", f"--out={exported / 'without.jsonl'}"])
    assert set(made) != {one["id"] for one in read(exported / "without.jsonl")}
    assert manifest(exported / "pairs.jsonl")["by_people"] == 40 and "by_people" not in manifest(exported / "without.jsonl")
    named = next(one for one in made.values() if any("annotator" in id for id in one["metadata"]["chosen"]["judgments"]))
    assert "40 responses are as people judged them" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "250")
    trace([named["id"], f"--pairs={exported / 'pairs.jsonl'}"])
    said = capsys.readouterr().out
    assert "people annotator-1" in said and str(exported / "people.jsonl") in said


def test_people_who_are_of_two_minds_take_a_response_out(exported, sample, judged):
    some = tasks(exported / "review")
    project(exported / "export.json", some, lambda data: [annotation(1, all_met()), annotation(2, all_met(reflection=False))])
    bring_in(exported, sample)
    out = exported / "pairs.jsonl"
    flags = [f"--judgments={judged}", f"--people={exported / 'people.jsonl'}", f"--out={out}"]
    pair([f"--rollouts={sample / 'rollouts.jsonl'}", *flags])
    assert manifest(out)["dropped"]["responses"]["judgments disagree"] == 40


def test_people_judged_another_response_than_the_judge(exported, sample, judged):
    project(exported / "export.json", tasks(exported / "review"), lambda data: [annotation(1, all_met())])
    bring_in(exported, sample)
    people = read(exported / "people.jsonl")
    lines(exported / "people.jsonl", [people[0] | {"of": "0" * 16}, *people[1:]])
    with pytest.raises(UserError, match=r":1: people judged another response than"):
        flags = [f"--judgments={judged}", f"--people={exported / 'people.jsonl'}", f"--out={exported / 'pairs.jsonl'}"]
        pair([f"--rollouts={sample / 'rollouts.jsonl'}", *flags])


def test_a_wrong_answer_that_people_find_right_is_theirs_to_decide(sample, tmp_path):
    """Rules say that the answer is wrong; the judgment says nothing of rules then, so that pair asks for people's verdict on it."""
    rollouts = read(sample / "rollouts.jsonl")
    wrong = next(one for one in rollouts if grade(one["response"], one["answer"], one.get("options")) == "wrong")
    review("export", rollouts=sample / "rollouts.jsonl", ids=wrong["id"], out=tmp_path / "review")
    project(tmp_path / "export.json", tasks(tmp_path / "review"), lambda data: [annotation(1, all_met(correctness=False))])
    (found,) = bring_in(tmp_path, sample)
    assert found.outcome is None and not found.correctness.met


def test_demonstrations_that_people_deny_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    distill([])
    before = {one["id"] for one in read("runs/demonstrations.jsonl")}
    review("export", demonstrations="runs/demonstrations.jsonl", limit=10, out="review")
    some = tasks(tmp_path / "review")
    ids = [one["data"]["id"] for one in some]

    def said(data):
        bad = annotation(1, all_met(MERITS, plausible_reasoning=False))
        return [[bad], [annotation(1, all_met(MERITS)), bad | {"completed_by": 2}], [annotation(1, all_met(MERITS))]][
            ids.index(data["id"]) % 3
        ]

    project(tmp_path / "export.json", some, said)
    review("import", demonstrations="runs/demonstrations.jsonl", export="export.json", out="reviews.jsonl")
    assert Counter(one["annotator"] for one in read("reviews.jsonl")) == {"annotator-1": 10, "annotator-2": 3}
    distill(["--reviews=reviews.jsonl"])
    denied = {id for place, id in enumerate(ids) if place % 3 < 2}
    after = {one["id"] for one in read("runs/demonstrations.jsonl")}
    assert not after & denied and before - denied <= after
    left = {one["id"]: one for one in read("runs/demonstrations.dropped.jsonl")}
    assert all((left[id]["step"], left[id]["reason"]) == ("people", "people deny it plausible reasoning") for id in denied)
    written = manifest("runs/demonstrations.jsonl")
    assert written["dropped"]["people"] == {"people deny it plausible reasoning": len(denied)} and written["reviews"][0]["path"].endswith(
        "reviews.jsonl"
    )
    assert written["counts"]["responses"] == written["counts"]["demonstrations"] + sum(
        sum(one.values()) for one in written["dropped"].values()
    )
    trace([ids[2], "--demonstrations=runs/demonstrations.jsonl"])
    assert "plausible reasoning, by annotator-1" in " ".join(capsys.readouterr().out.split())
    reviews = read("reviews.jsonl")
    lines("reviews.jsonl", [reviews[0] | {"of": "0" * 16}, *reviews[1:]])
    with pytest.raises(UserError, match=r":1: people reviewed another text than"):
        distill(["--reviews=reviews.jsonl"])


def an_export(path, sample, **fields):
    """An export of one task, with what is wrong about it."""
    review("export", rollouts=sample / "rollouts.jsonl", limit=1, out=path / "review")
    return project(path / "export.json", tasks(path / "review"), lambda data: [annotation(1, all_met(), **fields)])


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda rows: rows[0].pop("annotations"), "has no field 'annotations'; export as JSON from Label Studio"),
        (lambda rows: rows[0]["data"].pop("made_by"), "is none that python -m mede2_jax.review export has made"),
        (lambda rows: rows[0]["data"].update(kind="demonstration"), "is a demonstration, not a response; give --demonstrations instead"),
        (lambda rows: rows[0]["data"].update(id="nobody"), "reviews 'nobody', which is not in"),
        (lambda rows: rows[0]["data"].update(of="0123456789abcdef"), "people saw another text than"),
        (lambda rows: rows[0]["data"].update(of=rows[0]["data"]["of"].partition("-")[0] + "-" + "0" * 16), "people saw other images than"),
        (lambda rows: rows[0]["annotations"][0].update(completed_by=None), "does not say who made it"),
        (lambda rows: rows[0]["annotations"][0].update(completed_by="someone"), "completed_by"),
        (
            lambda rows: rows[0]["annotations"][0]["result"][0].update(from_name="\x1b[31mreflexion"),
            r"\\x1b\[31mreflexion' is no criterion",
        ),
        (lambda rows: rows[0]["annotations"][0]["result"][0]["value"].update(choices=["Yes", "No"]), "must be Yes or No, found"),
        (lambda rows: rows[0]["annotations"][0]["result"][0]["value"].update(choices=["Ja"]), "must be Yes or No, found"),
        (lambda rows: rows[0]["annotations"].clear(), "there is no whole review in the export .nobody has annotated anything."),
        (lambda rows: rows[0]["annotations"][0].update(was_cancelled=True), "no whole review in the export .1 skipped by the annotator."),
        (lambda rows: rows.append(7), "task 2"),
    ],
)
def test_an_export_that_is_not_right_is_one_line(sample, tmp_path, change, said):
    path = an_export(tmp_path, sample)
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=said) as error:
        bring_in(tmp_path, sample)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value) and not (tmp_path / "people.jsonl").exists()


@pytest.mark.parametrize("text", ["{}", "", "id,annotator\n1,2\n", '{"tasks": []}', "[[]]", "nul"])
def test_a_file_that_is_no_export_is_one_line(sample, tmp_path, text):
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(UserError, match=r"export\.json") as error:
        bring_in(tmp_path, sample)
    assert "\n" not in str(error.value)


def test_several_exports_are_one(exported, sample):
    some = tasks(exported / "review")
    for number, name in enumerate(("a", "b")):
        project(exported / f"{name}.json", some[number::2], lambda data, number=number: [annotation(number + 1, all_met())])
    files = f"{exported / 'a.json'},{exported / 'b.json'}"
    review("import", rollouts=sample / "rollouts.jsonl", export=files, out=exported / "people.jsonl")
    assert manifest(exported / "people.jsonl")["annotators"] == {"annotator-1": 20, "annotator-2": 20}


def test_run_again_it_replaces_its_own_and_nothing_else(exported, sample):
    project(exported / "export.json", tasks(exported / "review"), lambda data: [annotation(1, all_met())])
    assert bring_in(exported, sample) == bring_in(exported, sample)
    (exported / "mine.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"was not made by python -m mede2_jax\.review import"):
        bring_in(exported, sample, "mine.jsonl")
    assert (exported / "mine.jsonl").read_text() == "mine\n"
