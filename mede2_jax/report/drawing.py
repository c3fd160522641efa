"""How figures are drawn: a palette for all eyes, with markers and dashes that say the same as its colours; no text is a formula."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mede2_jax.foreign import one_line
from mede2_jax.report.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5E4FA2", "#4D4D4D")
"""Okabe and Ito's, without yellow."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
LONGEST = 40
"""Characters of a name in a figure."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawn one."""

    name: str
    """As its files are called."""
    title: str
    text: str
    """What it shows, for those who do not see it, and under it for all."""
    canvas: Canvas
    table: Table | None = None
    """Its numbers, where no other table has them."""


def canvas(columns: int = 1, rows: int = 1, width: float = 6.4, height: float = 3.8) -> tuple[Canvas, list[Axes]]:
    """An empty figure with its axes, row by row."""
    from matplotlib.figure import Figure as New

    figure = New(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(columns * rows)]
    for one in axes:
        one.grid(axis="y", alpha=0.3, linewidth=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def style(place: int) -> dict[str, Any]:
    """Of a line: colour, marker and dashes, none of which is needed to tell it from the others."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // 2 % len(DASHES)],
        "markersize": 5,
        "linewidth": 1.6,
    }


def name(text: str) -> str:
    """A foreign name: one line, cut, and not hidden from legends as those are that begin with a line."""
    text = one_line(text)
    return (" " if text.startswith("_") else "") + (text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def saved(figure: Figure) -> dict[str, bytes]:
    """Its files' contents by suffix; the same figure gives the same bytes."""
    found = {}
    with plain_text():
        for suffix, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150, "metadata": {"Software": None}})):
            file = io.BytesIO()
            figure.canvas.savefig(file, format=suffix, facecolor="white", **options)
            found[suffix] = file.getvalue()
    return found


@contextlib.contextmanager
def plain_text() -> Iterator[None]:
    """While figures are made and saved: dollars are dollars, a character that the font lacks is no warning, ids are not random."""
    import matplotlib

    sizes = {"font.size": 9.5, "axes.titlesize": 10.5, "legend.fontsize": 8.5}
    settings: Any = {"text.parse_math": False, "svg.hashsalt": "mede2_jax", **sizes}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
