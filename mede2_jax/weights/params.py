"""Parameters on disk, streamed: written and read slice by slice through tensorstore, in the layout Orbax restores.

An array is zarr in one OCDBT database, named by its path with "." for "/" (`language.norm.scale`). A stacked array has one
layer to a chunk at most, and chunks are rows of about 1 MB, so that neither writing nor a sharded restore ever needs a whole array.
Chunks are not compressed: the low bits of trained bfloat16 weights are noise, and zstd costs time to save a few percent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorstore as ts

from mede2_jax.config import UserError
from mede2_jax.foreign import one_line, shown
from mede2_jax.json_file import Foreign, load_checked
from mede2_jax.weights.dtypes import FLOATS
from mede2_jax.weights.hf import BLOCK_BYTES, WHOLE_ROWS, contiguous, row_blocks, rows_per_block

TREE_METADATA = "_METADATA"
CHECKPOINT_METADATA = "_CHECKPOINT_METADATA"
HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"
"""What Orbax writes as the handler's name; it is data here, not an import."""
CHUNK_BYTES = 2**20
"""What a process reads of a file is whole chunks: small ones, so that it reads little besides its share."""
EVEN = 64
"""Devices that most widths can be shared out to."""
COMMIT_BYTES = 64 * 2**20
"""A transaction holds its writes in memory, and each commit writes index nodes: this much at a time is cheap in both."""


class _Key(Foreign):
    key: str


class _Entry(Foreign):
    key_metadata: list[_Key]


class _Metadata(Foreign):
    """What Orbax writes beside its arrays."""

    use_ocdbt: bool = False
    use_zarr3: bool = False
    tree_metadata: dict[str, _Entry]


@dataclass(frozen=True)
class ParamInfo:
    """Shape and dtype of a parameter."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class ContentDigest:
    """A digest of names, dtypes, shapes and contents, whoever wrote them and in whatever chunks.

    It is the SHA-256 of one line per parameter, in the order of their paths; the line ends in the SHA-256 of the
    parameter's bytes in C order. Parameters may therefore be fed in turns, each from its first element to its last.
    """

    def __init__(self) -> None:
        self._infos: dict[str, ParamInfo] = {}
        self._hashes: dict[str, Any] = {}

    def start(self, path: str, info: ParamInfo) -> None:
        """Announces a parameter."""
        self._infos[path], self._hashes[path] = info, hashlib.sha256()

    def update(self, path: str, block: np.ndarray) -> None:
        """Adds the next elements of a parameter, in C order."""
        self._hashes[path].update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def result(self) -> str:
        """`sha256:…`."""
        total = hashlib.sha256()
        for path, info in sorted(self._infos.items()):
            total.update(f"{path} {info.dtype.name} {list(info.shape)} {self._hashes[path].hexdigest()}\n".encode())
        return f"sha256:{total.hexdigest()}"


class ParamWriter:
    """Writes parameters slice by slice; peak memory is near one 64 MB block, whatever their size.

    A parameter is written from its first element to its last (layers in order, rows in order), so that the digest is
    known at the end. Leaving the context completes the directory; an error leaves it without metadata.

    Raises:
        UserError: The disk is full or the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.infos: dict[str, ParamInfo] = {}
        self.digest = ""
        self._content = ContentDigest()
        self._arrays: dict[str, ts.TensorStore] = {}
        self._written: dict[str, int] = {}
        self._context = _context()
        self._pending = 0
        self._transaction: ts.Transaction | None = None
        self._committing: ts.Future | None = None
        directory.mkdir(parents=True)

    def __enter__(self) -> ParamWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            # Nothing may still be writing when the directory is removed.
            with contextlib.suppress(UserError):
                self._await_commit()
            self._transaction = None
            return
        incomplete = [path for path, info in self.infos.items() if self._written[path] != info.nbytes]
        if incomplete:
            raise AssertionError(f"{len(incomplete)} parameters were not written completely, first {incomplete[0]!r}")
        self._commit()
        self._await_commit()
        self._write_metadata()
        self.digest = self._content.result()

    def create(self, path: str, shape: tuple[int, ...], dtype: np.dtype, *, stacked: bool = False) -> None:
        """Creates a parameter; `stacked` says that axis 0 is the layer."""
        info = ParamInfo(tuple(shape), np.dtype(dtype))
        dtype_name = FLOATS[info.dtype.name].zarr
        metadata = {"shape": list(shape), "chunks": list(chunk_shape(info, stacked)), "dtype": dtype_name, "compressor": None}
        spec = {"driver": "zarr", "kvstore": _kvstore(self.directory, path), "metadata": metadata, "create": True}
        with _users_errors("write", self.directory):
            self._arrays[path] = ts.open(spec, context=self._context).result()
        self.infos[path], self._written[path] = info, 0
        self._content.start(path, info)

    def write(self, path: str, array: np.ndarray, *, layer: int | None = None, start: int = 0) -> None:
        """Writes the next slice of a parameter.

        Args:
            path: The parameter.
            array: The layer, the parameter, or consecutive rows of it; any strides.
            layer: Index in axis 0 of a stacked parameter.
            start: The row at which `array` begins.
        """
        info = self.infos[path]
        shape = info.shape if layer is None else info.shape[1:]
        row_bytes = math.prod(shape[1:]) * info.dtype.itemsize if shape else info.dtype.itemsize
        offset = (0 if layer is None else layer * math.prod(shape) * info.dtype.itemsize) + start * row_bytes
        assert array.dtype == info.dtype and array.shape[1:] == shape[1:], (path, array.dtype, array.shape, info)
        assert offset == self._written[path], f"{path}: slices must come in order"
        for row, block in row_blocks(array):
            where = () if layer is None else (layer,)
            if array.ndim:
                where = (*where, slice(start + row, start + row + block.shape[0]))
            self._stage(path, where, contiguous(block))
        self._written[path] += array.nbytes

    def _stage(self, path: str, where: tuple[Any, ...], block: np.ndarray) -> None:
        if self._pending + block.nbytes > COMMIT_BYTES:
            self._commit()
        if self._transaction is None:
            self._transaction = ts.Transaction()
        target = self._arrays[path].with_transaction(self._transaction)
        with _users_errors("write", self.directory):
            (target[where] if where else target).write(block).result()
        self._content.update(path, block)
        self._pending += block.nbytes

    def _commit(self) -> None:
        """Starts the commit once the one before is done: two blocks in memory, and the disk is busy meanwhile."""
        self._await_commit()
        if self._transaction is not None:
            self._committing = self._transaction.commit_async()
        self._transaction, self._pending = None, 0

    def _await_commit(self) -> None:
        if self._committing is not None:
            with _users_errors("write", self.directory):
                self._committing.result()
        self._committing = None

    def _write_metadata(self) -> None:
        """The two files in which Orbax looks for the tree and for how to read it."""
        tree = {}
        for path, info in self.infos.items():
            keys = path.split("/")
            value = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(info.shape)}
            tree[str(tuple(keys))] = {"key_metadata": [{"key": key, "key_type": 2} for key in keys], "value_metadata": value}
        flags = {"use_ocdbt": True, "use_zarr3": False, "store_array_data_equal_to_fill_value": True, "custom_metadata": None}
        (self.directory / TREE_METADATA).write_text(json.dumps({"tree_metadata": tree, **flags}), encoding="utf-8")
        now = time.time_ns()
        stamps = {"init_timestamp_nsecs": now, "commit_timestamp_nsecs": now}
        checkpoint = {"item_handlers": HANDLER, "metrics": {}, "performance_metrics": {}, **stamps, "custom_metadata": {}}
        (self.directory / CHECKPOINT_METADATA).write_text(json.dumps(checkpoint), encoding="utf-8")


class ParamReader:
    """Reads parameters slice by slice, whether `ParamWriter` or Orbax wrote them.

    Args:
        directory: What Orbax calls an item: model directories have one, `params`.
        below: Only those whose path begins so are opened.

    Raises:
        UserError: The directory is missing, damaged or incomplete.
    """

    def __init__(self, directory: Path, below: str = "") -> None:
        self.directory = directory
        context = _context()
        self.infos: dict[str, ParamInfo] = {}
        self.chunks: dict[str, tuple[int, ...]] = {}
        """Shape of the pieces that are read as a whole."""
        self._arrays: dict[str, ts.TensorStore] = {}
        for path in filter(lambda path: path.startswith(below), _stored_paths(directory)):
            with _users_errors("read", directory, path):
                array = ts.open({"driver": "zarr", "kvstore": _kvstore(directory, path)}, context=context, open=True, read=True).result()
            self._arrays[path] = array
            self.chunks[path] = tuple(size or 0 for size in array.chunk_layout.read_chunk.shape or ())
            self.infos[path] = ParamInfo(tuple(array.shape), array.dtype.numpy_dtype)

    def read(self, path: str, *, layer: int | None = None, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Reads a parameter, one layer of a stacked one, or rows [start, stop) of either."""
        array = self._arrays[path] if layer is None else self._arrays[path][layer]
        if rows is not None:
            array = array[rows[0] : rows[1]]
        with _users_errors("read", self.directory, path):
            return array.read().result()

    def digest(self) -> str:
        """The content's digest, reading one block at a time."""
        content = ContentDigest()
        for path, info in sorted(self.infos.items()):
            content.start(path, info)
            for where in _blocks(info):
                content.update(path, self.read(path, rows=where))
        return content.result()


def digest_params(directory: Path) -> str:
    """The content's digest (`sha256:…`) of a params/ directory, independent of who wrote it and of its chunks."""
    return ParamReader(directory).digest()


def chunk_shape(info: ParamInfo, stacked: bool) -> tuple[int, ...]:
    """One layer, or so many rows of it (of the parameter if unstacked) as `CHUNK_BYTES` hold, a power of two.

    Of a matrix whose rows cannot be shared out evenly, such as a vocabulary of 151,674 words, it is columns of as many bytes.
    Blocks that `row_blocks` gives are whole chunks, so none is ever read to be written again.
    """
    if not info.shape:
        return ()
    if stacked and len(info.shape) > 1:
        return (1, *chunk_shape(ParamInfo(info.shape[1:], info.dtype), stacked=False))
    if len(info.shape) == 2 and info.shape[0] % EVEN and info.shape[1] % EVEN == 0 and info.nbytes > BLOCK_BYTES:
        return (rows_per_block(info.shape, info.dtype), info.shape[1] // EVEN)
    fitting = max(1, CHUNK_BYTES // max(1, math.prod(info.shape[1:]) * info.dtype.itemsize))
    rows = min(2 ** int(math.log2(fitting)), WHOLE_ROWS) if len(info.shape) > 1 else fitting
    return (min(rows, info.shape[0]), *info.shape[1:])


def _blocks(info: ParamInfo) -> Iterator[tuple[int, int] | None]:
    if not info.shape:
        yield None
        return
    step = rows_per_block(info.shape, info.dtype)
    for start in range(0, info.shape[0], step):
        yield start, min(start + step, info.shape[0])


def _stored_paths(directory: Path) -> list[str]:
    if not (directory / TREE_METADATA).is_file():
        raise UserError(f"no complete parameters in {str(directory)!r} ({TREE_METADATA} is missing); convert or save the model again")
    metadata = load_checked(directory / TREE_METADATA, _Metadata, "it is damaged: convert or save the model again")
    if metadata.use_zarr3 or not metadata.use_ocdbt:
        raise UserError(f"{directory}: parameters are not zarr in OCDBT; write them with mede2_jax.convert")
    return ["/".join(key.key for key in entry.key_metadata) for entry in metadata.tree_metadata.values()]


def _kvstore(directory: Path, path: str) -> dict[str, Any]:
    base = {"driver": "file", "path": f"{directory.resolve()}/"}
    return {"driver": "ocdbt", "base": base, "path": path.replace("/", ".") + "/"}


def _context() -> ts.Context:
    """No cache, since every slice is used once; files are synced together at the end, not one by one."""
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 2}, "file_io_sync": False})


@contextlib.contextmanager
def _users_errors(verb: str, directory: Path, path: str = "") -> Iterator[None]:
    """tensorstore reports a full disk or a damaged file as ValueError; they become one line."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"cannot {verb} {shown(path) or 'parameters'} in {str(directory)!r}: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What went wrong below, in a few words."""
    text = one_line(str(error))
    if "No space left on device" in text:
        return "no space left on device; free some, or choose another disk"
    if "OUT_OF_RANGE" in text or "DATA_LOSS" in text or "NOT_FOUND" in text:
        return f"its files are damaged or missing ({text[:120]}…); convert or save the model again"
    return text[:240]
