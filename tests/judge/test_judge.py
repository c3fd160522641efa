"""The command: what is judged and what is not, what a judge is shown, malformed replies, budgets, rerun, kill, and every refusal."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from judging import Engine, assert_adds_up, manifest, read, reply, response_of, text_of, with_engine
from waiting import finished

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Judgment, Rollout
from mede2_jax.engines.chat import ChatFailure
from mede2_jax.judge.__main__ import main
from mede2_jax.judge.judges import question, truth
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import write_manifest
from mede2_jax.reasoning.prompts import JUDGE_PAPER
from mede2_jax.reasoning.rubric import ASPECTS, reply_schema

ROOT = Path(__file__).resolve().parents[2]
FLAW = {
    "illogical": "logical_consistency",
    "ignores_image": "image_analysis",
    "hallucinates": "no_hallucination",
    "no_reflection": "reflection",
}


@pytest.fixture
def rollouts(sample):
    return read(sample / "rollouts.jsonl")


@pytest.fixture
def offline(sample):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline"]


@pytest.fixture
def gemini(sample):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", "--limit=16"]


def honest(rollouts):
    """A judge that knows what each response was made to be."""
    made = {rollout["response"]: rollout["metadata"]["made"] for rollout in rollouts}
    return lambda request: reply(*(FLAW[flaw] for flaw in made[response_of(request)].split() if flaw in FLAW))


def write(path, records):
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path


def test_wrong_cut_and_unreadable_answers_are_counted_and_not_judged(offline, sample, rollouts, tmp_path, capsys):
    out = tmp_path / "judgments.jsonl"
    rollouts[8]["response"] = "No answer here. At all."
    changed = write(tmp_path / "r.jsonl", rollouts)
    main([f"--rollouts={changed}", "--judge=offline", f"--out={out}", f"--image_root={sample}"])
    written = manifest(out)
    assert written["dropped"] == {"truncated": 24, "wrong answer": 24, "no answer to read": 1}
    assert_adds_up(written)
    judged = {judgment["parents"][0] for judgment in read(out)}
    left = {rollout["id"] for rollout in rollouts if rollout["metadata"]["made"] in ("truncated", "wrong")} | {rollouts[8]["id"]}
    assert judged == {rollout["id"] for rollout in rollouts} - left
    assert "24 of 384 (6.2%): wrong answer" in capsys.readouterr().out


def test_the_offline_judge_finds_every_flaw(offline, rollouts, tmp_path):
    out = tmp_path / "judgments.jsonl"
    main([*offline, f"--out={out}"])
    judgments = [Judgment.model_validate(raw) for raw in read(out)]
    made = {rollout["id"]: rollout["metadata"]["made"].split() for rollout in rollouts}
    for judgment in judgments:
        failing = {aspect for aspect, met in judgment.verdicts.items() if not met}
        assert failing == {FLAW[flaw] for flaw in made[judgment.rollout] if flaw in FLAW}
        assert judgment.id == f"{judgment.rollout}@0" and judgment.outcome == "correct"
        assert judgment.judge.engine == "offline" and judgment.raw is None and judgment.usage is None
    assert manifest(out)["counts"]["positive"] == 96 and manifest(out)["cost"] == {"judgments": 0.0, "failed": 0, "from_cache": 0}


def test_judgments_carry_no_prompt(offline, rollouts, tmp_path):
    out = tmp_path / "judgments.jsonl"
    main([*offline, f"--out={out}"])
    text = out.read_text("utf-8")
    assert "helpful assistant" not in text and rollouts[0]["response"][:60] not in text
    assert 'metadata":{}' in text, "a case's hidden facts are in the rollouts"


def test_a_judge_is_shown_question_images_truth_and_response(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "judgments.jsonl"
    engine = with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}"])
    by_id = {rollout["id"]: rollout for rollout in rollouts}
    assert len(engine.requests) == 16 and len({request.seed for request in engine.requests}) == 16
    for request in engine.requests:
        rollout = by_id[request.id.rpartition("@")[0]]
        (message,), text = request.messages, text_of(request)
        assert text.startswith(JUDGE_PAPER.text.partition("{QUESTION}")[0])
        asked = "".join(part["text"] for part in rollout["prompt"][1]["content"] if part["type"] == "text")
        assert asked in text and "helpful assistant" not in text
        right = f"{rollout['answer']}. {rollout['options'][rollout['answer']]}" if "options" in rollout else rollout["answer"]
        assert text.endswith(f" </Question>\n<Groundtruth> {right} </Groundtruth>\n<Answer> {rollout['response']} </Answer>")
        assert sum(isinstance(part, ImagePart) for part in message.content) == len(request.images) == len(rollout["images"])
        assert all(image.mode == "RGB" for image in request.decoded)
        assert request.n == 1 and request.schema == reply_schema(reasons=False)
    judgment = Judgment.model_validate(read(out)[0])
    assert (judgment.judge.engine, judgment.judge.model, judgment.judge.prompt) == ("gemini", "gemini-2.5-pro", "judge-paper/1")
    assert json.loads(judgment.raw) and (judgment.usage.prompt_tokens, judgment.usage.cost, judgment.usage.calls) == (100, 0.001, 1)
    assert manifest(out)["cost"]["judgments"] == pytest.approx(0.016)


def test_images_keep_their_places_in_the_question(rollouts):
    rollout = Rollout.model_validate(next(rollout for rollout in rollouts if len(rollout["images"]) == 3))
    kinds = [part.type for part in question(rollout, JUDGE_PAPER).content]
    asked = [part.type for part in rollout.prompt[1].content]
    # The prompt's text runs on into the question's first text, and the question's last text into what follows.
    assert kinds == (["text"] if asked[0] == "image" else []) + asked + (["text"] if asked[-1] == "image" else [])


def test_a_conversation_says_who_said_what(rollouts):
    turns = [{"role": "user", "content": "First?"}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "100% {sure}?"}]
    rollout = Rollout.model_validate(rollouts[0] | {"prompt": turns, "images": [], "answer": None, "options": None})
    text = "".join(part.text for part in question(rollout, JUDGE_PAPER).content)
    assert "<Question> user: First?\nassistant: Yes.\nuser: 100% {sure}? </Question>" in text
    assert truth(rollout) == "(not known)" and "<Groundtruth> (not known) </Groundtruth>" in text


def test_malformed_replies_are_asked_again_with_the_fault(gemini, rollouts, tmp_path, monkeypatch):
    out, good = tmp_path / "judgments.jsonl", honest(rollouts)
    said = {}

    def say(request):
        tries = said[request.id] = said.get(request.id, 0) + 1
        place = int(request.id.partition("#")[2][0])
        if place == 1 and tries == 1:
            return "I think it is fine."
        if place == 2 and tries <= 2:
            return good(request)[:40] if tries == 1 else ("{", "length")
        return good(request)

    engine = with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}"])
    written = manifest(out)
    assert written["dropped"] == {"truncated": 24, "wrong answer": 24, "beyond limit": 320} and not written["failed"]
    assert_adds_up(written)
    assert len(read(out)) == 16 and Counter(judgment["usage"]["calls"] for judgment in read(out)) == {1: 11, 2: 3, 3: 2}
    assert {judgment["usage"]["cost"] for judgment in read(out) if judgment["usage"]["calls"] == 3} == {0.003}
    again = [request for request in engine.requests if len(request.messages) == 3]
    assert len(again) == 3 + 4 and len({request.seed for request in engine.requests}) == 23
    told = {request.messages[2].text.partition(": ")[2].partition(". Return")[0] for request in again}
    assert {"it holds no JSON object", "it was cut at max_tokens=8192"} == told
    assert any(request.messages[1].text == "I think it is fine." for request in again)


def test_replies_that_stay_malformed_are_failures_with_their_text(gemini, rollouts, tmp_path, monkeypatch, capsys):
    out, good = tmp_path / "judgments.jsonl", honest(rollouts)

    def say(request):
        if "#3" in request.id:
            return f"Never {request.seed}"
        if "#4" in request.id:
            return ChatFailure(request, "blocked: SAFETY")
        return good(request)

    engine = with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}", "--attempts=2"])
    written = manifest(out)
    assert_adds_up(written)
    assert written["dropped"]["malformed reply: it holds no JSON object"] == written["dropped"]["blocked: SAFETY"] == 2
    failed = {failure["rollout"][-2:]: failure for failure in written["failed"]}
    assert failed["#3"]["raw"].startswith("Never ") and failed["#3"]["usage"]["calls"] == 2 and failed["#4"]["raw"] is None
    assert written["cost"] == {"judgments": pytest.approx(0.012), "failed": pytest.approx(0.004), "from_cache": 0}
    assert "4 judgments failed: see" in capsys.readouterr().out
    asked = {request.seed for request in engine.requests}
    engine = with_engine(monkeypatch, Engine(good))
    main([*gemini, f"--out={out}", "--attempts=2"])
    unread = {request.seed for request in engine.requests if "#3" in request.id}
    assert len(unread) == 2 and not unread & asked, "a cache knows the answers that could not be read"
    assert len(engine.requests) == 4, "only what is missing"
    assert_adds_up(manifest(out))
    assert len(read(out)) == 16 and not manifest(out)["failed"]


def test_repeats_have_seeds_of_their_own_and_tell_how_far_the_judge_agrees_with_itself(gemini, rollouts, tmp_path, monkeypatch, capsys):
    out, good = tmp_path / "judgments.jsonl", honest(rollouts)
    doubtful = lambda request: reply("reflection") if "#0@1" in request.id else good(request)  # noqa: E731
    engine = with_engine(monkeypatch, Engine(doubtful))
    main([*gemini, f"--out={out}"])
    main([*gemini, f"--out={out}", "--repeat=2"])
    assert len(engine.requests) == 32 == len({request.seed for request in engine.requests})
    written = manifest(out)
    assert_adds_up(written)
    assert written["agreement"]["no_hallucination"] == {"items": 16, "percent": 1.0, "kappa": 1.0, "kind": "Cohen"}
    # Three of the 16 are good, and judged otherwise the second time.
    assert written["agreement"]["reflection"]["percent"] == written["agreement"]["positive"]["percent"] == pytest.approx(13 / 16)
    assert 0 < written["agreement"]["reflection"]["kappa"] < 1
    assert "self-agreement over 16 responses" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"judgment 1 of .* but --repeat=1, which may not shrink"):
        main([*gemini, f"--out={out}"])


def test_one_judgment_of_each_response_comes_before_the_second_of_any(gemini, rollouts, tmp_path, monkeypatch):
    engine = with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={tmp_path / 'j.jsonl'}", "--repeat=3"])
    assert [request.id[-1] for request in engine.requests] == ["0"] * 16 + ["1"] * 16 + ["2"] * 16


def test_a_judge_that_calls_a_right_answer_wrong_is_reported(gemini, tmp_path, monkeypatch, capsys):
    out = tmp_path / "j.jsonl"
    with_engine(monkeypatch, Engine(lambda request: reply("correctness")))
    main([*gemini, f"--out={out}"])
    assert manifest(out)["counts"]["contradicted"] == 16 and manifest(out)["counts"]["positive"] == 16
    assert "right, judged wrong" in capsys.readouterr().out


def test_unknown_answers_are_left_out_or_judged(rollouts, sample, tmp_path, monkeypatch):
    for rollout in rollouts[:6]:
        del rollout["answer"], rollout["options"]
    path, out = write(tmp_path / "r.jsonl", rollouts[:16]), tmp_path / "j.jsonl"
    flags = [f"--rollouts={path}", f"--image_root={sample}", "--judge=gemini"]
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    main([*flags, f"--out={tmp_path / 'left.jsonl'}"])
    assert manifest(tmp_path / "left.jsonl")["dropped"]["right answer not known"] == 6 and len(engine.requests) == 8
    main([*flags, f"--out={out}", "--unknown_answers=judge"])
    assert Counter(judgment.get("outcome") for judgment in read(out)) == {None: 6, "correct": 8}
    assert_adds_up(manifest(out))
    with pytest.raises(UserError, match=r"r.jsonl:1: field 'answer' is missing, and the offline judge cannot tell"):
        main([flags[0], "--judge=offline", f"--out={tmp_path / 'o.jsonl'}", "--unknown_answers=judge"])


def test_other_words_for_the_right_answer_are_wrong_by_rules_or_left_to_the_judge(rollouts, sample, tmp_path, monkeypatch):
    open_ended = [rollout for rollout in rollouts if "options" not in rollout][:3]
    answers = ["Air in the pleura", open_ended[1]["answer"], "Fluid"]
    for rollout, answer in zip(open_ended, answers, strict=True):
        rollout["response"] = f"<think> {rollout['id']} </think> <answer> {answer} </answer>"
    choice = next(rollout for rollout in rollouts if rollout["metadata"]["made"] == "wrong" and "options" in rollout)
    path = write(tmp_path / "r.jsonl", [*open_ended, choice])
    flags = [f"--rollouts={path}", f"--image_root={sample}", "--judge=gemini"]
    engine = with_engine(monkeypatch, Engine(lambda request: reply(*(["correctness"] if "Fluid" in response_of(request) else []))))
    main([*flags, f"--out={tmp_path / 'rules.jsonl'}"])
    assert len(engine.requests) == 1 and manifest(tmp_path / "rules.jsonl")["dropped"] == {"wrong answer": 3}
    main([*flags, f"--out={tmp_path / 'judge.jsonl'}", "--free_texts=judge"])
    judgments = read(tmp_path / "judge.jsonl")
    found = {judgment["parents"][0]: (judgment.get("outcome"), judgment["correctness"]["met"]) for judgment in judgments}
    assert found == dict(zip((rollout["id"] for rollout in open_ended), [(None, True), ("correct", True), (None, False)], strict=True))
    assert manifest(tmp_path / "judge.jsonl")["dropped"] == {"wrong answer": 1}, "a letter is a letter"
    assert [manifest(tmp_path / "judge.jsonl")["counts"][name] for name in ("positive", "negative", "wrong")] == [2, 0, 1]
    assert_adds_up(manifest(tmp_path / "judge.jsonl"))


def test_a_judge_with_reasons(gemini, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"
    text = json.dumps({name: {"Reason": f"because {name}", "Verdict": "Yes"} for name in reply_schema(reasons=False)["required"]})
    engine = with_engine(monkeypatch, Engine(lambda request: text))
    main([*gemini, f"--out={out}", "--prompt=reasons"])
    assert engine.requests[0].schema == reply_schema(reasons=True) and '"Reason": "one short sentence"' in text_of(engine.requests[0])
    assert read(out)[0]["reflection"] == {"met": True, "reason": "because Reflection_Presence"}
    assert read(out)[0]["judge"]["prompt"] == "judge-reasons/1"


class Budget(UserError):
    """Stands for the engine's own error: it comes after replies that were paid for."""


def test_an_engine_that_ends_the_run_leaves_what_was_judged(gemini, rollouts, tmp_path, monkeypatch, capsys):
    out, good, asked = tmp_path / "j.jsonl", honest(rollouts), []

    def say(request):
        asked.append(request)
        if len(asked) > 6:
            raise Budget("max_cost=0.01 is reached")
        return good(request)

    with_engine(monkeypatch, Engine(say))
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*gemini, f"--out={out}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error == f"error: max_cost=0.01 is reached; 6 judgments are in {out}, the same command goes on\n"
    written = manifest(out)
    assert not written["finished"] and written["counts"]["judgments"] == 6 and written["dropped"]["not judged yet"] == 10
    assert_adds_up(written)
    engine = with_engine(monkeypatch, Engine(good))
    main([*gemini, f"--out={out}"])
    assert len(engine.requests) == 10 and len(read(out)) == 16 and manifest(out)["finished"]


def test_an_engine_that_never_begins_leaves_nothing(gemini, tmp_path, monkeypatch):
    def say(request):
        raise UserError("no key")

    with_engine(monkeypatch, Engine(say))
    with pytest.raises(UserError, match=r"^no key$"):
        main([*gemini, f"--out={tmp_path / 'j.jsonl'}"])
    assert not list(tmp_path.iterdir())


def test_nothing_but_failures_is_an_error(gemini, tmp_path, monkeypatch):
    with_engine(monkeypatch, Engine(lambda request: ChatFailure(request, "blocked")))
    with pytest.raises(UserError, match="nothing could be judged; the first: blocked"):
        main([*gemini, f"--out={tmp_path / 'j.jsonl'}"])


def test_nothing_right_is_no_error(offline, rollouts, tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", [rollout | {"response": "<answer> neither </answer>"} for rollout in rollouts[:8]])
    out = tmp_path / "j.jsonl"
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    assert "there is nothing to judge" in capsys.readouterr().out and not out.exists()
    assert manifest(out)["dropped"] == {"no answer to read": 7, "truncated": 1} and manifest(out)["finished"]


def test_everything_is_there_already(offline, tmp_path, capsys):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}"])
    before = out.read_bytes()
    main([*offline, f"--out={out}"])
    assert "has all 336 judgments; nothing to do" in capsys.readouterr().out and out.read_bytes() == before


def test_a_smaller_limit_still_adds_up(gemini, rollouts, tmp_path, monkeypatch):
    out, good = tmp_path / "j.jsonl", honest(rollouts)
    fails = lambda request: ChatFailure(request, "blocked") if "#3" in request.id else good(request)  # noqa: E731
    with_engine(monkeypatch, Engine(fails))
    for limit, repeat in [(16, 1), (5, 1), (1, 2), (9, 2), (20, 2)]:
        main([*gemini[:2], f"--out={out}", f"--limit={limit}", f"--repeat={repeat}"])
        written = manifest(out)
        assert written["finished"] and written["counts"]["judgments"] == len(read(out))
        assert_adds_up(written)
    assert written["counts"]["wanted"] == 40 and {failure["rollout"][-2:] for failure in written["failed"]} == {"#3"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("the budget is spent")])
def test_attempts_are_known_however_the_runs_between_ended(gemini, rollouts, tmp_path, monkeypatch, error):
    """What a judge has answered before is not asked for again, though a run was ended before it came to it."""
    out, good, seen = tmp_path / "j.jsonl", honest(rollouts), set()

    def malformed(request):
        if "#3" in request.id:
            assert request.seed not in seen
            seen.add(request.seed)
            return "Never"
        return good(request)

    with_engine(monkeypatch, Engine(malformed))
    main([*gemini, f"--out={out}", "--attempts=2"])
    before = manifest(out)["failed"]
    assert [failure["attempts"] for failure in before] == [2, 2] and len(seen) == 4

    def stopped(request):
        assert manifest(out)["failed"] == before, "as a kill would leave it"
        raise error

    with_engine(monkeypatch, Engine(stopped))
    with pytest.raises((SystemExit, UserError)):
        main([*gemini, f"--out={out}", "--attempts=2"])
    assert manifest(out)["failed"] == before and not manifest(out)["finished"]
    with_engine(monkeypatch, Engine(malformed))
    main([*gemini, f"--out={out}", "--attempts=2"])
    assert [failure["attempts"] for failure in manifest(out)["failed"]] == [4, 4] and len(seen) == 8


def test_attempts_before_a_failure_of_another_kind_are_known(gemini, rollouts, tmp_path, monkeypatch):
    out, good = tmp_path / "j.jsonl", honest(rollouts)

    def say(request):
        if "#3" not in request.id:
            return good(request)
        return "Never" if len(request.messages) == 1 else ChatFailure(request, "blocked")

    with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}"])
    assert [failure["attempts"] for failure in manifest(out)["failed"]] == [1, 1]


def test_an_early_end_reads_no_judgment_again(gemini, rollouts, tmp_path, monkeypatch):
    out, good, parsed = tmp_path / "j.jsonl", honest(rollouts), []
    with_engine(monkeypatch, Engine(good))
    main([*gemini, f"--out={out}", "--limit=8"])
    parse = OutputFile._parse
    monkeypatch.setattr(OutputFile, "_parse", lambda *arguments: parsed.append(1) or parse(*arguments))

    def stopped(request):
        if len(parsed) == 8 and out.read_bytes().count(b"\n") >= 11:
            raise KeyboardInterrupt
        return good(request)

    with_engine(monkeypatch, Engine(stopped))
    with pytest.raises(SystemExit) as stop:
        main([*gemini, f"--out={out}"])
    assert stop.value.code == 130 and len(parsed) == 8, "at the start, and never after"
    assert manifest(out)["counts"]["judgments"] == len(read(out)) == 11
    assert_adds_up(manifest(out))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"failed": 3}, "failed: .*got 3"),
        ({"failed": [3]}, "failed.0: "),
        ({"failed": [{"reason": "x", "repeat": 0}]}, "failed: rollout: "),
        ({"failed": [{"rollout": "x", "reason": "x", "repeat": 0, "usage": {"cost": "much"}}]}, "failed: usage.cost: "),
        ({"seconds": "long"}, "seconds: .*got 'long'"),
        ({"judge": "me"}, "judge: .*got 'me'"),
        ({"config": None}, "config: "),
    ],
)
def test_a_damaged_manifest_is_one_line(offline, tmp_path, capsys, change, expected):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}", "--limit=3"])
    before = out.read_bytes()
    (tmp_path / "j.jsonl.manifest.json").write_text(json.dumps(manifest(out) | change))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*offline, f"--out={out}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "damaged" in error
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "flags", [["--judge=gemini"], ["--judge", "openai", "--model=m"], ["--model=m"], ["--judge=gemini", "--out=j.jsonl"]]
)
def test_the_sample_is_judged_by_nobody_whom_the_user_names(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_command(main, flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: missing --rollouts") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rollouts_may_grow(offline, rollouts, tmp_path):
    out = tmp_path / "j.jsonl"
    path = write(tmp_path / "r.jsonl", [rollout for rollout in rollouts if rollout["sample"] < 3])
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    few = read(out)
    write(path, rollouts)
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    assert read(out)[: len(few)] == few and len(read(out)) == 336


def start(arguments):
    command = [sys.executable, "-m", "mede2_jax.judge", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def grown(path, rollouts, times):
    """The same responses many times over, under other ids."""
    records = [
        rollout | {"id": f"{copy}-{rollout['id']}", "parents": [f"{copy}-{rollout['parents'][0]}"]}
        for copy in range(times)
        for rollout in rollouts
    ]
    return write(path, records)


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_judgments(rollouts, tmp_path):
    path, out, whole, rng, kills = grown(tmp_path / "r.jsonl", rollouts, 8), tmp_path / "j.jsonl", tmp_path / "w.jsonl", random.Random(0), 0
    main([f"--rollouts={path}", "--judge=offline", f"--out={whole}"])
    for _ in range(4):
        before = out.stat().st_size if out.exists() else 0
        process = start([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
        while process.poll() is None and not (out.exists() and out.stat().st_size > before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 4 and 0 < len(out.read_bytes().splitlines()) < 8 * 336
    with out.open("ab") as file:  # as a kill in the middle of a line would leave it
        file.write(b'{"id":"torn')
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    assert sorted(out.read_text("utf-8").splitlines()) == sorted(whole.read_text("utf-8").splitlines())
    assert manifest(out)["counts"] == manifest(whole)["counts"]
    assert_adds_up(manifest(out))


@pytest.mark.slow
def test_a_signal_is_one_line_and_keeps_what_came(rollouts, tmp_path):
    path, out = grown(tmp_path / "r.jsonl", rollouts, 8), tmp_path / "j.jsonl"
    process = start([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, error = finished(process)
    there = len(read(out))
    assert process.returncode == 143 and error == f"error: terminated; {there:,} judgments are in {out}, the same command goes on\n"
    assert manifest(out)["counts"]["judgments"] == there and not manifest(out)["finished"]
    assert_adds_up(manifest(out))


def test_two_runs_cannot_write_one_file(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"

    def say(request):
        with pytest.raises(UserError, match=r"another process is writing .*j.jsonl; wait for it"):
            main([*gemini, f"--out={out}"])
        return reply()

    with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}", "--limit=2"])
    assert len(read(out)) == 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--judge=openai", "--model=gpt-4o"], "judge: gemini then, openai now; model: none then, gpt-4o now"),
        (["--model=gemini-2.5-flash"], "model: none then, gemini-2.5-flash now"),
        (["--prompt=reasons"], "prompt: paper then, reasons now"),
        (["--temperature=0", "--seed=2"], "seed: 0 then, 2 now; temperature: 1.0 then, 0.0 now"),
        (["--unknown_answers=judge"], "unknown_answers: leave_out then, judge now"),
        (["--no-block"], "block: True then, False now"),
    ],
)
def test_another_judge_on_the_same_file_is_refused_and_the_difference_shown(gemini, rollouts, tmp_path, monkeypatch, flags, expected):
    out = tmp_path / "j.jsonl"
    with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}"])
    before = out.read_bytes()
    with pytest.raises(UserError) as error:
        main([*[flag for flag in gemini if flag.split("=")[0] not in {given.split("=")[0] for given in flags}], f"--out={out}", *flags])
    assert f"{out} was begun otherwise ({expected})" in str(error.value) and out.read_bytes() == before


def test_another_version_of_the_prompt_is_refused(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"
    with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}"])
    path = out.with_name(out.name + ".manifest.json")
    path.write_text(path.read_text().replace("judge-paper/1", "judge-paper/0"))
    with pytest.raises(UserError, match=r"judge.prompt: judge-paper/0 then, judge-paper/1 now"):
        main([*gemini, f"--out={out}"])


def test_options_that_change_no_judgment_may_change(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"
    engine = with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}", "--limit=3"])
    more = ["--limit=9", "--concurrency=3", "--timeout=9", "--max_cost=5", "--attempts=5", "--cache=none", "--base_url=http://127.0.0.1:9"]
    main([*gemini[:2], f"--out={out}", *more])
    assert len(engine.requests) == 9 and len(read(out)) == 9


def test_judgments_of_other_responses_are_refused(offline, rollouts, tmp_path):
    out = tmp_path / "j.jsonl"
    path = write(tmp_path / "r.jsonl", rollouts)
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    before = out.read_bytes()
    for change, expected in [
        ({"response": rollouts[1]["response"]}, "j.jsonl:1: a judgment of another response than 'sample-case-pneumothorax-1#0' is now"),
        ({"answer": "(B)", "options": None, "response": "<answer> (B) </answer>"}, "j.jsonl:1: a judgment of another response"),
        ({"id": "x"}, "j.jsonl:1: a judgment of 'sample-case-pneumothorax-1#0', which is not among the responses to be judged"),
    ]:
        write(path, [rollouts[0] | change, *rollouts[1:]])
        with pytest.raises(UserError, match=expected):
            main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda lines: [lines[0], "{broken", *lines[1:]], ":2: not valid JSON"),
        (lambda lines: [*lines, lines[4]], ":337: judgment 0 of .* is there twice"),
        (lambda lines: [lines[0].replace('"met":true', '"met":"perhaps"', 1)], ":1: field 'correctness.met' must be true or false"),
        (lambda lines: [lines[0].replace('"repeat":0', '"repaet":0')], ":1: (field 'repeat' is missing|unknown field 'repaet')"),
        (lambda lines: ["[1]"], ":1: a record must be a JSON object"),
    ],
)
def test_a_damaged_file_names_the_line_and_is_not_touched(offline, tmp_path, spoil, expected):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}"])
    spoilt = "".join(line + "\n" for line in spoil(out.read_text("utf-8").splitlines()))
    out.write_text(spoilt, "utf-8")
    with pytest.raises(UserError, match=f"j.jsonl{expected}"):
        main([*offline, f"--out={out}"])
    assert out.read_text("utf-8") == spoilt


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"response": None}, r"r.jsonl:1: field 'response' must be text, found null"),
        ({"smaple": 1}, r"r.jsonl:1: unknown field 'smaple'; did you mean 'sample'\?"),
        ({"parents": []}, r"r.jsonl:1: field 'parents' must hold the question's id"),
        ({"id": "sample-case-pneumothorax-1#1"}, r"r.jsonl:2: field 'id': .* is also that of .*r.jsonl:1"),
        ({"answer": "Z"}, r"r.jsonl:1: field 'answer': 'Z' is neither a letter nor a text of field 'options'"),
        ({"metadata": {}}, r"r.jsonl:1: field 'metadata.link' must be a text: .*needs --judge=gemini or openai"),
    ],
)
def test_faults_in_rollouts_are_one_line(rollouts, sample, tmp_path, capsys, change, expected):
    path = write(tmp_path / "r.jsonl", [rollouts[0] | change, *rollouts[1:3]])
    with pytest.raises(UserError, match=expected):
        main([f"--rollouts={path}", "--judge=offline", f"--out={tmp_path / 'j.jsonl'}"])
    assert [file.name for file in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_missing_image_is_found_before_anything_is_asked(rollouts, tmp_path, monkeypatch):
    path = write(tmp_path / "r.jsonl", rollouts[:8])
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    with pytest.raises(UserError, match=r"r.jsonl:1: image 'images/pneumothorax-1a.png' not found"):
        main([f"--rollouts={path}", "--judge=gemini", f"--out={tmp_path / 'j.jsonl'}"])
    assert not engine.requests


def test_images_are_found_through_the_manifest_of_the_rollouts(rollouts, sample, tmp_path, monkeypatch, capsys):
    path, out = write(tmp_path / "r.jsonl", rollouts[:8]), tmp_path / "j.jsonl"
    write_manifest(path, {"command": "python -m mede2_jax.rollout", "images": {"root": str(sample)}})
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}"])
    assert all(len(request.images) == 1 for request in engine.requests) and manifest(out)["images"] == {"root": str(sample)}
    assert f"images of {path}: paths start from {sample}, as its manifest says" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("root", ["/", "{sample}"])
def test_a_manifest_that_came_with_rollouts_sends_no_other_picture_to_an_api(rollouts, sample, tmp_path, monkeypatch, root):
    private = str(sample / "images" / "pneumothorax-1a.png").removeprefix("/" if root == "/" else f"{sample}/")
    path, out = write(tmp_path / "r.jsonl", [rollouts[0] | {"images": [private]}]), tmp_path / "j.jsonl"
    said = {"command": "python -m mede2_jax.rollout", "images": {"root": root.format(sample=sample)}}
    (tmp_path / "r.jsonl.manifest.json").write_text(json.dumps(said))
    engine = with_engine(monkeypatch, Engine(lambda request: reply()))
    with pytest.raises(UserError, match=r"says that image paths start from .* give --image_root=FOLDER"):
        main([f"--rollouts={path}", "--judge=gemini", f"--out={out}"])
    assert not engine.requests and not out.exists()
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}", f"--image_root={said['images']['root']}"])
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rollouts={tmp}/none.jsonl"], "cannot read data file"),
        (["--out={tmp}"], "is a folder; give a file, such as .*judgments.jsonl"),
        (["--judge=claude"], "--judge: .*'offline', 'gemini' or 'openai'"),
        (["--judge=openai"], "judge=openai needs a model"),
        (["--free_texts=judge"], "judge=offline cannot tell whether two texts mean the same"),
        (["--judge=openai", "--model=m", "--thinking=5"], "thinking and block are Gemini's"),
        (["--judge=offline", "--repeat=3"], "judge=offline says the same every time"),
        (["--judge=offline", "--max_cost=3", "--model=x"], "judge=offline asks no API and has no use for model, max_cost"),
        (["--judge=gemini", "--base_url=http://me:S3CRET@host/"], "base_url: must hold no user, password or key"),
        (["--judge=gemini", "--base_url=https://host/v1?key=S3CRET"], "base_url: must hold no user, password or key"),
        (["--judge=gemini", "--base_url=localhost:80"], "base_url: must be a URL"),
        (["--repeat=0"], "--repeat"),
        (["--engine=gemini"], "did you mean '--judge'"),
        (["--budget=4"], "did you mean '--max_cost'"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(offline, tmp_path, capsys, flags, expected):
    given = [f"--out={tmp_path / 'j.jsonl'}", *offline]
    given = [flag for flag in given if flag.split("=")[0] not in {other.split("=")[0] for other in flags}]
    with pytest.raises(SystemExit) as stop:
        run_command(main, given + [flag.format(tmp=tmp_path) for flag in flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "S3CRET" not in error
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert not list(tmp_path.iterdir())


def test_the_file_of_rollouts_is_not_written_over(offline, sample, rollouts, tmp_path):
    path = write(tmp_path / "r.jsonl", rollouts)
    with pytest.raises(UserError, match="is the file of rollouts"):
        main([f"--rollouts={path}", "--judge=offline", f"--out={path}"])
    assert read(path) == rollouts


def test_the_embedded_default_needs_no_arguments(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([])
    assert len(read(tmp_path / "runs" / "judgments.jsonl")) == 336
    shown = capsys.readouterr().out
    assert "336 responses × 1 to judge of 384; judge offline, rules/1" in shown and "all four: positive" in shown


def test_the_aspects_of_a_judgment_are_those_of_the_rubric():
    assert {*ASPECTS} <= {*Judgment.model_fields}
