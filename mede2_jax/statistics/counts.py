"""Which k of n a printed percentage can be, in whole numbers only: how a report finds counts that are impossible.

| printed | of | k | ways |
|---|---|---|---|
| 70.67 | 150 | 106 | rounded |
| 30.86 | 554 | 171 | cut: 171/554 is 30.866 |
| 28.13 | 448 | 126 | half up: 126/448 is 28.125 |
| 28.47 | 286 | none | |
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Literal

Way = Literal["half even", "half up", "cut"]
"""How decimals end. The first two differ in ties only; a program that prints floats breaks ties either way, as one of the three would."""
WAYS: tuple[Way, ...] = ("half even", "half up", "cut")

_PERCENTAGE = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,12}))?")


@dataclasses.dataclass(frozen=True)
class Count:
    """A count that is printed as the percentage."""

    count: int
    ways: frozenset[Way]
    """Those by which it is."""


def possible_counts(printed: str, total: int, *, decimals: int | None = None) -> tuple[Count, ...]:
    """The counts k of `total` whose percentage is printed so, in order; none: the percentage is impossible.

    Args:
        printed: As it is printed, without a sign: "62", "62.0" and "62.00" are three.
        total: n.
        decimals: How many of the printed ones count, the others being zeros that fill a column ("54.60" of a table that has 54.6
            elsewhere); None: all.

    Raises:
        ValueError: No percentage, no total, or decimals to be left out that are no zeros or not there.
    """
    if (match := _PERCENTAGE.fullmatch(printed)) is None:
        raise ValueError(f"{printed!r} is no printed percentage: expected digits such as 62 or 62.00")
    if total < 1:
        raise ValueError(f"{total} is no number of items")
    fraction = match[2] or ""
    kept = len(fraction) if decimals is None else decimals
    if not 0 <= kept <= len(fraction) or fraction[kept:].strip("0"):
        raise ValueError(f"{printed!r} has not {kept} decimals and zeros after them")
    number, scale = int(match[1] + fraction[:kept]), 100 * 10**kept
    # Whatever the way, the percentage is less than one unit of the last decimal from what is printed.
    least, most = max(0, (number - 1) * total // scale), min(total, -(-(number + 1) * total // scale))
    found = ((count, _ways(count * scale, total, number)) for count in range(least, most + 1))
    return tuple(Count(count, ways) for count, ways in found if ways)


def _ways(numerator: int, total: int, number: int) -> frozenset[Way]:
    """How numerator / total ends as the whole number `number`."""
    whole, rest = divmod(numerator, total)
    ends: dict[Way, int] = {
        "half even": whole + (2 * rest > total or (2 * rest == total and whole % 2 == 1)),
        "half up": whole + (2 * rest >= total),
        "cut": whole,
    }
    return frozenset(way for way, end in ends.items() if end == number)


def fitting_counts(parts: Sequence[tuple[str, int]], whole: tuple[str, int]) -> list[tuple[int, ...]]:
    """The counts of a row of percentages whose parts add up to their whole: of each part, then of the whole. None: the row does not hold.

    Args:
        parts: Printed percentage and total of each part, which have no item in common.
        whole: Those of all parts together.

    Raises:
        ValueError: The totals do not add up, or what `possible_counts` refuses.
    """
    if sum(total for _, total in parts) != whole[1]:
        raise ValueError(f"parts of {', '.join(str(total) for _, total in parts)} items are no whole of {whole[1]}")
    sums = {count.count for count in possible_counts(*whole)}
    choices = itertools.product(*([count.count for count in possible_counts(*part)] for part in parts))
    return [(*counts, sum(counts)) for counts in choices if sum(counts) in sums]
