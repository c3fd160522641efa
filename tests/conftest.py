"""Eight host devices, set before JAX is imported, so that every sharding test runs everywhere; and one compilation cache."""

import atexit
import collections
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8".strip()

# Compiled programs are kept for the session and the processes it starts, which inherit this: many tests compile the same ones.
# Each worker has a folder of its own, for JAX writes there as if it were alone.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mede2-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"

# A shell starts background jobs with Ctrl-C ignored, and whatever they start inherits that; the commands' tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker begins one when the other has nothing left to do."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def sample() -> Path:
    """The project's own sample data."""
    return ROOT / "data" / "sample"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The model directory of the embedded default: tiny, random, with a real tokenizer."""
    from mede2_jax import tiny

    return tiny.model_directory(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory) -> Path:
    """The same of InternVL3, in transformers' format."""
    from mede2_jax import tiny

    return tiny.model_directory(tmp_path_factory.mktemp("tiny-internvl") / "model", "internvl3")


@pytest.fixture(scope="session")
def vllm_env() -> Path:
    """The environment with real vLLM."""
    return environment("vllm", "vllm_env.sh")


@pytest.fixture(scope="session")
def trl_env() -> Path:
    """The environment with real TRL."""
    return environment("trl", "trl_env.sh")


@pytest.fixture(scope="session")
def plan_env():
    """The environment with the compiler for `tpu` or `gpu`."""
    return lambda kind: environment(f"plan-{kind}", f"plan_env.sh {kind}")


def environment(kind, script):
    """A folder that a script made; tests that need it are skipped, and say so, where it was not made or not wanted."""
    variable = f"MEDE2_TEST_{kind.upper().replace('-', '_')}"
    folder = Path(os.environ.get(variable, ROOT / f".venv-{kind}") or "/nonexistent")
    if not (folder / ".stamp").is_file():
        pytest.skip(f"needs .venv-{kind}: bash launch/{script} makes it, bash launch/test.sh does so unless --few is given")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    with mounted(tmp_path / "disk", 1) as disk:
        yield disk


@pytest.fixture
def medium_disk(tmp_path):
    """A file system of 24 MB."""
    with mounted(tmp_path / "disk", 24) as disk:
        yield disk


@contextlib.contextmanager
def mounted(folder, megabytes):
    """A real file system that runs full; only root may mount one, so elsewhere the test is skipped and says so."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield folder
    finally:
        # Lazily: a process that a failing test left behind must not hide why it failed.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
