"""Several servers that share the work: the least loaded one gets the next request, one that fails is left alone for a while.

A server that cannot be reached is tried with one request at a time, at growing intervals, until it answers. When all servers have
failed for longer than `patience` seconds, and nothing is under way on any of them, waiting ends with `ServersGone`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Sequence

import pydantic

from mede2_jax.config import Config
from mede2_jax.engines.wire.attempts import SAY_AFTER, ServersGone

FIRST_REST, LONGEST_REST = 0.5, 30.0
"""Seconds that a failing server is left alone, after the first failure and at most; doubled from failure to failure."""


class ServerConfig(Config):
    """How servers are used."""

    concurrency: int = pydantic.Field(default=64, ge=1, le=1000)
    """Sequences (samples, not requests) that one server works on at a time."""
    patience: float = pydantic.Field(default=600.0, ge=0.0)
    """Seconds to wait for a server to come back when none answers; it may be restarted meanwhile."""
    timeout: float = pydantic.Field(default=3600.0, gt=0.0, le=1e6)
    """Seconds that one request may take."""
    served_model: str | None = None
    """The servers' name for the model; none: the only one they have."""


@dataclasses.dataclass(eq=False)
class Server:
    """One server, and how it does."""

    url: str
    model: str = ""
    """Its name for the model."""
    max_tokens: int | None = None
    """How many tokens it takes, prompt and response together; None: it does not say."""
    load: int = 0
    """Sequences it works on."""
    failing_since: float | None = None
    """When it first failed since it last answered."""
    is_down: bool = False
    """It could not be reached when last tried."""
    failures: int = 0
    rests_until: float = 0.0
    reason: str = ""
    """Of the last failure."""
    is_told: bool = False
    """The user knows that it fails."""
    answers: int = 0


class ServerPool:
    """Who gets the next request. All methods are called in one event loop.

    Args:
        servers: All of them, taken to be well.
        concurrency: Sequences that one server works on at a time; a request with more has a server for itself.
        patience: Seconds that all servers may fail.
        notify: Gets a line when a server fails for a while, and when it is back.
    """

    def __init__(self, servers: Sequence[Server], *, concurrency: int, patience: float, notify: Callable[[str], None]) -> None:
        self.servers = tuple(servers)
        self.concurrency, self.patience, self.notify = concurrency, patience, notify
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def answers(self) -> int:
        """How many requests have been answered so far."""
        return sum(server.answers for server in self.servers)

    async def acquire(self, sequences: int) -> Server:
        """Waits for a server that has room, and takes it.

        Raises:
            ServersGone: All servers have failed for longer than `patience`.
        """
        # Nothing here is awaited between a look at the servers and what follows from it, so no lock is needed.
        while (server := self._free(sequences)) is None:
            self._check_patience()
            await self._change(self._until_next_try())
        server.load += sequences
        return server

    def release(self, server: Server, sequences: int) -> None:
        """Gives the room back."""
        server.load -= sequences
        for waiter in self._waiters:
            _wake(waiter)

    def succeeded(self, server: Server) -> None:
        """The server has answered."""
        if server.is_told:
            self.notify(f"{server.url} answers again")
        server.answers += 1
        server.failing_since, server.failures, server.rests_until = None, 0, 0.0
        server.is_down = server.is_told = False

    def failed(self, server: Server, reason: str, *, is_down: bool, rest: float | None = None) -> None:
        """The server has failed, and is left alone for `rest` seconds; None: longer from failure to failure."""
        now = time.monotonic()
        if server.failing_since is None:
            server.failing_since = now
        if now >= server.rests_until:  # requests that fail together are one failure
            server.failures += 1
        growing = min(LONGEST_REST, FIRST_REST * 2 ** min(server.failures - 1, 16)) * random.uniform(0.75, 1.25)
        server.rests_until = max(server.rests_until, now + (growing if rest is None else rest))
        server.is_down, server.reason = is_down, reason
        if not server.is_told and now - server.failing_since >= SAY_AFTER:
            server.is_told = True
            self.notify(f"{server.url}: {reason}; trying again, for up to {self.patience:.0f} s if no server answers")

    def _free(self, sequences: int) -> Server | None:
        now = time.monotonic()
        able = [
            server
            for server in self.servers
            if now >= server.rests_until and (server.load == 0 or (not server.is_down and server.load + sequences <= self.concurrency))
        ]
        if self._is_over(now):
            return None
        return min(able, key=lambda server: server.load, default=None)

    def _is_over(self, now: float) -> bool:
        return all(
            server.load == 0 and server.failing_since is not None and now - server.failing_since >= self.patience for server in self.servers
        )

    def _check_patience(self) -> None:
        if self._is_over(time.monotonic()):
            faults = "; ".join(f"{server.url}: {server.reason}" for server in self.servers)
            raise ServersGone(
                f"no server has answered for {self.patience:.0f} s ({faults}); what was answered is kept: "
                "start a server, and the same command again"
            )

    async def _change(self, seconds: float) -> None:
        """Waits until room is given back, but no longer than this."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _until_next_try(self) -> float:
        """Seconds until something may have changed by itself."""
        now = time.monotonic()
        ends = [server.rests_until for server in self.servers]
        ends += [server.failing_since + self.patience for server in self.servers if server.failing_since is not None]
        return min((end - now for end in ends if end > now), default=60.0) + 0.001


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
