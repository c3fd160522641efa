"""Compiled programs outlive a test session, since compiling takes most of its time.

The lasting store lies in the user's cache folder (`XDG_CACHE_HOME`), by version of jaxlib and features of the processor: XLA compiles for
the very processor. `MEDE2_TEST_CACHE` names another folder, or none if it is empty. JAX's own key has the program, its options and flags.

A session works in a folder of its own, with a link to each program of the store. At its end what is new and whole goes into the store: a
test may kill a process that is writing, and JAX would neither use nor replace the torso. Several sessions may run at a time.
"""

import atexit
import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

STORE_BYTES = 3 << 30
"""What the store may hold; the programs that were not used for longest go first."""
SESSION_BYTES = 16 << 30
"""Never reached; but only with a limit does JAX lock the folder, which two workers and all that they start share."""
PROGRAM, USED = "-cache", "-atime"


def store() -> Path | None:
    """Where programs last; None: they do not."""
    chosen = os.environ.get("MEDE2_TEST_CACHE")
    if chosen == "":
        return None
    base = Path(chosen or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mede2_jax" / "test-programs")
    return base / hashlib.sha256(f"{version('jaxlib')} {_processor()}".encode()).hexdigest()[:16]


def begin() -> None:
    """Makes the session's folder and names it to JAX here and in all processes that are started from here."""
    lasting = store()
    if lasting is not None:
        try:
            lasting.mkdir(parents=True, exist_ok=True)
        except OSError:  # a home that nobody may write to
            lasting = None
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=lasting and lasting.parent))
    if lasting is not None:
        _remove_dead(lasting.parent)
        for program in lasting.glob(f"*{PROGRAM}"):
            with contextlib.suppress(OSError):  # another session has just taken it out
                os.link(program, folder / program.name)
                _used(folder / program.name).write_bytes(b"\0" * 8)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(SESSION_BYTES)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    # Its path would become part of every program's key.
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
    atexit.register(end, folder, lasting)


def end(folder: Path, lasting: Path | None) -> None:
    """Takes over what is new, forgets what is old, and removes the session's folder."""
    if lasting is not None:
        for program in folder.glob(f"*{PROGRAM}"):
            with contextlib.suppress(OSError):
                if not (lasting / program.name).exists() and is_whole(program):
                    os.link(program, lasting / program.name)
                if _used(program).read_bytes() != b"\0" * 8:
                    os.utime(lasting / program.name)
        prune(lasting, STORE_BYTES)
    shutil.rmtree(folder, ignore_errors=True)


def is_whole(program: Path) -> bool:
    """Whether JAX was not killed while it wrote this."""
    from jax._src.compilation_cache import decompress_executable  # it knows which compression was at hand

    try:
        return len(decompress_executable(program.read_bytes())) > 0
    except Exception:  # each compression has an error of its own
        return False


def prune(lasting: Path, limit: int) -> None:
    """Removes the programs that were not used for longest until the others take at most `limit` bytes."""
    found = []
    for program in lasting.glob(f"*{PROGRAM}"):
        with contextlib.suppress(OSError):
            found.append((program.stat().st_mtime, program.stat().st_size, program))
    total = sum(size for _, size, _ in found)
    for _, size, program in sorted(found):
        if total <= limit:
            break
        program.unlink(missing_ok=True)
        total -= size


def _remove_dead(parent: Path) -> None:
    """Sessions that were killed more than a day ago."""
    for folder in parent.glob("session-*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < time.time() - 86_400:
                shutil.rmtree(folder, ignore_errors=True)


def _used(program: Path) -> Path:
    return program.with_name(program.name.removesuffix(PROGRAM) + USED)


def _processor() -> str:
    """What XLA compiles for."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("flags", "Features", "model name", "CPU part")
        return "\n".join(sorted({line for line in lines if line.split("\t")[0].strip() in wanted}))
    return f"{platform.machine()} {platform.processor()}"
