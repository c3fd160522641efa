"""The command, against a server on loopback that answers as vLLM does; its prompts are made by transformers' own classes."""

import collections
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, response_text
from cheap_programs import one_device
from rollouts_there import lines, manifest
from waiting import finished, until

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Rollout
from mede2_jax.rollout.__main__ import main
from mede2_jax.rollout.job import question_seed

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "chat_server.py"


def start(arguments):
    command = [sys.executable, "-m", "mede2_jax.rollout", *map(str, arguments)]
    environment = one_device(COLUMNS="200")
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_question_has_its_samples_and_all_a_judge_needs(unbroken, sample, tiny_model):
    questions = {record["id"]: record for record in map(json.loads, (sample / "questions.jsonl").read_text("utf-8").splitlines())}
    file = RecordFile(unbroken)
    rollouts = [read_own(file[number], Rollout, file.where(number)) for number in range(len(file))]
    assert collections.Counter(rollout.parents for rollout in rollouts) == dict.fromkeys([(id,) for id in questions], 8)
    assert len({rollout.id for rollout in rollouts}) == len(rollouts) == 48 * 8
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    for rollout in rollouts:
        question = questions[rollout.parents[0]]
        dumped = rollout.model_dump(mode="json", exclude_none=True)
        assert {name: dumped[name] for name in question if name != "id"} == {name: question[name] for name in question if name != "id"}
        assert (rollout.model, rollout.seed) == (digest, question_seed(0, question["id"]) + rollout.sample)
        assert rollout.logprobs is None and rollout.token_ids is None
        assert rollout.finish_reason == ("length" if rollout.response_tokens == 64 else "stop")
    assert len({rollout.response for rollout in rollouts}) > 300


def test_the_manifest_says_what_went_in_and_came_out(unbroken, sample, tiny_model):
    written = manifest(unbroken)
    rollouts = [json.loads(line) for line in unbroken.read_text("utf-8").splitlines()]
    counts = written["counts"]
    assert written["finished"] and written["dropped"] == {} and written["failed"] == []
    assert (counts["questions"], counts["wanted"], counts["samples"], counts["known"]) == (48, 384, 384, 384)
    assert counts["truncated"] == sum(rollout["finish_reason"] == "length" for rollout in rollouts)
    assert counts["empty"] == sum(not rollout["response"] for rollout in rollouts) > 0
    assert counts["unparsed"] == sum("<answer>" not in rollout["response"] for rollout in rollouts)
    right = [f"<answer> {rollout['answer']} </answer>" in rollout["response"] for rollout in rollouts]
    assert counts["correct"] == sum(right) > 0
    assert counts["response_tokens"] == sum(rollout["response_tokens"] for rollout in rollouts)
    assert written["images"]["root"] == str(sample) and written["config"]["max_tokens"] == 64
    assert written["model"]["digest"] == json.loads((tiny_model / "model.json").read_text())["digest"]


def test_logprobs_are_kept_when_asked_for(base, tokenise, tmp_path):
    out = tmp_path / "r.jsonl"
    with ChatServer(tokenise=tokenise) as server:
        main([*base, f"--out={out}", f"--base_url={server.url}", "--limit=2", "--n=3", "--logprobs"])
    for line in lines(out):
        rollout = json.loads(line)
        assert len(rollout["logprobs"]) == len(rollout["token_ids"]) == rollout["response_tokens"]


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_samples(base, tokenise, unbroken, tmp_path):
    out, rng, kills = tmp_path / "rollouts.jsonl", random.Random(0), 0
    with ChatServer(tokenise=tokenise, seconds=0.25) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}", "--concurrency=32"]
        for number in range(5):
            server.requests.clear()
            before, process = out.stat().st_size if out.exists() else 0, start(arguments)
            until(lambda: server.requests, process)
            if number == 2:  # something is kept, however slow the machine
                until(lambda before=before: out.exists() and out.stat().st_size > before, process)
            else:
                time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process.communicate()
        server.seconds = 0.0
        assert kills == 5 and 0 < len(lines(out)) < 384
        main(arguments)
    assert lines(out) == lines(unbroken)
    assert manifest(out)["counts"] == manifest(unbroken)["counts"]


def server_process(port, model, seconds):
    process = subprocess.Popen([sys.executable, str(SERVER), str(port), str(model), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("http")
    return process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(base, tiny_model, unbroken, tmp_path):
    out, port = tmp_path / "rollouts.jsonl", free_port()
    server = server_process(port, tiny_model, 0.3)
    run = start([*base, f"--out={out}", f"--base_url=http://127.0.0.1:{port}", "--concurrency=32"])
    until(lambda: out.exists() and out.stat().st_size > 0, run)
    server.kill()
    server.communicate()
    time.sleep(7)
    server = server_process(port, tiny_model, 0.0)
    try:
        output, error = finished(run)
    finally:
        server.kill()
        server.communicate()
    assert (run.returncode, error) == (0, "")
    assert "trying again" in output and "answers again" in output
    assert lines(out) == lines(unbroken)


@pytest.mark.slow
def test_a_server_that_is_gone_for_good_loses_nothing(base, tokenise, unbroken, tmp_path, capsys):
    out, server = tmp_path / "rollouts.jsonl", ChatServer(tokenise=tokenise, seconds=0.1)
    arguments = [*base, f"--out={out}", "--concurrency=32", "--patience=2"]
    with server:
        threading.Thread(
            target=lambda: (time.sleep(0.2), until(lambda: out.exists() and out.stat().st_size), server.__exit__()), daemon=True
        ).start()
        with pytest.raises(SystemExit) as stop:
            run_command(main, [*arguments, f"--base_url={server.url}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "no server has answered for 2 s" in error
    kept = lines(out)
    assert 0 < len(kept) < 384 and not manifest(out)["finished"] and manifest(out)["counts"]["samples"] == len(kept)
    with ChatServer(tokenise=tokenise) as other:
        main([*arguments, f"--base_url={other.url}"])
        assert sum(body["n"] for body in other.requests) == 384 - len(kept), "only what was missing"
    assert lines(out) == lines(unbroken) and set(kept) <= set(lines(out))
    assert manifest(out)["finished"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_a_signal_is_one_line_and_keeps_what_came(base, tokenise, unbroken, tmp_path, number, status, word):
    out = tmp_path / "rollouts.jsonl"
    with ChatServer(tokenise=tokenise, seconds=0.3) as server:
        process = start([*base, f"--out={out}", f"--base_url={server.url}", "--concurrency=16"])
        until(lambda: out.exists() and out.stat().st_size > 0, process)
        process.send_signal(number)
        _, error = finished(process)
    kept = lines(out)
    assert process.returncode == status and len(kept) >= 8
    assert error == f"error: {word}; {len(kept)} samples are in {out}, the same command goes on\n"
    assert set(kept) <= set(lines(unbroken)) and manifest(out)["counts"]["samples"] == len(kept)


def test_nothing_but_failures_is_an_error(base, tokenise, tmp_path):
    out = tmp_path / "rollouts.jsonl"
    with (
        ChatServer(tokenise=tokenise, faults=lambda number, body: (422, {}, b'{"message": "no images here"}')) as server,
        pytest.raises(UserError, match="no question could be answered; the first: 422 no images here"),
    ):
        main([*base, f"--out={out}", f"--base_url={server.url}", "--limit=3"])
    assert not out.exists()


def test_another_prompt_than_trainings_ends_the_run(base, tokenise, tmp_path):
    prompt, *rest = tokenise
    wrong = (lambda messages, options: prompt(messages[1:], options), *rest)  # a server that drops the system turn
    with ChatServer(tokenise=wrong) as server, pytest.raises(UserError, match="sees another prompt than training would"):
        main([*base, f"--out={tmp_path / 'r.jsonl'}", f"--base_url={server.url}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("system_prompt", ["none", "Be exact."])
def test_system_prompt_is_that_of_training(base, tokenise, tmp_path, sample, system_prompt):
    """The server renders with transformers what it is sent; the run compares that with the trainer's own tokens."""
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"prompt": [{"role": "user", "content": "What is it?"}]}) + "\n")
    out = tmp_path / "r.jsonl"
    flags = [f"--questions={questions}", f"--out={out}", f"--data.system_prompt={system_prompt}"]
    with ChatServer(tokenise=tokenise) as server:
        arguments = [base[0], *flags, f"--base_url={server.url}"]
        if system_prompt == "none":  # the tiny Qwen2.5-VL's template always adds one
            with pytest.raises(UserError, match="adds a system turn of its own"):
                main(arguments)
            return
        main(arguments)
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be exact."}
    assert json.loads(lines(out)[0])["prompt"] == [{"role": "user", "content": "What is it?"}]
    assert manifest(out)["counts"]["known"] == 0


def test_a_full_disk_is_one_line_and_the_run_goes_on_elsewhere(base, tokenise, small_disk, capsys):
    out = small_disk / "rollouts.jsonl"
    (small_disk / "ballast").write_bytes(b"x" * 700_000)
    with ChatServer(tokenise=tokenise) as server:
        arguments = [*base, f"--out={out}", f"--base_url={server.url}"]
        with pytest.raises(SystemExit) as stop:
            run_command(main, arguments)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.startswith("error: No space left on device") and error.count("\n") == 1
        (small_disk / "ballast").unlink()
        with contextlib.suppress(SystemExit):  # it may be full once more
            run_command(main, [*arguments, "--limit=30"])
    samples = [json.loads(line)["id"] for line in lines(out)]
    assert len(samples) == len(set(samples)) == 240


def test_the_test_server_is_deterministic():
    assert response_text([1, 2], 7) == response_text([1, 2], 7) != response_text([1, 2], 8)
