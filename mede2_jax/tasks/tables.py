"""Rows of a benchmark's file in any of the forms that owners publish: JSONL, JSON, CSV, parquet."""

from __future__ import annotations

import collections
import contextlib
import csv
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.record_file import HALF_CHARACTER, RecordFile, half_character
from mede2_jax.foreign import JSONFault, parse_json, shown

Row = Mapping[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_LONGEST_FIELD = 1 << 27
_BATCH = 64


def rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a file, each with its place for messages.

    Args:
        path: The file; its name says what it holds.
        columns: All that is wanted; None: every one. Others are not read from parquet, where most of a file is images.

    Raises:
        UserError: The file cannot be read, or is not what its name says.
    """
    kinds: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
        ".jsonl": _json_rows,
        ".json": _json_rows,
        ".csv": _csv_rows,
        ".parquet": functools.partial(_parquet_rows, columns=columns),
    }
    try:
        read = kinds[path.suffix.lower()]
    except KeyError:
        raise UserError(f"{path}: the name ends in none of {', '.join(SUFFIXES)}, so nobody knows what it holds; rename it") from None
    return read(path)


def column_names(path: Path) -> list[str]:
    """The columns of a file: of JSON, where rows may have others than one another, those of all rows.

    Raises:
        UserError: As of `rows`.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet_columns(path)
    names: dict[str, None] = {}
    for _, row in rows(path):
        names.update(dict.fromkeys(map(str, row)))
        if path.suffix.lower() == ".csv":
            break
    return list(names)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with path.open("rb") as file:
            start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if path.suffix.lower() == ".json" and start == b"{":
        yield from _columns(path)
        return
    records = RecordFile(path)
    for number in range(len(records)):
        yield records.where(number), records[number]


def _columns(path: Path) -> Iterator[tuple[str, Row]]:
    """pandas' form: {column: {row: value}}; or {id: value}, of which each is a row of `id` and `value`."""
    try:
        value = parse_json(path.read_bytes())
    except JSONFault as fault:
        raise UserError(f"{path}: {fault}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object or list")
    if (field := half_character(value)) is not None:
        raise UserError(f"{path}: field {field!r} {HALF_CHARACTER}")
    numbers = list(next(iter(value.values()))) if value and all(isinstance(column, dict) for column in value.values()) else []
    if numbers and all(number.isdigit() for number in numbers):
        if any(list(column) != numbers for column in value.values()):
            raise UserError(f"{path}: its columns have other rows than one another")
        for number in numbers:
            yield f"{path} (row {number})", {name: column[number] for name, column in value.items()}
        return
    for key, one in value.items():
        yield f"{path} ({shown(key)})", {"id": key, **one} if isinstance(one, dict) else {"id": key, "value": one}


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_names(path, reader.fieldnames or ())
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: the row has other columns than the first line; quote what holds commas or line ends")
                yield where, row
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not a CSV file: {error}") from None


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Refuses a table that has two columns of one name: a row holds one of them, and nobody knows which is meant."""
    if twice := [name for name, times in collections.Counter(names).items() if name and times > 1]:
        raise UserError(f"{path}: the column {shown(twice[0])!r} is there twice; rename one, or take it out")


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    with _parquet(path) as file:
        there = file.schema_arrow.names
        _check_names(path, there)
        wanted = there if columns is None else [name for name in there if name in columns]
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} (row {number})", row


def _parquet_columns(path: Path) -> list[str]:
    with _parquet(path) as file:
        _check_names(path, file.schema_arrow.names)
        return list(file.schema_arrow.names)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """An open file; whatever is wrong with it while it is read is one line."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path} is a parquet file; install pyarrow to read it, or give the same rows as JSONL") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:  # texts in it need not be UTF-8
        raise UserError(f"{path} cannot be read as parquet: {shown(str(error), 200)}; fetch it again") from None
