"""A vLLM server of a model directory, on this machine, for as long as a `with` block lasts.

    with VLLMServer(VLLMConfig(), Path("runs/sft/model"), log=Path("vllm.log")) as server:
        ...  # OpenAI's API at server.base_url, for the model server.model_name

It runs in an environment of its own (`launch/vllm_env.sh`), listens on the loopback interface only, answers who has its key, and
never outlives the process that started it. Prompts and pixels are those of training: the model's processor says what vLLM must be
told for that.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pydantic

from mede2_jax.config import Config, UserError
from mede2_jax.engines.vllm import watchdog
from mede2_jax.engines.vllm.loader import LOAD_FORMAT, LOG_MARK
from mede2_jax.families import model_config
from mede2_jax.foreign import one_line, parse_json
from mede2_jax.weights.model_info import own_dtype, read_info
from mede2_jax.weights.peft import import_adapter

HOST = "127.0.0.1"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that vLLM takes for the rank of an adapter."""
POLL_SECONDS = 0.25
CPU_BATCH_TOKENS = 8192
"""Tokens that a step computes at most where there is no GPU."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_PLUGINS")
"""The server's Python is another one than ours, and its plugins are needed."""
LONGEST_SOCKET_FOLDER = 60
"""Letters of a folder for sockets; a socket's whole path has 107 at most."""

_SECRET = re.compile(r"(KEY|KEY_ID|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Variables that hold one by their name: GEMINI_API_KEY, HF_TOKEN. The server has no use for them."""
_PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt)\b(?::\s*(?P<text>.*))?$")
_SECONDHAND = ("Engine core initialization failed", "WorkerProc initialization failed", "Worker failed with error")
"""What vLLM's processes say of one another's failures; the cause is elsewhere in the log."""


class VLLMConfig(Config):
    """How the server runs."""

    env: Path = Path(".venv-vllm")
    """Environment with vLLM and this package's plugin; bash launch/vllm_env.sh makes it."""
    port: int | None = pydantic.Field(default=None, ge=1, le=65535)
    """Port on the loopback interface; none: one that is free."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of weights and computation; auto: the model's own."""
    max_model_len: int | None = pydantic.Field(default=None, ge=1)
    """Longest prompt and response together, in tokens; none: the model's own limit."""
    tensor_parallel_size: int = pydantic.Field(default=1, ge=1)
    """Over how many GPUs the model is split."""
    gpu_memory_utilization: float = pydantic.Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory for weights and KV cache."""
    cpu_cache_gb: int = pydantic.Field(default=4, ge=1)
    """Memory for the KV cache where there is no GPU, in GiB."""
    images_per_prompt: int = pydantic.Field(default=16, ge=0)
    """Most images of one request."""
    eager: bool | None = None
    """Compile nothing, which starts sooner and answers slower; none: only where there is no GPU."""
    adapter: Path | None = None
    """A PEFT adapter to serve on the model, such as the adapter/ of a run on the model that the run started from."""
    start_timeout: float = pydantic.Field(default=1800.0, gt=0)
    """Seconds that loading and compiling may take."""
    stop_grace: float = pydantic.Field(default=20.0, ge=0)
    """Seconds that the server has for stopping by itself."""
    extra: tuple[str, ...] = ()
    """More arguments for `vllm serve`, as they are written there."""


class VLLMServer:
    """Starts when it is entered, and has stopped when it is left.

    Args:
        config: How it runs.
        model: A model directory.
        log: Where vLLM's own output goes; kept.

    Raises:
        UserError: On construction and entering: the environment, model or adapter is not there or does not fit, the port is
            in use, or the server did not start (with the cause from its log). Nothing is left running.
    """

    def __init__(self, config: VLLMConfig, model: Path, *, log: Path) -> None:
        self.config, self.model, self.log = config, Path(model), Path(log)
        # Its own at every start: another server on a port that both were given must not be taken for this one.
        self._name = f"model-{secrets.token_hex(4)}"
        self.key = secrets.token_urlsafe(32)
        """What requests must have: on a machine that others use, each of them reaches the loopback interface."""
        if not is_installed(config):
            raise UserError(f"no vLLM in {str(config.env)!r}; make it with bash launch/vllm_env.sh, or give another environment")
        if any(argument.split("=")[0] == "--api-key" for argument in config.extra):
            raise UserError("vllm.extra has --api-key, but the server gets a key of its own from this process; leave it out")
        info = read_info(self.model)
        self._dtype = own_dtype(info) if config.dtype == "auto" else config.dtype
        family, sizes = model_config(self.model)
        self._chat_template = family.load_processor(self.model).vllm_chat_template
        self._adapter_arguments: list[str] = []
        if config.adapter is not None:
            adapter = import_adapter(config.adapter, family.weight_rules(sizes), family.abstract_params(sizes, np.float32))
            self._adapter_arguments = _adapter_arguments(self.model_name, config.adapter, adapter.rank, list(adapter.pairs))
        self.port = config.port or 0
        self._process: subprocess.Popen[bytes] | None = None
        self._on_exit = contextlib.ExitStack()

    @property
    def base_url(self) -> str:
        """Where the API is, `/v1` included."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def model_name(self) -> str:
        """What a request must name: the adapter where there is one, else the model."""
        return self._name + ("-adapter" if self.config.adapter else "")

    def __enter__(self) -> Self:
        self.port = _usable_port(self.config.port)
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self._on_exit.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._on_exit.close()

    def check(self) -> None:
        """Does nothing while the server runs.

        Raises:
            UserError: It has ended by itself; says why.
        """
        if self._process is not None and self._process.poll() is not None:
            raise UserError(f"the vLLM server ended ({_ending(self._process.returncode)}): {self._why()}; its log is {str(self.log)!r}")

    def _start(self) -> None:
        folder = Path(self._on_exit.enter_context(tempfile.TemporaryDirectory(prefix="mede2-vllm-")))
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            output = self._on_exit.enter_context(self.log.open("wb"))
        except OSError as error:
            raise UserError(f"cannot write the server's log {str(self.log)!r}: {error.strerror}; choose another place") from None
        arguments = [str(_program(self.config).absolute()), "serve", str(self.model.absolute()), *self._arguments(folder)]
        output.write(f"$ {shlex.join(arguments)}\n".encode())
        output.flush()
        environment = server_environment(os.environ, folder) | {"VLLM_API_KEY": self.key}  # other users see arguments, not this
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(self.config.cpu_cache_gb)
        # A session of its own: Ctrl-C in the terminal is ours to handle.
        self._process = subprocess.Popen(
            [sys.executable, watchdog.__file__, str(self.config.stop_grace), *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        self._on_exit.callback(_stop, self._process)

    def _arguments(self, folder: Path) -> list[str]:
        config = self.config
        arguments = ["--load-format", LOAD_FORMAT, "--host", HOST, "--port", str(self.port), "--served-model-name", self._name]
        arguments += ["--dtype", self._dtype, "--tensor-parallel-size", str(config.tensor_parallel_size)]
        # generation_config.json would change how is sampled: Qwen's asks for a repetition penalty.
        arguments += ["--generation-config", "vllm", "--logprobs-mode", "raw_logprobs"]
        arguments += ["--enable-prefix-caching", "--no-enable-log-requests", "--disable-uvicorn-access-log"]
        arguments += ["--limit-mm-per-prompt", json.dumps({"image": config.images_per_prompt, "video": 0})]
        if config.max_model_len is not None:
            arguments += ["--max-model-len", str(config.max_model_len)]
        if _is_for_gpu(config):
            arguments += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
        else:
            # vLLM 0.32 takes back the random number of a prompt that was computed in part, which torch cannot do on a CPU.
            tokens = max(config.max_model_len or 0, CPU_BATCH_TOKENS)
            arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(tokens)]
        if config.eager if config.eager is not None else not _is_for_gpu(config):
            arguments.append("--enforce-eager")
        if self._chat_template is not None:
            template = folder / "chat_template.jinja"
            template.write_text(self._chat_template, encoding="utf-8")
            arguments += ["--chat-template", str(template)]
        return [*arguments, *self._adapter_arguments, *config.extra]

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        until = time.monotonic() + self.config.start_timeout
        while not _serves(self.port, self._name, self.key):
            if self._process.poll() is not None:
                ending = _ending(self._process.returncode)
                raise UserError(f"the vLLM server did not start ({ending}): {self._why()}; its log is {str(self.log)!r}")
            if time.monotonic() > until:
                raise UserError(
                    f"the vLLM server was not ready after {self.config.start_timeout:g} s; see its log {str(self.log)!r}, or give it more"
                )
            time.sleep(POLL_SECONDS)

    def _why(self) -> str:
        return cause(self.log.read_text(encoding="utf-8", errors="replace"))


def is_installed(config: VLLMConfig) -> bool:
    """Whether the environment has vLLM."""
    return _program(config).is_file()


def server_environment(ours: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The server's variables: ours without keys and what is of our Python, and with `folder` for its sockets."""
    inherited = {name: value for name, value in ours.items() if name not in NOT_INHERITED and not _SECRET.search(name)}
    sockets = {"VLLM_RPC_BASE_PATH": str(folder)} if len(str(folder)) <= LONGEST_SOCKET_FOLDER else {}
    return {**inherited, **OFFLINE, **sockets}


def _program(config: VLLMConfig) -> Path:
    return config.env / "bin" / "vllm"


def cause(log: str) -> str:
    """Why a server ended, in one line of its log: our plugin's word, else the first exception that is not hearsay, else the last."""
    lines = [line for line in (_PREFIX.sub("", line).rstrip() for line in log.splitlines()) if line.strip()]
    for line in lines:
        if line.startswith(LOG_MARK):
            return one_line(line.removeprefix(LOG_MARK))[:500]
    for index, line in enumerate(lines):
        found = _EXCEPTION.match(line)
        if found and not (found["text"] or "").startswith(_SECONDHAND):
            # pydantic says what is wrong in the lines that follow.
            following = lines[index + 1 : index + 3] if "validation error" in line else []
            return one_line(" ".join([line, *following]))[:500]
        if ": error: " in line:  # of the command line
            return one_line(line)[:500]
    return one_line(lines[-1])[:500] if lines else "it wrote nothing"


def _adapter_arguments(name: str, path: Path, rank: int, linears: list[str]) -> list[str]:
    limit = next((limit for limit in LORA_RANKS if limit >= rank), None)
    if limit is None:
        raise UserError(f"{path}: vLLM takes adapters of rank {LORA_RANKS[-1]} at most, this has {rank}; serve the merged model instead")
    arguments = ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(limit), "--lora-modules", f"{name}={path.absolute()}"]
    if any(not linear.startswith("language/") for linear in linears):
        arguments.append("--enable-tower-connector-lora")
    return arguments


def _usable_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        # As the server will bind it: one that only waits for old connections to be forgotten is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, wanted or 0))
        except OSError as error:
            raise UserError(f"port {wanted} on {HOST} cannot be used ({error.strerror}); choose another, or leave it out") from None
        return int(probe.getsockname()[1])


def _serves(port: int, name: str, key: str) -> bool:
    """Whether a server is ready there, and is the one that has a model of this name."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands between us and ourselves
    opener.addheaders = [("Authorization", f"Bearer {key}")]
    try:
        with opener.open(f"http://{HOST}:{port}/health", timeout=5), opener.open(f"http://{HOST}:{port}/v1/models", timeout=5) as models:
            return any(model["id"] == name for model in parse_json(models.read())["data"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False


def _stop(watched: subprocess.Popen[bytes]) -> None:
    """The end of its standard input is the watchdog's sign, also when this process is interrupted before it gets here."""
    assert watched.stdin is not None
    watched.stdin.close()
    watched.wait()


def _ending(status: int) -> str:
    return f"killed by signal {status - 128}" if status > 128 else f"exit status {status}"


def _is_for_gpu(config: VLLMConfig) -> bool:
    """Whether the environment has vLLM as released, not its CPU build, whatever machine it was made on."""
    return not any(config.env.glob("lib/python*/site-packages/vllm-*+cpu.dist-info"))
