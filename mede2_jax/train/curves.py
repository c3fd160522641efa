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
            points = [(record["step"], record[name]) for record in history if name in record]
            axes.plot(*zip(*points, strict=True), marker="o" if name.startswith("eval_") else None, markersize=3, linewidth=1.2, label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
