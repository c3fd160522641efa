"""A judging run: which judgments are wanted, who is asked for them, and what is kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from mede2_jax.config import UserError, counted
from mede2_jax.data.readers import read_own
from mede2_jax.data.records import Judgment
from mede2_jax.judge.config import JudgeConfig
from mede2_jax.judge.job import JudgingJob, open_job
from mede2_jax.judge.judges import Judged, Wanted, open_judge
from mede2_jax.judge.manifest import BegunJudgments, FailedJudgment, check_same, dropped
from mede2_jax.judge.output import check, missing
from mede2_jax.judge.summary import Tally, agreement_table, closing_table
from mede2_jax.outputs.file import OutputFile, Unwritable
from mede2_jax.outputs.manifest import Json, manifest_path
from mede2_jax.outputs.progress import AGAIN
from mede2_jax.outputs.resumable import Outcome, ResumableRun


def run(config: JudgeConfig, console: Console) -> None:
    """Judges what is missing in `config.out`.

    Args:
        config: The run.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used, or the judge broke down; a file that was there has lost nothing.
    """
    assert config.out is not None
    with OutputFile(config.out, "judgments") as file:
        JudgeRun(open_job(config, console), file, console).run()


class JudgeRun(ResumableRun[Wanted, Judgment, FailedJudgment, BegunJudgments, Tally]):
    """The judgments of one file, from those that are there to all."""

    COMMAND, DOING, RECORD, NOTHING = "python -m mede2_jax.judge", "judging", "judgment", "nothing is judged yet"
    BEGUN, FAILURE = BegunJudgments, FailedJudgment

    def __init__(self, job: JudgingJob, file: OutputFile, console: Console) -> None:
        super().__init__(job.config, file, Tally(), console)
        self.job, self.tasks = job, job.tasks[: job.config.limit]
        self.task_of = {task.id: task for task in job.tasks}

    def check_same(self, before: BegunJudgments) -> None:
        """Refuses a file of another judge."""
        check_same(self.job, before)

    def read(self, raw: Json, where: str) -> Judgment:
        """A judgment of this run."""
        judgment = read_own(raw, Judgment, where)
        check(judgment, self.task_of, self.job.config.repeat, self.tally, where)
        return judgment

    def plan(self) -> list[Wanted]:
        """The judgments that are missing."""
        return list(missing(self.tasks, self.job.config.repeat, self.tally, self.failures))

    def items(self, wanted: Wanted) -> Sequence[Hashable]:
        """Response and repeat."""
        return [(wanted.task.id, wanted.repeat)]

    def is_open(self, item: Any) -> bool:
        """Whether that response is to be judged and has no such judgment."""
        rollout, repeat = item
        return rollout in self.task_of and repeat not in self.tally.verdicts.get(rollout, {})

    def total(self) -> int:
        """Responses × repeat."""
        return len(self.tasks) * self.job.config.repeat

    @contextlib.contextmanager
    def answers(self) -> Iterator[Iterator[Outcome[Judgment, FailedJudgment]]]:
        """What the judge says."""
        with open_judge(self.job, self.say) as judge:
            yield map(self._outcome, judge.judge(iter(self.missing)))

    def ended_by(self, error: UserError) -> UserError:
        """An error says what is kept; of a full disk, where the answers are that found no room."""
        line, cache = str(error), self.job.config.cache
        if self.tally.records or isinstance(error, Unwritable):
            line += f"; {self.kept()}"
        if isinstance(error, Unwritable) and self.job.config.judge != "offline" and cache is not None:
            line += f"; what was answered besides is in the cache {cache}"
        return UserError(line)

    def inputs(self) -> Mapping[str, Any]:
        """Rollouts, images, judge, versions."""
        return self.job.inputs

    def counts(self) -> Mapping[str, Any]:
        """Responses, and those that have a judgment."""
        return {"rollouts": len(self.job.file), "judged": len(self.tally.verdicts)}

    def dropped(self) -> Mapping[str, int]:
        """Responses that have none, by reason."""
        return dropped(self.job, self.tasks, self.tally, self.failures)

    def more(self) -> Mapping[str, Any]:
        """Self-agreement and cost."""
        found = self.tally.agreements(self.job.config.repeat)
        return {
            "agreement": {name: dataclasses.asdict(one) for name, one in found.items()},
            "cost": {
                "judgments": round(self.tally.cost, 6),
                "failed": round(self._lost, 6),
                "from_cache": round(self.tally.cached_cost, 6),
            },
        }

    def begin(self) -> None:
        """Says what is to be judged, and by whom; or that all is there."""
        config, begun, judge = self.job.config, self.progress.begun_with, self.job.inputs["judge"]
        there = f", {begun:,} are there" if begun else ""
        what = f"{counted(len(self.tasks), 'response')} × {config.repeat} to judge of {len(self.job.file):,}{there}"
        self.say(f"{what}; judge {judge['engine']}, {judge['model']}")
        if not self.missing:
            all_there = f"{config.out} has all {counted(self.progress.total, 'judgment')}; nothing to do"
            self.say(all_there if begun else "there is nothing to judge")

    def finish(self) -> None:
        """Closing table and self-agreement."""
        failed = self.failures.by_reason(now=True)
        self.console.print(closing_table(self.tally, len(self.job.file), self.dropped(), failed, self._lost, self.progress))
        if agreements := self.tally.agreements(self.job.config.repeat):
            self.console.print(agreement_table(agreements))
        if self.tally.records:
            self.say(f"{'judgments:':10} {self.out}")
        if failed:
            self.say(f"{counted(sum(failed.values()), 'judgment')} failed: see {manifest_path(self.out)}; {AGAIN}", style="yellow")
        if self.missing and not self.tally.records:
            raise UserError(f"nothing could be judged; the first: {self.failures.now[0].reason}")

    @property
    def _lost(self) -> float:
        """US dollars that judgments which failed have cost."""
        return sum(failure.usage.whole_cost for failure in self.failures.listed() if failure.usage is not None)

    def _outcome(self, judged: Judged) -> Outcome[Judgment, FailedJudgment]:
        wanted, verdicts = judged.wanted, judged.said
        task = wanted.task
        if verdicts is None:
            failure = FailedJudgment(
                rollout=task.id,
                repeat=wanted.repeat,
                reason=judged.reason,
                raw=judged.raw,
                attempts=judged.attempts,
                usage=judged.usage,
            )
            return Outcome(self.items(wanted), failure=failure)
        judgment = Judgment(
            id=wanted.id,
            parents=(task.id,),
            question=task.question,
            repeat=wanted.repeat,
            of=task.digest,
            outcome=task.outcome,
            correctness=verdicts["correctness"],
            logical_consistency=verdicts["logical_consistency"],
            image_analysis=verdicts["image_analysis"],
            no_hallucination=verdicts["no_hallucination"],
            reflection=verdicts["reflection"],
            judge=self.job.config.judged_by,
            raw=judged.raw,
            usage=judged.usage,
        )
        return Outcome(self.items(wanted), [judgment], tokens=judged.usage.response_tokens if judged.usage else 0)
