"""The paper's tables with the counts behind them: which k of n each printed percentage is, and where none can be."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from importlib import resources
from typing import Literal

import pydantic

from mede2_jax.config import Config
from mede2_jax.statistics.counts import Count, Way, fitting_counts, possible_counts
from mede2_jax.yaml_text import parse_yaml

NONE = "–"
OVERALL = "Overall"
ROUNDED: frozenset[Way] = frozenset(("half even", "half up"))


class PaperPart(Config):
    """A part of a benchmark."""

    group: str
    total: int


class PaperBenchmark(Config):
    """A benchmark, as the paper has it."""

    title: str
    tasks: tuple[str, ...]
    """Those of ours that it may be."""
    total: int
    also: tuple[int, ...] = ()
    parts: Mapping[str, PaperPart] = pydantic.Field(default_factory=dict)

    def total_of(self, cell: str) -> int:
        """Items of a column."""
        return self.total if cell == OVERALL else self.parts[cell].total


class PaperColumns(Config):
    """What a table has of one benchmark."""

    benchmark: str
    cells: tuple[str, ...]
    sums: tuple[tuple[str, ...], ...] = ()
    """Columns that make up the whole."""


class PaperRow(Config):
    """A row, as printed."""

    method: str
    section: str = ""
    cells: tuple[str, ...]
    base: str | None = None
    """The row that its gains are over."""
    deltas: tuple[str, ...] = ()
    """Of each benchmark the gain in Overall."""
    decimals: int | None = None
    """Where the last ones are zeros that fill the column."""
    totals: Mapping[str, Mapping[str, int]] = pydantic.Field(default_factory=dict)
    """Where it is of other items than the benchmark's."""


class PaperTable(Config):
    """A table, as printed."""

    title: str
    columns: tuple[PaperColumns, ...]
    rows: tuple[PaperRow, ...]


class PaperText(Config):
    """A number in the text that no table has."""

    where: str
    says: str
    benchmark: str
    table: str | None = None
    method: str | None = None
    note: str | None = None


class PaperJudge(Config):
    """Figure 3."""

    sigma: float
    within: float


class Paper(Config):
    """What the paper prints."""

    benchmarks: Mapping[str, PaperBenchmark]
    tables: Mapping[str, PaperTable]
    text: tuple[PaperText, ...]
    sizes: Mapping[str, Mapping[str, Mapping[int, str]]]
    judge: PaperJudge


@functools.cache
def paper() -> Paper:
    """What it prints."""
    return Paper.model_validate(parse_yaml(resources.files(__package__).joinpath("paper.yaml").read_text("utf-8")))


@dataclasses.dataclass(frozen=True)
class Checked:
    """A printed percentage, and which count it is."""

    printed: str
    total: int
    counts: tuple[int, ...]
    """All that fit; none: it is impossible."""
    count: int | None
    """The one that it is, as far as the row and the nearest percentage tell."""
    ways: frozenset[Way] = frozenset()
    """By which that one is printed so."""
    other: tuple[int, int] | None = None
    """Of an impossible one: a count, and the other total that it is of."""


@dataclasses.dataclass(frozen=True)
class CheckedDelta:
    """A printed gain."""

    printed: str
    found: str
    """The difference of the printed scores."""


@dataclasses.dataclass(frozen=True)
class CheckedRow:
    """A row, with what can be said of it."""

    method: str
    section: str
    cells: tuple[Checked | None, ...]
    """None: the paper has none."""
    deltas: tuple[CheckedDelta | None, ...]
    """Of each benchmark."""
    holds: Literal["yes", "if cut", "no", ""]
    """Whether its parts add up; nothing where there are no parts."""
    notes: tuple[str, ...]

    def cell(self, table: PaperTable, benchmark: str, name: str) -> Checked | None:
        """The cell of a column."""
        return self.cells[place_of(table, benchmark, name)]


def place_of(table: PaperTable, benchmark: str, name: str) -> int:
    """The place of a column among a row's cells."""
    return [(columns.benchmark, cell) for columns in table.columns for cell in columns.cells].index((benchmark, name))


def checked_tables() -> dict[str, tuple[CheckedRow, ...]]:
    """Every row of both tables."""
    said = paper()
    return {name: tuple(_row(said, table, row) for row in table.rows) for name, table in said.tables.items()}


def checked_text() -> list[str]:
    """What the text says otherwise than the tables."""
    said, notes = paper(), []
    for one in said.text:
        if one.note is not None:
            notes.append(f"In {one.where}, {one.note}.")
            continue
        benchmark = said.benchmarks[one.benchmark]
        totals = (benchmark.total, *benchmark.also)
        fits = [f"{found[0].count} of {total}" for total in totals if (found := possible_counts(one.says, total))]
        which = f"is {' or '.join(fits)}" if fits else f"fits no count of {' or '.join(map(str, totals))}"
        notes.append(f"In {one.where}, {one.says} stands for the table's {one.table} ({one.method}, {benchmark.title}); it {which}.")
    return notes


def across_tables() -> list[str]:
    """Models that two tables print with other counts of the same items."""
    first, second = (rows for rows in checked_tables().values())
    tables, notes = list(paper().tables.values()), []
    for one in first:
        for other in second:
            if one.method == other.method:
                ours, theirs = (row.cell(table, "medxpertqa_mm", OVERALL) for row, table in ((one, tables[0]), (other, tables[1])))
                if ours is not None and theirs is not None and ours.count != theirs.count:
                    notes.append(
                        f"{one.method} is {ours.count:,} ({ours.printed}) in Table 1 and {theirs.count:,} ({theirs.printed}) in Table 2."
                    )
    return notes


def _row(said: Paper, table: PaperTable, row: PaperRow) -> CheckedRow:
    cells: list[Checked | None] = []
    notes: list[str] = []
    holds: list[Literal["yes", "if cut", "no"]] = []
    deltas: list[CheckedDelta | None] = []
    printed = iter(row.cells)
    for columns in table.columns:
        benchmark = said.benchmarks[columns.benchmark]
        totals = {name: row.totals.get(columns.benchmark, {}).get(name, benchmark.total_of(name)) for name in columns.cells}
        some = {name: _cell(next(printed), totals[name], row.decimals, benchmark.also) for name in columns.cells}
        for parts in columns.sums:
            if (found := _sum(some, parts, row.decimals)) is not None:
                holds.append(found[0])
                some |= found[1]
                notes.extend(found[2])
        cells.extend(some.values())
        notes.extend(_cell_note(one) for one in some.values() if one is not None and one.other is not None)
    for number, columns in enumerate(table.columns):
        deltas.append(_delta(table, row, number, columns.benchmark))
    notes.extend(_base_notes(said, table, row, cells))
    worst: Literal["yes", "if cut", "no", ""] = "no" if "no" in holds else "if cut" if "if cut" in holds else "yes" if holds else ""
    return CheckedRow(row.method, row.section, tuple(cells), tuple(deltas), worst, tuple(dict.fromkeys(notes)))


def _cell(printed: str, total: int, decimals: int | None, also: Sequence[int]) -> Checked | None:
    if printed == NONE:
        return None
    found = possible_counts(printed, total, decimals=decimals)
    if found:
        best = _nearest(found, printed, total)
        return Checked(printed, total, tuple(one.count for one in found), best.count, best.ways)
    others = [
        (_nearest(some, printed, other).count, other) for other in also if (some := possible_counts(printed, other, decimals=decimals))
    ]
    return Checked(printed, total, (), None, other=others[0] if others else None)


def _nearest(counts: Sequence[Count], printed: str, total: int) -> Count:
    return min(counts, key=lambda one: abs(Decimal(100 * one.count) / total - Decimal(printed)))


def _sum(
    some: Mapping[str, Checked | None], parts: Sequence[str], decimals: int | None
) -> tuple[Literal["yes", "if cut", "no"], dict[str, Checked], list[str]] | None:
    """Whether parts add up to the whole: the cells with the counts that do, and what to say. None where the paper has not all."""
    pieces, whole = [some[name] for name in parts], some[OVERALL]
    if whole is None or any(piece is None for piece in pieces):
        return None
    known = [piece for piece in pieces if piece is not None]
    fits = fitting_counts([(_cut_to(one.printed, decimals), one.total) for one in known], (_cut_to(whole.printed, decimals), whole.total))
    if not fits:
        return "no", {}, [_why_not(known, whole)]
    names = (*parts, OVERALL)
    settled = {name: _settled(one, count, decimals) for name, one, count in zip(names, (*known, whole), fits[0], strict=True)}
    cut = [one for one in settled.values() if not one.ways & ROUNDED]
    if not cut:
        return "yes", settled, []
    examples = ", ".join(f"{one.printed} is {one.count} of {one.total:,}, {share(one.count, one.total)} rounded" for one in cut)
    return "if cut", settled, [f"holds only if decimals are cut: {examples}"]


def _settled(cell: Checked, count: int, decimals: int | None) -> Checked:
    """A cell of which the row tells the count."""
    ways = next(one.ways for one in possible_counts(cell.printed, cell.total, decimals=decimals) if one.count == count)
    return dataclasses.replace(cell, count=count, ways=ways)


def _why_not(parts: Sequence[Checked], whole: Checked) -> str:
    """Why no counts of the parts make the whole."""
    missing = [one for one in parts if one.count is None]
    if whole.count is not None and len(missing) == 1:
        left = whole.count - sum(one.count for one in parts if one.count is not None)
        others = " and ".join(f"{one.printed} = {one.count}" for one in parts if one.count is not None)
        total = missing[0].total
        return (
            f"does not hold: {whole.printed} = {whole.count:,} and {others} leave {left} of {total:,} = {share(left, total)}; "
            f"the printed {missing[0].printed} is no k of {total:,}"
        )
    made = sum(one.count or 0 for one in parts)
    counts = " + ".join(str(one.count) for one in parts)
    return f"does not hold: the parts make {counts} = {made:,}, {share(made, whole.total)}; the printed {whole.printed} is {whole.count:,}"


def _cell_note(cell: Checked) -> str:
    assert cell.other is not None
    count, total = cell.other
    return f"{cell.printed} is no k of {cell.total:,}; it is {count} of {total}"


def _delta(table: PaperTable, row: PaperRow, number: int, benchmark: str) -> CheckedDelta | None:
    if row.base is None or number >= len(row.deltas):
        return None
    base = next(one for one in table.rows if one.method == row.base)
    place = place_of(table, benchmark, OVERALL)
    difference = Decimal(row.cells[place]) - Decimal(base.cells[place])
    return CheckedDelta(row.deltas[number], f"{difference:+}")


def _base_notes(said: Paper, table: PaperTable, row: PaperRow, cells: Sequence[Checked | None]) -> list[str]:
    """Gains over a base that is of another number of items."""
    if row.base is None:
        return []
    base, notes = next(one for one in table.rows if one.method == row.base), []
    for columns in table.columns:
        place, benchmark = place_of(table, columns.benchmark, OVERALL), said.benchmarks[columns.benchmark]
        before, now = _cell(base.cells[place], benchmark.total, base.decimals, benchmark.also), cells[place]
        if before is not None and before.other is not None and now is not None and now.count is not None:
            notes.append(f"the gain on {benchmark.title} is of {now.total} items over a base of {before.other[1]}")
    return notes


def _cut_to(printed: str, decimals: int | None) -> str:
    """Without the zeros that fill a column."""
    whole, _, fraction = printed.partition(".")
    return printed if decimals is None else f"{whole}.{fraction[:decimals]}"


def share(count: int | None, total: int) -> str:
    """A count as a percentage with two decimals, rounded half up."""
    assert count is not None
    return f"{(20_000 * count + total) // (2 * total) / 100:.2f}"
