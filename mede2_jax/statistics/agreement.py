"""Do judgments of the same things agree: of one judge asked again, of two, of people? Percent agreement and kappa.

Kappa is the agreement beyond chance: 1 is complete, 0 what judges have who draw by lot with the observed shares. Where the same two judge
all items it is Cohen's (1960; each has shares of its own). Else it is Fleiss's (1971), in the form of Fleiss and Cuzick (1979) for items
with different numbers of judgments. Undefined where all say the same of everything.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from mede2_jax.statistics.intervals import CONFIDENCE, RESAMPLES, Interval, percentiles, resampled_means

Kind = Literal["Cohen", "Fleiss"]


@dataclass(frozen=True)
class Agreement:
    """Of judgments of some items."""

    items: int
    """That have every judgment."""
    percent: float
    """Share of equal pairs of judgments of an item, the mean over items."""
    kappa: float | None
    kind: Kind


def agreement(items: Sequence[Sequence[bool]], *, same_judges: bool = True) -> Agreement | None:
    """The agreement of judgments of the same items.

    Args:
        items: Of each item its judgments, two or more; in order of judge where the same two judge all items.
        same_judges: Whether the first judgments of all items are of one judge, and the second of another.

    Returns:
        None where there is nothing to compare.
    """
    if not items or len(items[0]) < 2:
        return None
    kind: Kind = "Cohen" if same_judges and all(len(item) == 2 for item in items) else "Fleiss"
    equal = float(np.mean([_equal_pairs(item) for item in items]))
    kappa = float(_KAPPA[kind](_features(items, kind).mean(axis=0)[None])[0])
    return Agreement(len(items), equal, None if np.isnan(kappa) else kappa, kind)


def kappa_interval(
    items: Sequence[Sequence[bool]],
    kind: Kind,
    *,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """The 95% percentile interval of kappa by resampling items, or whole clusters of them.

    Args:
        items: As in `agreement`.
        kind: Which kappa.
        clusters: Of each item the cluster it belongs to, such as the question that responses answer.
        seed: Of the draws.
        resamples: How many.

    Returns:
        None for a single item or cluster; where kappa is undefined for so many resamples that an end of the interval is not known; and
        where it is the same in all, which says that few items differ, and not that none does.
    """
    for means in resampled_means(_features(items, kind), seed=seed, clusters=clusters, resamples=resamples):
        kappas = _KAPPA[kind](means)
        known = kappas[~np.isnan(kappas)]
        if len(known) < resamples * (1 + CONFIDENCE) / 2:
            return None
        low, high = percentiles(known[:, None], CONFIDENCE)[:, 0]
        return Interval(float(low), float(high)) if low < high else None
    return None


def _equal_pairs(item: Sequence[bool]) -> float:
    yes, no = sum(item), len(item) - sum(item)
    return (yes * (yes - 1) + no * (no - 1)) / (len(item) * (len(item) - 1))


def _features(items: Sequence[Sequence[bool]], kind: Kind) -> Float[np.ndarray, "I 3"]:
    """What kappa is made of, as means over items."""
    if kind == "Cohen":
        return np.array([(one == other, one, other) for one, other in items], dtype=np.float64)
    sizes, yes = np.array([len(item) for item in items], dtype=np.float64), np.array([sum(item) for item in items], dtype=np.float64)
    return np.stack([sizes, yes, yes * (sizes - yes) / sizes], axis=1)


def _cohen(means: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, " B"]:
    equal, first, second = means.T
    return _beyond_chance(1 - equal, 1 - (first * second + (1 - first) * (1 - second)))


def _fleiss(means: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, " B"]:
    sizes, yes, mixed = means.T
    share = yes / sizes
    return _beyond_chance(mixed, (sizes - 1) * share * (1 - share))


def _beyond_chance(differ: Float[np.ndarray, " B"], by_chance: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """1 − differ / by_chance; not a number where nothing can differ by chance."""
    possible = by_chance > 1e-12
    return np.where(possible, 1 - differ / np.where(possible, by_chance, 1.0), np.nan)


_KAPPA: dict[Kind, Callable[[Float[np.ndarray, "B 3"]], Float[np.ndarray, " B"]]] = {"Cohen": _cohen, "Fleiss": _fleiss}
