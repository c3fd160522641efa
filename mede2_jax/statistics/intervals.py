"""How sure a score is. What varies is the item: errors and intervals are over items (or clusters of them), never over items × samples.

I items, M metrics, B resamples. A metric is one number an item: right or not, the share of its samples that are right, pass@k, MV@k.

| score | interval |
|---|---|
| one sample an item: k of n are right | `wilson` |
| several samples an item, pass@k, MV@k | `bootstrap` over items |
| items that hang together (one case, one image) | `bootstrap` over clusters |
| the same where all items or clusters are alike, so that no resample differs | `wilson_of_share` over these |

`share_intervals` takes the last three by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 10_000
CONFIDENCE = 0.95
_DRAWS = 1 << 20
"""Units that are drawn at once: 8 MB of an array of them."""
_NO_WIDTH = 1e-12
"""What adding in floating point leaves between two means that are one."""
_METRICS = 256
"""Metrics whose resampled means are in memory at once: 20 MB of 10,000 resamples."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over items."""

    value: float
    standard_error: float | None
    """Standard deviation of the item values (n − 1) over the root of their number; None for a single item."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """Both ends, as fractions like the score itself."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Intervals of the means of M metrics, and what is needed to make them again."""

    values: tuple[float, ...]
    """Of each metric its mean over all items."""
    intervals: tuple[Interval, ...]
    """Of each metric, between percentiles of the resampled means."""
    units: int
    """What was drawn from: items, or clusters."""
    resamples: int
    seed: int
    confidence: float


def item_accuracies(right: Int[np.ndarray, " I"], samples: Int[np.ndarray, " I"] | int) -> Float[np.ndarray, " I"]:
    """c/n of each item.

    Args:
        right: c, how many of an item's samples are right.
        samples: n, how many it has; one number for all items or one for each.

    Raises:
        ValueError: An item without samples, or with more right ones than it has.
    """
    right = np.asarray(right)
    samples = np.broadcast_to(np.asarray(samples), right.shape)
    check_counts(right, samples)
    return right / samples


def check_counts(right: Int[np.ndarray, " I"], samples: Int[np.ndarray, " I"]) -> None:
    """Refuses counts that no items can have; shapes as in `item_accuracies`.

    Raises:
        ValueError: It names the first of them.
    """
    if right.ndim != 1 or right.shape != samples.shape:
        raise ValueError(f"expected one count an item, found shapes {right.shape} and {samples.shape}")
    if not all(np.issubdtype(counts.dtype, np.integer) for counts in (right, samples)):
        raise ValueError(f"counts are whole numbers, found {right.dtype} and {samples.dtype}")
    wrong = np.flatnonzero((samples < 1) | (right < 0) | (right > samples))
    if len(wrong):
        raise ValueError(f"item {wrong[0]}: {right[wrong[0]]} right of {samples[wrong[0]]} samples")


def mean_over_items(values: Float[np.ndarray, " I"]) -> Estimate:
    """The mean of item values and its standard error.

    Raises:
        ValueError: No items, or a value that is not finite.
    """
    values = _item_values(np.asarray(values)[:, None])[:, 0]
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(values.mean()), error)


def accuracy(right: Int[np.ndarray, " I"], samples: Int[np.ndarray, " I"] | int) -> Estimate:
    """Accuracy of several samples an item: the mean over items of c/n. Arguments and errors are those of `item_accuracies`."""
    return mean_over_items(item_accuracies(right, samples))


def wilson(right: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a proportion: for one sample an item.

    Args:
        right: k of the n.
        total: n, at least 1.
        confidence: Of the interval, two-sided.

    Raises:
        ValueError: Not 0 ≤ k ≤ n, or no n.
    """
    if total < 1 or not 0 <= right <= total:
        raise ValueError(f"{right} of {total} is no proportion")
    return wilson_of_share(right / total, total, confidence)


def wilson_of_share(share: float, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval where each of n values may be a share itself.

    It is as wide as if they were 0 and 1 alone, of which no values of that mean vary more.

    Args:
        share: The mean of the values, from 0 to 1.
        total: n, at least 1.
        confidence: Of the interval, two-sided.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre, half = share + z**2 / (2 * total), z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    low, high = ((centre + end) / (1 + z**2 / total) for end in (-half, half))
    # At 0 and at 1 that end is the share itself, but for what adding in floating point leaves.
    return Interval(low if share > 0 else 0.0, high if share < 1 else 1.0)


def share_intervals(
    values: Float[np.ndarray, "I M"], *, seed: int, clusters: Sequence[Hashable] | None = None, resamples: int = RESAMPLES
) -> list[tuple[Interval | None, str]]:
    """Of M shares their intervals, each with the name of its method; arguments and errors are those of `bootstrap`.

    Where all items (or clusters) have one value, every resample is the same: that says that few of them differ, and not that none does. So
    Wilson's interval stands there, over as many as there are.
    """
    units = "items" if clusters is None else "clusters"
    method = f"bootstrap over {units}, {resamples:,} resamples, seed {seed}"
    found = bootstrap(values, seed=seed, clusters=clusters, resamples=resamples)
    if found is None:
        return [(None, method)] * np.shape(values)[1]
    return [
        (interval, method)
        if interval.high - interval.low > _NO_WIDTH
        else (wilson_of_share(min(max(value, 0.0), 1.0), found.units), f"Wilson over {units}, which are all alike")
        for value, interval in zip(found.values, found.intervals, strict=True)
    ]


def bootstrap(
    values: Float[np.ndarray, "I M"],
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Bootstrap | None:
    """Percentile intervals of the means of M metrics by resampling items, all their samples with them, or whole clusters.

    All metrics see the same resamples, so what a metric's interval is does not depend on the others. The draws follow from the seed
    and the order of the items (with clusters, the order in which these first appear).

    Args:
        values: Of each item the value of each metric.
        seed: Of `np.random.default_rng`.
        clusters: Of each item the cluster it belongs to. A resample has as many clusters as there are, drawn with replacement; its mean is
            over the items in them, which may be more or fewer than there are.
        resamples: How many.
        confidence: 0.95 takes the percentiles 2.5 and 97.5.

    Returns:
        None for a single item or cluster: every resample would be the same.

    Raises:
        ValueError: No items, a value that is not finite, or another number of labels than of items.
    """
    found: list[np.ndarray] = []
    for means in resampled_means(values, seed=seed, clusters=clusters, resamples=resamples):
        found.append(percentiles(means, confidence))
    if not found:
        return None
    units = len(set(clusters)) if clusters is not None else len(values)
    intervals = tuple(Interval(float(low), float(high)) for low, high in np.concatenate(found, axis=1).T)
    means = np.asarray(values, dtype=np.float64).mean(axis=0)
    return Bootstrap(tuple(means.tolist()), intervals, units, resamples, seed, confidence)


def percentiles(means: Float[np.ndarray, "B M"], confidence: float) -> Float[np.ndarray, "2 M"]:
    """Both ends of the interval that leaves as many resampled means below as above it."""
    tail = 50 * (1 - confidence)
    return np.percentile(means, [tail, 100 - tail], axis=0)


def resampled_means(
    values: Float[np.ndarray, "I M"], *, seed: int, clusters: Sequence[Hashable] | None = None, resamples: int = RESAMPLES
) -> Iterator[Float[np.ndarray, "B m"]]:
    """The metrics' means in each resample, for up to 256 metrics at a time, in order; nothing for a single item or cluster.

    Memory does not grow with resamples × items: units are drawn a million at a time. Arguments and errors are those of `bootstrap`.
    """
    values = _item_values(values)
    if resamples < 1:
        raise ValueError(f"{resamples} resamples are none")
    sums, sizes = _units(values, clusters)
    if len(sizes) < 2:
        return
    for first in range(0, values.shape[1], _METRICS):
        yield _means(sums[:, first : first + _METRICS], sizes, np.random.default_rng(seed), resamples)


def _means(
    sums: Float[np.ndarray, "U m"], sizes: Float[np.ndarray, " U"], random: np.random.Generator, resamples: int
) -> Float[np.ndarray, "B m"]:
    units, at_once = len(sizes), max(1, _DRAWS // len(sizes))
    means = np.empty((resamples, sums.shape[1]))
    for begin in range(0, resamples, at_once):
        rows = min(at_once, resamples - begin)
        drawn = random.integers(units, size=(rows, units))
        drawn += units * np.arange(rows)[:, None]
        # How often each unit is in each resample: the means are then a product of matrices.
        times = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units).astype(np.float64)
        means[begin : begin + rows] = (times @ sums) / (times @ sizes)[:, None]
    return means


def _units(
    values: Float[np.ndarray, "I M"], clusters: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, "U M"], Float[np.ndarray, " U"]]:
    """What is drawn: the sums of the values of each unit's items, and how many items it has."""
    if clusters is None:
        return values, np.ones(len(values))
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} cluster labels for {len(values)} items")
    numbers: dict[Hashable, int] = {}
    of_item = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, of_item, values)
    return sums, np.bincount(of_item).astype(np.float64)


def _item_values(values: Float[np.ndarray, "I M"]) -> Float[np.ndarray, "I M"]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"expected values of [items, metrics], at least one of each, found the shape {values.shape}")
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        raise ValueError(f"item {wrong[0][0]}: {values[tuple(wrong[0])]} is no value of a metric")
    return values
