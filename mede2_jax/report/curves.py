"""Training runs over their steps, one above the other, by the panels of a run's own picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.report.drawing import COLOURS, Figure, canvas, name, style
from mede2_jax.report.scores import named
from mede2_jax.report.tables import Table, cells
from mede2_jax.train.curves import PANELS, smoothed

METRICS = "metrics.jsonl"
MARKS = 12
"""Markers on a line of many steps."""


def training_figure(runs: Sequence[str]) -> Figure | None:
    """The curves of all runs; None where there are none.

    Raises:
        UserError: A folder is no run, or its metrics cannot be read.
    """
    histories = [(run, read_metrics(folder)) for run, folder in named(runs, "runs")]
    if not histories:
        return None
    panels = [(title, some) for title, names in PANELS if (some := [one for one in names if any(_points(h, one) for _, h in histories)])]
    columns = min(3, len(panels))
    figure, axes = canvas(columns, math.ceil(len(panels) / columns), 4.2, 3.0)
    for place, axis in enumerate(axes):
        if place >= len(panels):
            axis.set_visible(False)
            continue
        title, names = panels[place]
        axis.set_title(title)
        axis.set_xlabel("step")
        _draw(axis, names, histories)
    text = f"Training curves of {', '.join(name(run) for run, _ in histories)}."
    return Figure("training", "Training", text, figure, _table(histories))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's steps; a last line that was torn is left out.

    Raises:
        UserError: The folder is no run, or a line is no record of a step.
    """
    path = folder / METRICS
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"--runs: {folder} is no training run ({METRICS}: {error.strerror}); give a run's folder") from None
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
        except JSONFault as fault:
            if number == len(lines) and fault.syntax:
                break
            raise UserError(f"{path}:{number}: {fault}") from None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}:{number}: no record of a step ({shown(record)})")
        records.append(record)
    if not records:
        raise UserError(f"--runs: {path} has no steps yet")
    return records


def _points(history: Sequence[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(record["step"], record[name]) for record in history if isinstance(record.get(name), (int, float))]


def _draw(axis: Any, names: Sequence[str], histories: Sequence[tuple[str, list[dict[str, Any]]]]) -> None:
    lines = 0
    for run, history in histories:
        for one in names:
            if not (points := _points(history, one)):
                continue
            how = style(lines) | {"color": COLOURS[lines % len(COLOURS)], "markersize": 3.5, "linewidth": 1.2}
            label = f"{name(run)}: {one}" if len(histories) > 1 else one
            steps, values = zip(*points, strict=True)
            if (mean := smoothed(values)) is not None:
                axis.plot(steps, values, color=how["color"], alpha=0.3, linewidth=0.7, zorder=1)
            axis.plot(steps, values if mean is None else mean, label=label, markevery=max(1, len(points) // MARKS), **how)
            lines += 1
    if lines > 1:
        axis.legend(fontsize=7)


def _table(histories: Sequence[tuple[str, list[dict[str, Any]]]]) -> Table:
    """The last value of everything that is drawn."""
    rows = []
    for run, history in histories:
        for _, names in PANELS:
            for one in names:
                if points := _points(history, one):
                    rows.append(cells(run, one, f"{points[0][1]:.4g}", f"{points[-1][1]:.4g}", f"{points[-1][0]:,}"))
    return Table("training", "Training: first and last values", ("run", "number", "first", "last", "at step"), tuple(rows), headings=2)
