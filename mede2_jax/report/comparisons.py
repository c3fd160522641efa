"""Each pair of models on the same items: is the difference more than chance, with Holm's correction over all that a report shows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.report.items import Content
from mede2_jax.report.scores import Board
from mede2_jax.statistics.comparison import detectable_difference, discordant, fewest_one_way, holm, mcnemar, paired_bootstrap, paired_items
from mede2_jax.statistics.intervals import Interval


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models of a board; differences are second − first."""

    board: Board
    first: str
    second: str
    fault: str = ""
    """Why they cannot be compared; nothing else is known then."""
    items: int = 0
    difference: float = 0.0
    interval: Interval | None = None
    p: float | None = None
    test: str = ""
    only_first: int | None = None
    """Items that it alone has right, of one sample each."""
    only_second: int | None = None
    detectable: float | None = None
    """The smallest true difference that is found four times of five, at the rate at which these two disagree."""
    fewest: int | None = None
    """The smallest net number of items that can be significant."""
    holm: float | None = None


def comparisons(contents: Sequence[Content], *, seed: int, resamples: int) -> list[Comparison]:
    """All pairs of all boards, in the order of the models."""
    found = [
        _compare(content, first, second, seed, resamples)
        for content in contents
        for first, second in itertools.combinations(range(len(content.board.scores)), 2)
    ]
    known = [one for one in found if one.p is not None]
    adjusted = iter(holm([one.p for one in known if one.p is not None]))
    return [dataclasses.replace(one, holm=next(adjusted)) if one.p is not None else one for one in found]


def _compare(content: Content, first: int, second: int, seed: int, resamples: int) -> Comparison:
    board = content.board
    one, other = board.scores[first], board.scores[second]
    names = Comparison(board, one.model, other.model)
    if one.said.data.digest != other.said.data.digest and not (one.said.data_is_carried or other.said.data_is_carried):
        return dataclasses.replace(names, fault="they are of two revisions of the benchmark's files")
    verdicts = [{id: [v.outcome == "correct" for v in some] for id, some in content.samples[place].items()} for place in (first, second)]
    try:
        ids = paired_items(verdicts[0], verdicts[1], (one.model, other.model))
    except UserError as error:
        return dataclasses.replace(names, fault=str(error))
    clusters = content.known.clusters
    labels = None if clusters is None else [clusters.get(id, id) for id in ids]
    before, after = (np.array([np.mean(some[id]) for id in ids]) for some in verdicts)
    (difference,) = paired_bootstrap(after[:, None], before[:, None], seed=seed, clusters=labels, resamples=resamples)
    result = dataclasses.replace(
        names,
        items=len(ids),
        difference=difference.value,
        interval=difference.interval,
        p=difference.p,
        test=f"paired bootstrap over {'clusters' if labels is not None else 'items'}",
    )
    if labels is not None or any(len(some[id]) != 1 for some in verdicts for id in ids):
        return result
    only_second, only_first = discordant(after == 1, before == 1)
    rate = (only_first + only_second) / len(ids)
    return dataclasses.replace(
        result,
        p=mcnemar(only_first, only_second),
        test="McNemar, exact",
        only_first=only_first,
        only_second=only_second,
        detectable=detectable_difference(len(ids), rate) if rate else None,
        fewest=fewest_one_way(len(ids)),
    )
