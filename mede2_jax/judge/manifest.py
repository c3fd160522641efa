"""What `<out>.manifest.json` of judgments says that is theirs; and whether a run may go on with a file that is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import pydantic

from mede2_jax.data.records import JudgeUsage
from mede2_jax.judge.job import JudgingJob, Task
from mede2_jax.judge.summary import Tally
from mede2_jax.outputs.failures import Failure, Failures
from mede2_jax.outputs.manifest import Begun, Json, begun_otherwise, by_reason, differences

FREE_TO_CHANGE = (
    "rollouts",
    "out",
    "repeat",
    "limit",
    "attempts",
    "image_root",
    "max_image_pixels",
    "base_url",
    "concurrency",
    "patience",
    "timeout",
    "first_rest",
    "longest_rest",
    "cache",
    "max_cost",
    "prices",
)
"""Options that may differ when a file is taken up: they do not change a judgment. Each names the response it is of, by digest."""
PENDING = "not judged yet"


class BegunJudgments(Begun):
    """What a run needs of the manifest of the run before."""

    judge: Json


class FailedJudgment(Failure):
    """A judgment that did not come."""

    rollout: str
    repeat: int
    raw: str | None = None
    """The last reply, as it came."""
    attempts: int = pydantic.Field(default=0, ge=0)
    """How often the judge was asked, in all runs, where no reply could be read: their answers are known, others are asked for."""
    usage: JudgeUsage | None = None
    """What it took, in all runs."""

    @property
    def spent(self) -> JudgeUsage | None:
        """What its attempts took; None: not known. A reply that said why it cannot be judged is in the cache, and will count there."""
        return self.usage if self.usage is not None and self.usage.calls == self.attempts else None

    @property
    def items(self) -> Sequence[Hashable]:
        """Response and repeat."""
        return [(self.rollout, self.repeat)]


def check_same(job: JudgingJob, before: BegunJudgments) -> None:
    """Whether a run may go on with the file that another began.

    Raises:
        UserError: It may not: judge, prompt or another option that changes judgments is not the same.
    """
    config = job.config
    assert config.out is not None
    options = differences(before.config, config.model_dump(mode="json"), FREE_TO_CHANGE.__contains__)
    if not options:  # the options may be the same and mean another version
        options = differences({"judge": before.judge}, {"judge": job.inputs["judge"]}, lambda _: False)
    if options:
        raise begun_otherwise(config.out, options.values())


def dropped(job: JudgingJob, tasks: Sequence[Task], tally: Tally, failures: Failures[FailedJudgment]) -> dict[str, int]:
    """Responses without any judgment, by reason; with those that are judged they are all that went in.

    Args:
        job: What the run is made of.
        tasks: Those that it judges, the first ones of the job's.
        tally: What there is.
        failures: What is not.
    """
    counts = Counter(job.left_out)
    if over := job.tasks[len(tasks) :]:
        counts["beyond limit"] += sum(task.id not in tally.verdicts for task in over)
    first = {failure.rollout: failure.reason for failure in reversed(failures.listed())}
    reasons = Counter(first.get(task.id, PENDING) for task in tasks if task.id not in tally.verdicts)
    return {reason: count for reason, count in (counts + Counter(by_reason(reasons.items()))).items() if count}
