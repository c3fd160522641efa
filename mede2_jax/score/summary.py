"""Verdicts as scores: accuracy with its interval, by group, pass@k and MV@k, and how responses ended."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.verdicts import Sample
from mede2_jax.scoring.judging import JUDGE_FAILED
from mede2_jax.scoring.reading import several
from mede2_jax.scoring.texts import SharedWords, shared_words
from mede2_jax.statistics.intervals import Interval, accuracy, mean_over_items, share_intervals, wilson
from mede2_jax.statistics.votes import chance_at, majority_at, pass_at
from mede2_jax.tasks.item import Item, Task

Json = dict[str, Any]
ENDS = ("cut", "refused", "failed")
UNJUDGED = "judge_failed"
"""How many responses a judge was to decide, and did not."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The verdicts by item: c right of n samples each, in one order."""

    task: Task
    items: Sequence[Item]
    samples: Sequence[Sequence[Sample]]

    @property
    def right(self) -> np.ndarray:
        """[I] samples that are right."""
        return np.array([sum(one.outcome == "correct" for one in some) for some in self.samples])

    @property
    def in_five(self) -> np.ndarray | None:
        """[I] samples of whose first five diagnoses one is right; None where one is asked for."""
        if not any(one.top5 is not None for some in self.samples for one in some):
            return None
        return np.array([sum(bool(one.top5) for one in some) for some in self.samples])

    @property
    def count(self) -> np.ndarray:
        """[I] samples."""
        return np.array([len(some) for some in self.samples])

    @property
    def clusters(self) -> list[str] | None:
        """[I] what each item hangs together with; None where all stand alone."""
        return clusters_of(self.task, self.items)

    def part(self, chosen: Sequence[int]) -> Table:
        """Some items."""
        return Table(self.task, [self.items[one] for one in chosen], [self.samples[one] for one in chosen])


def clusters_of(task: Task, items: Sequence[Item]) -> list[str] | None:
    """[I] what each item hangs together with; None where all stand alone."""
    labels = [item.cluster or item.id for item in items] if task.clustered else []
    return labels if len(set(labels)) < len(labels) else None


def table(task: Task, items: Mapping[str, Item], samples: Sequence[Sample]) -> Table:
    """Verdicts by item, in the order in which the items come."""
    by_id: dict[str, list[Sample]] = {}
    for sample in samples:
        by_id.setdefault(sample.id, []).append(sample)
    return Table(task, [items[name] for name in by_id], list(by_id.values()))


def summarise(all_items: Table, config: ScoreConfig) -> Json:
    """Everything that score.json says of the numbers.

    Raises:
        UserError: A k that is more than the samples there are.
    """
    groups: dict[str, Json] = {}
    for name in all_items.task.breakdowns:
        values = Counter(item.groups.get(name, "") for item in all_items.items)
        if list(values) == [""]:
            continue
        parts = {value: [at for at, item in enumerate(all_items.items) if item.groups.get(name, "") == value] for value in sorted(values)}
        groups[name] = {value: score(all_items.part(chosen), config) for value, chosen in parts.items()}
    return {"overall": score(all_items, config), "by": groups, "at": _at(all_items, config)}


def score(some: Table, config: ScoreConfig) -> Json:
    """Accuracy of some items, with what it is made of."""
    ends: Counter[str] = Counter(one.finish for samples in some.samples for one in samples)
    outcomes: Counter[str] = Counter(one.outcome for samples in some.samples for one in samples)
    in_five = some.in_five
    return {
        "items": len(some.items),
        "samples": int(some.count.sum()),
        **{name: outcomes[name] for name in ("correct", "wrong", "unparsed")},
        **{name: ends[name] for name in ENDS},
        UNJUDGED: sum(one.reading.step == JUDGE_FAILED for samples in some.samples for one in samples),
        **estimated(some, some.right, config),
        **({} if in_five is None else {"top5": {"correct": int(in_five.sum()), **estimated(some, in_five, config)}}),
        **_words(some, config),
    }


def estimated(some: Table, right: np.ndarray, config: ScoreConfig) -> Json:
    """The share of samples that are right, over items, and its interval.

    Args:
        some: The items.
        right: [I] how many samples of each are.
        config: Has the bootstrap's seed.
    """
    count = some.count
    estimate = accuracy(right, count)
    interval: Interval | None
    if bool((count == 1).all()) and some.clusters is None:
        interval, method = wilson(int(right.sum()), len(right)), "Wilson"
    else:
        ((interval, method),) = _intervals((right / count)[:, None], some, config)
    return {
        "accuracy": estimate.value,
        "standard_error": estimate.standard_error,
        "interval": None if interval is None else [interval.low, interval.high],
        "interval_method": method,
    }


def _words(some: Table, config: ScoreConfig) -> Json:
    """How much of the right answers replies to open questions hold, which is no part of whether they are right. Empty: there are none."""
    chosen = [at for at, item in enumerate(some.items) if item.fields.get("kind") == "open"]
    if not chosen:
        return {}
    opened = some.part(chosen)
    values = np.array(
        [
            np.mean([dataclasses.astuple(shared_words(one.reading.answer, item.answer)) for one in samples], axis=0)
            for item, samples in zip(opened.items, opened.samples, strict=True)
        ]
    )
    found = _intervals(values, opened, config)
    return {
        "words": {
            "items": len(chosen),
            **{field.name: _with_interval(values, found, at) for at, field in enumerate(dataclasses.fields(SharedWords))},
        }
    }


def _at(some: Table, config: ScoreConfig) -> Json:
    """pass@k and MV@k, where items have several samples."""
    most = int(some.count.min())
    ks = tuple(config.k) or tuple(sorted({1 << bit for bit in range(most.bit_length()) if 1 << bit <= most} | {most}))
    if max(ks) > most:
        raise UserError(f"k={max(ks)} is more than the {most} samples that every item has; ask for more samples, or a smaller k")
    if most < 2:
        return {}
    choice = all(item.options for item in some.items)
    values = {"pass": pass_at(some.right, some.count, ks)}
    votes = [[_vote(one) for one in samples] for samples in some.samples]
    rights = [_right_votes(item, samples) for item, samples in zip(some.items, some.samples, strict=True)]
    values["majority"] = majority_at(votes, rights, ks)
    # Short columns of many: one resampling for all, so that the curves move together.
    columns = np.concatenate(list(values.values()), axis=1)
    found = _intervals(columns, some, config)
    result: Json = {}
    for place, name in enumerate(values):
        result[name] = {str(k): _with_interval(columns, found, place * len(ks) + at) for at, k in enumerate(ks)}
    if choice:
        chance = chance_at(np.array([len(item.options) for item in some.items]), ks)
        result["chance"] = {str(k): float(chance[:, at].mean()) for at, k in enumerate(ks)}
    return result


def _intervals(values: np.ndarray, some: Table, config: ScoreConfig) -> list[tuple[Interval | None, str]]:
    return share_intervals(values, seed=config.seed, clusters=some.clusters, resamples=config.resamples)


def _with_interval(values: np.ndarray, found: Sequence[tuple[Interval | None, str]], at: int) -> Json:
    """A metric's mean over the items, of [I, M] values, and its interval."""
    interval, method = found[at]
    return {
        "value": mean_over_items(values[:, at]).value,
        "interval": None if interval is None else dataclasses.astuple(interval),
        "interval_method": method,
    }


def _vote(sample: Sample) -> str | None:
    """What a sample votes for: a letter, or a text in its normal form."""
    if sample.outcome == "unparsed" or sample.reading.answer is None:
        return None
    return sample.reading.answer if len(sample.reading.answer) == 1 else normalised(sample.reading.answer)


def _right_votes(item: Item, samples: Sequence[Sample]) -> list[str]:
    """The votes that are right: the letter, or of an open question every text that a rule has found right."""
    rights = {vote for one in samples if one.outcome == "correct" and (vote := _vote(one)) is not None}
    return sorted(rights | (set(several(item.answer)) if item.options else set()))
