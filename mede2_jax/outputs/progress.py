"""How far a run is: a bar on a terminal, a line now and then elsewhere; and how it ends when it is stopped."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 30.0

AGAIN = "the same command goes on"


class RunProgress:
    """Shows how far a run is, while inside `with`.

    Args:
        console: Where.
        doing: What is done, such as `sampling`.
        done: Pieces that are there already.
        total: Pieces in all.
    """

    def __init__(self, console: Console, doing: str, done: int, total: int) -> None:
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeElapsedColumn())
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(doing, total=total, completed=done, speed="")
        self.console, self.doing, self.total, self.begun_with, self.done, self.tokens = console, doing, total, done, done, 0
        self.started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        self.started = self._said = time.monotonic()  # not counting how long an engine took to start
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def advance(self, pieces: int, tokens: int) -> bool:
        """Counts what has come, or failed for good; whether it was time for a line."""
        self.done, self.tokens = self.done + pieces, self.tokens + tokens
        speed = self.tokens / max(self.seconds, 1e-9)
        self._bar.update(self._task, completed=self.done, speed=f"{speed:,.0f} tokens/s")
        if time.monotonic() - self._said < LINE_SECONDS:
            return False
        self._said = time.monotonic()
        if not self.console.is_terminal:
            left = self.seconds / max(self.done - self.begun_with, 1) * (self.total - self.done)
            self.console.print(f"{self.doing}: {self.done}/{self.total}  {speed:,.0f} tokens/s  eta {left:.0f}s")
        return True


@contextlib.contextmanager
def closing(close: Callable[[], None], kept: Callable[[], str]) -> Iterator[None]:
    """Calls `close` when what is inside ends before its time.

    A signal becomes one line on stderr, with what `kept` says of what is there, and an exit status; any other error goes on.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        close()
        status, word = (stop.code, "terminated") if isinstance(stop, SystemExit) else (130, "interrupted")
        print(f"error: {word}; {kept()}", file=sys.stderr)
        raise SystemExit(status) from None
    except BaseException:
        close()
        raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait until what is inside is done; then they do what they would have done."""
    if threading.current_thread() is not threading.main_thread():  # signals raise in the main thread only
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    # A signal that is ignored, or ends the process where it stands, is let be.
    handlers = {int(number): handler for number in (signal.SIGINT, signal.SIGTERM) if callable(handler := signal.getsignal(number))}
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            number, frame = came[0]
            handlers[number](number, frame)
