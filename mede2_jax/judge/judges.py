"""Who judges: an engine that is asked with a prompt, or rules. Both take what is to be judged and give it back judged, in any order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mede2_jax.config import UserError
from mede2_jax.data.images import read_image_bytes
from mede2_jax.data.judged import difference, files_digest, of_both
from mede2_jax.data.reading import located
from mede2_jax.data.records import ImagePart, JudgeUsage, Message, Part, Rollout, TextPart
from mede2_jax.engines.chat import ChatEngine, ChatRequest
from mede2_jax.engines.picture import Picture
from mede2_jax.engines.until_read import Answer, Attempt, ask_until_read
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.judge.job import JudgingJob, Task
from mede2_jax.reasoning import offline_judge
from mede2_jax.reasoning.answers import true_choice
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.prompts import UNKNOWN_TRUTH, Prompt, filled_around
from mede2_jax.reasoning.rubric import Aspect, read_reply, reply_schema


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


Judged = Answer[Wanted, dict[Aspect, Verdict]]
"""What came of it: verdicts, or why there are none."""


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
    from mede2_jax.engines.paid.engine import open_api

    with open_api(config.api_config(config.judge, config.judged_by.model), config.sampling, notify) as engine:
        yield ChatJudge(job, engine)


class RuleJudge:
    """Judges by rules over each case's hidden facts."""

    def __init__(self, job: JudgingJob) -> None:
        self.job = job

    def judge(self, wanted: Iterable[Wanted]) -> Iterator[Judged]:
        """As `Judge.judge`; never fails."""
        for item in wanted:
            rollout = self.job.rollout(item.task)
            yield Answer(item, offline_judge.judge(rollout.response, rollout.metadata, is_correct=item.task.outcome == "correct"))


class ChatJudge:
    """Judges by asking an engine. A reply that cannot be read is sent back with what is wrong with it, `config.attempts` times in all."""

    def __init__(self, job: JudgingJob, engine: ChatEngine) -> None:
        self.job, self.engine = job, engine
        self.reasons = job.config.prompt == "reasons"
        self.schema = reply_schema(reasons=self.reasons)

    def judge(self, wanted: Iterable[Wanted]) -> Iterator[Judged]:
        """As `Judge.judge`. What has to be asked again is asked after all else."""
        config = self.job.config
        return ask_until_read(self.engine, wanted, self._request, self._read, attempts=config.attempts, max_tokens=config.max_tokens)

    def _read(self, wanted: Wanted, text: str) -> dict[Aspect, Verdict]:
        return read_reply(text, reasons=self.reasons)

    def _request(self, attempt: Attempt[Wanted]) -> ChatRequest:
        config, wanted = self.job.config, attempt.wanted
        task, rollout = wanted.task, self.job.rollout(wanted.task)
        messages = (question(rollout, config.judge_prompt), *attempt.again)
        with located(self.job.file.where(task.number)):
            root, limit = self.job.image_root, config.max_image_pixels
            files = [read_image_bytes(root, name) for name in rollout.images]
            now = files_digest(hashlib.sha256(file).digest() for file in files) if files else ""
            if difference(task.digest, of_both(rollout.content_digest, now)):
                raise UserError(f"images of {task.id!r} have changed since this run began; put them back, or start it again")
            images = tuple(Picture.read(file, name, limit) for file, name in zip(files, rollout.images, strict=True))
        return ChatRequest(wanted.id, messages, images, 1, seed(config, task.id, wanted.repeat, attempt.number), schema=self.schema)


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
