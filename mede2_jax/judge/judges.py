"""Who judges: an engine that is asked with a prompt, or rules. Both take what is to be judged and give it back judged, in any order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import pydantic

from mede2_jax.config import UserError, describe_validation_error
from mede2_jax.data.images import read_image_bytes
from mede2_jax.data.judged import difference, files_digest, of_both
from mede2_jax.data.reading import located
from mede2_jax.data.records import ImagePart, JudgeUsage, Message, Part, Rollout, TextPart
from mede2_jax.engines.chat import ChatEngine, ChatFailure, ChatReply, ChatRequest, Usage
from mede2_jax.engines.picture import Picture
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.judge.job import JudgingJob, Task
from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.answers import true_choice
from mede2_jax.reasoning.prompts import JUDGE_AGAIN, UNKNOWN_TRUTH, Prompt, filled_around
from mede2_jax.reasoning.rubric import Aspect, Unreadable, Verdict, read_reply, reply_schema


@dataclass(frozen=True)
class Wanted:
    """One judgment that is to be made."""

    task: Task
    repeat: int
    asked_before: int = 0
    """Attempts of earlier runs whose replies could not be read. Their answers are known: others are asked for."""
    spent_before: JudgeUsage | None = None
    """What these took; None: it is not known."""

    @property
    def id(self) -> str:
        """Of the judgment."""
        return f"{self.task.id}@{self.repeat}"


@dataclass(frozen=True)
class Judged:
    """What came of it: verdicts, or why there are none."""

    wanted: Wanted
    verdicts: dict[Aspect, Verdict] | None
    reason: str = ""
    """Why there are none."""
    raw: str | None = None
    """The last reply, as it came."""
    usage: JudgeUsage | None = None
    attempts: int = 0
    """How often the judge was asked, in earlier runs too, where no reply could be read."""


NO_USAGE = JudgeUsage(calls=0)


class Judge(Protocol):
    """Judges."""

    def judge(self, wanted: Iterable[Wanted]) -> Iterator[Judged]:
        """Gives each judgment once, in the order they are finished; takes them only as there is room.

        Raises:
            UserError: No more can be judged. What was judged has been given out.
        """
        ...


@contextlib.contextmanager
def open_judge(job: JudgingJob, notify: Callable[[str], None]) -> Iterator[Judge]:
    """The judge that the config asks for; its engine is closed on the way out.

    Raises:
        UserError: It cannot be used.
    """
    config = job.config
    if config.judge == "offline":
        yield RuleJudge(job)
        return
    from mede2_jax.engines.paid.config import APIConfig
    from mede2_jax.engines.paid.engine import open_api

    try:
        api = APIConfig(api=config.judge, model=config.judged_by.model, **config.api_options)
    except pydantic.ValidationError as error:
        raise UserError(describe_validation_error(error)) from None
    with open_api(api, config.sampling, notify) as engine:
        yield ChatJudge(job, engine)


class RuleJudge:
    """Judges by rules over each case's hidden facts."""

    def __init__(self, job: JudgingJob) -> None:
        self.job = job

    def judge(self, wanted: Iterable[Wanted]) -> Iterator[Judged]:
        """As `Judge.judge`; never fails."""
        for item in wanted:
            rollout = self.job.rollout(item.task)
            yield Judged(item, offline_judge.judge(rollout.response, rollout.metadata, is_correct=item.task.outcome == "correct"))


@dataclass(frozen=True)
class _Asked:
    """A judgment that an engine is asked for, and what came before."""

    wanted: Wanted
    attempt: int = 0
    raw: str = ""
    fault: str = ""
    """What was wrong with the reply before."""
    usage: JudgeUsage = NO_USAGE


class ChatJudge:
    """Judges by asking an engine. A reply that cannot be read is sent back with what is wrong with it, `config.attempts` times in all."""

    def __init__(self, job: JudgingJob, engine: ChatEngine) -> None:
        self.job, self.engine = job, engine
        self.reasons = job.config.prompt == "reasons"
        self.schema = reply_schema(reasons=self.reasons)

    def judge(self, wanted: Iterable[Wanted]) -> Iterator[Judged]:
        """As `Judge.judge`. What has to be asked again is asked after all else."""
        asked: Iterable[_Asked] = (_Asked(item, attempt=item.asked_before, usage=item.spent_before or NO_USAGE) for item in wanted)
        while True:
            again: list[_Asked] = []
            under_way: dict[str, _Asked] = {}
            for reply in self.engine.answer(self._requests(asked, under_way)):
                judged = self._read(reply, under_way.pop(reply.request.id))
                if isinstance(judged, Judged):
                    yield judged
                else:
                    again.append(judged)
            if not again:
                return
            asked = again

    def _requests(self, asked: Iterable[_Asked], under_way: dict[str, _Asked]) -> Iterator[ChatRequest]:
        for item in asked:
            request = self._request(item)
            under_way[request.id] = item
            yield request

    def _request(self, item: _Asked) -> ChatRequest:
        config, task = self.job.config, item.wanted.task
        rollout = self.job.rollout(task)
        messages = [question(rollout, config.judge_prompt)]
        if item.fault:
            messages.append(Message(role="assistant", content=item.raw or "(nothing)"))
            messages.append(Message(role="user", content=JUDGE_AGAIN.text.format(FAULT=item.fault)))
        with located(self.job.file.where(task.number)):
            root, limit = self.job.image_root, config.max_image_pixels
            files = [read_image_bytes(root, name) for name in rollout.images]
            now = files_digest(hashlib.sha256(file).digest() for file in files) if files else ""
            if difference(task.digest, of_both(rollout.content_digest, now)):
                raise UserError(f"images of {task.id!r} have changed since this run began; put them back, or start it again")
            images = tuple(Picture.read(file, name, limit) for file, name in zip(files, rollout.images, strict=True))
        return ChatRequest(
            item.wanted.id, tuple(messages), images, 1, seed(config, task.id, item.wanted.repeat, item.attempt), schema=self.schema
        )

    def _read(self, reply: ChatReply | ChatFailure, item: _Asked) -> Judged | _Asked:
        if isinstance(reply, ChatFailure):
            spent = _added(item.usage, reply.usage) if reply.usage else item.usage
            return Judged(item.wanted, None, reply.reason, item.raw or None, spent if spent.calls else None, item.attempt)
        completion = reply.completions[0]
        usage = _added(item.usage, reply.usage or Usage(reply.prompt_tokens, len(completion.token_ids), 0.0, False))
        try:
            if completion.finish_reason == "length":
                raise Unreadable(f"it was cut at max_tokens={self.job.config.max_tokens}")
            return Judged(item.wanted, read_reply(completion.text, reasons=self.reasons), raw=completion.text, usage=usage)
        except Unreadable as fault:
            attempts = item.attempt + 1
            if attempts - item.wanted.asked_before >= self.job.config.attempts:
                return Judged(item.wanted, None, f"malformed reply: {fault}", completion.text, usage, attempts)
            return replace(item, attempt=attempts, raw=completion.text, fault=str(fault), usage=usage)


def question(rollout: Rollout, prompt: Prompt) -> Message:
    """What a judge is asked of a rollout: the question with its images in their places, the truth, and the response."""
    before, rest = filled_around(prompt, "QUESTION")
    between, rest = rest.split("{TRUTH}")
    after_truth, end = rest.split("{RESPONSE}")
    turns = [message for message in rollout.prompt if message.role != "system"]
    parts: list[Part] = [TextPart(text=before)]
    for place, message in enumerate(turns):
        # Only the end of a longer conversation is the question's user turn; who said what must be told.
        label = f"{message.role}: " if len(turns) > 1 else ""
        parts.append(TextPart(text=("\n" if place else "") + label))
        parts += [TextPart(text=message.content)] if isinstance(message.content, str) else message.content
    parts.append(TextPart(text=between + truth(rollout) + after_truth + rollout.response + end))
    images = [part for message in rollout.prompt if message.role == "system" for part in _images(message)]
    return Message(role="user", content=_joined([*images, *parts]))


def truth(rollout: Rollout) -> str:
    """The right answer in words: of a choice its letter and its text."""
    if rollout.answer is None:
        return UNKNOWN_TRUTH
    if not rollout.options:
        return rollout.answer
    letter = true_choice(rollout.answer, rollout.options)
    return f"{letter}. {rollout.options[letter]}"


def seed(config: JudgeConfig, rollout: str, repeat: int, attempt: int) -> int:
    """The seed of one request, below 2³¹: not every API takes larger ones."""
    digest = hashlib.sha256(f"{config.seed}\0{rollout}\0{repeat}\0{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**31


def _images(message: Message) -> list[ImagePart]:
    return [] if isinstance(message.content, str) else [part for part in message.content if isinstance(part, ImagePart)]


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Neighbouring texts as one, so that equal questions make equal requests."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, TextPart) and joined and isinstance(joined[-1], TextPart):
            joined[-1] = TextPart(text=joined[-1].text + part.text)
        else:
            joined.append(part)
    return tuple(part for part in joined if not (isinstance(part, TextPart) and not part.text))


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
