"""Which answers a judge is asked about, by which protocol, and what a judgment depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.records import JudgeUsage
from mede2_jax.score.config import JudgeOptions
from mede2_jax.score.verdicts import Sample
from mede2_jax.scoring.judging import SAME_ANSWER, Judging
from mede2_jax.scoring.modes import ANSWER_TAG, Mode
from mede2_jax.scoring.reading import Truth, several
from mede2_jax.tasks.asking import OPEN, OURS
from mede2_jax.tasks.item import Item, Task

Name = tuple[str, int]
"""Of a response: its item and its sample."""


def check_judge(task: Task, mode: Mode, prompt: str, options: JudgeOptions, out: Path | None) -> None:
    """Refuses a score that needs a judge and has none, or has no use for what is said of one.

    Raises:
        UserError: As said.
    """
    if mode == "official" and prompt == OPEN:
        raise UserError(f"--mode=official: no owner asks {OPEN}, so none says how its replies are read; use --mode=mede2")
    if options.api is None:
        if mode == "official" and task.owners_judge is not None:
            raise UserError(
                f"{task.name}: its owner has replies scored by a judge, and by no rule; give --judge.api=openai --judge.model=gpt-4o, "
                "which is his (or --judge.api=gemini), or --mode=mede2 for a rule alone"
            )
        return
    if out is None:
        raise UserError("--judge.api needs --out=FOLDER: what the judge says is kept there, so that it is paid for once")
    if mode == "official" and (options.all or options.check is not None):
        raise UserError("judge.all and judge.check compare our rule with the judge, and mode official has none; leave them out")


def judging_of(task: Task, mode: Mode, prompt: str) -> Judging | None:
    """How open answers are judged; None: the owner's rule alone decides."""
    if task.owners_judge is not None and (mode == "official" or prompt != OURS):
        return task.owners_judge
    return None if mode == "official" else SAME_ANSWER


@dataclasses.dataclass(frozen=True)
class Case:
    """One answer that is to be judged; several responses may give it."""

    id: str
    """Follows from all that the judgment depends on."""
    item: str
    question: str
    truth: Truth
    answer: str
    asked_before: int = 0
    spent_before: JudgeUsage | None = None


@dataclasses.dataclass(frozen=True)
class JudgeJob:
    """What is known before anything is judged."""

    options: JudgeOptions
    judging: Judging
    cases: dict[str, Case]
    """By id."""
    of: dict[Name, str]
    """The case of each response that is judged."""
    drawn: frozenset[Name]
    """Responses on which rule and judge are compared."""
    has_rule: bool
    """Whether a rule comes before the judge, and what it finds right is right."""

    @property
    def temperature(self) -> float:
        """As the user says, or the protocol."""
        return self.judging.temperature if self.options.temperature is None else self.options.temperature

    def identity(self) -> dict[str, Any]:
        """Who judges and how: another one's judgments are others."""
        options, prompt = self.options, self.judging.prompt
        return {
            "api": options.api,
            "model": options.asked_model,
            "prompt": {"title": prompt.title, "digest": prompt.digest, "origin": prompt.origin},
            "options": {"temperature": self.temperature, **options.deciding()},
        }


def open_job(options: JudgeOptions, judging: Judging, items: dict[str, Item], samples: Sequence[Sample], mode: Mode) -> JudgeJob:
    """What a judge is to be asked.

    Args:
        options: Who is asked.
        judging: By which protocol.
        items: As they were asked, by id.
        samples: What the rule says of every response.
        mode: In mode official there is no rule before the judge.
    """
    readable = [one for one in samples if items[one.id].is_open and can_be_judged(one, mode)]
    drawn = _drawn(readable, options)
    job = JudgeJob(options, judging, {}, {}, drawn, has_rule=mode == "mede2")
    who = job.identity()
    for one in readable:
        name = (one.id, one.sample)
        if job.has_rule and one.outcome == "correct" and name not in drawn:
            continue
        item, answer = items[one.id], str(one.reading.answer)
        said = {"who": who, "question": item.question, "truth": list(several(item.answer)), "answer": answer}
        text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        job.cases.setdefault(key, Case(key, item.id, item.question, item.answer, answer))
        job.of[name] = key
    return job


def can_be_judged(sample: Sample, mode: Mode) -> bool:
    """Whether there is an answer to judge: nothing is guessed of what could not be read, failed, was refused, or was cut before it."""
    if sample.outcome == "unparsed" or sample.reading.answer is None or sample.finish in ("failed", "refused"):
        return False
    return mode == "official" or sample.finish != "cut" or sample.reading.step == ANSWER_TAG


def request_seed(options: JudgeOptions, case: str, attempt: int) -> int:
    """The seed of one request, below 2³¹: not every API takes larger ones."""
    return _number(f"{options.seed}\0{case}\0{attempt}") % 2**31


def _drawn(readable: Sequence[Sample], options: JudgeOptions) -> frozenset[Name]:
    """The responses that are judged whatever the rule says: those that are drawn of 20 are drawn of 30 too, or later ones instead."""
    names = [(one.id, one.sample) for one in readable]
    if options.all:
        return frozenset(names)
    names.sort(key=lambda name: _number(f"{options.seed}\0{name[0]}\0{name[1]}"))
    return frozenset(names[: options.check or 0])


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
