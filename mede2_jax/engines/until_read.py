"""A chat engine asked until its reply can be read: what a judge says that cannot is asked for again, so many times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from mede2_jax.data.records import JudgeUsage, Message
from mede2_jax.engines.chat import ChatEngine, ChatFailure, ChatReply, ChatRequest, Usage
from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.prompts import JUDGE_AGAIN


class Asking(Protocol):
    """Something that an engine is asked for."""

    @property
    def asked_before(self) -> int:
        """Attempts of earlier runs whose replies could not be read. Their answers are known: others are asked for."""
        ...

    @property
    def spent_before(self) -> JudgeUsage | None:
        """What these took; None: it is not known."""
        ...


WantedT = TypeVar("WantedT", bound=Asking)
SaidT = TypeVar("SaidT")
NO_USAGE = JudgeUsage(calls=0)


@dataclass(frozen=True)
class Attempt(Generic[WantedT]):
    """What is asked now, and what came before."""

    wanted: WantedT
    number: int = 0
    """Of the attempt, from 0, those of earlier runs counted."""
    raw: str = ""
    """The reply before, which could not be read,"""
    fault: str = ""
    """and what was wrong with it."""
    usage: JudgeUsage = NO_USAGE

    @property
    def again(self) -> tuple[Message, ...]:
        """What is said after the question: the reply before, and why another one is wanted. Nothing at the first attempt of a run."""
        if not self.fault:
            return ()
        said = JUDGE_AGAIN.text.format(FAULT=self.fault)
        return Message(role="assistant", content=self.raw or "(nothing)"), Message(role="user", content=said)


@dataclass(frozen=True)
class Answer(Generic[WantedT, SaidT]):
    """What came of it: what the reply says, or why there is none."""

    wanted: WantedT
    said: SaidT | None
    reason: str = ""
    """Why there is none."""
    raw: str | None = None
    """The last reply, as it came."""
    usage: JudgeUsage | None = None
    attempts: int = 0
    """How often the engine was asked, in earlier runs too, where no reply could be read."""


def ask_until_read(
    engine: ChatEngine,
    wanted: Iterable[WantedT],
    request: Callable[[Attempt[WantedT]], ChatRequest],
    read: Callable[[WantedT, str], SaidT],
    *,
    attempts: int,
    max_tokens: int,
) -> Iterator[Answer[WantedT, SaidT]]:
    """Asks an engine for each of `wanted`, and again for those whose reply cannot be read, after all else.

    Args:
        engine: Who is asked.
        wanted: Taken only as there is room.
        request: The request of an attempt; each attempt has a seed of its own, and an id that no other of `wanted` has.
        read: What a reply says; raises Unreadable.
        attempts: How often one is asked for in this run.
        max_tokens: For the message where a reply was cut.

    Raises:
        UserError: No more can be answered. What was answered has been given out.
    """
    asked: Iterable[Attempt[WantedT]] = (Attempt(one, one.asked_before, usage=one.spent_before or NO_USAGE) for one in wanted)
    while True:
        again: list[Attempt[WantedT]] = []
        under_way: dict[str, Attempt[WantedT]] = {}
        for reply in engine.answer(_requests(asked, under_way, request)):
            answer = _read(reply, under_way.pop(reply.request.id), read, attempts, max_tokens)
            if isinstance(answer, Answer):
                yield answer
            else:
                again.append(answer)
        if not again:
            return
        asked = again


def _requests(
    asked: Iterable[Attempt[WantedT]], under_way: dict[str, Attempt[WantedT]], request: Callable[[Attempt[WantedT]], ChatRequest]
) -> Iterator[ChatRequest]:
    for attempt in asked:
        one = request(attempt)
        under_way[one.id] = attempt
        yield one


def _read(
    reply: ChatReply | ChatFailure, attempt: Attempt[WantedT], read: Callable[[WantedT, str], SaidT], attempts: int, max_tokens: int
) -> Answer[WantedT, SaidT] | Attempt[WantedT]:
    wanted = attempt.wanted
    if isinstance(reply, ChatFailure):
        spent = _added(attempt.usage, reply.usage) if reply.usage else attempt.usage
        return Answer(wanted, None, reply.reason, attempt.raw or None, spent if spent.calls else None, attempt.number)
    completion = reply.completions[0]
    usage = _added(attempt.usage, reply.usage or Usage(reply.prompt_tokens, len(completion.token_ids), 0.0, False))
    try:
        if completion.finish_reason == "length":
            raise Unreadable(f"it was cut at max_tokens={max_tokens}")
        return Answer(wanted, read(wanted, completion.text), raw=completion.text, usage=usage)
    except Unreadable as fault:
        number = attempt.number + 1
        if number - wanted.asked_before >= attempts:
            return Answer(wanted, None, f"malformed reply: {fault}", completion.text, usage, number)
        return replace(attempt, number=number, raw=completion.text, fault=str(fault), usage=usage)


def _added(before: JudgeUsage, usage: Usage) -> JudgeUsage:
    return JudgeUsage(
        prompt_tokens=before.prompt_tokens + usage.prompt_tokens,
        response_tokens=before.response_tokens + usage.response_tokens,
        cost=before.cost + usage.cost,
        cached_cost=((before.cached_cost or 0.0) + usage.cached_cost) or None,
        calls=before.calls + 1,
        cached=before.cached + usage.cached,
        without=tuple(sorted({*(before.without or ()), *usage.without})) or None,
    )
