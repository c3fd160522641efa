"""SIGTERM and Ctrl-C as a request that long work reads between its steps; a signal to one process of a job is one to all."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from mede2_jax.parallel.distributed import AnyAsked


class StopRequest:
    """Turns SIGTERM and Ctrl-C into `requested`, which the work inside `with` polls; a second signal acts as usual.

    A signal that the process was started to ignore, as a background job's Ctrl-C, stays ignored.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self.agreed = False
        """Whether a `poll` has said so: the same in all processes."""
        self._any = AnyAsked()

    def __enter__(self) -> Self:
        heard = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def poll(self, *, now: bool = False) -> bool:
        """Whether to stop here. Every process of a job polls at the same places, and all get one answer.

        Args:
            now: Count what was asked just before; without it, one process's signal may be heard a call later.
        """
        if not self.agreed:
            self.agreed = self._any(self.requested, now=now)
        return self.agreed

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[signal.Signals(number)])
