"""The file of judgments: which it may hold, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mede2_jax.config import UserError
from mede2_jax.data.judged import difference
from mede2_jax.data.records import Judgment
from mede2_jax.judge.job import Task
from mede2_jax.judge.judges import Wanted
from mede2_jax.judge.manifest import FailedJudgment
from mede2_jax.judge.summary import Tally
from mede2_jax.outputs.failures import Failures


def missing(tasks: Sequence[Task], repeat: int, tally: Tally, failures: Failures[FailedJudgment]) -> Iterator[Wanted]:
    """The judgments that are not there: first one of every response, then the second of every response, …

    Args:
        tasks: What is to be judged.
        repeat: How often.
        tally: What is there.
        failures: What failed before.
    """
    # A run that a budget ends has then judged more responses, not the same ones more often.
    for turn in range(repeat):
        for task in tasks:
            if turn not in tally.verdicts.get(task.id, {}):
                failure = failures.get((task.id, turn))
                yield Wanted(task, turn, failure.attempts, failure.spent) if failure else Wanted(task, turn)


def check(judgment: Judgment, tasks: Mapping[str, Task], repeat: int, tally: Tally, where: str) -> None:
    """Refuses a judgment that this run would not have written.

    Args:
        judgment: The judgment.
        tasks: What may have been judged, by rollout.
        repeat: How many judgments a response is to have.
        tally: The judgments before it.
        where: The place of its line.

    Raises:
        UserError: As said.
    """
    rollout, task = judgment.rollout, tasks.get(judgment.rollout)
    if task is None:
        raise UserError(f"{where}: a judgment of {rollout!r}, which is not among the responses to be judged; use another --out")
    if (other := difference(judgment.of, task.digest)) == "response":
        raise UserError(f"{where}: a judgment of another response than {rollout!r} is now; use another --out")
    if other == "images":
        raise UserError(f"{where}: a judgment of other images than {rollout!r} has now; put them back, or use another --out")
    if judgment.repeat >= repeat:
        raise UserError(
            f"{where}: judgment {judgment.repeat} of {rollout!r}, but --repeat={repeat}, which may not shrink; use another --out"
        )
    if judgment.repeat in tally.verdicts.get(rollout, {}):
        raise UserError(f"{where}: judgment {judgment.repeat} of {rollout!r} is there twice; take one out")
