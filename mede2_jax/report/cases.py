"""Cases in which two models differ, side by side as in the paper's Figure 9: those that the second has right, and some that it lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mede2_jax.report.items import Content
from mede2_jax.report.scores import Verdict

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """An item with one reply of each model."""

    item: Json
    """As `Content.item` has it."""
    sides: tuple[tuple[str, Json], tuple[str, Json]]
    """Model and sample, first and second."""
    is_gain: bool
    """Whether the second is right where the first is wrong."""


@dataclasses.dataclass(frozen=True)
class Cases:
    """Those of two models of a board."""

    board: str
    place: int
    """Of the board, for links to its items."""
    first: str
    second: str
    gained: int
    """Items that the second has right more often."""
    lost: int
    chosen: tuple[Case, ...]


def case_studies(contents: Sequence[Content], most: int) -> Iterator[Cases]:
    """Of each board the models that follow one another in the order given: stage I and stage II, if they are given so.

    Args:
        contents: The boards' items.
        most: Gains that are shown of each two; a third as many losses are, so that nobody sees successes alone.
    """
    for place, content in enumerate(contents):
        scores = content.board.scores
        for first in range(len(scores) - 1 if most else 0):
            gained, lost = _differing(content, first)
            chosen = [*_best(content, first, gained, most, is_gain=True), *_best(content, first, lost, -(-most // 3), is_gain=False)]
            if chosen:
                names = scores[first].model, scores[first + 1].model
                yield Cases(content.board.name, place, *names, len(gained), len(lost), tuple(chosen))


def _differing(content: Content, first: int) -> tuple[list[str], list[str]]:
    gained: list[str] = []
    lost: list[str] = []
    one, other = content.samples[first], content.samples[first + 1]
    for id in content.ids:
        if id in one and id in other:
            before, after = _share(one[id]), _share(other[id])
            (gained if after > before else lost if after < before else []).append(id)
    return gained, lost


def _share(samples: Sequence[Verdict]) -> float:
    return sum(one.outcome == "correct" for one in samples) / len(samples)


def _best(content: Content, first: int, ids: Sequence[str], most: int, *, is_gain: bool) -> Iterator[Case]:
    """Those that say most: both replies are there and whole, the wrong one has an answer, there are images, the difference is large."""
    names = [content.board.scores[first].model, content.board.scores[first + 1].model]
    ranked: list[tuple[int, bool, float, int, str, tuple[Verdict | None, Verdict | None]]] = []
    for id in ids:
        wrong, right = (first, first + 1) if is_gain else (first + 1, first)
        pair = _pick(content, wrong, id, "wrong"), _pick(content, right, id, "correct")
        if None in pair:
            continue
        whole = sum(one.finish != "stop" or one.outcome == "unparsed" for one in pair if one is not None)
        difference = abs(_share(content.samples[first][id]) - _share(content.samples[first + 1][id]))
        ranked.append((whole, not _has_images(content, id), -difference, len(ranked), id, pair))
    for *_, id, (bad, good) in sorted(ranked, key=lambda one: one[:4])[:most]:
        assert bad is not None and good is not None
        numbers = (bad.sample, good.sample) if is_gain else (good.sample, bad.sample)
        item = content.item(id)
        samples = [next(one for one in item["samples"][first + at] if one["sample"] == numbers[at]) for at in (0, 1)]
        yield Case(item, ((names[0], samples[0]), (names[1], samples[1])), is_gain)


def _pick(content: Content, place: int, id: str, outcome: str) -> Verdict | None:
    """The sample that shows it best, among those whose reply is at hand; of wrong ones, one with an answer if there is any."""
    there = [one for one in content.samples[place][id] if one.of in content.replies[place].by]
    some = [one for one in there if (one.outcome == "correct") == (outcome == "correct")]
    return min(some, key=lambda one: (one.outcome != outcome, one.finish != "stop", one.sample), default=None)


def _has_images(content: Content, id: str) -> bool:
    return bool(content.asked(id)[1])
