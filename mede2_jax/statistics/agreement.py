"""Do judgments of the same things agree, of one judge asked again or of two? Percent agreement and kappa.

Kappa is the agreement beyond chance: 1 is complete, 0 what two judges have who draw by lot with the observed shares. Of two judgments
each it is Cohen's (every repeat has shares of its own), of more Fleiss's. Undefined where all say the same of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal


@dataclass(frozen=True)
class Agreement:
    """Of judgments of some items."""

    items: int
    """That have every judgment."""
    percent: float
    """Share of equal pairs of judgments of one item."""
    kappa: float | None
    kind: Literal["Cohen", "Fleiss"]


def agreement(items: Sequence[Sequence[bool]]) -> Agreement | None:
    """The agreement of repeated judgments: every item has as many, in order of repeat. None where there is nothing to compare."""
    if not items or len(items[0]) < 2:
        return None
    repeats = len(items[0])
    pairs = repeats * (repeats - 1) / 2
    equal = sum(sum(one == other for one, other in combinations(item, 2)) / pairs for item in items) / len(items)
    if repeats == 2:
        first, second = (sum(item[place] for item in items) / len(items) for place in (0, 1))
        chance = first * second + (1 - first) * (1 - second)
    else:
        share = sum(map(sum, items)) / (len(items) * repeats)
        chance = share**2 + (1 - share) ** 2
    kappa = None if chance == 1.0 else (equal - chance) / (1.0 - chance)
    return Agreement(len(items), equal, kappa, "Cohen" if repeats == 2 else "Fleiss")
