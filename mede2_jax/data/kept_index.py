"""The index of a data file, kept by content: what was read, tokenised and decoded once is so for the next start, and for other processes.

It is one file of arrays in a folder beside the runs, named by the digest of all that an entry depends on but the images: these
are compared by size and time of change, and read again if any differs. A row is built from the files themselves, whose digests
are compared with the entry's, so an index that is wrong cannot become a wrong number.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mede2_jax import __version__
from mede2_jax.data.images import CheckedImage
from mede2_jax.data.index import Entry, index
from mede2_jax.data.source import Source

FORMAT = 1
KEPT = 8
"""Indexes of a folder; the oldest go first."""
_NUMBERS = ("record", "tokens", "patches", "scored", "responses", "same_responses")
_THREADS = 16


@dataclass(frozen=True)
class IndexFolder:
    """Where indexes are kept.

    Args:
        path: The folder; made when the first index is kept.
        compare_images: Whether to look at each image's size and time of change; one process of a job does so for all.
    """

    path: Path
    compare_images: bool = True


def entries_of(source: Source, folder: IndexFolder | None, *, show_progress: bool) -> Iterator[Entry]:
    """As `index`, from the folder if it is kept there; else it is kept now, where the folder can be written."""
    if folder is None:
        yield from index(source, show_progress=show_progress)
        return
    path = folder.path / f"{_key(source)}.npz"
    found = _load(path, source, compare_images=folder.compare_images)
    if found is not None:
        yield from found
        return
    images: dict[str, CheckedImage] = {}
    entries = list(index(source, show_progress=show_progress, images=images))
    with contextlib.suppress(OSError):  # a folder that cannot be written costs time, and nothing else
        _save(path, source, entries, sorted(images))
    yield from entries


def _key(source: Source) -> str:
    config = source.config
    with source.file.path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    options = (config.shared_prompt, config.verify_images, config.max_image_pixels)
    parts = (
        FORMAT,
        __version__,
        content,
        source.processor.fingerprint,
        source.stage,
        config.format,
        str(source.image_root.resolve()),
        *options,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _save(path: Path, source: Source, entries: Sequence[Entry], images: Sequence[str]) -> None:
    stacks = {number: entry.stacks for number, entry in enumerate(entries) if entry.stacks}
    arrays: dict[str, Any] = {name: np.array([getattr(entry, name) for entry in entries], np.int64) for name in _NUMBERS}
    arrays["digest"] = np.frombuffer(b"".join(entry.digest for entry in entries), np.uint8)
    arrays["stats"] = _stats(source, images)
    texts = {"ids": [entry.id for entry in entries], "images": list(images), "stacks": stacks}
    arrays |= {name: np.frombuffer(json.dumps(value).encode(), np.uint8) for name, value in texts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    for old in sorted(path.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def _load(path: Path, source: Source, *, compare_images: bool) -> Iterator[Entry] | None:
    """The entries; None if they are not there, are damaged, or an image has changed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        ids, images, stacks = (json.loads(arrays[name].tobytes()) for name in ("ids", "images", "stacks"))
        numbers = [arrays[name].tolist() for name in _NUMBERS]
        digests = arrays["digest"].tobytes()
        if {len(ids), len(digests) // 32, *map(len, numbers)} != {len(source.file)} or {*map(type, ids), *map(type, stacks)} - {str}:
            return None
        if compare_images and not np.array_equal(arrays["stats"], _stats(source, images)):
            return None
        os.utime(path)
    except Exception:  # of NumPy, of the archive, of what is in it: whatever is wrong, it is made anew
        return None
    return _entries(ids, numbers, digests, stacks)


def _entries(ids: list[str], numbers: list[list[int]], digests: bytes, stacks: dict[str, list[str]]) -> Iterator[Entry]:
    for at, (id, record, tokens, patches, scored, responses, same) in enumerate(zip(ids, *numbers, strict=True)):
        own = tuple(stacks.get(str(at), ())) if stacks else ()
        yield Entry(record, id, tokens, patches, scored, responses, bool(same), digests[32 * at : 32 * at + 32], own)


def _stats(source: Source, images: Sequence[str]) -> np.ndarray:
    """Size and time of change of each image, [N, 2]; −1 of one that is not there."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found: list[Any] = list(pool.map(functools.partial(_stat, source.image_root), images, chunksize=1024))
    return np.array(found, np.int64).reshape(len(images), 2)


def _stat(root: Path, name: str) -> tuple[int, int]:
    try:
        found = os.stat(os.path.join(root, name))
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns
