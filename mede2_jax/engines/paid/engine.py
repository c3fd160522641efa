"""Paid APIs as a chat engine: what was answered once is never paid for again, and a run stops at its budget.

    with open_api(config, sampling, notify) as engine:
        for reply in engine.answer(requests): …

How one sample comes to its answer: `samples`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from mede2_jax.config import UserError, counted
from mede2_jax.engines.background import Background
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Completion, NoAnswer, Sampling, Usage
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.cost import BudgetExhausted, Meter, Totals, find_price
from mede2_jax.engines.paid.endpoint import Endpoint
from mede2_jax.engines.paid.gemini import GeminiAPI, GeminiOptions
from mede2_jax.engines.paid.openai import OpenAIAPI
from mede2_jax.engines.paid.samples import Backend, Fetched, Samples
from mede2_jax.engines.wire.attempts import Refused
from mede2_jax.engines.wire.http import key_in_the_open

AHEAD = 16
"""Requests that are taken before there is room for them, so that none waits for its pictures to be read; each holds them."""


def open_api(config: APIConfig, sampling: Sampling, notify: Callable[[str], None], totals: Totals | None = None) -> APIChat:
    """The engine, to be entered with `with`.

    Args:
        config: Which API, and what it may cost.
        sampling: The same for all requests.
        notify: Gets a line when the API fails for a while, and what else the user should know.
        totals: What an engine before this one has done in the same run: counted on, and within the same `max_cost`.

    Raises:
        UserError: No key, no client, or `max_cost` for a model without a price.
    """
    backend: Backend
    if config.api == "gemini":
        backend = GeminiAPI(config.model, config.base_url, config.timeout, sampling, GeminiOptions(config.thinking, config.block))
    else:
        backend = OpenAIAPI(config.model, config.base_url, config.timeout, sampling, notify)
    if told := key_in_the_open(backend.url, "GEMINI_API_KEY" if config.api == "gemini" else "OPENAI_API_KEY", backend.key):
        notify(told)
    return APIChat(config, sampling, backend, notify, totals)


class APIChat:
    """A `ChatEngine` of a paid API. Made by `open_api`.

    A request for n samples is n requests for one, each with its seed, so that each has its place in the cache.
    """

    def __init__(
        self, config: APIConfig, sampling: Sampling, backend: Backend, notify: Callable[[str], None], totals: Totals | None = None
    ) -> None:
        self.config, self.sampling, self.backend, self.notify = config, sampling, backend, notify
        price, as_of = find_price(config.model, config.prices)
        where = config.prices or f"the package's prices of {as_of}"
        if price is None and config.max_cost is not None:
            raise UserError(
                f"max_cost={config.max_cost:g}, but there is no price of {config.model!r} in {where}; add it to a file: --prices=FILE"
            )
        if price is None:
            notify(f"there is no price of {config.model!r} in {where}: costs are not counted")
        self.meter = Meter(price, config.max_cost, totals)
        self._is_spent = False
        """Whether the budget is used up: its line has the sums."""
        self._before = dataclasses.replace(self.meter.totals)

    @property
    def usage(self) -> Totals:
        """What was done and paid so far."""
        return self.meter.totals

    @property
    def spent(self) -> float:
        """US dollars so far."""
        return self.meter.totals.cost

    def __enter__(self) -> Self:
        endpoint = Endpoint(self.backend.url, self.config, self.notify)
        with contextlib.ExitStack() as stack:
            cache = stack.enter_context(Cache(self.config.cache))
            self._samples = Samples(self.backend, endpoint, cache, self.meter, self.config, self.sampling, self.notify)
            self._background = Background("api")
            stack.callback(self._background.stop, self.backend.close)
            self._background.run(self._samples.open())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """What is under way is finished and stored, so that it need not be paid for again; but who interrupts does not wait."""
        is_interrupted = kind is not None and not issubclass(kind, (Exception, GeneratorExit))
        with self._stack:
            if not is_interrupted and self.config.cache is not None:
                self._background.run(self._samples.finish())
        totals, before = self.meter.totals, self._before
        unknown, most = totals.unknown - before.unknown, totals.at_most - before.at_most
        if unknown and self.meter.price is not None and not is_interrupted and not self._is_spent:
            self.notify(f"{counted(unknown, 'attempt')} of which nobody here knows the cost: up to ${most:,.4f} more than what is counted")

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply | ChatFailure]:
        """As `ChatEngine.answer`.

        Raises:
            BudgetExhausted: `max_cost` is reached; what was under way has been finished, stored and given out, and so has all that the
                cache knows of the rest.
            UserError: Nothing more can be answered; likewise.
        """
        ahead, waiting = min(self.config.concurrency, AHEAD), iter(requests)
        try:
            yield from self._background.answer(waiting, self._answer, self.config.concurrency + ahead, finishes=True)
        except BudgetExhausted:
            self._is_spent = True
            for request in waiting:
                if (known := self._background.run(self._known(request))) is not None:
                    yield known
            raise

    async def _known(self, request: ChatRequest) -> ChatReply | ChatFailure | None:
        """The answer to a request, if the cache has all of it."""
        found = [await self._samples.known(one) for one in _each(request)]
        return self._answered(request, [one for one in found if one is not None], []) if found and None not in found else None

    async def _answer(self, request: ChatRequest) -> ChatReply | ChatFailure:
        if request.n < 1:
            return self._failure(request, f"n={request.n}; ask for at least 1 sample")
        fetched = await asyncio.gather(*map(self._samples.get, _each(request)), return_exceptions=True)
        for one in fetched:
            if isinstance(one, BaseException) and not isinstance(one, Refused):
                raise one
        return self._answered(
            request, [one for one in fetched if isinstance(one, Fetched)], [one for one in fetched if isinstance(one, Refused)]
        )

    def _answered(self, request: ChatRequest, found: list[Fetched], refusals: list[Refused]) -> ChatReply | ChatFailure:
        ends: list[tuple[str, NoAnswer]] = [(str(one), "refused" if one.is_policy else "failed") for one in refusals]
        ends += [(one.outcome.reason, one.outcome.end) for one in found if one.outcome.text is None]
        if ends:
            return self._failure(request, *ends[0], usage=_usage(found, sum(refused.cost for refused in refusals)))
        return self._reply(request, found)

    def _reply(self, request: ChatRequest, fetched: list[Fetched]) -> ChatReply:
        outcomes = [one.outcome for one in fetched]
        completions = tuple(
            Completion(outcome.text or "", (), None, outcome.finish_reason, request.seed + index, outcome.thought)
            for index, outcome in enumerate(outcomes)
        )
        self.meter.totals.answered += 1
        prompt_tokens = max(outcome.prompt_tokens or 0 for outcome in outcomes)
        return ChatReply(request, prompt_tokens, completions, _usage(fetched))

    def _failure(self, request: ChatRequest, reason: str, end: NoAnswer = "failed", usage: Usage | None = None) -> ChatFailure:
        self.meter.totals.failed += 1
        return ChatFailure(request, reason, usage, end)


def _each(request: ChatRequest) -> list[ChatRequest]:
    """A request for each of its samples."""
    return [dataclasses.replace(request, n=1, seed=request.seed + index) for index in range(request.n)]


def _usage(fetched: list[Fetched], lost: float = 0.0) -> Usage | None:
    """What samples took, and `lost` US dollars besides; None: nothing."""
    if not fetched and not lost:
        return None
    outcomes = [one.outcome for one in fetched]
    return Usage(
        prompt_tokens=sum(outcome.prompt_tokens or 0 for outcome in outcomes),
        response_tokens=sum(outcome.response_tokens or 0 for outcome in outcomes),
        cost=sum(one.cost for one in fetched) + lost,
        cached=bool(fetched) and all(one.cached for one in fetched),
        cached_cost=sum(one.cached_cost for one in fetched),
        model=outcomes[0].model if outcomes else "",
        without=tuple(sorted({name for outcome in outcomes for name in outcome.without})),
    )
