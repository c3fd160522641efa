"""How every command ends: a user's mistake, a full disk, Ctrl-C and SIGTERM are one line each and an exit status."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from mede2_jax.config import UserError
from mede2_jax.foreign import one_line

USERS_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""Failures of the system that a user mends: no room, no right, no such place."""

SOON = 0.05
"""Seconds after which a signal comes again that was swallowed."""


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs a command's `main`; a user's mistake ends it with one line on stderr and exit status 2, Ctrl-C with 130, SIGTERM with 143.

    `MEDE2_TRACEBACK=1` shows the full traceback instead.
    """
    if argv is None and os.environ.get("MEDE2_TRACEBACK") != "1":
        _silence_background()
    try:
        with _signals_raise() if argv is None else contextlib.nullcontext():
            main(sys.argv[1:] if argv is None else argv)
    except (KeyboardInterrupt, _Terminated, UserError, OSError, RuntimeError) as error:
        told = ending(error)
        if told is None or (os.environ.get("MEDE2_TRACEBACK") == "1" and not isinstance(error, _Terminated)):
            raise
        print(f"error: {told[0]}", file=sys.stderr)
        raise SystemExit(told[1]) from None


def ending(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit status with which an error ends a command; None for a fault of the program's own."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, _Terminated):
        return "terminated", int(error.code or 1)
    if isinstance(error, UserError):
        return one_line(str(error)), 2
    if isinstance(error, OSError) and error.errno in USERS_ERRNOS:
        return one_line(f"{error.strerror}: {error.filename or 'while writing'}; choose another place"), 2
    if isinstance(error, RuntimeError) and (told := _out_of_memory(error) or _endless_link(error)) is not None:
        return told, 2
    return None


def given(argv: Sequence[str], flag: str, known: Sequence[Any]) -> Any:
    """What a flag says, if it is known: some decide the embedded defaults before all else is parsed (and judged)."""
    pairs = itertools.pairwise([part for argument in argv for part in argument.split("=", 1)] + [""])
    return next((value for name, value in pairs if name == flag and value in known), None)


class _Terminated(SystemExit):
    """SIGTERM."""


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise, so that what is half written is removed on the way out; then the handlers before are back.

    A signal that the process was started to ignore, as under nohup, stays ignored.
    """

    def terminate(number: int, _: FrameType | None) -> NoReturn:
        raise _Terminated(128 + number)

    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: terminate}
    before = {number: signal.signal(number, handlers[number]) for number in handlers if signal.getsignal(number) != signal.SIG_IGN}
    hook, sys.unraisablehook = sys.unraisablehook, _send_again(sys.unraisablehook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _send_again(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """A hook for errors that Python has to swallow, as those that a signal raises while a destructor runs: the signal comes once more."""

    def heard(event: Any) -> None:
        number = {KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}.get(event.exc_type)
        if number is None:
            hook(event)
        else:  # from a thread, and later: here it would be raised within this very call, and swallowed too
            threading.Timer(SOON, os.kill, (os.getpid(), number)).start()

    return heard


def _silence_background() -> None:
    """What fails in a library's threads, or while it closes files on a full disk, also fails in the call that waits for it.

    That call's error is the one line the user gets; without this, pages of tracebacks come before and after it.
    """
    for name in ("absl", "asyncio", "concurrent.futures"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    threading.excepthook = lambda _: None
    sys.unraisablehook = lambda _: None


def _endless_link(error: RuntimeError) -> str | None:
    """What the user hears of a link that leads back to itself; Python 3.13 raises an OSError instead, if anything."""
    message = str(error)
    return one_line(f"{message}; choose another place") if message.startswith("Symlink loop from ") else None


def _out_of_memory(error: RuntimeError) -> str | None:
    """What the user hears when a device is full. The error is JAX's, which not every environment has."""
    message = str(error)
    if type(error).__name__ != "JaxRuntimeError" or not message.startswith("RESOURCE_EXHAUSTED"):
        return None
    said = message.removeprefix("RESOURCE_EXHAUSTED:").strip().partition(". ")[0].partition(" with allocator")[0]
    return f"the device is full: {one_line(said)}; lower rows_per_step or data.row_tokens, use remat=full, or split over more devices"
