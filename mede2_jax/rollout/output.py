"""The file of rollouts: which samples it holds, and which are missing."""

from __future__ import annotations

from collections.abc import Mapping

from mede2_jax.config import UserError
from mede2_jax.data.records import Rollout


def note(rollout: Rollout, done: dict[str, set[int]], seeds: Mapping[str, int], n: int, where: str) -> None:
    """Puts a sample into `done`, the samples of each question that has some.

    Args:
        rollout: The sample.
        done: What is there.
        seeds: Seed of sample 0 of each question that may be in the file.
        n: How many samples a question is to have.
        where: The place of its line.

    Raises:
        UserError: This run would not have written it.
    """
    question = rollout.question_id
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
