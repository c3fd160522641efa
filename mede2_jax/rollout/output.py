"""The file of rollouts: which samples it holds, and which are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.records import Rollout
from mede2_jax.outputs.file import OutputFile
from mede2_jax.rollout.summary import Tally


class RolloutFile(OutputFile):
    """A file of rollouts, locked while inside `with`; see `OutputFile`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rollouts", " (each shard needs one of its own)")

    def read(self, seeds: Mapping[str, int], n: int, tally: Tally) -> tuple[dict[str, set[int]], int]:
        """Reads the samples that are there, and cuts off a last line that was not written to its end.

        Args:
            seeds: Seed of sample 0 of each question that may be in the file.
            n: How many samples a question is to have.
            tally: Counts them.

        Returns:
            The samples of each question that has some, and the bytes that were cut off.

        Raises:
            UserError: A line is broken, or is no sample of this run. The file is as it was.
        """
        done: dict[str, set[int]] = {}
        for raw, where in self.whole_lines():
            rollout = read_own(raw, Rollout, where)
            _check(rollout, done, seeds, n, where)
            tally.add(rollout)
        return done, self.cut_torn()


def _check(rollout: Rollout, done: dict[str, set[int]], seeds: Mapping[str, int], n: int, where: str) -> None:
    """Refuses a sample that this run would not have written; remembers the others."""
    question = rollout.parents[0] if rollout.parents else ""
    if question not in seeds:
        raise UserError(f"{where}: a sample of question {question!r}, which this run does not have; use another --out")
    if rollout.sample >= n:
        raise UserError(f"{where}: sample {rollout.sample} of question {question!r}, but --n={n}, which may not shrink; use another --out")
    if rollout.seed != seeds[question] + rollout.sample:
        raise UserError(f"{where}: seed {rollout.seed} is not that of sample {rollout.sample} of {question!r}; use another --out")
    if rollout.sample in done.setdefault(question, set()):
        raise UserError(f"{where}: sample {rollout.sample} of question {question!r} is there twice; take one out")
    done[question].add(rollout.sample)


def missing_runs(done: set[int], n: int) -> list[range]:
    """The samples that are missing, as runs without gaps: each is one request."""
    runs: list[range] = []
    for sample in range(n):
        if sample in done:
            continue
        if runs and runs[-1].stop == sample:
            runs[-1] = range(runs[-1].start, sample + 1)
        else:
            runs.append(range(sample, sample + 1))
    return runs
