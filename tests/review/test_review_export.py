"""Tasks for Label Studio: which, in what order, and that nothing in them is anything but text or an image that is ours."""

import base64
import io
import json
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from reviewing import lines, manifest, read, review, tasks

from mede2_jax.config import UserError
from mede2_jax.reasoning.prompts import JUDGE_PAPER, RATING
from mede2_jax.reasoning.rubric import ASPECTS


def test_what_was_judged_in_an_order_that_the_seed_draws(sample, judged, tmp_path):
    rollouts = sample / "rollouts.jsonl"
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        review("export", rollouts=rollouts, judgments=judged, limit=50, seed=seed, out=tmp_path / name)
        found[name] = [one["data"]["id"] for one in tasks(tmp_path / name)]
    assert found["one"] == found["same"] != found["other"] and len({*found["one"]}) == 50
    assert {*found["one"]} <= {one["parents"][0] for one in read(judged)}
    said = manifest(tmp_path / "one" / "tasks.json")
    assert said["counts"] == {"in": 384, "tasks": 50} and said["dropped"] == {"not judged": 48, "beyond --limit": 286}
    reordered = lines(tmp_path / "reordered.jsonl", list(reversed(read(rollouts))))
    review("export", rollouts=reordered, judgments=judged, limit=50, image_root=sample, out=tmp_path / "again")
    assert [one["data"]["id"] for one in tasks(tmp_path / "again")] == found["one"]


def test_a_task_shows_question_images_right_answer_and_response_and_no_verdict(sample, judged, tmp_path):
    review("export", rollouts=sample / "rollouts.jsonl", judgments=judged, out=tmp_path / "out")
    rollouts = {one["id"]: one for one in read(sample / "rollouts.jsonl")}
    for one in tasks(tmp_path / "out"):
        data, rollout = one["data"], rollouts[one["data"]["id"]]
        assert set(one) == {"data"} and set(data) == {"made_by", "kind", "id", "of", "question", "images", "answer", "response"}
        assert data["response"] == rollout["response"] and "look" not in json.dumps(data["images"])
        right = rollout["answer"]
        assert data["answer"] == (f"{right}: {rollout['options'][right]}" if right in (rollout.get("options") or {}) else right)
        assert len(data["images"]) == len(rollout["images"]) == data["question"].count("[image ")
        for image, name in zip(data["images"], rollout["images"], strict=True):
            shown = Image.open(tmp_path / "out" / image["url"].removeprefix("/data/local-files/?d="))
            assert shown.convert("RGB").tobytes() == Image.open(sample / name).convert("RGB").tobytes()


def test_embedded_images_are_those_files(sample, tmp_path):
    id = read(sample / "rollouts.jsonl")[0]["id"]
    review("export", rollouts=sample / "rollouts.jsonl", ids=id, images="embedded", out=tmp_path / "out")
    (one,) = tasks(tmp_path / "out")
    kind, _, data = one["data"]["images"][0]["url"].partition(";base64,")
    name = read(sample / "rollouts.jsonl")[0]["images"][0]
    assert kind.startswith("data:image/") and Image.open(io.BytesIO(base64.b64decode(data))).size == Image.open(sample / name).size
    assert not (tmp_path / "out" / "images").exists()


def test_people_are_asked_what_the_judge_is_asked(sample, tmp_path):
    for name, prompt, criteria, source in (
        ("r", JUDGE_PAPER.text, ASPECTS, "rollouts"),
        ("d", RATING.text, ("correct_answer", "logical_structure", "plausible_reasoning"), "demonstrations"),
    ):
        review("export", limit=2, out=tmp_path / name, **{source: sample / f"{source}.jsonl"})
        root = ET.fromstring((tmp_path / name / "labels.xml").read_text("utf-8"))
        asked = [one for one in root.iter("Choices")]
        assert tuple(one.get("name") for one in asked) == criteria and all(one.get("required") == "true" for one in asked)
        assert all([choice.get("value") for choice in one] == ["Yes", "No"] for one in asked)
        headers = [one.get("value") for one in root.iter("Header")]
        assert sum(header in prompt for header in headers if header.endswith((".", "?"))) == len(criteria)
        keys = [choice.get("hotkey") for choice in root.iter("Choice")]
        assert len({*keys}) == len(keys)
        assert all(one.get("valueType") == "text" for one in root.iter("Text")), "an address in a response is not fetched"


def test_demonstrations_take_their_right_answers_from_the_candidates(tmp_path, monkeypatch):
    from mede2_jax.distill.__main__ import main as distill

    monkeypatch.chdir(tmp_path)
    distill([])
    review("export", demonstrations="runs/demonstrations.jsonl", out="out")
    candidates = {one["id"]: one for one in read("runs/demonstrations.candidates.jsonl")}
    made = read("runs/demonstrations.jsonl")
    found = {one["data"]["id"]: one["data"] for one in tasks(tmp_path / "out")}
    assert set(found) == {one["id"] for one in made}
    for one in made:
        assert candidates[one["id"]]["answer"] in found[one["id"]]["answer"]
        assert found[one["id"]]["response"] == one["messages"][-1]["content"] and "Think" not in found[one["id"]]["question"][:5]
    changed = read("runs/demonstrations.candidates.jsonl")
    next(one for one in changed if one["id"] == made[0]["id"])["response"] += " "
    lines("runs/demonstrations.candidates.jsonl", changed)
    with pytest.raises(UserError, match=r":\d+: is another text than its candidate, .*run python -m mede2_jax.distill again"):
        review("export", demonstrations="runs/demonstrations.jsonl", out="out2")


def test_foreign_text_stays_text(sample, tmp_path):
    row = read(sample / "rollouts.jsonl")[0] | {"response": "<script>alert(1)</script>\x1b[31m {{number}} $images https://example.org/x"}
    path = lines(tmp_path / "rollouts.jsonl", [row])
    review("export", rollouts=path, image_root=sample, out=tmp_path / "out")
    (one,) = tasks(tmp_path / "out")
    assert one["data"]["response"] == "<script>alert(1)</script>\\x1b[31m {{number}} $images https://example.org/x"


def test_run_again_it_replaces_its_own_and_nothing_else(sample, tmp_path):
    rollouts, out = sample / "rollouts.jsonl", tmp_path / "out"
    review("export", rollouts=rollouts, limit=3, out=out)
    review("export", rollouts=rollouts, limit=4, out=out)
    assert len(tasks(out)) == 4
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "tasks.json").write_text("[]")
    with pytest.raises(UserError, match=r"was not made by python -m mede2_jax\.review export"):
        review("export", rollouts=rollouts, limit=3, out=mine)
    assert (mine / "tasks.json").read_text() == "[]"


def changed(path, change, to):
    rows = read(path)
    change(rows)
    return lines(to, rows)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--rollouts=R"], "missing --out: give --rollouts=FILE --out=FOLDER"),
        (["--out=O"], "missing --rollouts or --demonstrations"),
        (["--rollouts=R", "--demonstrations=D", "--out=O"], "give one of the two"),
        (["--rollouts=R", "--ids=nobody", "--out=O"], "there is no 'nobody'"),
        (["--rollouts=R", "--limit=0", "--out=O"], "--limit"),
        (["--rollouts=missing.jsonl", "--out=O"], "missing.jsonl"),
    ],
)
def test_wrong_input_is_one_line(sample, tmp_path, flags, said):
    places = {"R": sample / "rollouts.jsonl", "D": sample / "demonstrations.jsonl", "O": tmp_path / "out"}
    flags = [f"{name}={places.get(value, value)}" for name, _, value in (flag.partition("=") for flag in flags)]
    with pytest.raises(UserError, match=said) as error:
        review("export", *flags)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_judgment_of_something_else_is_refused(sample, judged, tmp_path):
    rollouts = changed(
        sample / "rollouts.jsonl", lambda rows: rows[0].update(response=rows[0]["response"] + " More."), tmp_path / "r.jsonl"
    )
    with pytest.raises(UserError, match=r":1: is another response than .*judgments.jsonl judges; judge it anew"):
        review("export", rollouts=rollouts, judgments=judged, image_root=sample, out=tmp_path / "out")
    fewer = lines(tmp_path / "fewer.jsonl", read(sample / "rollouts.jsonl")[8:])
    with pytest.raises(UserError, match=r"which is not in .*fewer\.jsonl; give the files that belong together"):
        review("export", rollouts=fewer, judgments=judged, image_root=sample, out=tmp_path / "out")
    assert not (tmp_path / "out" / "tasks.json").exists()


def test_a_damaged_image_is_one_line_and_leaves_nothing(sample, tmp_path):
    rows = [row for row in read(sample / "rollouts.jsonl") if row["images"]][:17]
    for name in {name for row in rows for name in row["images"]}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((sample / name).read_bytes())
    rollouts = lines(tmp_path / "rollouts.jsonl", rows)
    damaged = tmp_path / rows[-1]["images"][0]
    damaged.write_bytes(damaged.read_bytes()[:300])
    with pytest.raises(UserError, match=r"rollouts\.jsonl:\d+: image .* is truncated or damaged"):
        review("export", rollouts=rollouts, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    review("export", rollouts=lines(tmp_path / "good.jsonl", rows[:8]), out=tmp_path / "out")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(UserError):
        review("export", rollouts=rollouts, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before
