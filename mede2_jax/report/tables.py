"""A table, and the forms it is written in. HTML is the page's; what comes from data or models is text in all of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Literal

from mede2_jax.foreign import visible

Kind = Literal["", "ours", "bad", "good", "plain"]

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#|!~&])")
_NUMBER = re.compile(r"[+−-]?[0-9][0-9.,]*( .*)?")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One of a table's."""

    text: str
    detail: str = ""
    """What stands below it, smaller, each on a line: a count, an interval."""
    kind: Kind = ""
    """How it stands out; the text says so as well."""
    link: str = ""
    """A file of the report."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under one title."""

    name: str
    """As its files are called."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """What has to be known to read it."""
    sections: tuple[str, ...] = ()
    """Of each row the part of the table it belongs to; empty: there are none."""
    headings: int = 1
    """How many columns, the first ones, say what a row is of."""


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """A row."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


def markdown(table: Table) -> str:
    """As Markdown."""
    rows = [
        _line([_marked(name) for name in table.columns]),
        _line(["---"] + ["---:" if place >= table.headings else "---" for place in range(1, len(table.columns))]),
    ]
    for place, row in enumerate(table.rows):
        if table.sections and (not place or table.sections[place] != table.sections[place - 1]) and table.sections[place]:
            rows.append(_line([f"*{_marked(table.sections[place])}*", *[""] * (len(table.columns) - 1)]))
        rows.append(_line([_marked(cell.text) + "".join(f"<br>{_marked(line)}" for line in cell.detail.splitlines()) for cell in row]))
    notes = [f"- {_marked(note)}" for note in table.notes]
    return "\n".join([f"### {_marked(table.title)}", "", *rows, *(["", *notes] if notes else [])]) + "\n"


def comma_separated(table: Table) -> str:
    """As CSV; details are columns of their own, after those they belong to."""
    detailed = [any(row[place].detail for row in table.rows) for place in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = [part for name, more in zip(table.columns, detailed, strict=True) for part in ((name, f"{name} (detail)") if more else (name,))]
    writer.writerow([*(["part"] if table.sections else []), *map(_inert, head)])
    for place, row in enumerate(table.rows):
        values = [
            part
            for cell, more in zip(row, detailed, strict=True)
            for part in ((cell.text, cell.detail.replace("\n", "; ")) if more else (cell.text,))
        ]
        writer.writerow([*([_inert(table.sections[place])] if table.sections else []), *map(_inert, values)])
    return file.getvalue()


def _line(parts: Sequence[str]) -> str:
    return f"| {' | '.join(parts)} |"


def _marked(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return _MARKUP.sub(r"\\\1", visible(" ".join(text.split())))


def _inert(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    text = visible(text)
    return f"'{text}" if text[:1] in ("=", "@", "\t", "+", "-", "−") and not _NUMBER.fullmatch(text) else text


def percent(share: float) -> str:
    """As tables print it."""
    return f"{100 * share:.2f}"


def between(interval: Sequence[float] | None) -> str:
    """An interval of shares."""
    return "" if interval is None else f"{percent(interval[0])}–{percent(interval[1])}"
