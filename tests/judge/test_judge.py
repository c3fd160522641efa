"""The command: what is judged and what is not, what a judge is shown, malformed replies, repeats, and failures."""

import json
from collections import Counter

import pytest
from judging import FLAW, Engine, assert_adds_up, honest, manifest, read, reply, response_of, text_of, with_engine, write

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Judgment, Rollout
from mede2_jax.engines.chat import ChatFailure
from mede2_jax.judge.__main__ import main
from mede2_jax.judge.judges import question, truth
from mede2_jax.reasoning.prompts import JUDGE_PAPER
from mede2_jax.reasoning.rubric import ASPECTS, reply_schema


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


def test_the_aspects_of_a_judgment_are_those_of_the_rubric():
    assert {*ASPECTS} <= {*Judgment.model_fields}
