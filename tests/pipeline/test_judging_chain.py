"""Judging by the Gemini API's real client, over loopback, and all that follows: faults, budgets, kill and rerun, keys, pairs, DPO."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer
from cheap_programs import one_device
from gemini_server import Drop, GeminiServer, blocked, empty, error

from mede2_jax.command import run_command
from mede2_jax.data.records import Judgment
from mede2_jax.judge.__main__ import main as judge
from mede2_jax.pair.__main__ import main as pair
from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.rubric import ASPECTS, NAMES

ROOT = Path(__file__).resolve().parents[2]
KEY = "PLANTED-KEY-4f1c"
QUICK = ["--first_rest=0.01", "--longest_rest=0.05", "--concurrency=16"]


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def manifest(path):
    return json.loads(path.with_name(path.name + ".manifest.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rollouts(sample):
    return read(sample / "rollouts.jsonl")


def response_in(texts):
    """The response that a request asks to be judged."""
    return re.search(r"<Answer> (.*) </Answer>$", next(text for text in texts if "<Answer>" in text), re.DOTALL)[1]


@pytest.fixture(scope="module")
def say(rollouts):
    """A judge that goes by the rules of the offline judge, in the form that Appendix A asks for."""
    facts = {rollout["response"]: rollout["metadata"] for rollout in rollouts}

    def answer(body, texts, images):
        response = response_in(texts)
        verdicts = offline_judge.judge(response, facts[response], is_correct=True)
        return json.dumps({name: "Yes" if verdicts[aspect].met else "No" for aspect, name in NAMES.items()}, indent=4)

    return answer


@pytest.fixture
def key(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def base(sample, tmp_path, key):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", f"--cache={tmp_path / 'cache.sqlite'}", *QUICK]


def assert_no_key(folder, *texts):
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert not any(KEY in text for text in texts)


def assert_complete(out, sample, tmp_path):
    """The offline judge's verdicts on the same responses, each once."""
    expected = tmp_path / "offline.jsonl"
    if not expected.exists():
        judge([f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=offline", f"--out={expected}"])
    verdicts = [{raw["id"]: Judgment.model_validate(raw).verdicts for raw in read(path)} for path in (out, expected)]
    assert verdicts[0] == verdicts[1] and len(read(out)) == 336
    written = manifest(out)
    assert written["finished"] and written["counts"]["rollouts"] == written["counts"]["judged"] + sum(written["dropped"].values())


@pytest.mark.slow
def test_the_real_client_shows_the_judge_images_and_schema(base, sample, say, tmp_path, capsys):
    out = tmp_path / "judgments.jsonl"
    with GeminiServer(say=say, key=KEY) as server:
        judge([*base, f"--out={out}", f"--base_url={server.url}"])
        assert_complete(out, sample, tmp_path)
        images = Counter(sum("inlineData" in part for content in body["contents"] for part in content["parts"]) for body in server.bodies)
        assert set(images) == {1, 2, 3} and images.total() == 336
        for body in server.bodies:
            assert body["generationConfig"]["responseJsonSchema"]["required"] == list(NAMES.values())
            assert body["contents"][0]["parts"][0]["text"].startswith("You are an expert reasoning evaluator.")
        assert len({body["generationConfig"]["seed"] for body in server.bodies}) == 336
        paid = len(server.bodies)
        judge([*base, f"--out={out}", f"--base_url={server.url}"])  # all is there
        out.rename(tmp_path / "first.jsonl")
        judge([*base, f"--out={out}", f"--base_url={server.url}"])  # all is in the cache
        assert len(server.bodies) == paid, "nothing is paid for twice"
    first = [raw for raw in read(tmp_path / "first.jsonl")]
    cost = pytest.approx(sum(raw["usage"]["cost"] for raw in first), abs=1e-6)
    assert manifest(out)["cost"] == {"judgments": cost, "failed": 0, "from_cache": cost} and manifest(out)["counts"]["cached"] == 336
    assert sum(raw["usage"]["cost"] for raw in first) == pytest.approx(
        sum(raw["usage"]["prompt_tokens"] * 1.25e-6 + raw["usage"]["response_tokens"] * 10e-6 for raw in first)
    )
    assert {json.loads(raw["raw"])["Reflection_Presence"] for raw in first} == {"Yes", "No"}
    printed = capsys.readouterr()
    assert printed.out.count(" from the cache") == 2, "requests and cost of the run that had all from there"
    assert_no_key(tmp_path, *printed)


@pytest.mark.slow
def test_every_fault_ends_as_a_judgment_or_as_a_failure_with_its_reason(base, sample, rollouts, say, tmp_path, capsys):
    """Of 336 responses half meet some fault at first; safety blocks and replies that stay malformed are what is left."""
    out, asked, lock_out = tmp_path / "judgments.jsonl", Counter(), set()

    def faults(number, body):
        text = response_in([part["text"] for part in body["contents"][0]["parts"] if "text" in part])
        asked[text] += 1
        kind = hashlib.sha256(text.encode()).digest()[0] % 16
        if kind == 0:
            lock_out.add(text)
            return blocked(body)
        if kind == 1:
            lock_out.add(text)
            return server.reply(body) | {
                "candidates": [{"content": {"role": "model", "parts": [{"text": '{"Answer'}]}, "finishReason": "STOP"}]
            }
        if asked[text] > 1:
            return None
        return {
            2: error(429, "RESOURCE_EXHAUSTED", "slow down"),
            3: error(429, "RESOURCE_EXHAUSTED", "slow down", Retry_After="0"),
            4: error(500, "INTERNAL", "oops"),
            5: (200, {}, b'{"candidates": [{"conte'),
            6: empty(body),
            7: server.reply(body)
            | {"candidates": [{"content": {"role": "model", "parts": [{"text": "Certainly!"}]}, "finishReason": "STOP"}]},
        }.get(kind) or (drop() if kind == 8 else None)

    def drop():
        raise Drop

    with GeminiServer(say=say, key=KEY, faults=faults) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        judge(arguments)
        written = manifest(out)
        failed = {failure["rollout"] for failure in written["failed"]}
        reasons = {failure["reason"].partition(":")[0] for failure in written["failed"]}
        judged = [rollout for rollout in rollouts if rollout["metadata"]["made"] not in ("wrong", "truncated")]
        assert failed == {rollout["id"] for rollout in judged if rollout["response"] in lock_out} and len(failed) > 20
        assert written["counts"]["judgments"] == 336 - len(failed)
        assert written["counts"]["rollouts"] == written["counts"]["judged"] + sum(written["dropped"].values()) == 384
        assert "malformed reply" in reasons and len(reasons) > 1, reasons
        assert all(failure["raw"] == '{"Answer' for failure in written["failed"] if failure["reason"].startswith("malformed"))
        assert not {raw["parents"][0] for raw in read(out)} & failed and len(read(out)) == len({raw["id"] for raw in read(out)})
        server.faults = None
        (tmp_path / "cache.sqlite").unlink()  # blocks and malformed replies were answers too
        judge(arguments)
    assert_complete(out, sample, tmp_path)
    assert_no_key(tmp_path, *capsys.readouterr())


@pytest.mark.slow
def test_a_budget_ends_the_run_with_one_line_and_more_goes_on(base, sample, say, tmp_path, capsys):
    out = tmp_path / "judgments.jsonl"
    with GeminiServer(say=say, key=KEY) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        with pytest.raises(SystemExit) as stop:
            run_command(judge, [*arguments, "--max_cost=0.15"])
        errors = capsys.readouterr().err
        assert stop.value.code == 2 and errors.count("\n") == 1 and "max_cost" in errors and "the same command goes on" in errors
        there, written = len(read(out)), manifest(out)
        assert 5 < there < 336 and not written["finished"] and 0.05 < written["cost"]["judgments"] <= 0.15
        assert written["counts"]["rollouts"] == written["counts"]["judged"] + sum(written["dropped"].values())
        judge([*arguments, "--max_cost=5"])
        assert len(server.bodies) == 336, "none was asked twice"
    assert_complete(out, sample, tmp_path)
    assert_no_key(tmp_path, errors)


def start(arguments):
    command = [sys.executable, "-m", "mede2_jax.judge", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_anywhere_and_run_again_no_judgment_is_lost_or_there_twice(base, sample, say, tmp_path):
    out, rng, kills = tmp_path / "judgments.jsonl", random.Random(0), 0
    with GeminiServer(say=say, key=KEY, seconds=0.2) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        for _ in range(3):
            before, process = len(server.bodies), start(arguments)
            while process.poll() is None and len(server.bodies) < before + 20:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
        server.seconds = 0.0
        assert kills == 3
        judge(arguments)
        # Only what was under way when the process died can have been asked for again.
        assert len(server.bodies) - 336 <= 3 * 16
        assert max(server.delivered.values()) <= 1 + 3
    assert_complete(out, sample, tmp_path)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model=gemini-none"], "gemini-none"),
        (["--model=../x"], "model"),
        (["--model=gemini-2.5-pro", "--prices=/nonexistent/prices.yaml"], "prices"),
    ],
)
def test_wrong_apis_are_one_line(base, say, tmp_path, capsys, flags, expected):
    with GeminiServer(say=say, key=KEY) as server, pytest.raises(SystemExit) as stop:
        run_command(judge, [*base, f"--out={tmp_path / 'j.jsonl'}", f"--base_url={server.url}", *flags])
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1 and expected in errors
    assert not (tmp_path / "j.jsonl").exists()
    assert_no_key(tmp_path, errors)


@pytest.mark.parametrize("given", [None, "another-key-9d"])
def test_no_key_or_a_wrong_one_is_one_line_without_it(base, say, tmp_path, capsys, monkeypatch, given):
    monkeypatch.delenv("GEMINI_API_KEY")
    if given:
        monkeypatch.setenv("GEMINI_API_KEY", given)
    with GeminiServer(say=say, key=KEY) as server, pytest.raises(SystemExit) as stop:
        run_command(judge, [*base, f"--out={tmp_path / 'j.jsonl'}", f"--base_url={server.url}"])
    errors = capsys.readouterr().err
    assert stop.value.code == 2 and errors.count("\n") == 1
    assert given not in errors if given else "GEMINI_API_KEY" in errors


def test_a_judge_behind_openais_protocol(sample, tmp_path, monkeypatch):
    """A vLLM server of another model, for one."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    out = tmp_path / "judgments.jsonl"

    def change(reply):
        reply["choices"][0]["message"]["content"] = json.dumps(dict.fromkeys(NAMES.values(), "Yes"))
        return reply

    with ChatServer(change=change) as server:
        flags = ["--judge=openai", f"--model={server.model}", f"--base_url={server.url}", f"--cache={tmp_path / 'c'}", *QUICK]
        judge([f"--rollouts={sample / 'rollouts.jsonl'}", f"--out={out}", "--limit=20", *flags])
        assert len(server.requests) == 20 and server.requests[0]["response_format"]["type"] == "json_schema"
        parts = server.requests[0]["messages"][0]["content"]
        assert sum(part["type"] == "image_url" for part in parts) >= 1
    judgments = [Judgment.model_validate(raw) for raw in read(out)]
    assert len(judgments) == 20 and all(judgment.verdicts == dict.fromkeys(ASPECTS, True) for judgment in judgments)
    assert judgments[0].judge.engine == "openai"
    assert_no_key(tmp_path)


@pytest.mark.slow
def test_repeats_are_other_requests_and_agree_where_the_judge_does(base, say, tmp_path, capsys):
    out = tmp_path / "judgments.jsonl"

    def wavering(body, texts, images):
        verdicts = json.loads(say(body, texts, images))
        if body["generationConfig"]["seed"] % 5 == 0:
            verdicts["No_Hallucination"] = "No"
        return json.dumps(verdicts)

    with GeminiServer(say=wavering, key=KEY) as server:
        judge([*base, f"--out={out}", f"--base_url={server.url}", "--repeat=3", "--limit=40"])
        assert len(server.bodies) == 120
    agreement = manifest(out)["agreement"]
    assert agreement["image_analysis"]["percent"] == 1.0 and agreement["image_analysis"]["kind"] == "Fleiss"
    assert 0.5 < agreement["no_hallucination"]["percent"] < 1.0 and 0 < agreement["no_hallucination"]["kappa"] < 1


@pytest.mark.slow
def test_the_script_from_demonstrations_to_dpo_with_gemini_as_the_judge(say, tmp_path, key):
    with GeminiServer(say=say, key=KEY) as server:
        command = ["bash", "launch/pipeline.sh", f"--out={tmp_path}", "--judge=gemini", f"--judge_url={server.url}", "--engine=flax"]
        small = ["--limit=2", "--max_tokens=16", "--sft_steps=2", "--dpo_steps=2"]
        environment = one_device(PYTHON_ENV=sys.prefix)
        done = subprocess.run([*command, *small], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.delivered.total() == 336
    assert {raw["judge"]["prompt"] for raw in read(tmp_path / "judgments-of-rollouts.jsonl")} == {"judge-paper/1"}
    assert len(read(tmp_path / "pairs.jsonl")) == 96 and "judge-paper/1 (paper, Appendix A)" in done.stdout
    models = [json.loads((tmp_path / stage / "model" / "model.json").read_text()) for stage in ("sft", "dpo")]
    assert models[0]["digest"] in models[1]["parents"]
    assert_no_key(tmp_path, done.stdout, done.stderr)


@pytest.mark.slow
def test_pairs_of_what_gemini_judged(base, sample, say, tmp_path):
    judgments, pairs = tmp_path / "judgments.jsonl", tmp_path / "pairs.jsonl"
    with GeminiServer(say=say, key=KEY) as server:
        judge([*base, f"--out={judgments}", f"--base_url={server.url}"])
    pair([f"--rollouts={sample / 'rollouts.jsonl'}", f"--judgments={judgments}", f"--out={pairs}"])
    assert len(read(pairs)) == 192
