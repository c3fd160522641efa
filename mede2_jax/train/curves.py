"""A run's numbers over its steps, as a picture. Knows no JAX: reports draw several runs by the same panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PANELS = (
    ("loss", ("loss", "eval_loss")),
    ("reward margin", ("margin", "eval_margin")),
    ("accuracy", ("accuracy", "eval_accuracy")),
    ("rewards", ("reward_chosen", "reward_rejected")),
    ("log-probabilities", ("logprob_chosen", "logprob_rejected")),
    ("gradient norm", ("grad_norm",)),
)

FEW = 30
"""Points of a line that are read as they are; of more, their mean is drawn over them."""
SPAN = 15
"""Such a mean looks back over one of so many parts of the line."""


def smoothed(values: Sequence[float]) -> list[float] | None:
    """The exponential mean of noisy values, in which what is not there yet has no weight (as TensorBoard smooths); None of a few.

    A value that is not finite leaves the mean as it was.
    """
    if len(values) < FEW:
        return None
    keep = 1 - SPAN / len(values)
    mean = weight = 0.0
    found: list[float] = []
    for value in values:
        if math.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(mean / weight if weight else math.nan)
    return found


def plot_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """A PNG with a panel for each kind of number the run has, over steps."""
    from matplotlib.figure import Figure

    present = [(title, [n for n in names if any(n in record for record in history)]) for title, names in PANELS]
    present = [(title, names) for title, names in present if names]
    columns = min(3, len(present))
    figure = Figure(figsize=(4.6 * columns, 3.2 * math.ceil(len(present) / columns)), layout="constrained")
    for index, (title, names) in enumerate(present):
        axes = figure.add_subplot(math.ceil(len(present) / columns), columns, index + 1)
        for name in names:
            steps, values = zip(*((record["step"], record[name]) for record in history if name in record), strict=True)
            how: dict[str, Any] = {"label": name, "linewidth": 1.4, "markersize": 3, "marker": "o" if name.startswith("eval_") else None}
            if (mean := smoothed(values)) is None:
                axes.plot(steps, values, **how)
            else:
                (line,) = axes.plot(steps, mean, **how)
                axes.plot(steps, values, color=line.get_color(), alpha=0.3, linewidth=0.8, zorder=1)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
