"""One pass over a data file: every record read, tokenised and checked; offsets and lengths are kept."""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import rich.console
import rich.progress

from mede2_jax.config import UserError
from mede2_jax.data.source import ImageSize, Source

_MAX_THREADS = 8
_AHEAD = 8
"""Records in flight per thread; bounds memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of an example."""

    record: int
    """Number of the record in its file."""
    id: str
    tokens: int
    patches: int
    scored: int
    responses: int
    digest: bytes
    """Of the record's bytes and its images' bytes."""


def index(source: Source, *, show_progress: bool) -> Iterator[Entry]:
    """The entry of every record, in order.

    Raises:
        UserError: The first fault in the file, with line and field or image; or an id that was given twice.
    """
    images: dict[str, tuple[bytes, ImageSize]] = {}
    seen: dict[str, int] = {}

    def job(number: int) -> tuple[Entry, bool]:
        return _index_one(source, number, images)

    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    pending: collections.deque[Future[tuple[Entry, bool]]] = collections.deque()
    numbers = iter(range(len(source.file)))
    with ThreadPoolExecutor(threads) as pool, _progress(show_progress) as progress:
        task = progress.add_task(f"reading {source.file.path.name}", total=len(source.file))
        try:
            while True:
                while len(pending) < threads * _AHEAD and (number := next(numbers, None)) is not None:
                    pending.append(pool.submit(job, number))
                if not pending:
                    return
                entry, given = pending.popleft().result()
                progress.advance(task)
                yield _unique(entry, given, seen, source)
        finally:
            for future in pending:
                future.cancel()


def _index_one(source: Source, number: int, images: dict[str, tuple[bytes, ImageSize]]) -> tuple[Entry, bool]:
    record = source.record(number)
    digest = hashlib.sha256(source.file.raw(number).strip())
    sizes = []
    for name in record.images:
        # Two threads may both decode a shared image once; the results are equal.
        if name not in images:
            images[name] = source.check_image(number, name)
        content, size = images[name]
        digest.update(content)
        sizes.append(size)
    encoded = source.encode(number, record, sizes)
    entry = Entry(
        record=number,
        id=record.id,
        tokens=encoded.token_count,
        patches=encoded.patch_count,
        scored=encoded.scored_count,
        responses=len(encoded.roles),
        digest=digest.digest(),
    )
    return entry, "id" in record.model_fields_set


def _unique(entry: Entry, given: bool, seen: dict[str, int], source: Source) -> Entry:
    """Refuses an id that was given twice; copies of a record without id get `~2`, `~3`, …"""
    seen[entry.id] = seen.get(entry.id, 0) + 1
    if seen[entry.id] == 1:
        return entry
    if given:
        raise UserError(f"{source.file.where(entry.record)}: field 'id': {entry.id!r} was used before; ids must differ")
    return replace(entry, id=f"{entry.id}~{seen[entry.id]}")


def _progress(shown: bool) -> rich.progress.Progress:
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    console = rich.console.Console(stderr=True)
    return rich.progress.Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
