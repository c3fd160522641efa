"""Random access to the records of a JSONL file, or of a JSON file that holds one list, in bounded memory.

The file is scanned once; only offsets are kept. Readers in other threads and processes share nothing but the path.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.foreign import TOO_MANY_DIGITS, JSONFault, describe_json_error, parse_json, shown

_BOM = b"\xef\xbb\xbf"
_HEAD = 4096

_TABLES = {
    "a Parquet file": "datasets.Dataset.from_parquet(FILE)",
    "an Arrow stream": "datasets.Dataset.from_file(FILE)",
    "an Arrow file": "datasets.Dataset.from_pandas(pandas.read_feather(FILE))",
    "a CSV file": "datasets.Dataset.from_csv(FILE)",
    "a TSV file": r"datasets.Dataset.from_csv(FILE, sep='\t')",
}
"""Kinds of tables, and what opens them; each can then be written as JSONL."""
_MAGIC = (
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"\x1f\x8b", "compressed (gzip)"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)"),
    (b"\xfd7zXZ", "compressed (xz)"),
    (b"BZh", "compressed (bzip2)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)
_BLANKS = re.compile("[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_HALF = re.compile("[\ud800-\udfff]")
HALF_CHARACTER = "holds one half of a surrogate pair (\\ud800 to \\udfff), which no tokenizer can read; write the whole character"
_SUFFIXES = {".parquet": "a Parquet file", ".arrow": "an Arrow stream", ".csv": "a CSV file", ".tsv": "a TSV file"}


class RecordFile:
    """A sequence of JSON objects in a file, each read when it is asked for.

    Raises:
        UserError: The file cannot be read, is empty, of another kind, or a list that is not valid JSON.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = self._open()
            head = os.pread(self._descriptor, _HEAD, 0).removeprefix(_BOM).lstrip()
            if kind := _other_kind(head, self.path.suffix.lower()):
                raise UserError(f"{path}: this is {kind}; {_remedy(kind)}")
            self.is_list = head.startswith(b"[")
            with open(self._descriptor, "rb", closefd=False) as file:
                spans = _scan_list(file, self.path) if self.is_list else _scan_lines(file)
                self._spans = np.fromiter(spans, dtype=np.dtype((np.int64, 3)))  # offset, length, line
        except OSError as error:
            raise UserError(f"cannot read data file {str(path)!r}: {error.strerror}") from None
        if not len(self):
            raise UserError(f"{path}: no records in the file")

    def __len__(self) -> int:
        return len(self._spans)

    def where(self, index: int) -> str:
        """The place of a record as an error message names it: `FILE:LINE`, and ` (item N)` in a list."""
        item = f" (item {index + 1})" if self.is_list else ""
        return f"{self.path}:{self._spans[index, 2]}{item}"

    def raw(self, index: int) -> bytes:
        """The bytes of a record."""
        offset, length = (int(value) for value in self._spans[index, :2])
        # pread keeps no file position, so threads need no lock.
        return os.pread(self._descriptor, length, offset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where, raw = self.where(index), self.raw(index)
        try:
            value = parse_json(raw.decode().rstrip())
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 text (byte {error.start} of the record)") from None
        except JSONFault as fault:
            raise UserError(f"{where}: {_json_fault(fault.syntax, 'line') if fault.syntax else fault}") from None
        if not isinstance(value, dict):
            raise UserError(f"{where}: a record must be a JSON object, found {json_kind(value)}")
        if b"\\u" in raw and (field := half_character(value)) is not None:
            raise UserError(f"{where}: field {field!r} {HALF_CHARACTER}")
        return value

    def _open(self) -> int:
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise UserError(f"data file {str(self.path)!r} is a folder or a pipe; give a regular file")
        return os.open(self.path, os.O_RDONLY)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_descriptor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._descriptor = self._open()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def half_character(value: Any) -> str | None:
    """A text (or key) that is not Unicode, by its dotted name: JSON can escape half a character, UTF-8 cannot hold it."""
    waiting = [("", value)]
    while waiting:
        field, item = waiting.pop()
        if isinstance(item, str):
            if _HALF.search(item):
                return field
            continue
        items = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, inner in items:
            name = f"{field}.{key}" if field else str(key)
            if _HALF.search(str(key)):
                return ascii(name)
            waiting.append((name, inner))
    return None


def json_kind(value: Any) -> str:
    """What a JSON value is, in words; a number, true, false or null itself."""
    kinds: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value)) or shown(value)


def _other_kind(head: bytes, suffix: str) -> str:
    """What a file is that holds no JSON, as far as its beginning and its name tell."""
    if head.startswith((b"{", b"[")):
        return ""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return "a binary file" if b"\0" in head else _SUFFIXES.get(suffix, "") if head else ""


def _remedy(kind: str) -> str:
    wanted = "a file of JSON objects, one a line (JSONL) or in one list"
    if kind in _TABLES:
        return f"make it {wanted}: {_TABLES[kind]}.to_json('data.jsonl')"
    if kind.startswith(("compressed", "a zip")):
        return f"unpack it to {wanted}"
    return f"give {wanted}, as UTF-8 text"


def _scan_lines(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    offset = 0
    for number, line in enumerate(file, start=1):
        skip = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
        if line[skip:].strip():
            yield offset + skip, len(line) - skip, number
        offset += len(line)


def _scan_list(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, int]]:
    """Walks the items of a JSON list, of which a window is in memory."""
    window, items = _Window(file, path), 0
    window.next()
    window.move(1)  # past the bracket
    while window.next() != "]" or items:
        items += 1
        offset, line = window.offset, window.line
        window.move(window.item(items))
        yield offset, window.offset - offset, line
        if (found := window.next()) == "]":
            break
        if found != ",":
            raise window.fault("expecting ',' or ']' after the item", items)
        window.move(1)
    window.move(1)
    if window.next():
        raise window.fault("expecting one list with all items", items)


class _Window:
    """The part of a JSON file that is looked at: `text` from a place on, which is known in bytes and by its line."""

    BLOCK = 1 << 20

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._read = self.offset = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(self.offset)
        self.text, self.at = "", 0
        self.line, self._column = 1, 0
        self._ended = False

    def next(self) -> str:
        """Moves to the next character that is no blank, and gives it; nothing at the end of the file."""
        while True:
            blanks = _BLANKS.match(self.text, self.at)
            assert blanks is not None, "none is some too"
            self.move(blanks.end() - self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self._ended:
                return ""
            self._more()

    def item(self, number: int) -> int:
        """The length of the JSON value that begins here, which is the list's item of that number."""
        while True:
            try:
                end = _DECODER.raw_decode(self.text, self.at)[1]
                if end < len(self.text) or self._ended:  # a number may go on in the next block
                    return end - self.at
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self.fault(error.msg, number, error.pos - self.at) from None
            except RecursionError:
                raise UserError(f"{self._path} (item {number}): JSON nested too deeply") from None
            except ValueError:
                raise UserError(f"{self._path} (item {number}): {TOO_MANY_DIGITS}") from None
            self._more()

    def move(self, length: int) -> None:
        """Goes that many characters on."""
        passed = self.text[self.at : self.at + length]
        self.at += length
        self.offset += len(passed.encode())
        self.line += passed.count("\n")
        self._column = len(passed) - passed.rfind("\n") - 1 + (0 if "\n" in passed else self._column)

    def fault(self, what: str, number: int, after: int = 0) -> UserError:
        """The error of what lies that many characters from here."""
        self._more()  # for the characters that it quotes
        error = json.JSONDecodeError(what, self.text, after)
        error.colno += self._column if error.lineno == 1 else 0
        return UserError(f"{self._path}:{self.line + error.lineno - 1} (item {number}): {_json_fault(error, 'file')}")

    def _more(self) -> None:
        """Reads a block, or as much again as is left here: an item of many blocks is parsed a few times only."""
        block = self._file.read(max(self.BLOCK, len(self.text) - self.at))
        self._ended = not block
        try:
            self.text, self.at = self.text[self.at :] + self._decode(block, self._ended), 0
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n", self.at) + error.object.count(b"\n", 0, error.start)
            place = self._read + len(block) - len(error.object) + error.start
            raise UserError(f"{self._path}:{line}: not UTF-8 text (byte {place} of the file)") from None
        self._read += len(block)


def _json_fault(error: json.JSONDecodeError, whole: str) -> str:
    """What the parser met, and where; `whole` is what its text is: the line or the file."""
    hint = "; a record is one object on one line" if whole == "line" and not 0 < error.pos < len(error.doc) else ""
    return describe_json_error(error, f"the end of the {whole}", line=False) + hint
