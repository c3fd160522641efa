"""The file of judgments: which it holds, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.records import Judgment
from mede2_jax.judge.judges import Wanted
from mede2_jax.judge.setup import Task
from mede2_jax.judge.summary import Tally
from mede2_jax.outputs.file import OutputFile


class JudgmentFile(OutputFile):
    """A file of judgments, locked while inside `with`; see `OutputFile`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "judgments")

    def read(self, tasks: Mapping[str, Task], repeat: int, tally: Tally) -> int:
        """Counts the judgments that are there, and cuts off a last line that was not written to its end; returns its bytes.

        Args:
            tasks: What may have been judged, by rollout.
            repeat: How many judgments a response is to have.
            tally: Counts them, and so knows which are there.

        Raises:
            UserError: A line is broken, or is no judgment of this run. The file is as it was.
        """
        for raw, where in self.whole_lines():
            judgment = read_own(raw, Judgment, where)
            _check(judgment, tasks, repeat, tally, where)
            tally.add(judgment)
        return self.cut_torn()


def missing(tasks: Sequence[Task], repeat: int, tally: Tally, attempts: Mapping[tuple[str, int], int]) -> Iterator[Wanted]:
    """The judgments that are not there: first one of every response, then the second of every response, …

    Args:
        tasks: What is to be judged.
        repeat: How often.
        tally: What is there.
        attempts: Of those that failed before, by response and repeat: how often their judge was asked.
    """
    # A run that a budget ends has then judged more responses, not the same ones more often.
    for turn in range(repeat):
        for task in tasks:
            if turn not in tally.verdicts.get(task.id, {}):
                yield Wanted(task, turn, attempts.get((task.id, turn), 0))


def _check(judgment: Judgment, tasks: Mapping[str, Task], repeat: int, tally: Tally, where: str) -> None:
    """Refuses a judgment that this run would not have written."""
    rollout, task = judgment.rollout, tasks.get(judgment.rollout)
    if task is None:
        raise UserError(f"{where}: a judgment of {rollout!r}, which is not among the responses to be judged; use another --out")
    if judgment.of != task.digest:
        raise UserError(f"{where}: a judgment of another response than {rollout!r} is now; use another --out")
    if judgment.repeat >= repeat:
        raise UserError(
            f"{where}: judgment {judgment.repeat} of {rollout!r}, but --repeat={repeat}, which may not shrink; use another --out"
        )
    if judgment.repeat in tally.verdicts.get(rollout, {}):
        raise UserError(f"{where}: judgment {judgment.repeat} of {rollout!r} is there twice; take one out")
