"""Two models on the same items: is the difference more than chance, how large may it be, and how small a one could these items have shown.

I items, M metrics. A difference is first − second.

| one sample an item | several samples, pass@k, MV@k | several benchmarks or models |
|---|---|---|
| `mcnemar` on `discordant`; the interval by `paired_bootstrap` | `paired_bootstrap` of item values | `holm` over the p-values |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.statistics.intervals import CONFIDENCE, RESAMPLES, Interval, percentiles, resampled_means

ALPHA = 0.05
POWER = 0.8
NAMED = 5
"""Items that an error names."""
_NOTHING = 1e-12
"""A resampled difference below this is none: what adding in floating point leaves of zero."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of means over the same items."""

    value: float
    interval: Interval | None
    """None for a single item or cluster."""
    p: float | None
    """Two-sided: twice the share of resamples that are not on the side of the difference, the observed one counted among them. With 10,000
    resamples it is 0.0002 or more. None as above."""


def paired_items(first: Mapping[str, object], second: Mapping[str, object], names: tuple[str, str]) -> list[str]:
    """The ids of two results on the same items, in the order of the first.

    Args:
        first: One entry for each item, by id.
        second: Likewise.
        names: What an error calls the two.

    Raises:
        UserError: There are no items, or some are in one of them only: nothing is dropped to make them comparable.
    """
    if not first and not second:
        raise UserError(f"{names[0]} and {names[1]} have no items to compare")
    told = [
        f"{len(alone):,} {'item is' if len(alone) == 1 else 'items are'} in {name} only ({_some(alone)})"
        for name, alone in zip(names, ([*first.keys() - second.keys()], [*second.keys() - first.keys()]), strict=True)
        if alone
    ]
    if told:
        raise UserError(f"{'; '.join(told)}: a comparison needs the same items in both, so score both on the same selection")
    return list(first)


def _some(ids: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in sorted(ids)[:NAMED]) + (", …" if len(ids) > NAMED else "")


def discordant(first: Bool[np.ndarray, " I"], second: Bool[np.ndarray, " I"]) -> tuple[int, int]:
    """How many items only the first of two models has right, and how many only the second, by one verdict each.

    Raises:
        ValueError: They have not one verdict an item, or are no verdicts.
    """
    first, second = np.asarray(first), np.asarray(second)
    if first.ndim != 1 or first.shape != second.shape or first.dtype != bool or second.dtype != bool:
        found = f"{first.dtype} {first.shape} and {second.dtype} {second.shape}"
        raise ValueError(f"expected a verdict of each model for each item, found {found}")
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar(first: int, second: int) -> float:
    """McNemar's exact test (scipy's binomial test): p of b and c discordant items where each falls to either side alike.

    p = min(1, 2 Σ_{i ≤ min(b, c)} C(b + c, i) / 2^(b + c)); 1 where there are none.

    Raises:
        ValueError: A negative count.
    """
    if first < 0 or second < 0:
        raise ValueError(f"{first} and {second} are no counts of items")
    from scipy import stats  # as below: a second to import, of which most commands need nothing

    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def paired_bootstrap(
    first: Float[np.ndarray, "I M"],
    second: Float[np.ndarray, "I M"],
    *,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> list[Difference]:
    """The difference of means of each metric, its percentile interval and p, by resampling items (or clusters) with both models' values.

    Args:
        first: The item values of one model.
        second: Those of the other, the items in the same order.
        seed: As in `intervals.bootstrap`, as what follows.
        clusters: Of each item the cluster it belongs to.
        resamples: How many.
        confidence: Of the interval.

    Raises:
        ValueError: Two shapes, or what `intervals.bootstrap` refuses.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"expected values of the same items and metrics, found the shapes {np.shape(first)} and {np.shape(second)}")
    values = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found: list[tuple[Interval | None, float | None]] = []
    for means in resampled_means(values, seed=seed, clusters=clusters, resamples=resamples):
        for (low, high), column in zip(percentiles(means, confidence).T, means.T, strict=True):
            found.append((Interval(float(low), float(high)), _two_sided(column)))
    averages = values.mean(axis=0).tolist()
    return [Difference(value, *resampled) for value, resampled in zip(averages, found or [(None, None)] * len(averages), strict=True)]


def _two_sided(differences: Float[np.ndarray, " B"]) -> float:
    side = min(int((differences <= _NOTHING).sum()), int((differences >= -_NOTHING).sum()))
    return min(1.0, 2 * (side + 1) / (len(differences) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method, in the order given: below 5% as a family where one is below 5%.

    Raises:
        ValueError: What is no probability.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"{wrong[0]} is no p-value")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def fewest_one_way(items: int, alpha: float = ALPHA) -> int | None:
    """The smallest net number of items that can be significant by `mcnemar`: all that differ are right by one and the same model.

    It is the smallest difference by the first of two definitions, a bound that holds whatever the models: with one item the other way,
    more are needed. At 5% it is 6 items: 4 points of 150 items, 0.3 of 2,000.

    Args:
        items: How many there are.
        alpha: The level: p may be as large.

    Returns:
        None where there are too few items for any difference to be significant.
    """
    _check_share("alpha", alpha)
    needed = 1
    while mcnemar(0, needed) > alpha:
        needed += 1
    return needed if needed <= items else None


def detectable_difference(items: int, discordance: float, *, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """The smallest true difference that `mcnemar` finds with a given power, where the models disagree on a given share of all items.

    It is the smallest difference by the second definition. Exact: the discordant items are binomial (items, discordance), those of them
    that the better model has right binomial with (1 + difference / discordance) / 2.

    Args:
        items: How many there are.
        discordance: The share of items that just one of the two models has right; a comparison's own, or one that is expected.
        power: How likely the difference is to be significant.
        alpha: The level: p may be as large.

    Returns:
        A difference of accuracies, above 0 and at most `discordance`; None where even the largest is found less often.

    Raises:
        ValueError: A share that is none, or no items.
    """
    for name, share in (("discordance", discordance), ("power", power), ("alpha", alpha)):
        _check_share(name, share)
    if items < 1:
        raise ValueError(f"{items} items are none")
    if power <= alpha:
        raise ValueError(f"the power {power} is not above the level {alpha}: chance alone has it")
    from scipy import optimize, stats

    # What is left out on either side is less than a billionth.
    totals = np.arange(stats.binom.ppf(1e-10, items, discordance), stats.binom.isf(1e-10, items, discordance) + 1)
    weights = stats.binom.pmf(totals, items, discordance)
    critical = _critical(totals, alpha)

    def excess(difference: float) -> float:
        better = (1 + difference / discordance) / 2
        found = stats.binom.cdf(critical, totals, better) + stats.binom.sf(totals - critical - 1, totals, better)
        return float(weights @ found) - power

    return float(optimize.brentq(excess, 0.0, discordance, xtol=1e-9)) if excess(discordance) >= 0 else None


def _critical(totals: Float[np.ndarray, " N"], alpha: float) -> Float[np.ndarray, " N"]:
    """Of each number of discordant items the largest count on the smaller side that is significant; −1: none is."""
    from scipy import stats

    largest = stats.binom.ppf(alpha / 2, totals, 0.5)
    return np.where(2 * stats.binom.cdf(largest, totals, 0.5) <= alpha, largest, largest - 1)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1 or math.isnan(share):
        raise ValueError(f"{name} is a share above 0 and at most 1, found {share}")
