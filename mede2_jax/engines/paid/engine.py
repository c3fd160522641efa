"""Paid APIs as a chat engine: what was answered once is never paid for again, and a run stops at its budget.

    with open_api(config, sampling, notify) as engine:
        for reply in engine.answer(requests): …

A request's way: cache → (single flight: the same request is under way) → budget → endpoint, with rests between attempts → cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import pydantic

from mede2_jax.config import UserError
from mede2_jax.engines.background import Background
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Completion, Sampling, Usage
from mede2_jax.engines.paid.cache import Cache, request_digest
from mede2_jax.engines.paid.cost import Hold, Meter, Totals, find_price
from mede2_jax.engines.paid.endpoint import Endpoint, EndpointConfig
from mede2_jax.engines.paid.gemini import GeminiAPI, GeminiOptions
from mede2_jax.engines.paid.most import most_tokens
from mede2_jax.engines.paid.openai import OpenAIAPI
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.engines.wire.attempts import Failed, Refused
from mede2_jax.engines.wire.http import hide_key


class APIConfig(EndpointConfig):
    """Which API answers, and what it may cost. Keys come from the environment alone: GEMINI_API_KEY, OPENAI_API_KEY."""

    api: Literal["gemini", "openai"]
    """`openai`: any server of its chat protocol."""
    model: str = pydantic.Field(pattern=r"^[A-Za-z0-9]([._/:@-]?[A-Za-z0-9])*$")
    """As the API calls it: gemini-2.5-pro, gpt-4o."""
    base_url: str | None = None
    """Another server than the API's own, such as http://HOST:PORT/v1 of a vLLM."""
    cache: Path | None = None
    """An SQLite file of all answers so far; none: they are kept for this run only."""
    max_cost: float | None = pydantic.Field(default=None, ge=0.0, allow_inf_nan=False)
    """US dollars that this run may spend."""
    prices: Path | None = None
    """A YAML file of prices; none: the package's own."""
    thinking: int | None = pydantic.Field(default=None, ge=-1)
    """Gemini: tokens it may think (they are part of max_tokens; -1: as many as it likes); none: the model's default."""
    block: bool = True
    """Gemini: its own safety filters decide; they take some medical images for something else."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.api != "gemini" and (self.thinking is not None or not self.block):
            raise ValueError("thinking and block are Gemini's; leave them out with api=openai")
        return self


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


def open_api(config: APIConfig, sampling: Sampling, notify: Callable[[str], None]) -> APIChat:
    """The engine, to be entered with `with`.

    Args:
        config: Which API, and what it may cost.
        sampling: The same for all requests.
        notify: Gets a line when the API fails for a while, and what else the user should know.

    Raises:
        UserError: No key, no client, or `max_cost` for a model without a price.
    """
    backend: Backend
    if config.api == "gemini":
        backend = GeminiAPI(config.model, config.base_url, config.timeout, sampling, GeminiOptions(config.thinking, config.block))
    else:
        backend = OpenAIAPI(config.model, config.base_url, config.timeout, sampling)
    return APIChat(config, sampling, backend, notify)


class APIChat:
    """A `ChatEngine` of a paid API. Made by `open_api`.

    A request for n samples is n requests for one, each with its seed, so that each has its place in the cache.
    """

    def __init__(self, config: APIConfig, sampling: Sampling, backend: Backend, notify: Callable[[str], None]) -> None:
        self.config, self.sampling, self.backend, self.notify = config, sampling, backend, notify
        price, as_of = find_price(config.model, config.prices)
        where = config.prices or f"the package's prices of {as_of}"
        if price is None and config.max_cost is not None:
            raise UserError(f"max_cost={config.max_cost:g}, but {where} has no price of {config.model!r}; add it to a file: --prices=FILE")
        if price is None:
            notify(f"{where} has no price of {config.model!r}: costs are not counted")
        self.meter = Meter(price, config.max_cost)
        self._options = {
            "api": config.api,
            "url": backend.url,
            "model": config.model,
            "sampling": sampling.model_dump(mode="json"),
            "thinking": config.thinking,
            "block": config.block,
        }
        self._flights: dict[str, asyncio.Task[_Fetched]] = {}

    @property
    def usage(self) -> Totals:
        """What was done and paid so far."""
        return self.meter.totals

    @property
    def spent(self) -> float:
        """US dollars so far."""
        return self.meter.totals.cost

    def __enter__(self) -> Self:
        self._endpoint = Endpoint(self.backend.url, self.config, self.notify)
        with contextlib.ExitStack() as stack:
            self._cache = stack.enter_context(Cache(self.config.cache))
            self._background = Background("api")
            stack.callback(self._background.stop, self.backend.close)
            self._background.run(self.backend.open())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply | ChatFailure]:
        """As `ChatEngine.answer`.

        Raises:
            BudgetExhausted: `max_cost` is reached; what was under way has been finished, stored and given out.
            UserError: Nothing more can be answered; likewise.
        """
        return self._background.answer(requests, self._answer, 2 * self.config.concurrency, finishes=True)

    async def _answer(self, request: ChatRequest) -> ChatReply | ChatFailure:
        if request.n < 1:
            return self._failure(request, f"n={request.n}; ask for at least 1 sample")
        samples = [dataclasses.replace(request, n=1, seed=request.seed + index) for index in range(request.n)]
        fetched = await asyncio.gather(*map(self._sample, samples), return_exceptions=True)
        for one in fetched:
            if isinstance(one, BaseException) and not isinstance(one, Refused):
                raise one
        found, refusals = [one for one in fetched if isinstance(one, _Fetched)], [one for one in fetched if isinstance(one, Refused)]
        reasons = [*map(str, refusals), *(one.outcome.reason for one in found if one.outcome.text is None)]
        if reasons:
            return self._failure(request, reasons[0])
        return self._reply(request, found)

    async def _sample(self, request: ChatRequest) -> _Fetched:
        digest = await asyncio.to_thread(request_digest, request, self._options)
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._flights[digest] = asyncio.create_task(self._fetch(request, digest))
            flight.add_done_callback(lambda _: self._flights.pop(digest))
            # Who asked may go away; what is paid for is stored all the same.
            return await asyncio.shield(flight)
        fetched = await asyncio.shield(flight)
        return self._from_cache(fetched.outcome)

    async def _fetch(self, request: ChatRequest, digest: str) -> _Fetched:
        try:
            stored = await asyncio.to_thread(self._cache.get, digest)
        except UserError as fault:
            raise self._endpoint.end(fault) from None
        if stored is not None:
            return self._from_cache(stored)
        prepared = await asyncio.to_thread(self.backend.prepare, request)
        most = most_tokens(request, self.config.api, self.config.model, self.sampling.max_tokens)
        cost = 0.0

        async def attempt() -> Outcome:
            nonlocal cost
            async with self.meter.holding(most) as hold:
                await self._endpoint.ready()  # it may have ended, or asked for a rest, while this waited for others' money
                outcome = await self._ask(prepared, hold)
                cost += self.meter.add(outcome, hold)
            if self.config.max_cost is not None and hold.kept and self.meter.totals.uncounted == 1:
                self.notify(f"{self.backend.url} does not say how many tokens a reply took: for max_cost it counts as the most it may take")
            if not outcome.is_final:
                raise Failed(outcome.reason, is_well=True)
            # Stored before another request may start: a kill costs no more than `concurrency` answers.
            try:
                await asyncio.to_thread(self._cache.put, digest, outcome, api=self.config.api, model=self.config.model, cost=cost)
            except UserError as fault:
                self._endpoint.end(fault)  # this answer is paid for, and given out
            return outcome

        outcome = await self._endpoint.call(attempt)
        return _Fetched(outcome, cost, cached=False)

    async def _ask(self, prepared: Any, hold: Hold) -> Outcome:
        try:
            return await self.backend.ask(prepared)
        except (Failed, Refused, UserError) as fault:
            if isinstance(fault, Failed) and fault.may_cost:
                self.meter.totals.broken += 1
                hold.keep()
            fault.args = (hide_key(str(fault), self.backend.key),)
            raise

    def _from_cache(self, outcome: Outcome) -> _Fetched:
        self.meter.totals.cached += 1
        return _Fetched(outcome, 0.0, cached=True)

    def _reply(self, request: ChatRequest, fetched: list[_Fetched]) -> ChatReply:
        outcomes = [one.outcome for one in fetched]
        prompts, responses = ([count or 0 for count in counts] for counts in zip(*map(_tokens, outcomes), strict=True))
        usage = Usage(
            prompt_tokens=sum(prompts),
            response_tokens=sum(responses),
            cost=sum(one.cost for one in fetched),
            cached=all(one.cached for one in fetched),
            model=outcomes[0].model,
        )
        completions = tuple(
            Completion(outcome.text or "", (), None, outcome.finish_reason, request.seed + index) for index, outcome in enumerate(outcomes)
        )
        self.meter.totals.answered += 1
        return ChatReply(request, max(prompts), completions, usage)

    def _failure(self, request: ChatRequest, reason: str) -> ChatFailure:
        self.meter.totals.failed += 1
        return ChatFailure(request, reason)


@dataclasses.dataclass(frozen=True)
class _Fetched:
    """A sample's outcome, and what it cost this time."""

    outcome: Outcome
    cost: float
    cached: bool


def _tokens(outcome: Outcome) -> tuple[int | None, int | None]:
    return outcome.prompt_tokens, outcome.response_tokens
