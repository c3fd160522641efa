"""The paper's tables with the count behind each figure, and our scores beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.report.paper import (
    OVERALL,
    ROUNDED,
    Checked,
    CheckedDelta,
    CheckedRow,
    Paper,
    PaperColumns,
    PaperTable,
    across_tables,
    checked_tables,
    checked_text,
    paper,
)
from mede2_jax.report.scores import Board, Part, Score
from mede2_jax.report.tables import Cell, Table, between, cells, percent
from mede2_jax.score.responses import how_asked

OURS = "scored here"
Row = tuple[Cell, ...]


def paper_tables(models: Sequence[str], boards: Sequence[Board], base: str | None) -> Iterator[Table]:
    """Both tables.

    Args:
        models: Ours, in order.
        boards: Their scores.
        base: The one that gains are measured from; None: the first.

    Raises:
        UserError: The base is none of the models.
    """
    if base is not None and base not in models:
        raise UserError(f"--base={shown(base)} is none of the models: {', '.join(map(shown, models))}")
    said = paper()
    for name, rows in checked_tables().items():
        table = said.tables[name]
        ours = list(_our_rows(said, table, models, boards, base or (models[0] if models else "")))
        columns = ["", *(column for columns in table.columns for column in _columns(said, table, columns)), "adds up"]
        notes = [f"{row.method}: {note}." for row in rows for note in row.notes]
        notes += [f"{row.method}: printed {one.printed}, the printed scores give {one.found}." for row, one in _wrong_deltas(rows)]
        notes += [*checked_text(), *across_tables()] if name == "table1" else across_tables()
        notes.append(
            "k of n: the count that the printed percentage is. ✗: none is. cut: only if decimals are cut; half up: only if a half goes up."
        )
        yield Table(
            name,
            table.title,
            tuple(columns),
            tuple([*(_paper_row(table, row) for row in rows), *ours]),
            tuple(notes),
            tuple([*(row.section or "the paper" for row in rows), *[OURS] * len(ours)]),
        )


def _columns(said: Paper, table: PaperTable, columns: PaperColumns) -> list[str]:
    title = said.benchmarks[columns.benchmark].title
    names = [f"{title} {name}" if len(table.columns) > 1 else name for name in columns.cells]
    return [*names, f"{title} Δ" if len(table.columns) > 1 else "Δ"]


def _paper_row(table: PaperTable, row: CheckedRow) -> Row:
    parts: list[Cell] = [Cell(row.method)]
    place = 0
    for number, columns in enumerate(table.columns):
        parts.extend(map(_paper_cell, row.cells[place : place + len(columns.cells)]))
        parts.append(_delta_cell(row.deltas[number]))
        place += len(columns.cells)
    verdict = {"yes": Cell("✓ yes"), "if cut": Cell("✓ if cut"), "no": Cell("✗ no", kind="bad"), "": Cell("–")}[row.holds]
    return (*parts, verdict)


def _paper_cell(cell: Checked | None) -> Cell:
    if cell is None:
        return Cell("–")
    if cell.count is None:
        other = f"\n({cell.other[0]} of {cell.other[1]})" if cell.other is not None else ""
        return Cell(cell.printed, f"✗ no k of {cell.total:,}{other}", "bad")
    way = (
        "" if cell.ways & ROUNDED == ROUNDED else " (cut)" if cell.ways == {"cut"} else " (half up)" if "half even" not in cell.ways else ""
    )
    several = f"\n({min(cell.counts)}–{max(cell.counts)} fit)" if len(cell.counts) > 1 and cell.count in cell.counts and not way else ""
    return Cell(cell.printed, f"{cell.count:,} of {cell.total:,}{way}{several}")


def _delta_cell(delta: CheckedDelta | None) -> Cell:
    if delta is None:
        return Cell("–")
    return Cell(delta.printed) if delta.printed == delta.found else Cell(delta.printed, f"✗ {delta.found}", "bad")


def _wrong_deltas(rows: Sequence[CheckedRow]) -> Iterator[tuple[CheckedRow, CheckedDelta]]:
    for row in rows:
        yield from ((row, one) for one in row.deltas if one is not None and one.printed != one.found)


def _our_rows(said: Paper, table: PaperTable, models: Sequence[str], boards: Sequence[Board], base: str) -> Iterator[Row]:
    """Of each model a row for each way it was asked and read; several where a benchmark has several settings."""
    for model in models:
        ways = dict.fromkeys((board.prompt, board.mode) for board in boards if any(one.model == model for one in board.scores))
        for prompt, mode in ways:
            found = [_scores_of(said.benchmarks[columns.benchmark].tasks, model, prompt, mode, boards) for columns in table.columns]
            asked = how_asked(prompt, [score.said.prompt_is_known for some in found for score in some])
            for place in range(max(map(len, found), default=0)):
                parts: list[Cell] = [Cell(model, f"{asked}\nread as {mode}", "ours")]
                for columns, some in zip(table.columns, found, strict=True):
                    parts.extend(_our_cells(said, columns, some[place] if place < len(some) else None, base, boards))
                yield (*parts, Cell(""))


def _scores_of(tasks: Sequence[str], model: str, prompt: str, mode: str, boards: Sequence[Board]) -> list[Score]:
    return [
        score
        for task in tasks
        for board in boards
        for score in board.scores
        if (board.task, board.prompt, board.mode, score.model) == (task, prompt, mode, model)
    ]


def _our_cells(said: Paper, columns: PaperColumns, score: Score | None, base: str, boards: Sequence[Board]) -> list[Cell]:
    if score is None:
        return list(cells(*["–"] * (len(columns.cells) + 1)))
    benchmark, found = said.benchmarks[columns.benchmark], []
    for name in columns.cells:
        part = score.said.overall if name == OVERALL else score.said.by.get(benchmark.parts[name].group, {}).get(name)
        found.append(_our_cell(part, benchmark.total_of(name), score.said.task if len(benchmark.tasks) > 1 else ""))
    of_base = _scores_of((score.said.task,), base, score.said.prompt, score.said.mode, boards)
    if not of_base or score.model == base:
        return [*found, Cell("–")]
    return [*found, Cell(f"{100 * (score.said.overall.accuracy - of_base[0].said.overall.accuracy):+.2f}", f"over {base}", "ours")]


def _our_cell(part: Part | None, total: int, setting: str) -> Cell:
    if part is None:
        return Cell("–")
    kind = " samples" if part.samples != part.items else ""
    told = [f"{part.correct:,} of {part.samples:,}{kind}", between(part.interval)]
    if part.items != total:
        told.append(f"not of {total:,}")
    return Cell(percent(part.accuracy), "\n".join(filter(None, [*told, setting])), "bad" if part.items != total else "ours")
