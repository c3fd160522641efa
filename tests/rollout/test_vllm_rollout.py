"""The rollout command with a real vLLM of its own: it dies in the middle, it cannot start, it agrees with training."""

import json
import os
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from waiting import until

from mede2_jax.config import UserError
from mede2_jax.rollout.check import check_logprobs
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.rollout.run import run

QUIET = Console(quiet=True)


def config(sample, vllm_env, **values):
    values = {"questions": sample / "questions.jsonl", "limit": 6, "n": 8, "max_tokens": 96, "engine": "vllm", **values}
    return RolloutConfig.model_validate({**values, "vllm": {"env": vllm_env, "cpu_cache_gb": 1, **values.pop("vllm", {})}})


def samples(out):
    return Counter((record["parents"][0], record["sample"]) for record in map(json.loads, out.read_text().splitlines()))


def kill_server_after(out, lines, model):
    """SIGKILL to the server, which has the model's path among its arguments, once the file has that many lines."""

    def watch():
        until(lambda: out.exists() and out.read_bytes().count(b"\n") >= lines)
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != os.getpid():
                try:
                    arguments = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if str(model).encode() in arguments and b"serve" in arguments and not any(b"watchdog" in word for word in arguments):
                    os.kill(int(folder.name), signal.SIGKILL)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
def test_a_server_killed_in_the_middle_ends_with_one_error_and_loses_nothing(sample, vllm_env, tiny_model, tmp_path):
    out = tmp_path / "r.jsonl"
    wanted = config(sample, vllm_env, out=out, concurrency=8)
    killer = kill_server_after(out, 8, tiny_model)
    with pytest.raises(UserError, match=r"the vLLM server ended \(.*its log is") as caught:
        run(wanted, tiny_model, QUIET)
    killer.join()
    assert "\n" not in str(caught.value)
    kept = samples(out)
    assert 8 <= len(kept) < 48 and set(kept.values()) == {1}
    run(wanted, tiny_model, QUIET)
    assert len(samples(out)) == 48 and set(samples(out).values()) == {1}


def test_a_port_in_use_is_one_line_and_leaves_no_file(sample, vllm_env, tiny_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = config(sample, vllm_env, out=tmp_path / "r.jsonl", vllm={"port": port})
        with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 cannot be used"):
            run(wanted, tiny_model, QUIET)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_check_logprobs_finds_vllm_and_training_of_one_mind(sample, vllm_env, tiny_internvl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = config(sample, vllm_env, check_logprobs=True, limit=3, n=2, max_tokens=12, max_difference=1e-3)
    found = check_logprobs(wanted, tiny_internvl, QUIET)
    assert found.responses == 6 and len(found.difference) > 12
    assert found.difference.max() < 1e-4
