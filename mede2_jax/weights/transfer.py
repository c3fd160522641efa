"""Moves every tensor between a Hugging Face checkpoint and `params/`, one slice in memory at a time.

Peak memory is near twice the largest layer's tensor (one at work, the next being read) whatever the model's size; unstacked
tensors that keep their form, such as embeddings, move in 64 MB blocks of rows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.rounding import Rounder
from mede2_jax.weights.hf import CheckpointReader, CheckpointWriter, rows_per_block
from mede2_jax.weights.params import ContentDigest, ParamInfo, ParamReader, ParamWriter
from mede2_jax.weights.peft import Adapter
from mede2_jax.weights.table import Entry, Identity, Resolved, Shape

AHEAD_BYTES = 2**30
"""How much of a model `whole_tensors` holds ready."""
Whole = TypeVar("Whole")
Advance = Callable[[int], None]


class Trained(Protocol):
    """Parameters trained in full: a checkpoint's `ParamReader`, or arrays in memory."""

    @property
    def infos(self) -> Mapping[str, Any]:
        """By path."""

    def read(self, path: str, *, layer: int | None = None, rows: tuple[int, int] | None = None) -> np.ndarray:
        """One of them, or a layer of it, or rows of that."""
        ...


Piece = tuple[Entry, int, tuple[int, int] | None]
"""An entry, the first row of a piece of its parameter, and the rows to read (None: all)."""


def import_tensors(
    reader: CheckpointReader,
    resolved: Resolved,
    shapes: Mapping[str, Shape],
    writer: ParamWriter,
    *,
    dtype: np.dtype | None,
    adapter: Adapter | None,
    rounder: Rounder,
    advance: Advance,
) -> None:
    """Streams a checkpoint into `params/`.

    Args:
        reader: The checkpoint.
        resolved: The place of each of its tensors.
        shapes: Shape of each parameter.
        writer: Where to write.
        dtype: Cast to this; None keeps each tensor's own.
        adapter: Merged on the way.
        rounder: How what was merged is rounded.
        advance: Called with the bytes read.

    Raises:
        UserError: Layers of one parameter have different dtypes, or a tensor that is not stored differs from its twin.
    """
    for name, twin in resolved.ignored:
        if twin is not None:
            _check_equal(reader, name, twin)
    for path, group in groupby(resolved.entries, key=lambda entry: entry.path):
        entries = list(group)
        stored = dtype or _common_dtype(reader, entries)
        writer.create(path, shapes[path], stored, stacked=entries[0].layer is not None)
        pieces = ((entry, start, rows) for entry in entries for start, rows in _pieces(entry, stored))
        for (entry, start, _), tensor in _read_ahead(pieces, lambda piece: reader.read(piece[0].hf, piece[0].rows or piece[2])):
            array = entry.op.to_flax(tensor)
            array = adapter.merged(array, path, entry.layer, stored, rounder) if adapter else array.astype(stored, copy=False)
            writer.write(path, array, layer=entry.layer, start=start)
            advance(tensor.nbytes)


def export_tensors(
    reader: ParamReader,
    entries: Sequence[Entry],
    writer: CheckpointWriter,
    *,
    adapter: Adapter | None,
    rounder: Rounder,
    advance: Advance,
) -> str:
    """Streams `params/` into a checkpoint whose dtypes the writer knows; returns the digest of what was read.

    Args:
        reader: The parameters.
        entries: The place of each tensor; the layers of a parameter in order.
        writer: Where to write.
        adapter: Merged on the way.
        rounder: How what was merged is rounded.
        advance: Called with the bytes read.
    """
    content = ContentDigest()
    for path, info in reader.infos.items():
        content.start(path, info)
    pieces = ((entry, start, rows) for entry in entries for start, rows in _pieces(entry, reader.infos[entry.path].dtype))
    for (entry, start, _), array in _read_ahead(pieces, lambda piece: reader.read(piece[0].path, layer=piece[0].layer, rows=piece[2])):
        stored = writer.tensors[entry.hf].dtype
        content.update(entry.path, array)
        advance(array.nbytes)
        array = adapter.merged(array, entry.path, entry.layer, stored, rounder) if adapter else array.astype(stored, copy=False)
        writer.write(entry.hf, entry.op.to_hf(array), start=entry.rows[0] if entry.rows else start)
    return content.result()


def update_params(
    reader: ParamReader,
    trained: Trained,
    below: str,
    adapter: Adapter | None,
    writer: ParamWriter,
    *,
    dtype: np.dtype | None,
    rounder: Rounder,
    advance: Advance,
) -> None:
    """Streams the parameters that a run started from, with what became of them, into `params/`.

    Args:
        reader: What the run started from.
        trained: Parameters trained in full, each at `below` and its path.
        below: See above.
        adapter: What was trained of the others.
        writer: Where to write.
        dtype: Cast to this; None keeps each parameter's own.
        rounder: How what was trained is rounded.
        advance: Called with the bytes read.
    """
    for path, info in sorted(reader.infos.items()):
        stored, stacked = dtype or info.dtype, len(info.shape) == 3
        writer.create(path, info.shape, stored, stacked=stacked)
        rows = info.shape[1:] if stacked else info.shape
        step = rows_per_block(rows, np.dtype(np.float32))
        for layer in range(info.shape[0]) if stacked else (None,):
            for start in range(0, rows[0], step):
                block = (start, min(start + step, rows[0]))
                array = reader.read(path, layer=layer, rows=block)
                advance(array.nbytes)
                if below + path in trained.infos:
                    update = trained.read(below + path, layer=layer, rows=block).astype(np.float32) - array.astype(np.float32)
                    array = rounder.add(array, update, stored, path, layer, start, rank=None)
                elif adapter:
                    array = adapter.merged(array, path, layer, stored, rounder, start)
                writer.write(path, array.astype(stored, copy=False), layer=layer, start=start)


def whole_tensors(
    reader: ParamReader,
    entries: Sequence[Entry],
    finish: Callable[[np.ndarray], Whole],
    *,
    workers: int = 4,
    ahead_bytes: int = AHEAD_BYTES,
) -> Iterator[tuple[str, Whole]]:
    """Each tensor of a checkpoint, whole, in the entries' order; the parts of a fused one are put together.

    Threads read and finish ahead of the one who takes them, no more than `ahead_bytes` (or one tensor, if that is larger).

    Args:
        reader: The parameters.
        entries: The place of each tensor.
        finish: Makes of an array, of any strides, what is given out; runs in the threads.
        workers: How many threads.
        ahead_bytes: See above.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.hf, []).append(entry)
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[tuple[str, int, Future[Whole]]] = deque()
        held = 0
        for name, parts in groups.items():
            nbytes = math.prod(parts[0].hf_shape) * reader.infos[parts[0].path].dtype.itemsize
            while waiting and held + nbytes > ahead_bytes:
                ready, size, future = waiting.popleft()
                yield ready, future.result()
                del future  # it holds the tensor
                held -= size
            waiting.append((name, nbytes, pool.submit(_whole, reader, parts, finish)))
            held += nbytes
        while waiting:
            ready, _, future = waiting.popleft()
            yield ready, future.result()
            del future


def _whole(reader: ParamReader, parts: Sequence[Entry], finish: Callable[[np.ndarray], Whole]) -> Whole:
    in_order = sorted(parts, key=lambda part: part.rows or (0, 0))
    arrays = [part.op.to_hf(reader.read(part.path, layer=part.layer)) for part in in_order]
    return finish(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def planned_tensors(entries: Sequence[Entry], infos: Mapping[str, ParamInfo], dtype: np.dtype | None) -> list[tuple[str, np.dtype, Shape]]:
    """(name, dtype, shape) of the tensors an export writes; the parts of a fused one share its dtype, having come from it."""
    return list({entry.hf: (entry.hf, dtype or infos[entry.path].dtype, entry.hf_shape) for entry in entries}.values())


def in_layer_order(entries: Sequence[Entry]) -> list[Entry]:
    """Entries as a checkpoint's shards hold them: what precedes the layers, layer by layer, what follows."""
    ordered: list[Entry] = []
    for _, group in groupby(entries, key=lambda entry: (entry.layer is not None, entry.path.split("/")[0])):
        ordered += sorted(group, key=lambda entry: entry.layer or 0)
    return ordered


def _pieces(entry: Entry, stored: np.dtype) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """(first row, rows to read): the parameter's own chunks, where rows of one form are rows of the other."""
    if entry.layer is not None or not isinstance(entry.op, Identity) or not entry.hf_shape or entry.rows:
        yield 0, None
        return
    step = rows_per_block(entry.hf_shape, stored)
    for start in range(0, entry.hf_shape[0], step):
        yield start, (start, min(start + step, entry.hf_shape[0]))


def _read_ahead(pieces: Iterable[Piece], read: Callable[[Piece], np.ndarray]) -> Iterator[tuple[Piece, np.ndarray]]:
    """Each piece with what `read` gives for it; the next is read, in a thread, while this one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[tuple[Piece, Future[np.ndarray]]] = deque()
        for piece in pieces:
            waiting.append((piece, pool.submit(read, piece)))
            if len(waiting) > 1:
                ready, future = waiting.popleft()
                yield ready, future.result()
                del future  # it holds the tensor
        for ready, future in waiting:
            yield ready, future.result()


def _common_dtype(reader: CheckpointReader, entries: Sequence[Entry]) -> np.dtype:
    dtypes = {reader.tensors[entry.hf].dtype for entry in entries}
    if len(dtypes) > 1:
        names = ", ".join(sorted(dtype.name for dtype in dtypes))
        raise UserError(f"layers of {entries[0].path} are stored as {names}; choose one with --dtype=float32 or --dtype=bfloat16")
    return dtypes.pop()


def _check_equal(reader: CheckpointReader, name: str, twin: str) -> None:
    """A tied head that was trained apart would be lost without a word."""
    one, other = reader.tensors[name], reader.tensors[twin]
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    step = rows_per_block(one.shape, one.dtype)
    starts = range(0, one.shape[0], step) if same else ()
    for start in starts:
        rows = (start, min(start + step, one.shape[0]))
        same = same and bool(np.array_equal(_bits(reader.read(name, rows)), _bits(reader.read(twin, rows))))
    if not same:
        raise UserError(f"{name} differs from {twin} although config.json ties them; set tie_word_embeddings to false to keep both")


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)
