"""One pass over a data file: every record read, tokenised and checked; offsets and lengths are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mede2_jax.config import UserError
from mede2_jax.data.images import CheckedImage
from mede2_jax.data.ordered import in_order
from mede2_jax.data.reading import reading_progress
from mede2_jax.data.records import PreferencePair
from mede2_jax.data.source import Source


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
    same_responses: bool
    """A pair whose chosen and rejected are one text."""
    digest: bytes
    """Of the record's bytes and its images' bytes."""
    stacks: tuple[str, ...]
    """Its images with several frames."""


def index(source: Source, *, show_progress: bool, images: dict[str, CheckedImage] | None = None) -> Iterator[Entry]:
    """The entry of every record, in order.

    Args:
        source: The file.
        show_progress: Draws a progress bar on stderr.
        images: Gets what is found of each image.

    Raises:
        UserError: The first fault in the file, with line and field or image; or an id that was given twice.
    """
    images = {} if images is None else images
    seen: dict[str, int] = {}

    def job(number: int) -> tuple[Entry, bool]:
        return _index_one(source, number, images)

    with reading_progress(show_progress) as progress:
        task = progress.add_task(f"reading {source.file.path.name}", total=len(source.file))
        for entry, given in in_order(job, range(len(source.file))):
            progress.advance(task)
            yield _unique(entry, given, seen, source)


def _index_one(source: Source, number: int, images: dict[str, CheckedImage]) -> tuple[Entry, bool]:
    record = source.record(number)
    for name in record.images:
        # Two threads may both decode a shared image once; the results are equal.
        if name not in images:
            images[name] = source.check_image(number, name)
    encoded = source.encode(number, record, [images[name].size for name in record.images])
    entry = Entry(
        record=number,
        id=record.id,
        tokens=encoded.token_count,
        patches=encoded.patch_count,
        scored=encoded.scored_count,
        responses=len(encoded.roles),
        same_responses=isinstance(record, PreferencePair) and record.chosen == record.rejected,
        digest=source.digest(number, (images[name].digest for name in record.images)),
        stacks=tuple(name for name in record.images if images[name].is_stack),
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
