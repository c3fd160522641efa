"""What the order of the options does to a score: accuracy by order, its spread, and the items whose read answer changes with it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from rich.table import Table as RichTable

from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.summary import Json, Table, score
from mede2_jax.score.verdicts import Sample

AS_IT_IS = "as it is"
"""The name of the owner's own order."""


def over_orders(some: Table, config: ScoreConfig) -> Json:
    """What score.json says of orders.

    `by_seed` has each order's score; items without options, which are asked in none, count in each. `spread` is over their accuracies:
    mean, standard deviation (n − 1), lowest, highest. `answers` counts the choice items that were asked in several orders, and those of
    them whose read answer changes: no answer is the most frequent one, or among these, in every order. To have read nothing is an answer
    here.
    """
    shown = [one for item, samples in zip(some.items, some.samples, strict=True) if item.options for one in samples]
    seeds = sorted(
        {one.shuffle for one in shown or (one for samples in some.samples for one in samples)},
        key=lambda seed: -1 if seed is None else seed,
    )
    scores = {AS_IT_IS if seed is None else str(seed): score(_of_seed(some, seed), config) for seed in seeds}
    accuracies = [one["accuracy"] for one in scores.values()]
    asked = [
        [_most_frequent(of_seed) for seed in seeds if (of_seed := [one for one in samples if one.shuffle == seed])]
        for item, samples in zip(some.items, some.samples, strict=True)
        if item.options
    ]
    several = [answers for answers in asked if len(answers) > 1]
    changed = sum(not set.intersection(*answers) for answers in several)
    return {
        "by_seed": scores,
        "spread": {
            "mean": statistics.fmean(accuracies),
            "standard_deviation": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            "lowest": min(accuracies),
            "highest": max(accuracies),
        },
        "answers": {"items": len(several), "changed": changed, "share": changed / len(several) if several else None},
    }


def order_table(orders: Json) -> RichTable:
    """One row for each order."""
    table = RichTable(title="by order of the options", title_justify="left")
    for name in ("seed", "correct", "%", "95% interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for seed, one in orders["by_seed"].items():
        interval = "" if one["interval"] is None else "{:.2f}–{:.2f}".format(*(100 * end for end in one["interval"]))
        table.add_row(seed, f"{one['correct']:,} of {one['samples']:,}", f"{100 * one['accuracy']:.2f}", interval)
    return table


def described(orders: Json) -> str:
    """The spread in a line."""
    spread, answers = orders["spread"], orders["answers"]
    if spread["standard_deviation"] is None:
        return "one order of the options: several seeds show how much it decides"
    deviation, lowest, highest = (100 * spread[name] for name in ("standard_deviation", "lowest", "highest"))
    return (
        f"over {len(orders['by_seed'])} orders of the options: {lowest:.2f} to {highest:.2f}, standard deviation {deviation:.2f} points; "
        f"the read answer of {answers['changed']:,} of {answers['items']:,} items changes with the order"
    )


def _of_seed(some: Table, seed: int | None) -> Table:
    chosen = [
        (item, kept)
        for item, samples in zip(some.items, some.samples, strict=True)
        if (kept := [one for one in samples if one.shuffle == seed or not item.options])
    ]
    return Table(some.task, [item for item, _ in chosen], [kept for _, kept in chosen])


def _most_frequent(samples: Sequence[Sample]) -> set[str | None]:
    counts = Counter(one.reading.answer for one in samples)
    most = max(counts.values())
    return {answer for answer, count in counts.items() if count == most}
