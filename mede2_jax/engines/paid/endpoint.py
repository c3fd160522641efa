"""One API: it is well as a whole, limits how much it is asked, and fails single requests, which are sent again after a while.

(A pool of servers is another thing: there a machine breaks, and others have its work; see `servers`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pydantic

from mede2_jax.config import Config, UserError
from mede2_jax.engines.wire.attempts import ATTEMPTS, SAY_AFTER, Failed, Refused, ServersGone

LATER = "what was answered is kept: start the same command again later"
ReplyT = TypeVar("ReplyT")


class EndpointConfig(Config):
    """How an API is used."""

    concurrency: int = pydantic.Field(default=16, ge=1, le=1000)
    """Requests under way at a time."""
    patience: float = pydantic.Field(default=600.0, ge=0.0)
    """Seconds to go on when the API answers nothing at all, or asks to be left alone."""
    timeout: float = pydantic.Field(default=300.0, gt=0.0, le=86_400.0)
    """Seconds that one attempt may take."""
    first_rest: float = pydantic.Field(default=1.0, gt=0.0)
    """Longest rest before a request that failed is sent again, in seconds; doubled from failure to failure."""
    longest_rest: float = pydantic.Field(default=60.0, gt=0.0)
    """The most that it is doubled to. What the API asks for (Retry-After) is not shortened."""


class Endpoint:
    """Sends requests until each is answered or given up. All methods are called in one event loop.

    Args:
        name: For messages.
        config: How it is used.
        notify: Gets a line when nothing is answered for a while, and when something is again.
    """

    def __init__(self, name: str, config: EndpointConfig, notify: Callable[[str], None]) -> None:
        self.name, self.config, self.notify = name, config, notify
        self.answers = 0
        """Whole replies so far."""
        self._room = asyncio.Semaphore(config.concurrency)
        self._rests_until = 0.0
        self._failing_since: float | None = None
        self._failing: set[object] = set()
        """Requests that failed since the last answer."""
        self._is_told = False
        self._fault: UserError | None = None
        self._ended = asyncio.Event()

    async def call(self, send: Callable[[], Awaitable[ReplyT]]) -> ReplyT:
        """What `send` returns, called again after failures.

        Args:
            send: One attempt; raises Refused, Failed or UserError.

        Raises:
            Refused: It cannot be answered, or has failed too often while others were answered.
            UserError: Nothing more can be answered. All other calls end with it as well, those under way after their attempt.
        """
        this, failures, counted, answers_before = object(), 0, 0, 0
        while True:
            async with self._room:
                await self.rest()
                try:
                    reply = await send()
                    self._succeeded()
                    return reply
                except Refused:
                    self._succeeded()  # it is well; the request is not
                    raise
                except UserError as error:
                    raise self.end(error) from None
                except Failed as failure:
                    answers_before = answers_before if failures else self.answers
                    failures, counted = failures + 1, counted + failure.counts
                    self._failed(this, failure)
                    is_over, others = self._is_over(), len(self._failing - {this})
                    # Others were answered meanwhile, or nobody else fails: it is this request.
                    if counted >= ATTEMPTS and (failure.is_well or self.answers > answers_before or (is_over and not others)):
                        raise Refused(f"failed {counted} times, last: {failure}") from None
                    if is_over:
                        raise self.end(
                            ServersGone(f"{self.name} has answered nothing for {self.config.patience:.0f} s ({failure}); {LATER}")
                        ) from None
            # Full jitter: requests that failed together do not come back together.
            await self.rest(random.uniform(0.0, min(self.config.longest_rest, self.config.first_rest * 2 ** min(failures - 1, 16))))

    async def rest(self, seconds: float = 0.0) -> None:
        """Waits so long, and as long as the API asked to be left alone.

        Raises:
            UserError: All has ended.
        """
        until = time.monotonic() + seconds
        while self._fault is None and (left := max(until, self._rests_until) - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left)
        if self._fault is not None:
            raise self._fault

    def end(self, fault: UserError) -> UserError:
        """Ends all calls that are not under way, and returns the first of the faults that did so."""
        self._fault = self._fault or fault
        self._ended.set()
        return self._fault

    def _succeeded(self) -> None:
        if self._is_told:
            self.notify(f"{self.name} answers again")
        self.answers += 1
        self._failing_since, self._is_told = None, False
        self._failing.clear()

    def _failed(self, request: object, failure: Failed) -> None:
        """Takes note of a failure.

        Raises:
            ServersGone: The API asks for more time than there is.
        """
        if failure.is_well:
            self._succeeded()
            return
        now = time.monotonic()
        self._failing.add(request)
        if self._failing_since is None:
            self._failing_since = now
        failing, rest = now - self._failing_since, failure.rest or 0.0
        if rest > self.config.patience:
            raise self.end(ServersGone(f"{self.name} asks to wait {rest:.0f} s, longer than patience ({failure}); {LATER}"))
        self._rests_until = max(self._rests_until, now + rest)
        if not self._is_told and failing >= SAY_AFTER:
            self._is_told = True
            self.notify(f"{self.name}: {failure}; trying again, for up to {self.config.patience:.0f} s if nothing is answered")

    def _is_over(self) -> bool:
        """Whether there have been only failures for longer than patience."""
        return self._failing_since is not None and time.monotonic() - self._failing_since >= self.config.patience
