"""Starting and stopping a server: what it is refused for, what it says when it dies, and that nothing outlives its starter."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from waiting import until

from mede2_jax.config import UserError
from mede2_jax.engines.vllm import watchdog
from mede2_jax.engines.vllm.server import VLLMConfig, VLLMServer, cause, server_environment
from mede2_jax.families import model_config
from mede2_jax.weights.peft import Adapter, export_adapter

STARTER = """
import sys, time
from pathlib import Path
from mede2_jax.engines.vllm.server import VLLMConfig, VLLMServer
config = VLLMConfig(env=Path(sys.argv[1]), dtype="float32", max_model_len=512, cpu_cache_gb=1, start_timeout=1800)
with VLLMServer(config, Path(sys.argv[2]), log=Path(sys.argv[3])) as server:
    print(server.port, flush=True)
    for _ in range(6000):  # a signal just before it does not wake a sleeper
        time.sleep(0.1)
"""


def server(env, model, tmp_path, **options):
    settings = {"env": env, "dtype": "float32", "max_model_len": 512, "cpu_cache_gb": 1, "start_timeout": 300}
    return VLLMServer(VLLMConfig.model_validate({**settings, **options}), model, log=tmp_path / "vllm.log")


@pytest.fixture(autouse=True)
def as_users_start_it(monkeypatch):
    """With all its processes."""
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)


@pytest.fixture
def no_env(tmp_path):
    """As far as the checks before the start look."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "vllm").touch()
    return tmp_path / "env"


def test_no_environment(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"no vLLM in .*launch/vllm_env.sh"):
        server(tmp_path / "none", tiny_model, tmp_path)


def test_no_model_directory(no_env, tmp_path):
    with pytest.raises(UserError, match="not a model directory"):
        server(no_env, tmp_path, tmp_path)


def test_a_newer_model_directory(no_env, tiny_model, tmp_path):
    newer = shutil.copytree(tiny_model, tmp_path / "newer")
    (newer / "model.json").write_text(json.dumps(json.loads((newer / "model.json").read_text()) | {"format_version": 2}))
    with pytest.raises(UserError, match=r"format_version: .*got 2"):
        server(no_env, newer, tmp_path)


def test_a_port_in_use(no_env, tiny_model, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} on 127.0.0.1 cannot be used"), server(no_env, tiny_model, tmp_path, port=port):
            pass
    assert not (tmp_path / "vllm.log").exists()


GIVEN = {
    **dict.fromkeys(["GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "WANDB_API_KEY"], "planted"),
    **dict.fromkeys(["HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "DB_PASSWORD", "openai_api_key"], "planted"),
    **dict.fromkeys(["GOOGLE_APPLICATION_CREDENTIALS", "CLIENT_SECRET", "PYTHONPATH", "VIRTUAL_ENV", "VLLM_PLUGINS"], "planted"),
    **{"PATH": "/bin", "HOME": "/root", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "0", "KEYBOARD": "us"},
}


def test_a_server_inherits_no_key_and_has_its_sockets_in_the_runs_folder(tmp_path):
    folder = Path("/short")
    environment = server_environment(GIVEN, folder)
    assert "planted" not in environment.values()
    assert {name: environment[name] for name in ("PATH", "HOME", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "KEYBOARD")} == {
        name: value for name, value in GIVEN.items() if value != "planted"
    }
    assert environment["VLLM_RPC_BASE_PATH"] == str(folder) and environment["HF_HUB_OFFLINE"] == "1"
    assert "VLLM_RPC_BASE_PATH" not in server_environment(GIVEN, Path("/" + "long" * 20)), "a socket's path is short"


def test_each_server_has_a_key_that_stands_in_no_argument(no_env, tiny_model, tmp_path):
    one, other = (server(no_env, tiny_model, tmp_path) for _ in range(2))
    assert one.key != other.key and len(one.key) >= 32
    assert not any(one.key in argument for argument in one._arguments(tmp_path))
    with pytest.raises(UserError, match=r"vllm\.extra has --api-key, but the server gets a key of its own"):
        server(no_env, tiny_model, tmp_path, extra=("--api-key=mine",))


def test_an_argument_that_vllm_does_not_know(vllm_env, tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"did not start \(exit status 2\): .*unrecognized arguments: --nonsense; its log is '.*vllm.log'"):
        server(vllm_env, tiny_model, tmp_path, extra=("--nonsense",)).__enter__()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it wrote nothing"),
        ("INFO 11-25 03:00:00 [a.py:1] fine\nlast words\n", "last words"),
        ("usage: vllm serve\nvllm: error: unrecognized arguments: --x\n", "vllm: error: unrecognized arguments: --x"),
        (
            "(Worker pid=7) ERROR 11-25 03:00:00 [a.py:1] Traceback (most recent call last):\n"
            "(Worker pid=7) ERROR 11-25 03:00:00 [a.py:1]   File x\n"
            "(Worker pid=7) ERROR 11-25 03:00:00 [a.py:1] torch.OutOfMemoryError: 1 GiB wanted\n"
            "(EngineCore pid=8) RuntimeError: Engine core initialization failed. See root cause above.\n",
            "torch.OutOfMemoryError: 1 GiB wanted",
        ),
        (
            "pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, too long\n",
            "pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, too long",
        ),
        (
            "ValueError: something harmless\n(Worker pid=7) ERROR 11-25 03:00:00 [b.py:2] mede2_jax: cannot load 'm': it is torn\n",
            "cannot load 'm': it is torn",
        ),
    ],
)
def test_the_cause_in_a_log(log, said):
    assert cause(log) == said


def watched(grace, script):
    return subprocess.Popen(
        [sys.executable, watchdog.__file__, str(grace), "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def is_gone(pid):
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def gone(pid):
    until(lambda: is_gone(pid))
    return True


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")


def test_a_watched_command_ends_with_its_own_status():
    dog = watched(1, "exit 7")
    assert dog.wait() == 7
    dog.stdin.close()


@needs_proc
@pytest.mark.parametrize("script", ["sleep 100 & echo $!; wait", "trap '' TERM; sleep 100 & echo $!; wait; wait"])
def test_the_end_of_the_pipe_ends_all_processes(script):
    """Also those that will not be asked."""
    dog = watched(1, script)
    child = int(dog.stdout.readline())
    dog.stdin.close()
    assert dog.wait() > 128 and gone(child)


@needs_proc
def test_what_a_command_leaves_behind_ends_too():
    dog = watched(1, "sleep 100 & echo $!; exit 5")
    child = int(dog.stdout.readline())
    assert dog.wait() == 5 and gone(child)
    dog.stdin.close()


def processes_of(model):
    """Processes that were started with the model's path among their arguments."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                arguments = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if str(model).encode() in arguments:
                found.append(int(folder.name))
    return found


def descendants(pid):
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                children.setdefault(int((folder / "stat").read_text().rpartition(")")[2].split()[1]), []).append(int(folder.name))
            except OSError:
                continue
    found, waiting = [], [pid]
    while waiting:
        own = children.get(waiting.pop(), [])
        found, waiting = found + own, waiting + own
    return found


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_real_server_dies_with_its_starter(vllm_env, tiny_model, tmp_path, number):
    arguments = [sys.executable, "-c", STARTER, str(vllm_env), str(tiny_model), str(tmp_path / "vllm.log")]
    starter = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = int(starter.stdout.readline())
        started = descendants(starter.pid)
        assert len(started) >= 3  # the watchdog, the server, its engine
        starter.send_signal(number)
        starter.wait()
    finally:
        starter.kill()
    assert all(gone(pid) for pid in started)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@needs_proc
@pytest.mark.slow
def test_a_real_server_that_is_killed_is_noticed(vllm_env, tiny_model, tmp_path):
    with server(vllm_env, tiny_model, tmp_path) as running:
        running.check()
        with pytest.raises(urllib.error.HTTPError, match="401"):  # another user of this machine
            urllib.request.urlopen(f"{running.base_url}/models")
        asked = urllib.request.Request(f"{running.base_url}/models", headers={"Authorization": f"Bearer {running.key}"})
        with urllib.request.urlopen(asked) as answer:
            assert [model["id"] for model in json.load(answer)["data"]] == [running.model_name]
        sockets = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "mede2-vllm-" in line]
        assert sockets, "they lie in the folder of this run"
        started = processes_of(tiny_model)
        (program,) = [pid for pid in started if b"watchdog" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(program, signal.SIGKILL)
        assert gone(program)
        with pytest.raises(UserError, match=r"the vLLM server ended \(killed by signal 9\).*its log is"):
            until(lambda: running.check())  # which says nothing as long as all is well
    assert not processes_of(tiny_model)


@pytest.mark.slow
def test_a_damaged_model_gives_one_line(vllm_env, tiny_model, tmp_path):
    damaged = shutil.copytree(tiny_model, tmp_path / "damaged")
    for file in (damaged / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"did not start .*cannot load .*damaged.* its log is") as caught:
        server(vllm_env, damaged, tmp_path).__enter__()
    assert "\n" not in str(caught.value)
    assert "mede2_jax: cannot load" in (tmp_path / "vllm.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["all", "one"])
def test_an_adapter_whose_names_match_nothing_is_refused(vllm_env, tiny_model, tmp_path, wrong):
    family, sizes = model_config(tiny_model)
    rng, path = np.random.default_rng(0), "language/layers/attention/q_proj"
    pairs = {path: (rng.normal(size=(4, 128, 8)).astype(np.float32), rng.normal(size=(4, 8, 128)).astype(np.float32))}
    adapter = tmp_path / "adapter"
    export_adapter(adapter, Adapter(pairs, rank=8, alpha=8.0), family.weight_rules(sizes), family.abstract_params(sizes))
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {
        name.replace("language_model.layers", "elsewhere.layers") if wrong == "all" or ".layers.0." in name else name: tensor
        for name, tensor in tensors.items()
    }
    assert set(renamed) != set(tensors)
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="of no linear layer of this model"):  # said before anything starts
        server(vllm_env, tiny_model, tmp_path, adapter=adapter)
    count = 4 if wrong == "all" else 1
    with pytest.raises(UserError, match=rf"did not start .*'other': {count} of the 4 LoRA modules .* would have no effect, first "):
        server(vllm_env, tiny_model, tmp_path, extra=("--enable-lora", "--lora-modules", f"other={adapter}")).__enter__()
