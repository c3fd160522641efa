"""An evaluation beside another: each task and prompt compared as `score --against` does, and p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mede2_jax.config import UserError
from mede2_jax.evaluate.chosen import Chosen
from mede2_jax.foreign import shown
from mede2_jax.score.against import SCORE, check_kind, right_by_item
from mede2_jax.score.summary import Json
from mede2_jax.scoring.modes import Mode
from mede2_jax.statistics.comparison import holm, paired_items


def check_other(chosen: Sequence[Chosen], other: Path, mode: Mode) -> None:
    """Whether every score of this evaluation will have one to be compared with; asked before anything is sampled.

    Raises:
        UserError: A score is missing there, or is of another mode or of other items.
    """
    names = [(one, prompt) for one in chosen for prompt in one.prompts]
    if missing := [f"{one.items.task.name}/{prompt}" for one, prompt in names if not (_at(other, one, prompt) / SCORE).is_file()]:
        there = ", ".join(sorted(shown(str(path.parent.relative_to(other))) for path in other.glob(f"*/*/{SCORE}"))) or "no scores at all"
        raise UserError(f"--against={other} has no score of {', '.join(missing)}; it has {there}")
    for one, prompt in names:
        at = _at(other, one, prompt)
        check_kind(at, one.items.task.name, mode)
        paired_items(dict.fromkeys(one.ids), right_by_item(at), ("this evaluation", str(at)))


def _at(other: Path, one: Chosen, prompt: str) -> Path:
    return other / one.items.task.name / prompt


def adjust(scores: Sequence[Json]) -> None:
    """Adds to each comparison its `p` (McNemar's where there is one verdict an item, else the bootstrap's) and `p_holm`, which is
    adjusted for the number of all comparisons; None where an item alone has none."""
    compared = [one["against"] for one in scores if "against" in one]
    for one in compared:
        one["p"] = one.get("p_mcnemar", one["p_bootstrap"])
        one["p_holm"] = None
    known = [one for one in compared if one["p"] is not None]
    for one, p in zip(known, holm([one["p"] for one in known]), strict=True):
        one["p_holm"] = p


def against_table(scores: Sequence[Json], other: Path) -> Table:
    """Differences with their intervals, and p before and after the adjustment."""
    table = Table(title=f"against {escape(shown(str(other), 200))}: this evaluation − the other", title_justify="left", title_style="bold")
    table.add_column("score", overflow="fold")
    for name in ("%", "other %", "points", "95% interval", "p", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in scores:
        found = one["against"]
        interval = found["interval"]
        table.add_row(
            escape(f"{one['task']}/{one['prompt']}"),
            f"{100 * one['overall']['accuracy']:.2f}",
            f"{100 * found['accuracy']:.2f}",
            f"{100 * found['difference']:+.2f}",
            f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}" if interval else "",
            *("unknown" if p is None else f"{p:.4f}" for p in (found["p"], found["p_holm"])),
        )
    return table
