"""What a score's closing lines say of its judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from mede2_jax.config import counted
from mede2_jax.foreign import shown

Json = Mapping[str, Any]
LISTED = 5
"""Failures that a line names; score.json has all."""


def agreement_table(found: Json) -> Table:
    """Rule × judge, over the answers that were drawn to be compared."""
    interval = found["interval"]
    between = "" if interval is None else f" ({100 * interval[0]:.2f}–{100 * interval[1]:.2f})"
    kappa = "undefined" if found["kappa"] is None else f"{found['kappa']:.2f}"
    table = Table(
        title=f"rule and judge agree on {100 * found['agreement']:.2f} %{between} of {found['responses']:,}, Cohen's kappa {kappa}",
        title_justify="left",
    )
    for name in ("", "judge: right", "judge: wrong"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("rule: right", f"{found['both_right']:,}", f"{found['rule_only']:,}")
    table.add_row("rule: wrong", f"{found['judge_only']:,}", f"{found['both_wrong']:,}")
    return table


def judge_notices(result: Json) -> Iterator[str]:
    """Lines of what a reader must know."""
    judge: Json = result.get("judge") or {}
    if why := judge.get("not_asked"):
        yield f"the judge was not asked: {why}"
    if "model" in judge:
        yield _what_it_did(judge)
    if failures := judge.get("failures"):
        named = ", ".join(f"{shown(name)} ({shown(reason)})" for name, reason in list(failures.items())[:LISTED])
        more = ", …" if len(failures) > LISTED else ""
        yield (f"{counted(len(failures), 'judge failure')}, counted as not correct: {named}{more}; the same command asks for these again")
    if unjudged := result.get("unjudged"):
        yield (
            f"{counted(unjudged, 'open answer')} counted as wrong since the text is another than the right one's; some may mean the same: "
            "--judge.api=gemini, or --judge.api=openai --judge.model=NAME, has them judged"
        )


def _what_it_did(judge: Json) -> str:
    cost, spent = judge["cost"], judge["cost"]["judgments"] + judge["cost"]["failed"]
    before = f", of it ${cost['from_cache']:,.4f} from the cache" if cost["from_cache"] else ""
    decided = judge["responses"] - judge["failed"]
    # $0 would say that it was free: the model may have no price here.
    price = f"${spent:,.4f}{before}" if spent else "no cost counted"
    return (
        f"the judge ({judge['prompt']['title']}) decided {counted(decided, 'response')}, {judge['correct']:,} as right; "
        f"{counted(judge['requests'], 'request')}, {price}"
    )
