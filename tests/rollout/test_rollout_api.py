"""An API's model asked the questions of a file: responses as a model's of ours, with what they cost; against servers on loopback."""

import json

import pytest
from chat_server import ChatServer
from gemini_server import KEY, GeminiServer, blocked
from rollouts_there import manifest

from mede2_jax.config import UserError
from mede2_jax.curate.__main__ import main as curate
from mede2_jax.data.records import Remark, Rollout
from mede2_jax.judge.__main__ import main as judge
from mede2_jax.reasoning.prompts import QUESTION_TYPE
from mede2_jax.rollout.__main__ import main


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)


def right(body, texts, images):
    return "<think> so </think> <answer> B </answer>"


@pytest.fixture
def gemini():
    with GeminiServer(say=right) as server:
        yield server


@pytest.fixture
def openai():
    with ChatServer() as server:
        yield server


def flags(out, server, sample, *more):
    engine = ["gemini", "gemini-2.5-pro"] if isinstance(server, GeminiServer) else ["openai", "tiny"]
    asked = [f"--questions={sample / 'questions.jsonl'}", f"--out={out}", f"--engine={engine[0]}", f"--api_model={engine[1]}"]
    return [*asked, f"--base_url={server.url}", f"--cache={out.parent / 'cache.sqlite'}", "--max_tokens=400", "--limit=3", "--n=2", *more]


def rollouts(out):
    return [Rollout.model_validate_json(line) for line in out.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["gemini", "openai"])
def test_each_sample_is_a_request_with_its_own_seed_and_its_cost(request, name, sample, tmp_path):
    server, out = request.getfixturevalue(name), tmp_path / "r.jsonl"
    main(flags(out, server, sample))
    found = rollouts(out)
    bodies = server.bodies if name == "gemini" else server.requests
    seeds = [body["generationConfig"]["seed"] if name == "gemini" else body["seed"] for body in bodies]
    assert sorted(seeds) == sorted(one.seed for one in found) and len(set(seeds)) == 6
    assert {one.id for one in found} == {f"{id}#{number}" for id in {one.question_id for one in found} for number in (0, 1)}
    assert {one.model for one in found} == {"gemini/gemini-2.5-pro" if name == "gemini" else "openai/tiny"}
    assert all(one.usage is not None and one.images and one.options for one in found if one.options)
    if name == "gemini":
        assert sum(one.usage.cost for one in found) == pytest.approx(server.billed)
        assert manifest(out)["cost"]["samples"] == pytest.approx(server.billed, abs=1e-6), "it is rounded"
    said = manifest(out)
    assert said["command"] == "python -m mede2_jax.rollout" and said["finished"] and said["model"]["api"] == name
    assert KEY not in json.dumps(said) and said["config"]["concurrency"] == 16, "the API's own default"


def test_what_is_there_is_not_asked_again_and_more_goes_on(gemini, sample, tmp_path, monkeypatch):
    out = tmp_path / "r.jsonl"
    main(flags(out, gemini, sample))
    main(flags(out, gemini, sample, "--n=3", "--limit=4"))
    assert len(gemini.bodies) == 12 and set(gemini.delivered.values()) == {1}
    whole = out.read_text()
    monkeypatch.delenv("GEMINI_API_KEY")
    main(flags(out, gemini, sample, "--n=3", "--limit=4"))
    assert out.read_text() == whole, "all is there: nothing is asked, so no key is needed"
    with pytest.raises(UserError, match="no API key: set GEMINI_API_KEY"):
        main(flags(tmp_path / "other.jsonl", gemini, sample))
    assert not list(tmp_path.glob("other*"))


def test_shards_ask_each_question_once(gemini, sample, tmp_path):
    for part in range(2):
        main(flags(tmp_path / f"{part}.jsonl", gemini, sample, f"--shard={part}/2", "--limit=2"))
    ids = [{one.question_id for one in rollouts(tmp_path / f"{part}.jsonl")} for part in range(2)]
    assert ids[0].isdisjoint(ids[1]) and len(ids[0] | ids[1]) == 4 and len(gemini.bodies) == 8


def test_a_refusal_is_a_response_and_a_fault_is_tried_again(sample, tmp_path):
    out, failing = tmp_path / "r.jsonl", [True]

    def faults(number, body):
        if number == 0:
            return blocked(body, "PROHIBITED_CONTENT")
        if failing[0] and number == 1:
            return 400, {}, b'{"error": {"code": 400, "message": "no", "status": "INVALID_ARGUMENT"}}'
        return None

    with GeminiServer(say=right, faults=faults) as server:
        main(flags(out, server, sample, "--concurrency=1"))
        failing[0] = False
        assert (len(rollouts(out)), len(manifest(out)["failed"])) == (5, 1)
        main(flags(out, server, sample))
        assert len(server.bodies) == 7
    assert len(rollouts(out)) == 6 and not manifest(out)["failed"]
    (refused,) = [one for one in rollouts(out) if one.finish_reason == "refusal"]
    assert refused.response == "" and "PROHIBITED_CONTENT" in refused.reason


@pytest.mark.slow
def test_a_budget_ends_the_run_in_one_line_and_keeps_what_came(gemini, sample, tmp_path):
    out = tmp_path / "r.jsonl"
    with pytest.raises((UserError, SystemExit)):
        main(flags(out, gemini, sample, "--n=16", "--limit=40", "--max_cost=0.05"))
    assert gemini.billed <= 0.05 and len(rollouts(out)) == len(gemini.bodies) > 0


def test_others_read_what_an_api_said(gemini, sample, tmp_path):
    """Curation takes the responses as an expert's; the judge judges them."""
    out = tmp_path / "r.jsonl"
    main(flags(out, gemini, sample))
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join((sample / "questions.jsonl").read_text("utf-8").splitlines(keepends=True)[:3]), encoding="utf-8")
    files = [f"--questions={questions}", f"--out={tmp_path / 'c.jsonl'}", f"--image_root={sample}", f"--solvability.rollouts={out}"]
    curate([*files, "--steps=solvability"])
    right_ones = {one.question_id for one in rollouts(out) if one.answer == "B"}
    assert right_ones
    assert {json.loads(line)["id"] for line in (tmp_path / "c.jsonl").read_text().splitlines()} == right_ones
    judge([f"--rollouts={out}", "--judge=offline", f"--out={tmp_path / 'j.jsonl'}"])
    assert {json.loads(line)["parents"][0] for line in (tmp_path / "j.jsonl").read_text().splitlines()} <= {one.id for one in rollouts(out)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--engine=gemini"], "engine=gemini needs a model: --api_model=NAME as the API calls it, such as gemini-2.5-pro"),
        (["--engine=gemini", "--api_model=x"], "missing --questions and --out"),
        (["--engine=gemini", "--api_model=x", "--model=m"], "engine=gemini asks an API and has no use for model"),
        (["--engine=openai", "--api_model=x", "--logprobs"], "has no use for logprobs"),
        (["--engine=openai", "--api_model=x", "--check_logprobs"], "has no use for check_logprobs"),
        (["--engine=openai", "--api_model=x", "--family=internvl3"], "has no use for family"),
        (["--engine=openai", "--api_model=x", "--vllm.dtype=float32"], "has no use for vllm"),
        (["--engine=openai", "--api_model=x", "--data.max_pixels=9000"], "has no processor of ours; leave out data.max_pixels"),
        (["--engine=openai", "--api_model=x", "--thinking=5"], "thinking and block are Gemini's"),
        (["--engine=openai", "--api_model=x", "--base_url=http://a/v1,http://b/v1"], "asks one API, and base_url names 2"),
        (["--engine=flax", "--api_model=x"], "api_model is for engine=gemini or engine=openai"),
        (["--max_cost=3"], "max_cost is for engine=gemini or engine=openai"),
        (["--engine=claude"], "--engine"),
    ],
)
def test_options_that_have_no_use_are_one_line(more, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as fault:
        main(more)
    assert said in str(fault.value) and "\n" not in str(fault.value)
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_model_is_not_gone_on_with_by_an_api(gemini, sample, unbroken, tmp_path):
    out = tmp_path / "r.jsonl"
    for path in (unbroken, unbroken.with_name(f"{unbroken.name}.manifest.json")):
        (tmp_path / path.name.replace(unbroken.name, "r.jsonl")).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="was begun otherwise"):
        main(flags(out, gemini, sample))
    assert out.read_bytes() == unbroken.read_bytes() and not gemini.bodies


def test_what_is_said_about_a_question_is_no_answer_to_it(gemini, sample, tmp_path):
    out = tmp_path / "types.jsonl"
    main(flags(out, gemini, sample, "--ask=type"))
    said = [Remark.model_validate_json(line) for line in out.read_text("utf-8").splitlines()]
    assert len(said) == 6 and {one.about for one in said} == {"question-type/1"} and {one.answer for one in said} == {None}
    assert all("Pattern_Recognition" in one.prompt[0].text for one in said)
    assert manifest(out)["prompt"] == {"name": QUESTION_TYPE.title, "digest": QUESTION_TYPE.digest}
    main(flags(out, gemini, sample, "--ask=type"))
    assert len(gemini.bodies) == 6, "all is there"
    with pytest.raises(UserError, match="ask: type then, refinement now"):
        main(flags(out, gemini, sample, "--ask=refinement"))
    with pytest.raises(UserError, match=r"types.jsonl:1: this is what a model says about something \(rollout --ask\), not an answer"):
        judge([f"--rollouts={out}", f"--out={tmp_path / 'j.jsonl'}", "--judge=offline"])
    with pytest.raises(UserError, match=r"types.jsonl:1: this is what a model says about something"):
        curate([f"--questions={sample / 'questions.jsonl'}", f"--out={tmp_path / 'c.jsonl'}", f"--difficulty.rollouts={out}"])


def test_nothing_is_asked_about_questions_without_images(gemini, sample, tmp_path):
    rows = [json.loads(line) for line in (sample / "questions.jsonl").read_text("utf-8").splitlines()]
    text = [{"id": f"t{number}", "prompt": [{"role": "user", "content": f"{number}?"}]} for number in range(3)]
    mixed = tmp_path / "q.jsonl"
    mixed.write_text("".join(json.dumps(row) + "\n" for row in [*text, *rows[:2]]))
    more = [f"--data.image_root={sample}", "--n=1"]
    main([*flags(tmp_path / "r.jsonl", gemini, sample, "--ask=refinement", *more), f"--questions={mixed}"])
    assert len(gemini.bodies) == len([row for row in rows[:2] if row.get("images")]) > 0
    mixed.write_text("".join(json.dumps(row) + "\n" for row in text))
    with pytest.raises(UserError, match=r"--ask=type is for questions with images, and .*q.jsonl has none; leave this step out"):
        main([*flags(tmp_path / "t.jsonl", gemini, sample, "--ask=type", *more), f"--questions={mixed}"])


@pytest.mark.parametrize(
    ("message", "response"),
    [
        ({"content": "<answer> B </answer>", "reasoning_content": " so "}, "<think> so </think>\n\n<answer> B </answer>"),
        ({"content": "<answer> B </answer>", "reasoning": "so", "reasoning_content": None}, "<think> so </think>\n\n<answer> B </answer>"),
        ({"content": "<think> in short </think> B", "reasoning": "so"}, "<think> so </think>\n\n<think> in short </think> B"),
        ({"content": "<think> so </think> B", "reasoning": "so"}, "<think> so </think> B"),
        ({"content": [{"type": "thinking", "thinking": "so"}, {"type": "text", "text": "B"}]}, "<think> so </think>\n\nB"),
        ({"content": "B", "reasoning": " "}, "B"),
    ],
)
def test_a_thought_that_an_api_sets_apart_stands_before_its_answer(message, response, sample, tmp_path):
    def change(reply):
        reply["choices"][0] |= {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
        return reply

    with ChatServer(change=change) as server:
        for _ in range(2):  # the second time from the cache
            main(flags(tmp_path / "r.jsonl", server, sample, "--limit=1", "--n=1"))
            assert [one.response for one in rollouts(tmp_path / "r.jsonl")] == [response]
            (tmp_path / "r.jsonl").unlink()
            (tmp_path / "r.jsonl.manifest.json").unlink()
        assert len(server.requests) == 1
        main(flags(tmp_path / "t.jsonl", server, sample, "--limit=1", "--n=1", "--ask=type"))
    (said,) = (Remark.model_validate_json(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").splitlines())
    assert said.response == ("B" if isinstance(message["content"], list) else message["content"]), "a remark is what was said"
