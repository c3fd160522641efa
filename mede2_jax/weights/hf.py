"""Streaming, strict safetensors: one tensor, or some of its rows, in memory at a time.

The header is parsed here, and tensors are read with `pread`: a memory map would count every page touched as the
process's own memory, so a converter's footprint would grow to the size of the checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import numpy as np
import pydantic

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.json_file import Foreign, check, load_checked
from mede2_jax.weights.dtypes import FLOATS, FROM_SAFETENSORS

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
BLOCK_BYTES = 64 * 2**20
"""How much is made contiguous, written or copied at once."""
WHOLE_ROWS = 256
"""Blocks of many rows are a multiple of it, so that each holds whole chunks of what it is written to."""
TILE = 256
LONGEST_NAME = 80
"""Of a shard's file: whatever its letters are, no file system refuses it."""
MAX_HEADER_BYTES = 100_000_000
MAX_AXES = 32
"""NumPy has 64 at most, and no weight has ten."""
MAX_READ_BYTES = 2**30
"""One read system call moves at most 2 GiB on Linux."""


_Bytes = Annotated[int, pydantic.Field(ge=0, lt=2**63)]


class _Tensor(Foreign):
    """Of a tensor in a file's header."""

    dtype: str
    shape: Annotated[list[_Bytes], pydantic.Field(max_length=MAX_AXES)]
    data_offsets: Annotated[list[_Bytes], pydantic.Field(min_length=2, max_length=2)]


class _Index(Foreign):
    """Of the shards of a checkpoint."""

    weight_map: dict[str, Any]


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: bytes [begin, end) of a file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin


class CheckpointReader:
    """The tensors of a directory with `model.safetensors`, or with shards and their index.

    Opening reads and checks all headers against the index and the files' sizes.

    Raises:
        UserError: A file missing, truncated or malformed, a dtype that is not a float, or an index that disagrees.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensors: dict[str, TensorInfo] = {}
        self._handles: dict[Path, int] = {}
        for file, listed in _files(directory).items():
            found = read_header(file)
            if listed is not None and set(found) != listed:
                _refuse_index(file, listed, set(found))
            self.tensors.update(found)

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Reads a tensor, or rows [start, stop) of its first axis.

        Raises:
            UserError: The file ends early.
        """
        info = self.tensors[name]
        shape, begin = info.shape, info.begin
        if rows is not None:
            row_bytes = info.nbytes // info.shape[0]
            shape, begin = (rows[1] - rows[0], *info.shape[1:]), info.begin + rows[0] * row_bytes
        array = np.empty(shape, info.dtype)
        _read_into(self._handle(info.file), array.reshape(-1).view(np.uint8).data, begin, info.file)
        return array

    def _handle(self, file: Path) -> int:
        if file not in self._handles:
            self._handles[file] = os.open(file, os.O_RDONLY)
        return self._handles[file]


class CheckpointWriter:
    """Writes tensors, in any order, into files whose layout follows from the shapes known beforehand.

    A tensor that would take a shard past `max_shard_bytes` opens the next; a single shard is called `model.safetensors`.

    Args:
        directory: An existing directory.
        tensors: (name, dtype, shape) of every tensor, in shard order.
        max_shard_bytes: Limit of a shard's tensors; one larger tensor has a shard to itself.
        single_name: The file's name if there is one shard only.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]],
        max_shard_bytes: int = 5 * 10**9,
        single_name: str = SINGLE,
    ) -> None:
        self.directory = directory
        shards = list(_shards(tensors, max_shard_bytes))
        names = [single_name] if len(shards) == 1 else [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        self.tensors: dict[str, TensorInfo] = {}
        self._written = {name: 0 for name, _, _ in tensors}
        self._handles: dict[Path, int] = {}
        for file, shard in zip(names, shards, strict=True):
            self._start_file(directory / file, shard)
        if len(shards) > 1:
            self._write_index()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles.values():
            if error is None:
                os.fsync(handle)
            os.close(handle)
        self._handles.clear()
        incomplete = [name for name, count in self._written.items() if count != self.tensors[name].nbytes]
        if error is None and incomplete:
            raise AssertionError(f"{len(incomplete)} tensors were not written completely, first {incomplete[0]!r}")

    def write(self, name: str, array: np.ndarray, start: int = 0) -> None:
        """Writes a tensor, or a block of its rows that begins at row `start`; any strides."""
        info = self.tensors[name]
        assert array.dtype == info.dtype and array.shape[1:] == info.shape[1:], (name, array.dtype, array.shape, info)
        handle = self._handles[info.file]
        offset = info.begin + (start * (info.nbytes // info.shape[0]) if start else 0)
        for _, block in row_blocks(array):
            data = contiguous(block).reshape(-1).view(np.uint8).data
            while data:
                count = os.pwrite(handle, data, offset)
                data, offset = data[count:], offset + count
        self._written[name] += array.nbytes

    def _start_file(self, file: Path, shard: list[tuple[str, np.dtype, tuple[int, ...]]]) -> None:
        """Writes the header; wider types first, so that every tensor is aligned to its own size."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        spans, end = {}, 0
        for name, dtype, shape in sorted(shard, key=lambda tensor: -tensor[1].itemsize):
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": FLOATS[dtype.name].safetensors, "shape": list(shape), "data_offsets": [begin, end]}
            spans[name] = (dtype, shape, begin, end)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        data = 8 + len(text)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._handles[file] = handle
        os.pwrite(handle, struct.pack("<Q", len(text)) + text, 0)
        for name, (dtype, shape, begin, stop) in spans.items():
            self.tensors[name] = TensorInfo(file, dtype, shape, data + begin, data + stop)

    def _write_index(self) -> None:
        total = sum(info.nbytes for info in self.tensors.values())
        weight_map = {name: self.tensors[name].file.name for name in sorted(self.tensors)}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
        (self.directory / INDEX).write_text(text, encoding="utf-8")


def row_blocks(array: np.ndarray, limit: int = BLOCK_BYTES) -> Iterator[tuple[int, np.ndarray]]:
    """Consecutive (first row, rows) of at most `limit` bytes; a scalar or a single row comes whole."""
    if array.ndim == 0 or array.nbytes <= limit:
        yield 0, array
        return
    step = rows_per_block(array.shape, array.dtype, limit)
    for start in range(0, array.shape[0], step):
        yield start, array[start : start + step]


def contiguous(array: np.ndarray) -> np.ndarray:
    """C order; a transposed matrix is copied in tiles that stay in the processor's cache, four times as fast as NumPy does it."""
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    for row in range(0, array.shape[0], TILE):
        for column in range(0, array.shape[1], TILE):
            where = slice(row, row + TILE), slice(column, column + TILE)
            result[where] = array[where]
    return result


def rows_per_block(shape: tuple[int, ...], dtype: np.dtype, limit: int = BLOCK_BYTES) -> int:
    """Rows of the first axis that fit in `limit` bytes (at least one), evened out so that the last block is not a stub.

    Where it is less than all, and many, it is a multiple of `WHOLE_ROWS`, and so of any chunk's rows.
    """
    fitting = max(1, limit // max(1, math.prod(shape[1:]) * dtype.itemsize))
    blocks = max(1, -(-shape[0] // fitting))
    rows = max(1, -(-shape[0] // blocks))
    if blocks == 1 or fitting < WHOLE_ROWS:
        return rows
    return min(-(-rows // WHOLE_ROWS), fitting // WHOLE_ROWS) * WHOLE_ROWS


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file: their spans must tile the file's data exactly.

    Raises:
        UserError: Anything else.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise UserError(f"{file}: not a safetensors file, or cut short ({size} bytes, header of {length}); fetch it again")
            text = stream.read(length)
    except OSError as error:
        raise UserError(f"cannot read {str(file)!r}: {error.strerror}; is the checkpoint complete?") from None
    try:
        header = parse_json(text)
    except JSONFault as fault:
        raise UserError(f"{file}: malformed safetensors header ({fault}); fetch it again") from None
    if not isinstance(header, dict):
        raise UserError(f"{file}: malformed safetensors header (it is no object); fetch it again")
    header.pop("__metadata__", None)
    found = {name: _tensor_info(file, name, item, 8 + length) for name, item in header.items()}
    end = 8 + length
    for name, info in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != end:
            raise UserError(
                f"{file}: tensor {shown(name, 200)!r} begins at byte {info.begin}, expected {end}: the header is damaged; fetch it again"
            )
        end = info.end
    if end != size:
        what = "cut short" if size < end else "too long"
        raise UserError(f"{file}: {what}: {size} bytes, its header describes {end}; fetch it again")
    return found


def read_tensor(info: TensorInfo) -> np.ndarray:
    """One tensor, of a file opened for it alone."""
    array = np.empty(info.shape, info.dtype)
    handle = os.open(info.file, os.O_RDONLY)
    try:
        _read_into(handle, array.reshape(-1).view(np.uint8).data, info.begin, info.file)
    finally:
        os.close(handle)
    return array


def _tensor_info(file: Path, name: str, item: Any, data: int) -> TensorInfo:
    tensor = f"tensor {shown(name, 200)!r}"
    entry = check(item, _Tensor, f"{file}: malformed safetensors header: {tensor}", "fetch it again")
    if entry.dtype not in FROM_SAFETENSORS:
        kinds = ", ".join(FROM_SAFETENSORS)
        raise UserError(f"{file}: {tensor} is {shown(entry.dtype)}; only {kinds} can be read, quantised checkpoints cannot")
    shape, (begin, end) = tuple(entry.shape), entry.data_offsets
    dtype = FROM_SAFETENSORS[entry.dtype]
    if end - begin != math.prod(shape) * dtype.itemsize:
        spans = f"{tensor} of shape {list(shape)} spans {end - begin} bytes"
        raise UserError(f"{file}: malformed safetensors header ({spans}); fetch it again")
    return TensorInfo(file, dtype, shape, data + begin, data + end)


def _files(directory: Path) -> dict[Path, set[str] | None]:
    """The files to read and the tensors each should hold (None: unknown)."""
    index = directory / INDEX
    if not index.exists():
        if (directory / SINGLE).exists():
            return {directory / SINGLE: None}
        others = sorted(
            file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.safetensors") for file in directory.glob(pattern) if file.is_file()
        )
        hint = f" (found {others[0]}; save it again as safetensors with its {INDEX})" if others else ""
        raise UserError(f"no {SINGLE} or {INDEX} in {str(directory)!r}{hint}")
    listed: dict[str, set[str]] = {}
    for name, file in load_checked(index, _Index, "fetch it again").weight_map.items():
        if not _is_shard(file):
            raise UserError(f"{index}: {shown(file)!r} is not the name of a .safetensors file in the same directory")
        listed.setdefault(file, set()).add(name)
    missing = sorted(file for file in listed if not (directory / file).exists())
    if (directory / SINGLE).exists() and SINGLE not in listed:
        if len(missing) == len(listed):  # the index was left over; transformers looks for the single file first
            return {directory / SINGLE: None}
        shards = shown(sorted(listed.keys() - missing)[0])
        raise UserError(
            f"{directory} holds two sets of weights, {SINGLE} and the shards of {INDEX} ({shards}, …); delete the one that is old"
        )
    if missing:
        names = shown(", ".join(missing[:3]), 200)
        raise UserError(f"{len(missing)} of {len(listed)} shards missing in {str(directory)!r}: {names}; fetch them")
    return {directory / file: names for file, names in sorted(listed.items())}


def _is_shard(name: Any) -> bool:
    """A name with a folder in it could reach outside the checkpoint."""
    if not isinstance(name, str) or not name.endswith(".safetensors") or len(name) > LONGEST_NAME:
        return False
    return Path(name).name == name and not any(letter == "\\" or letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name)


def _refuse_index(file: Path, listed: set[str], found: set[str]) -> None:
    name = sorted(listed ^ found)[0]
    where = "the index has it there, the file has not" if name in listed else "the file has it, the index has it not"
    raise UserError(f"{file}: disagrees with {INDEX} about {counted(len(listed ^ found), 'tensor')}, first {shown(name, 200)!r}: {where}")


def _read_into(handle: int, target: memoryview, offset: int, file: Path) -> None:
    while target:
        count = os.preadv(handle, [target[:MAX_READ_BYTES]], offset)
        if count == 0:
            raise UserError(f"{file}: ends early, at byte {offset}; fetch it again")
        target, offset = target[count:], offset + count


def _shards(tensors: Sequence[tuple[str, np.dtype, tuple[int, ...]]], limit: int) -> Iterator[list[tuple[str, np.dtype, tuple[int, ...]]]]:
    shard: list[tuple[str, np.dtype, tuple[int, ...]]] = []
    size = 0
    for tensor in tensors:
        nbytes = math.prod(tensor[2]) * tensor[1].itemsize
        if shard and size + nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += nbytes
    yield shard
