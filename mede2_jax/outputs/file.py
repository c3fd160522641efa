"""A file of records, one a line: held by one process, appended piece by piece, and taken up again after any end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic_core import PydanticSerializationError

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import JSONFault, one_line, parse_json


class Unwritable(UserError):
    """A file that cannot be written any more, mostly since its disk is full; what is in it stays."""

    def __init__(self, path: Path, error: OSError) -> None:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        super().__init__(f"{error.strerror or error}: {path}; {'make room there' if is_full else 'choose another place'}")


class OutputFile:
    """A file of records, locked while inside `with`.

    Args:
        path: The file; it is made if it is not there, and not left behind empty.
        what: The records in words, such as `rollouts`.
        hint: What to add where another process holds the file.

    Raises:
        UserError: It is no file, or another process holds it.
    """

    def __init__(self, path: Path, what: str, hint: str = "") -> None:
        self.path, self.what, self._hint = path, what, hint

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"--out={self.path} is a folder; give a file, such as {self.path / f'{self.what}.jsonl'}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what `append` has returned from is out of this process, whatever becomes of it.
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise self._in_use() from None
        except OSError:
            pass  # a file system without locks
        # Whoever held it before may have removed it again since it was opened.
        if not self.path.exists() or not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat()):
            self._file.close()
            raise self._in_use()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_empty:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._file.close()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been written."""
        return self.size == 0

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def whole_lines(self, start: int = 0) -> Iterator[tuple[dict[str, Any], str]]:
        """The records that were written to their end, each with its place, `FILE:LINE`.

        Args:
            start: Only those after so many bytes; lines are then counted from there.

        Raises:
            UserError: A line is no JSON object.
        """
        self._file.seek(start)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for number, line in enumerate(lines, start=1):
                if line.endswith(b"\n"):
                    where = f"{self.path}:{number}" if not start else f"{self.path}, line {number} after byte {start}"
                    yield self._parse(line, where), where

    def cut_torn(self) -> int:
        """Cuts off a last line that was not written to its end; returns its bytes."""
        size = self.size
        at, block = size, b""
        while at and b"\n" not in block:
            step = min(at, 1 << 16)
            at -= step
            block = os.pread(self._file.fileno(), step, at)
        whole = at + block.rfind(b"\n") + 1
        if whole < size:
            self._file.truncate(whole)
        return size - whole

    def restart(self) -> None:
        """Empties the file."""
        self._file.truncate(0)

    def append(self, records: Iterable[pydantic.BaseModel]) -> None:
        """Writes records in one piece.

        Raises:
            UserError: A record cannot be written, such as one that is nested too deeply; none of them is then.
            Unwritable: The disk is full. What was written of a line is cut off at the next start.
        """
        try:
            data = memoryview("".join(record.model_dump_json(exclude_none=True) + "\n" for record in records).encode())
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise UserError(f"one of the {self.what} for {self.path} cannot be written as JSON ({one_line(str(error))})") from None
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise Unwritable(self.path, error) from None

    def _parse(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            raw = parse_json(line)
        except JSONFault as fault:
            raise UserError(f"{where}: {fault}; this is no file of {self.what}, or it was damaged: use another --out") from None
        if not isinstance(raw, dict):
            raise UserError(f"{where}: a record must be a JSON object; this is no file of {self.what}: use another --out")
        return raw

    def _in_use(self) -> UserError:
        return UserError(f"another process is writing {self.path}; wait for it or stop it, or use another --out{self._hint}")


def describe_torn(size: int, record: str) -> str:
    """What the user hears of a line that was cut off; `record` is what it held, such as `sample`."""
    return f"the last line was not written to its end ({counted(size, 'byte')}): it was cut off, and its {record} is taken anew"


def check_place(path: Path | None, option: str) -> None:
    """Before long work whose result goes there.

    Raises:
        UserError: No file can be made at `path`.
    """
    if path is not None and path.is_dir():
        raise UserError(f"--{option}={path} is a folder; give a file")
    if path is not None and not path.parent.is_dir():
        raise UserError(f"--{option}={path}: there is no folder {path.parent}; make it first")


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces a file in one step: it has the old content or the new, never a part.

    Raises:
        OSError: The disk is full. Nothing is left beside the old content.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
