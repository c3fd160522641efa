"""The command: from files of responses to demonstrations, with every response accounted for; teachers, expansions and ratings asked of a
server on loopback by the real command."""

import json
from pathlib import Path

import pytest
from gemini_server import KEY, GeminiServer
from PIL import Image
from teaching import SAID, distill, left, lines, manifest, question, read, response, rollout, thought

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_record
from mede2_jax.data.records import Demonstration
from mede2_jax.distill.__main__ import main
from mede2_jax.origins.history import Historian, walk
from mede2_jax.rollout.__main__ import main as rollouts
from mede2_jax.trace.__main__ import main as trace

QUESTIONS = [question(number) for number in range(4)]
RATED = ("Correct_Answer", "Logical_Structure", "Plausible_Reasoning")


def ratings(*verdicts):
    return json.dumps({name: {"Reason": f"{name} it is", "Verdict": said} for name, said in zip(RATED, verdicts, strict=True)})


def of(text):
    """Number of the question that a request is about."""
    return int(text.partition("Case ")[2].partition(":")[0])


def ask(folder, questions, name, say, monkeypatch, *more):
    """A file made by the rollout command."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    with GeminiServer(say=lambda body, texts, images: say("\n".join(texts))) as server:
        engine = [
            "--engine=gemini",
            "--api_model=gemini-2.5-pro",
            f"--base_url={server.url}",
            f"--cache={folder / 'cache'}",
            "--max_tokens=9000",
        ]
        rollouts([f"--questions={questions}", f"--out={folder / f'{name}.jsonl'}", "--n=1", *engine, *more])
    return folder / f"{name}.jsonl"


def test_without_arguments_it_takes_the_samples_responses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([])
    said, made = manifest("runs/demonstrations.jsonl"), read("runs/demonstrations.jsonl")
    assert said["counts"]["demonstrations"] == len(made) > 40
    for record in made:
        found = read_record(record, Demonstration, "mede2", "line")
        assert found.messages[0].role == "system" and found.messages[-1].text.startswith("<think>")
        assert len({one.id for one in map(Demonstration.model_validate, made)}) == len(made)


def test_every_response_is_a_demonstration_or_says_why_not(tmp_path):
    one = [rollout(QUESTIONS[0], response(0)), rollout(QUESTIONS[1], response(1, answer="B")), rollout(QUESTIONS[2], "<think> gout")]
    other = [rollout(QUESTIONS[0], response(0), model="other"), rollout(QUESTIONS[1], response(1), model="other")]
    assert distill(tmp_path, QUESTIONS, {"one": one, "other": other}) in (["q0#0@teacher", "q1#0@other"], ["q0#0@other", "q1#0@other"])
    out = left(tmp_path)
    assert (
        out["q1#0@teacher"] == ("rules", "its answer is not right")
        and out["q2#0@teacher"] == ("rules", "no answer can be read")
        and len(out) == 3
    )
    said = manifest(tmp_path / "d.jsonl")
    assert said["counts"] == {"responses": 5, "candidates": 3, "demonstrations": 2}
    assert sum(sum(reasons.values()) for reasons in said["dropped"].values()) + 2 == 5
    assert said["teachers"]["other"]["candidates"] == 2 and [Path(one["path"]).name for one in said["rollouts"]] == [
        "one.jsonl",
        "other.jsonl",
    ]
    (_, second) = read(tmp_path / "d.jsonl")
    assert second["metadata"]["distilled"] == {"rollout": "q1#0", "teacher": "other"} and second["parents"] == ["q1", "q1#0@other"]
    assert second["messages"][:2] == QUESTIONS[1]["prompt"] and second["messages"][2] == {"role": "assistant", "content": response(1)}
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    distill(tmp_path, QUESTIONS, {"one": one, "other": other})
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before, "the same again"


def test_what_is_made_here_alone_is_replaced(tmp_path):
    (tmp_path / "d.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"d.jsonl is there and was not made by python -m mede2_jax.distill"):
        distill(tmp_path, QUESTIONS, {"one": [rollout(QUESTIONS[0], response(0))]})
    assert (tmp_path / "d.jsonl").read_text() == "mine"


def test_ratings_decide_and_every_one_is_needed(tmp_path, monkeypatch, capsys):
    rows = [rollout(one, response(number)) for number, one in enumerate(QUESTIONS)]
    assert len(distill(tmp_path, QUESTIONS, {"one": rows})) == 4
    said = {
        0: ratings("Yes", "Yes", "Yes"),
        1: ratings("Yes", "No", "Yes"),
        2: "well",
        3: "<think>x</think>" + ratings("Yes", "Yes", "yes"),
    }
    file = ask(tmp_path, tmp_path / "d.candidates.jsonl", "ratings", lambda text: said[of(text)], monkeypatch, "--ask=rating")
    assert distill(tmp_path, QUESTIONS, {"one": rows}, f"--ratings={file}") == ["q0#0@teacher", "q3#0@teacher"]
    assert left(tmp_path) == {
        "q1#0@teacher": ("rating", "its ratings deny it logical structure"),
        "q2#0@teacher": ("rating", "its rating could not be read"),
    }
    assert read(tmp_path / "d.jsonl")[0]["metadata"]["merits"] == dict.fromkeys(
        ("correct_answer", "logical_structure", "plausible_reasoning"), 1.0
    )
    assert distill(tmp_path, QUESTIONS, {"one": rows}, f"--ratings={file}", "--criteria=correct_answer") == [
        "q0#0@teacher",
        "q1#0@teacher",
        "q3#0@teacher",
    ]
    capsys.readouterr()
    trace(["q1#0@teacher", f"--demonstrations={tmp_path / 'd.jsonl'}"])
    shown = capsys.readouterr().out
    assert "no: Logical_Structure it is" in shown and "teacher" in shown and "ratings.jsonl" in shown and "one.jsonl" in shown
    lines(tmp_path / "part.jsonl", [one for one in read(file) if one["parents"] != ["q3#0@teacher"]])
    with pytest.raises(UserError, match=r"--ratings has nothing on 1 candidate \(q3#0@teacher first\); rate them: rollout --ask=rating"):
        distill(tmp_path, QUESTIONS, {"one": rows}, f"--ratings={tmp_path / 'part.jsonl'}")
    assert distill(tmp_path, QUESTIONS, {"one": rows}, f"--ratings={tmp_path / 'part.jsonl'}", "--missing=accept") == ["q0#0@teacher"]
    assert left(tmp_path)["q3#0@teacher"] == ("rating", "no rating of it came")
    changed = [rows[0] | {"response": response(9)}, *rows[1:]]
    with pytest.raises(
        UserError, match=r"ratings.jsonl:\d: is about another response than q0#0@teacher, in its words or its question; ask anew"
    ):
        distill(tmp_path, QUESTIONS, {"one": changed}, f"--ratings={file}")
    with pytest.raises(
        UserError, match=r"it was asked demonstration-rating/1, not reasoning-expansion/1; give what rollout --ask=expansion wrote"
    ):
        distill(tmp_path, QUESTIONS, {"one": rows}, f"--expansions={file}")


def test_a_summary_is_written_out_by_a_second_model(tmp_path, monkeypatch):
    summary = "<think> Red toe, no injury. </think> <answer> A </answer>"
    teacher = ask(tmp_path, lines(tmp_path / "q.jsonl", QUESTIONS), "gemini", lambda text: summary, monkeypatch)
    replies = {
        0: f"<expanded>\n{thought(0)}\n</expanded>",
        1: "no",
        2: f"<think> <expanded>x</expanded> </think> <expanded>{thought(2)}</expanded>",
    }
    replies[3] = f"<expanded> {thought(3)} The summary says so. </expanded>"
    file = ask(tmp_path, teacher, "whole", lambda text: replies[of(text)], monkeypatch, "--ask=expansion")
    arguments = [f"--questions={tmp_path / 'q.jsonl'}", f"--rollouts={teacher}", f"--out={tmp_path / 'd.jsonl'}"]
    with pytest.raises(UserError, match=r"no response of 4 keeps the rules \(4: its reasoning is too short\)"):
        main(arguments)
    main([*arguments, f"--expansions={file}"])
    made = read(tmp_path / "d.jsonl")
    assert [one["messages"][-1]["content"] for one in made] == [response(0), response(2)]
    assert made[0]["metadata"]["distilled"]["expanded_by"] == "gemini/gemini-2.5-pro"
    assert left(tmp_path) == {
        "q1#0@gemini/gemini-2.5-pro": ("rules", "its reasoning could not be written out"),
        "q3#0@gemini/gemini-2.5-pro": ("rules", "it speaks of an answer that was given"),
    }
    history = [one.name for one in walk(Historian().records("demonstrations", tmp_path / "d.jsonl"))]
    assert history.count("rollouts") == 1 and "expansions" in history and SAID


def test_two_teachers_whose_responses_have_the_same_ids(tmp_path, monkeypatch):
    one, other = (
        lines(tmp_path / f"{name}.jsonl", [rollout(QUESTIONS[0], f"<think> {name} </think> <answer> A </answer>", model=name)])
        for name in "ab"
    )
    files = [
        ask(tmp_path, path, f"{name}-whole", lambda text: f"<expanded> {thought(5)} </expanded>", monkeypatch, "--ask=expansion")
        for path, name in ((one, "a"), (other, "b"))
    ]
    lines(tmp_path / "q.jsonl", QUESTIONS)
    arguments = [f"--questions={tmp_path / 'q.jsonl'}", f"--rollouts={one},{other}", f"--out={tmp_path / 'd.jsonl'}", "--per_question=2"]
    main([*arguments, f"--expansions={files[0]},{files[1]}"])
    assert [record["metadata"]["distilled"]["teacher"] for record in read(tmp_path / "d.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--min_words=9", "--max_words=8"], "min_words=9 is more than max_words=8"),
        (["--quota=0"], "--quota: Input should be greater than 0"),
        (["--criteria=kindness"], "--criteria: "),
        (["--rollouts=/none.jsonl"], "/none.jsonl"),
        (["--rollouts=/a,/b,/a"], "--rollouts: must name each file once"),
        (["--ratings=/none.jsonl"], "/none.jsonl"),
        (["--rollout=x"], "unknown option '--rollout' (did you mean '--rollouts'?)"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, flags, expected):
    with pytest.raises(UserError) as raised:
        distill(tmp_path, QUESTIONS, {"one": [rollout(QUESTIONS[0], response(0))]}, *flags)
    assert expected in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("*d.*"))


def test_a_response_to_another_question_is_refused(tmp_path):
    rows = [rollout(question(0, options={"A": "gout", "B": "burn"}), response(0))]
    with pytest.raises(UserError, match=r"one.jsonl:1: is of another question than q0 of the bank \(its options differs\)"):
        distill(tmp_path, QUESTIONS, {"one": rows})


def test_ratings_stay_whatever_teachers_come_after(tmp_path, monkeypatch):
    rows = [rollout(QUESTIONS[0], response(0))]
    distill(tmp_path, QUESTIONS, {"b": rows})
    file = ask(tmp_path, tmp_path / "d.candidates.jsonl", "ratings", lambda text: ratings("Yes", "Yes", "Yes"), monkeypatch, "--ask=rating")
    wrong = [rollout(QUESTIONS[0], response(0, answer="B"), model="other")]
    again = [rollout(QUESTIONS[1], response(1, answer="B")), rollout(QUESTIONS[0], response(7, answer="B"))]
    assert distill(tmp_path, QUESTIONS, {"a": wrong, "b": rows, "c": again}, f"--ratings={file}") == ["q0#0@teacher"]
    assert set(left(tmp_path)) == {"q0#0@other", "q1#0@teacher", "q0#0@teacher~2"}


def test_a_tie_grants_nothing(tmp_path, monkeypatch):
    rows, given = [rollout(QUESTIONS[0], response(0)), rollout(QUESTIONS[1], response(1))], {0: iter("YN"), 1: iter("YYN")}
    distill(tmp_path, QUESTIONS, {"one": rows})

    def say(text):
        return ratings("Yes", "Yes", "Yes" if next(given[of(text)], "?") == "Y" else "No")

    file = ask(tmp_path, tmp_path / "d.candidates.jsonl", "ratings", say, monkeypatch, "--ask=rating", "--n=2", "--concurrency=1")
    assert distill(tmp_path, QUESTIONS, {"one": rows}, f"--ratings={file}") == ["q1#0@teacher"]
    assert left(tmp_path) == {"q0#0@teacher": ("rating", "its ratings deny it plausible reasoning")}


def test_what_nobody_can_be_asked_to_rate_is_left_out_and_said(tmp_path, monkeypatch):
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    content = [{"type": "image"}, {"type": "text", "text": "Case 0: as <image 1> shows, what is it?"}]
    marked = question(0, prompt=[{"role": "user", "content": content}], images=["a.png"])
    rows = [rollout(marked, response(0)), rollout(QUESTIONS[1], response(1))]
    distill(tmp_path, [marked, QUESTIONS[1]], {"one": rows})
    file = ask(tmp_path, tmp_path / "d.candidates.jsonl", "ratings", lambda text: ratings("Yes", "Yes", "Yes"), monkeypatch, "--ask=rating")
    assert distill(tmp_path, [marked, QUESTIONS[1]], {"one": rows}, f"--ratings={file}") == ["q1#0@teacher"]
    assert left(tmp_path)["q0#0@teacher"] == ("rating", "nobody was asked to rate it: its question has marks as of images")


@pytest.mark.slow
def test_training_takes_what_was_distilled(sample, tmp_path, tiny_model, monkeypatch):
    from mede2_jax.train.__main__ import main as train

    out, run = tmp_path / "elsewhere" / "d.jsonl", tmp_path / "run"
    out.parent.mkdir()
    main([f"--questions={sample / 'questions.jsonl'}", f"--rollouts={sample / 'rollouts.jsonl'}", f"--out={out}"])
    flags = ["--stage=sft", f"--model={tiny_model}", f"--data.path={out}", f"--output={run}", "--max_steps=2", "--compute_dtype=float32"]
    train([*flags, "--data.row_tokens=2048", "--rows_per_step=8"])
    assert next(step for step in read(run / "metrics.jsonl") if "loss" in step)["loss"] > 0
    assert (run / "model" / "model.json").exists()
