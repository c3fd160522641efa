"""Steps that go by what a model says about questions with images: asked by the real command of a server on loopback."""

import json

import pytest
from curating import asked, curate, lines, manifest, read, stem
from gemini_server import KEY, GeminiServer
from planted import question, radiograph

from mede2_jax.config import UserError
from mede2_jax.data.records import Question
from mede2_jax.rollout.__main__ import main as rollout
from mede2_jax.trace.__main__ import main as trace


@pytest.fixture
def bank(tmp_path):
    """Four questions with an image, the last with two; and one without. Each text says what is seen."""
    records = []
    for number in range(4):
        names = [f"{number}.png"] + ["extra.png"] * (number == 3)
        radiograph(number).save(tmp_path / names[0])
        said = f"He is {40 + number} years old. {stem(number)} The film shows a mass of {number + 2} cm. What is it?"
        records.append(question(f"i{number}", said, ["gout", "sprain"], "gout", names))
    radiograph(9).save(tmp_path / "extra.png")
    return [*records, asked(7)]


def ask(folder, records, what, say, monkeypatch, *more):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    lines(folder / "bank.jsonl", records)
    with GeminiServer(say=lambda body, texts, images: say("\n".join(texts), len(images))) as server:
        out = folder / f"{what}.jsonl"
        engine = ["--engine=gemini", "--api_model=gemini-2.5-pro", f"--base_url={server.url}", f"--cache={folder / 'cache'}"]
        rollout([f"--questions={folder / 'bank.jsonl'}", f"--out={out}", f"--ask={what}", "--n=1", "--max_tokens=4000", *engine, *more])
        assert server.bodies
    return out


def verdicts(pattern, recall):
    said = zip(("Pattern_Recognition", "Knowledge_Recall"), (pattern, recall), strict=True)
    return json.dumps({name: {"Reason": "so", "Verdict": verdict} for name, verdict in said})


def about(text):
    """The number of the question that a request is about."""
    return next(number for number in range(4) if f"He is {40 + number} " in text)


def left(folder):
    return {one["id"]: (one["step"], one["reason"]) for one in read(folder / "c.dropped.jsonl")}


def test_pattern_recognition_is_left_out_of_the_questions_with_images(bank, tmp_path, monkeypatch):
    replies = {0: verdicts("Yes", "No"), 1: verdicts("No", "Yes"), 2: "I cannot say", 3: verdicts("No", "No")}
    seen = []

    def say(text, images):
        seen.append((about(text), images))
        return replies[about(text)]

    file = ask(tmp_path, bank, "type", say, monkeypatch)
    assert sorted(seen) == [(0, 1), (1, 1), (2, 1), (3, 2)]
    assert curate(tmp_path, bank, f"--type.rollouts={file}") == ["i1", "i3", "q7"]
    assert left(tmp_path) == {"i0": ("type", "its type is pattern recognition"), "i2": ("type", "no reply about it could be read")}
    said = manifest(tmp_path / "c.jsonl")
    assert said["counts"]["type"] == {"text": 1, "images": 2} and [one["path"] for one in said["attempts"]["type"]] == [str(file)]
    assert curate(tmp_path, bank, f"--type.rollouts={file}", "--type.drop=knowledge_recall") == ["i0", "i3", "q7"]


def test_of_several_replies_most_count(bank, tmp_path, monkeypatch):
    given = {number: iter(said) for number, said in enumerate(["YYN", "YN?", "YN", "?Y"])}

    def say(text, images):
        said = next(given[about(text)], "?")
        return verdicts("Yes" if said == "Y" else "No", "No") if said != "?" else "hm"

    file = ask(tmp_path, bank, "type", say, monkeypatch, "--n=3")
    assert curate(tmp_path, bank, f"--type.rollouts={file}") == ["i1", "i2", "q7"]


def refined(text, removed, change=lambda said: said):
    data = json.loads(text[text.index('{\n    "question"') :])
    after = data["question"]
    for passage in removed:
        after = after.replace(passage, "")
    return json.dumps({"Removed": removed, "Question": change(after)})


def test_what_an_image_shows_is_taken_out_and_nothing_else(bank, tmp_path, monkeypatch, capsys):
    def say(text, images):
        number = about(text)
        passage = f"The film shows a mass of {number + 2} cm."
        if number == 1:
            return refined(text, [passage], lambda said: said.replace("41", "14"))
        return refined(text, [passage] if number != 2 else [])

    file = ask(tmp_path, bank, "refinement", say, monkeypatch)
    assert curate(tmp_path, bank, f"--refinement.rollouts={file}", "--eval_fraction=0.4", "--seed=1")
    kept = {one["id"]: one for name in ("c.jsonl", "c.eval.jsonl") for one in read(tmp_path / name)}
    assert set(kept) == {"i0", "i1", "i2", "i3", "q7"}
    for record in bank:
        before, after = (Question.model_validate(one) for one in (record, kept[record["id"]]))
        assert (after.images, after.options, after.answer) == (before.images, before.options, before.answer)
        text, said = before.prompt[-1].text, after.prompt[-1].text
        if record["id"] in ("i0", "i3"):
            passage = f"The film shows a mass of {int(record['id'][1]) + 2} cm."
            assert said == text.replace(passage, "") and after.metadata["refined"] == "question-refinement/1"
            assert [part.type for part in after.prompt[-1].content] == [part.type for part in before.prompt[-1].content]
        else:
            assert after == before
    edits = {one["id"]: one for one in read(tmp_path / "c.refined.jsonl")}
    assert edits["i1"]["kept"] == "more is changed: numbers" and edits["i2"]["kept"] == "nothing to take out" and len(edits) == 4
    assert (
        edits["i0"]["removed"] == ["The film shows a mass of 2 cm."]
        and "mass" in edits["i0"]["before"]
        and "mass" not in edits["i0"]["after"]
    )
    assert manifest(tmp_path / "c.jsonl")["edited"] == {"edited": 2, "more is changed: numbers": 1, "nothing to take out": 1}
    capsys.readouterr()
    for id, expected in (
        ("i0", "taken out of its text: 'The film shows a mass of 2 cm.'"),
        ("i1", "as it was: 'more is changed: numbers'"),
    ):
        trace([id, f"--curated={tmp_path / 'c.jsonl'}"])
        assert expected.replace("'more is changed: numbers'", "more is changed: numbers") in capsys.readouterr().out
    curate(tmp_path, bank)
    assert not (tmp_path / "c.refined.jsonl").exists(), "what a run before has edited is gone with it"


def test_replies_to_another_bank_or_another_step_are_refused(bank, tmp_path, monkeypatch):
    file = ask(tmp_path, bank, "type", lambda text, images: verdicts("No", "No"), monkeypatch)
    before = sorted(path.name for path in tmp_path.iterdir())
    for flags, expected in (
        (
            [f"--refinement.rollouts={file}"],
            r"type.jsonl:1: is of another question than .* \(its prompt question-type/1 differs\); sample it anew",
        ),
        ([f"--solvability.rollouts={file}"], r"type.jsonl:1: this is what a model says about something \(rollout --ask\), not an answer"),
    ):
        with pytest.raises(UserError, match=expected):
            curate(tmp_path, bank, *flags)
    moved = [{**bank[0], "options": {"A": "gout", "B": "burn"}}, *bank[1:]]
    with pytest.raises(
        UserError, match=r"type.jsonl:\d: is of another question than i0 of the bank \(its prompt differs\); sample it anew"
    ):
        curate(tmp_path, moved, f"--type.rollouts={file}")
    lines(tmp_path / "part.jsonl", read(file)[:2])
    with pytest.raises(
        UserError, match=r"part.jsonl has no response to 2 questions .*; sample them: python -m mede2_jax.rollout --ask=type"
    ):
        curate(tmp_path, bank, f"--type.rollouts={tmp_path / 'part.jsonl'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "part.jsonl"])


def test_what_an_api_refuses_for_good_is_accepted_if_one_says_so(bank, tmp_path, monkeypatch):
    types = ask(tmp_path, bank, "type", lambda text, images: verdicts("No", "No"), monkeypatch)
    lines(types, read(types)[:2])
    stay = curate(tmp_path, bank, f"--type.rollouts={types}", "--type.missing=accept")
    there = {one["parents"][0] for one in read(types)}
    with_images = {one["id"] for one in bank if one.get("images")}
    assert set(stay) == {one["id"] for one in bank} - (with_images - there)
    dropped = {one["id"]: (one["step"], one["reason"]) for one in read(tmp_path / "c.dropped.jsonl")}
    assert dropped == dict.fromkeys(with_images - there, ("type", "no reply to it came"))
    edits = ask(tmp_path, bank, "refinement", lambda text, images: refined(text, []), monkeypatch)
    lines(edits, read(edits)[1:])
    curate(tmp_path, bank, f"--refinement.rollouts={edits}", "--refinement.missing=accept")
    kept = {one["id"]: one["kept"] for one in read(tmp_path / "c.refined.jsonl")}
    assert list(kept.values()).count("no reply to it came") == 1 and len(kept) == len(with_images)


def test_a_question_with_marks_of_its_own_is_not_asked_and_stays(bank, tmp_path, monkeypatch):
    bank[0]["prompt"][0]["content"][-1]["text"] = "As <image 1> shows, " + bank[0]["prompt"][0]["content"][-1]["text"]
    file = ask(tmp_path, bank, "refinement", lambda text, images: refined(text, []), monkeypatch)
    assert len(read(file)) == 3
    curate(tmp_path, bank, f"--refinement.rollouts={file}")
    assert Question.model_validate(read(tmp_path / "c.jsonl")[0]) == Question.model_validate(bank[0])
    assert read(tmp_path / "c.refined.jsonl")[0]["kept"] == "nobody was asked: its text has marks as of images"
