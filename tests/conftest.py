"""Eight host devices, set before JAX is imported, so that every sharding test runs everywhere; compiled programs that last; two tiers."""

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "--xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    import cheap_programs

    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cheap_programs.xla_flags(devices=8)}".strip()

from mede2_jax.parallel.host import prepare_host  # imports no JAX

prepare_host()

# Compiled programs are kept from session to session, for this process and those that it starts (workers among them), which inherit this.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    import compiled_cache

    compiled_cache.begin()

# As in launch/test.sh, and for pytest's own rewritten modules: what is imported is compiled once, not by each process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# vLLM's CPU build gives the model a process of its own, which imports everything a third time. One starts without it where only
# answers count (tests/engines/test_vllm_server.py takes it back, and so do several ranks).
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

# A shell starts background jobs with Ctrl-C ignored, and whatever they start inherits that; the commands' tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


TIMES = Path(__file__).with_name("times.json")
"""Seconds of each file on two cores, written by --record-times."""
MEANWHILE = 6
"""Of the longest files, how many are begun before those whose environment is being made: by then it is there."""
ENVIRONMENTS = {"vllm_env", "trl_env", "plan_env", "label_studio_env"}


def pytest_addoption(parser):
    said = f"write each file's seconds to {TIMES.name}, by which files are spread over workers"
    parser.addoption("--record-times", action="store_true", help=said)


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):  # the workers themselves compare with torch
        _start_as_installed()
    config.seconds = collections.Counter()
    # Asked once, for all workers: they must put the tests in one order, and an environment may be ready between two of them.
    os.environ.setdefault("MEDE2_TEST_WAITS", "yes" if _is_being_made() else "")
    config.addinivalue_line("markers", "environment: needs an environment beside .venv-test (set by conftest.py)")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by markers
def pytest_collection_modifyitems(items):
    """Long files first, so that no worker begins one when the other has nothing left to do; those whose environment is being made later."""
    times = json.loads(TIMES.read_text(encoding="utf-8")) if TIMES.exists() else {}
    waiting = set()
    for item in items:
        if ENVIRONMENTS & set(item.fixturenames):
            item.add_marker("environment")
            if os.environ["MEDE2_TEST_WAITS"]:
                waiting.add(item.path)
    seconds = {item.path: times.get(_file(item.nodeid), 0) for item in items}
    begun = set(sorted((path for path in seconds if path not in waiting), key=lambda path: -seconds[path])[:MEANWHILE])
    items.sort(key=lambda item: (item.path not in begun, -seconds[item.path]))


@pytest.hookimpl(tryfirst=True)  # before fixtures are made
def pytest_runtest_setup(item):
    until = os.environ.get("MEDE2_TEST_SLOW_UNTIL")
    if until and time.time() > float(until) and item.get_closest_marker("slow"):
        pytest.skip("the time for slow tests is over here (MEDE2_TEST_SLOW_UNTIL); bash launch/test.sh --all runs them all")


def pytest_runtest_logreport(report):
    if _session is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    if report.when in ("setup", "call", "teardown"):
        _session.seconds[_file(report.nodeid)] += report.duration
    if report.failed:  # at once, a crash of a worker too: who ends a run before its summary must know
        reason = (report.longreprtext.splitlines() or [""])[-1]
        _session.pluginmanager.get_plugin("terminalreporter").write_line(f"\nfailed: {report.nodeid}: {reason}")


def pytest_sessionstart(session):
    global _session
    _session = session.config


def pytest_sessionfinish(session):
    if session.config.getoption("--record-times") and "PYTEST_XDIST_WORKER" not in os.environ:
        seconds = {file: round(spent, 1) for file, spent in sorted(session.config.seconds.items())}
        TIMES.write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")


_session = None


def _start_as_installed():
    """What tests start in this environment has no torch, as users' installations have none (tests/as_installed/sitecustomize.py)."""
    os.environ["MEDE2_TEST_NO_TORCH"] = sys.prefix
    here = str(Path(__file__).with_name("as_installed"))
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", here)]
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *others])


def _file(nodeid):
    return nodeid.partition("::")[0].removeprefix("tests/")


def _is_being_made():
    """Whether launch/test.sh is still making environments; tests that need none run meanwhile."""
    maker = os.environ.get("MEDE2_TEST_MAKER")
    if maker is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(maker), 0)
        return True
    return False


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


@pytest.fixture(scope="module")
def browser():
    """A real headless Chromium. Where there is none, tests are skipped and say so; MEDE2_REQUIRE_BROWSER=1 makes that a failure."""
    import chromium

    if chromium.found() is None:
        said = f"needs Chromium: none of {', '.join(chromium.NAMES)} is on the PATH (Debian: apt-get install chromium)"
        if chromium.is_required():
            pytest.fail(said)
        pytest.skip(said)
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def label_studio_env() -> Path:
    """The environment with real Label Studio."""
    return environment("label-studio", "label_studio.sh FOLDER")


@pytest.fixture(scope="session")
def plan_env():
    """The environment with the compiler for `tpu` or `gpu`."""
    return lambda kind: environment(f"plan-{kind}", f"plan_env.sh {kind}")


def environment(kind, script):
    """A folder that a script made; tests that need it are skipped, and say so, where it was not made or not wanted."""
    variable = f"MEDE2_TEST_{kind.upper().replace('-', '_')}"
    folder = Path(os.environ.get(variable, ROOT / f".venv-{kind}") or "/nonexistent")
    while not (folder / ".stamp").is_file() and _is_being_made():
        time.sleep(1)
    if not (folder / ".stamp").is_file():
        pytest.skip(f"needs .venv-{kind}: bash launch/{script} makes it, bash launch/test.sh --all does so")
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
