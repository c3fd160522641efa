"""The judgments of a score's open answers, in a file beside it: what is missing is asked, and nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pydantic
from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import Config, UserError, counted
from mede2_jax.data.records import JudgedBy, JudgeUsage, Message
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.cost import BudgetExhausted
from mede2_jax.engines.paid.options import in_section
from mede2_jax.engines.until_read import Answer, Attempt, ask_until_read
from mede2_jax.foreign import shown
from mede2_jax.json_file import check
from mede2_jax.outputs.failures import Failure
from mede2_jax.outputs.file import OutputFile, Unwritable
from mede2_jax.outputs.manifest import Begun, Json
from mede2_jax.outputs.resumable import Outcome, ResumableRun
from mede2_jax.score.judge_job import Case, JudgeJob, request_seed
from mede2_jax.scoring.judging import Finding

COMMAND = "python -m mede2_jax.score"
JUDGED = "judged_answers.jsonl"
"""In a score's folder. It may hold judgments of other judges and of other answers; each is known by what it depends on."""


class AnswerJudgment(Config):
    """One answer that was judged."""

    id: str = pydantic.Field(min_length=1)
    """Of the case: follows from judge, prompt, options, question, right answers and answer."""
    item: str
    answer: str
    """What was judged."""
    correct: bool
    top5: bool | None = None
    """Whether one of the first five diagnoses is right; None where one is asked for."""
    reason: str | None = None
    judge: JudgedBy
    raw: str
    """The judge's reply as it came."""
    usage: JudgeUsage | None = None


class FailedAnswer(Failure):
    """A judgment that did not come."""

    id: str
    item: str
    raw: str | None = None
    """The last reply, as it came."""
    attempts: int = pydantic.Field(default=0, ge=0)
    """How often the judge was asked, in all runs, where no reply could be read: their answers are known, others are asked for."""
    usage: JudgeUsage | None = None
    """What it took, in all runs."""

    @property
    def items(self) -> Sequence[Hashable]:
        """The case."""
        return [self.id]


class Tally:
    """The judgments of a file."""

    def __init__(self) -> None:
        self.by_id: dict[str, AnswerJudgment] = {}

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self.by_id)

    def add(self, judgment: AnswerJudgment) -> None:
        """Takes one in.

        Raises:
            ValueError: It is there already.
        """
        if judgment.id in self.by_id:
            raise ValueError(f"the judgment {shown(judgment.id)} is there twice; take one out")
        self.by_id[judgment.id] = judgment

    def counts(self) -> Mapping[str, Any]:
        """For the manifest."""
        return {"judgments": self.records}


@dataclasses.dataclass
class Purse:
    """What several scores of one command may cost together, and whether that buys anything."""

    left: float | None
    """US dollars; None: any."""
    heard: bool = False
    """Whether the judge has answered anything, be it nothing that can be read: so it is there, and only single answers fail."""


@dataclasses.dataclass(frozen=True)
class JudgedAnswers:
    """What came of all cases."""

    judgments: Mapping[str, AnswerJudgment]
    failures: Mapping[str, FailedAnswer]

    def used(self, cases: Mapping[str, Case]) -> Json:
        """Requests, tokens and US dollars of these cases, whenever and by whichever run they were paid for."""
        judged = [self.judgments[name].usage for name in cases if name in self.judgments]
        lost = [self.failures[name].usage for name in cases if name in self.failures]
        all_ = [one for one in (*judged, *lost) if one is not None]
        without: Counter[str] = Counter(name for one in all_ for name in one.without or ())
        return {
            "requests": sum(one.calls for one in all_),
            "from_cache": sum(one.cached for one in all_),
            "prompt_tokens": sum(one.prompt_tokens for one in all_),
            "response_tokens": sum(one.response_tokens for one in all_),
            "asked_without": dict(sorted(without.items())),
            "cost": {
                "judgments": round(sum(one.whole_cost for one in judged if one is not None), 6),
                "failed": round(sum(one.whole_cost for one in lost if one is not None), 6),
                "from_cache": round(sum(one.cached_cost or 0.0 for one in all_), 6),
            },
        }


def judge_answers(job: JudgeJob, file: OutputFile, purse: Purse, console: Console) -> JudgedAnswers:
    """Judges what is missing in a file.

    Args:
        job: What is wanted.
        file: Of the judgments, held.
        purse: What it may cost, of which it takes what it does.
        console: Where to show progress.

    Raises:
        UserError: The judge cannot be used or broke down, the budget is used up, or it refuses every request. What was judged is kept.
    """
    run = AnswerRun(job, file, purse, console)
    run.run()
    failures = {name: failure for name in job.cases if (failure := run.failures.get(name)) is not None}
    return JudgedAnswers({name: run.tally.by_id[name] for name in job.cases if name in run.tally.by_id}, failures)


class AnswerRun(ResumableRun[Case, AnswerJudgment, FailedAnswer, Begun, Tally]):
    """The judgments of one file, from those that are there to all."""

    COMMAND, DOING, RECORD, NOTHING = COMMAND, "judging", "judgment", "nothing is judged yet"
    BEGUN, FAILURE = Begun, FailedAnswer

    def __init__(self, job: JudgeJob, file: OutputFile, purse: Purse, console: Console) -> None:
        super().__init__(job.options, file, Tally(), console)
        self.job, self.purse = job, purse
        self.begun_with = purse.left

    def check_same(self, before: Begun) -> None:
        """Each judgment says itself what it depends on, so that any of them may stand in one file."""
        if before.command != COMMAND:
            raise UserError(f"{self.out} is a file of {shown(before.command) or 'another command'}; use another --out")

    def read(self, raw: Json, where: str) -> AnswerJudgment:
        """A judgment of any run."""
        return check(raw, AnswerJudgment, where, "this is no judgment of a score, or it was damaged: take the line out")

    def plan(self) -> list[Case]:
        """Those that are missing."""
        return [self._with_attempts(case) for name, case in self.job.cases.items() if name not in self.tally.by_id]

    def items(self, wanted: Case) -> Sequence[Hashable]:
        """The case."""
        return [wanted.id]

    def is_open(self, item: Hashable) -> bool:
        """Whether it is not judged."""
        return item not in self.tally.by_id

    def total(self) -> int:
        """All cases."""
        return len(self.job.cases)

    @contextlib.contextmanager
    def answers(self) -> Iterator[Iterator[Outcome[AnswerJudgment, FailedAnswer]]]:
        """What the judge says."""
        from mede2_jax.engines.paid.engine import open_api

        options = self.job.options
        assert options.api is not None
        sampling = Sampling(temperature=self.job.temperature, max_tokens=options.max_tokens)
        config = options.api_config(options.api, options.asked_model).model_copy(update={"max_cost": self.purse.left})
        with open_api(config, sampling, self._tell) as engine:
            found = ask_until_read(
                engine, iter(self.missing), self._request, self._read, attempts=options.attempts, max_tokens=options.max_tokens
            )
            try:
                yield map(self._outcome, found)
            finally:
                if self.purse.left is not None:
                    self.purse.left = max(self.purse.left - engine.usage.cost - engine.usage.at_most, 0.0)

    def ended_by(self, error: UserError) -> UserError:
        """An error says what is kept; of a full disk, where the answers are that found no room."""
        options = self.job.options
        line, cache = in_section("judge", str(error)), options.cache
        if isinstance(error, BudgetExhausted) and self.begun_with != options.max_cost:
            line += f" (of --judge.max_cost={options.max_cost:g} the scores before have left {self.begun_with:.4f})"
        if self.tally.records or isinstance(error, Unwritable):
            line += f"; {self.kept()}"
        if isinstance(error, Unwritable) and cache is not None:
            line += f"; what was answered besides is in the cache {cache}"
        return UserError(line)

    def inputs(self) -> Mapping[str, Any]:
        """Judge and versions."""
        return {"judge": self.job.identity(), "versions": {"mede2_jax": __version__}}

    def counts(self) -> Mapping[str, Any]:
        """Answers that are to be judged."""
        return {"answers": len(self.job.cases)}

    def dropped(self) -> Mapping[str, int]:
        """None: what failed is in the manifest's `failed`."""
        return {}

    def begin(self) -> None:
        """Says what is to be judged, and by whom."""
        there = f", {self.progress.begun_with:,} are there" if self.progress.begun_with else ""
        options = self.job.options
        self.say(f"{counted(len(self.job.cases), 'answer')} to judge{there}; judge {options.api}, {options.asked_model}")

    def finish(self) -> None:
        """An error where the judge refuses all that it is asked; what could not be judged else, the score counts and lists."""
        heard = self.purse.heard or any(name in self.tally.by_id or _answered(self.failures.get(name)) for name in self.job.cases)
        self.purse.heard = heard
        if self.missing and not heard:
            raise UserError(f"the judge refuses every request; the first: {self.failures.now[0].reason}")

    def _tell(self, line: str) -> None:
        self.say(in_section("judge", line))

    def _with_attempts(self, case: Case) -> Case:
        failure = self.failures.get(case.id)
        if failure is None:
            return case
        known = failure.usage is not None and failure.usage.calls == failure.attempts
        return dataclasses.replace(case, asked_before=failure.attempts, spent_before=failure.usage if known else None)

    def _request(self, attempt: Attempt[Case]) -> ChatRequest:
        case, judging = attempt.wanted, self.job.judging
        asked = Message(role="user", content=judging.ask(case.question, case.truth, case.answer))
        messages = (asked, *attempt.again) if judging.tells_fault else (asked,)
        return ChatRequest(case.id, messages, (), 1, request_seed(self.job.options, case.id, attempt.number), schema=judging.schema)

    def _read(self, case: Case, reply: str) -> Finding:
        return self.job.judging.read(reply)

    def _outcome(self, answer: Answer[Case, Finding]) -> Outcome[AnswerJudgment, FailedAnswer]:
        case, found, options = answer.wanted, answer.said, self.job.options
        if found is None:
            failure = FailedAnswer(
                id=case.id, item=case.item, reason=answer.reason, raw=answer.raw, attempts=answer.attempts, usage=answer.usage
            )
            return Outcome(self.items(case), failure=failure)
        assert options.api is not None
        judgment = AnswerJudgment(
            id=case.id,
            item=case.item,
            answer=case.answer,
            correct=found.correct,
            top5=found.top5,
            reason=found.reason,
            judge=JudgedBy(engine=options.api, model=options.asked_model, prompt=self.job.judging.prompt.title),
            raw=answer.raw or "",
            usage=answer.usage,
        )
        return Outcome(self.items(case), [judgment], tokens=answer.usage.response_tokens if answer.usage else 0)


def _answered(failure: FailedAnswer | None) -> bool:
    """Whether there was a reply, which could not be read or was none that decides."""
    return failure is not None and (failure.attempts > 0 or failure.usage is not None)
