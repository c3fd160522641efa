"""One answer for each sample that is asked for, and none is paid for twice.

A sample's way: cache → (the same is under way, in this process or another one: its answer is waited for) → endpoint, with rests between
attempts → budget → cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from mede2_jax.config import UserError, counted
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.cache import Cache, request_digest
from mede2_jax.engines.paid.claims import RENEW_SECONDS
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.cost import Hold, Meter
from mede2_jax.engines.paid.endpoint import Endpoint
from mede2_jax.engines.paid.most import most_tokens
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.engines.wire.attempts import SAY_AFTER, Failed, Refused
from mede2_jax.engines.wire.http import hide_key

LOOK_SECONDS = (0.05, 2.0)
"""How long to wait, at first and at most, before looking again whether another process has an answer."""


class Backend(Protocol):
    """One attempt at one sample; what `GeminiAPI` and `OpenAIAPI` are."""

    url: str
    key: str

    async def open(self) -> None:
        """Makes the client, in the event loop that it is used in."""

    async def close(self) -> None:
        """Closes its connections, if it was opened."""

    def prepare(self, request: ChatRequest) -> Any:
        """What is sent, made once for all attempts; called in a thread."""

    async def ask(self, prepared: Any) -> Outcome:
        """One attempt.

        Raises:
            Refused: Trying again would not help.
            Failed: It may.
            UserError: No request can be answered.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A sample's outcome, and what it cost this time; or what it had cost before, if it comes from the cache."""

    outcome: Outcome
    cost: float
    cached: bool
    cached_cost: float = 0.0


class _Elsewhere(Exception):
    """Another process is asking for it, or has just had its answer."""


class Samples:
    """Gets samples. All methods are called in one event loop.

    Args:
        backend: Makes attempts.
        endpoint: Decides when, and how often.
        cache: What is there already, entered.
        meter: Counts.
        config: Of the engine.
        sampling: The same for all requests.
        notify: Gets what the user should know.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: Endpoint,
        cache: Cache,
        meter: Meter,
        config: APIConfig,
        sampling: Sampling,
        notify: Callable[[str], None],
    ) -> None:
        self.backend, self.endpoint, self.cache, self.meter = backend, endpoint, cache, meter
        self.config, self.sampling, self.notify = config, sampling, notify
        self._options = {
            "api": config.api,
            "url": backend.url,
            "model": config.model,
            "sampling": sampling.model_dump(mode="json"),
            "thinking": config.thinking,
            "block": config.block,
        }
        self._flights: dict[str, asyncio.Task[Fetched]] = {}
        self._waits_for_others = self._is_long_told = False

    async def open(self) -> None:
        """Opens the backend, and keeps what is claimed until the loop ends."""
        await self.backend.open()
        self._renewing = asyncio.create_task(self._renew())

    async def get(self, request: ChatRequest) -> Fetched:
        """The outcome of a request for one sample.

        Raises:
            Refused: It cannot be answered.
            UserError: Nothing more can be.
        """
        digest = await asyncio.to_thread(request_digest, request, self._options)
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = asyncio.create_task(self._fetch(request, digest))
            flight.add_done_callback(lambda _: self._flights.pop(digest))
            # Who asked may go away; what is paid for is stored all the same.
            return await asyncio.shield(flight)
        fetched = await asyncio.shield(flight)
        return self._from_cache(fetched.outcome, 0.0)  # paid for by the one that it was asked for

    async def known(self, request: ChatRequest) -> Fetched | None:
        """What the cache has of a request for one sample; nothing is asked.

        Raises:
            UserError: It cannot be read.
        """
        stored = await self._stored(await asyncio.to_thread(request_digest, request, self._options))
        return None if stored is None else self._from_cache(*stored)

    async def finish(self) -> None:
        """Returns when what has been sent is answered and stored; nothing more is sent."""
        self.endpoint.end(UserError("the run has ended"))
        if self._flights:
            await asyncio.wait(self._flights.values(), timeout=SAY_AFTER)
        if self._flights:
            self.notify(f"{counted(len(self._flights), 'request')} under way: finished first, since they are paid for")
        while self._flights:
            await asyncio.wait(self._flights.values())

    async def _fetch(self, request: ChatRequest, digest: str) -> Fetched:
        look = LOOK_SECONDS[0]
        while True:
            if (stored := await self._stored(digest)) is not None:
                return self._from_cache(*stored)
            try:
                return await self._ask_for(request, digest)
            except _Elsewhere:
                if not self._waits_for_others:
                    self._waits_for_others = True
                    self.notify(f"another process asks for the same with {str(self.config.cache)!r}: its answers are waited for")
                await self.endpoint.rest(look)
                look = min(2 * look, LOOK_SECONDS[1])

    async def _ask_for(self, request: ChatRequest, digest: str) -> Fetched:
        """Asks until there is an outcome, and stores it.

        Raises:
            _Elsewhere: Another process is at it, or was.
        """
        most = most_tokens(request, self.config.api, self.config.model, self.sampling.max_tokens)
        cost, is_ours = 0.0, False
        prepared: Any = None

        async def attempt() -> Fetched:
            nonlocal cost, is_ours, prepared
            if not is_ours:
                # Claimed when its turn has come and no sooner, so that several processes share the work.
                is_ours = await asyncio.to_thread(self.cache.claim, digest)
                if not is_ours or await self._stored(digest) is not None:  # by the one who had it
                    raise _Elsewhere
            if prepared is None:  # no sooner either: with pictures in it, it is large
                prepared = await asyncio.to_thread(self.backend.prepare, request)
            async with self.meter.holding(most) as hold:
                await self.endpoint.rest()  # it may have ended, or asked for a rest, while this waited for others' money
                outcome = await self._ask(prepared, hold)
                cost += self.meter.add(outcome, hold)
            if self.config.max_cost is not None and hold.kept and self.meter.totals.uncounted == 1:
                self.notify(f"{self.backend.url} does not say how many tokens a reply took: for max_cost it counts as the most it may take")
            if (outcome.response_tokens or 0) > self.sampling.max_tokens and not self._is_long_told:
                self._is_long_told = True
                said = (
                    f"{self.backend.url} gives more than max_tokens={self.sampling.max_tokens:,} (a reply of {outcome.response_tokens:,})"
                )
                self.notify(f"{said}: from now on as much is set aside of max_cost for each request")
            if not outcome.is_final:
                raise Failed(outcome.reason, is_well=True)
            # Stored before another request may start: a kill costs no more than `concurrency` answers.
            try:
                await asyncio.to_thread(self.cache.put, digest, outcome, api=self.config.api, model=self.config.model, cost=cost)
            except UserError as fault:
                self.endpoint.end(fault)  # this answer is paid for, and given out
            return Fetched(outcome, cost, cached=False)

        try:
            return await self.endpoint.call(attempt)
        except Refused as refused:
            refused.cost = cost  # of whole replies without an answer in them
            raise
        finally:
            if is_ours:
                with contextlib.suppress(UserError):  # then it is given back when the cache is closed, or nobody's after a while
                    await asyncio.to_thread(self.cache.give_back, digest)

    async def _stored(self, digest: str) -> tuple[Outcome, float] | None:
        try:
            return await asyncio.to_thread(self.cache.find, digest)
        except UserError as fault:
            raise self.endpoint.end(fault) from None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            with contextlib.suppress(UserError):  # a full disk is told of by the answer that does not fit
                await asyncio.to_thread(self.cache.renew_claims)

    async def _ask(self, prepared: Any, hold: Hold) -> Outcome:
        try:
            return await self.backend.ask(prepared)
        except (Failed, Refused, UserError) as fault:
            if isinstance(fault, Failed) and fault.may_cost:
                self.meter.totals.broken += 1
                hold.keep()
            fault.args = (hide_key(str(fault), self.backend.key),)
            raise

    def _from_cache(self, outcome: Outcome, cost: float) -> Fetched:
        self.meter.totals.cached += 1
        return Fetched(outcome, 0.0, cached=True, cached_cost=cost)
