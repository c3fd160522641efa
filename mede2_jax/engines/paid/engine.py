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

from mede2_jax.config import UserError
from mede2_jax.engines.background import Background
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Completion, Sampling, Usage
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.cost import Meter, Totals, find_price
from mede2_jax.engines.paid.endpoint import Endpoint
from mede2_jax.engines.paid.gemini import GeminiAPI, GeminiOptions
from mede2_jax.engines.paid.openai import OpenAIAPI
from mede2_jax.engines.paid.outcome import Outcome
from mede2_jax.engines.paid.samples import Backend, Fetched, Samples
from mede2_jax.engines.wire.attempts import Refused


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
        backend = OpenAIAPI(config.model, config.base_url, config.timeout, sampling, notify)
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
        fetched = await asyncio.gather(*map(self._samples.get, samples), return_exceptions=True)
        for one in fetched:
            if isinstance(one, BaseException) and not isinstance(one, Refused):
                raise one
        found, refusals = [one for one in fetched if isinstance(one, Fetched)], [one for one in fetched if isinstance(one, Refused)]
        reasons = [*map(str, refusals), *(one.outcome.reason for one in found if one.outcome.text is None)]
        if reasons:
            return self._failure(request, reasons[0])
        return self._reply(request, found)

    def _reply(self, request: ChatRequest, fetched: list[Fetched]) -> ChatReply:
        outcomes = [one.outcome for one in fetched]
        prompts, responses = ([count or 0 for count in counts] for counts in zip(*map(_tokens, outcomes), strict=True))
        usage = Usage(
            prompt_tokens=sum(prompts),
            response_tokens=sum(responses),
            cost=sum(one.cost for one in fetched),
            cached=all(one.cached for one in fetched),
            model=outcomes[0].model,
            without=tuple(sorted({name for outcome in outcomes for name in outcome.without})),
        )
        completions = tuple(
            Completion(outcome.text or "", (), None, outcome.finish_reason, request.seed + index) for index, outcome in enumerate(outcomes)
        )
        self.meter.totals.answered += 1
        return ChatReply(request, max(prompts), completions, usage)

    def _failure(self, request: ChatRequest, reason: str) -> ChatFailure:
        self.meter.totals.failed += 1
        return ChatFailure(request, reason)


def _tokens(outcome: Outcome) -> tuple[int | None, int | None]:
    return outcome.prompt_tokens, outcome.response_tokens
