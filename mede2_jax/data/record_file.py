"""Random access to the records of a JSONL file, or of a JSON file that holds one list, in bounded memory.

The file is scanned once; only offsets are kept. Readers in other threads and processes share nothing but the path.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mede2_jax.config import UserError

_BOM = b"\xef\xbb\xbf"


class RecordFile:
    """A sequence of JSON objects in a file, each read when it is asked for.

    Raises:
        UserError: The file cannot be read, is empty, or is a list that is not valid JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None
        try:
            with self.path.open("rb") as file:
                head = file.read(4096).removeprefix(_BOM).lstrip()
            self.is_list = head.startswith(b"[")
            spans = list(_scan_list(self.path) if self.is_list else _scan_lines(self.path))
        except OSError as error:
            raise UserError(f"cannot read data file {str(path)!r}: {error.strerror}") from None
        if not spans:
            raise UserError(f"{path}: no records in the file")
        self._spans = np.array(spans, dtype=np.int64)  # offset, length, line (or item) number

    def __len__(self) -> int:
        return len(self._spans)

    def where(self, index: int) -> str:
        """The place of a record as an error message names it: `FILE:LINE`, or `FILE: item N` in a list."""
        number = int(self._spans[index, 2])
        return f"{self.path}: item {number}" if self.is_list else f"{self.path}:{number}"

    def raw(self, index: int) -> bytes:
        """The bytes of a record."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        offset, length = (int(value) for value in self._spans[index, :2])
        # pread keeps no file position, so threads need no lock.
        return os.pread(self._descriptor, length, offset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            value = json.loads(self.raw(index))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(index)}: not UTF-8 text (byte {error.start})") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{self.where(index)}: not valid JSON: {error.msg} at column {error.colno}") from None
        except RecursionError:
            raise UserError(f"{self.where(index)}: JSON nested too deeply") from None
        if not isinstance(value, dict):
            raise UserError(f"{self.where(index)}: expected a JSON object, found {type(value).__name__}")
        return value

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]


def _scan_lines(path: Path) -> Iterator[tuple[int, int, int]]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            skip = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            if line[skip:].strip():
                yield offset + skip, len(line) - skip, number
            offset += len(line)


def _scan_list(path: Path) -> Iterator[tuple[int, int, int]]:
    """Walks the items of a JSON list; the text is in memory during the scan only."""
    data = path.read_bytes()
    start = len(_BOM) if data.startswith(_BOM) else 0
    try:
        text = data[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    del data
    decoder = json.JSONDecoder()
    position, done, offset, number = text.index("[") + 1, 0, start, 0
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == "]" and number == 0:
            return
        number += 1
        try:
            _, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: item {number}: not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
        # Offsets are in bytes, the decoder counts characters.
        offset += len(text[done:position].encode())
        length = len(text[position:end].encode())
        yield offset, length, number
        offset, done = offset + length, end
        position = _skip(text, end)
        separator = text[position : position + 1]
        if separator == "]":
            return
        if separator != ",":
            raise UserError(
                f"{path}: item {number}: not valid JSON: expected ',' or ']' after it, found {separator or 'the end of the file'!r}"
            )
        position += 1


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
