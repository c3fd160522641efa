"""How many questions each step has left, as a table and as a figure."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from mede2_jax.foreign import visible


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is left after a step."""

    name: str
    text: int
    """Questions without images."""
    images: int
    """Questions with images."""
    dropped: Counter[str]
    """What the step left out, by reason."""

    @property
    def left(self) -> int:
        """All questions that are left."""
        return self.text + self.images


def table(stages: Sequence[Stage]) -> Table:
    """The funnel, to be read."""
    result = Table(title="curated")
    result.add_column("step")
    for name in ("text", "with images", "left"):
        result.add_column(name, justify="right")
    for stage in stages:
        result.add_row(stage.name, f"{stage.text:,}", f"{stage.images:,}", f"{stage.left:,} ({stage.left / max(stages[0].left, 1):.1%})")
        for reason, count in stage.dropped.most_common():
            result.add_row(f"  {visible(reason)}", "", "", f"−{count:,}")
    return result


def draw(stages: Sequence[Stage], path: Path) -> None:
    """The funnel as a picture: a bar for each step, the questions without and with images apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.2 + 0.5 * len(stages)), layout="constrained")
    axes = figure.subplots()
    names = [stage.name for stage in stages]
    text, images = [stage.text for stage in stages], [stage.images for stage in stages]
    axes.barh(names, text, color="#4c72b0", label="text only")
    axes.barh(names, images, left=text, color="#dd8452", label="with images")
    for place, stage in enumerate(stages):
        axes.text(stage.left, place, f" {stage.left:,}", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("questions")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="png", dpi=150)
    os.replace(partial, path)
