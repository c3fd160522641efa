"""The examples of a data file and the rows they are packed into.

The row plan is fixed for the run (so that reference log-probabilities belong to the same rows); only the order of rows
changes by epoch. T tokens, P patches, S scored tokens, R responses of a row; N examples.
"""

from __future__ import annotations

import collections
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mede2_jax.config import UserError, counted
from mede2_jax.data.index import Entry
from mede2_jax.data.kept_index import IndexFolder, entries_of
from mede2_jax.data.packing import pack
from mede2_jax.data.processor import EncodedImage, Processor
from mede2_jax.data.records import Demonstration, PreferencePair
from mede2_jax.data.rows import BatchShape, EncodedExample, Row, assemble_row, empty_row
from mede2_jax.data.source import DataConfig, Source, Stage, open_source

_TOKEN_MULTIPLE, _SCORED_MULTIPLE = 64, 64
_SAME_RESPONSES = "chosen equals rejected"
"""Such a pair prefers nothing: whatever the model, its two log-probabilities are equal and their gradients cancel."""


@dataclass(frozen=True)
class Statistics:
    """How full the rows are, and what was left out."""

    examples: int
    rows: int
    skipped: dict[str, int]
    """Records left out, by reason."""
    token_fill: float
    """Share of real tokens among the tokens of all rows."""
    patch_fill: float
    """Share of real patches among the patches of all rows; 0 without images."""


@dataclass(frozen=True)
class Dataset:
    """Examples and the rows they are packed into. An example's dataset index is its place in `entries`."""

    source: Source
    entries: tuple[Entry, ...]
    skipped: dict[str, list[str]]
    """Ids of the records left out, by reason."""
    rows: tuple[tuple[int, ...], ...]
    """Dataset indices of each row."""
    shape: BatchShape
    """The smallest row sizes that hold every row."""
    digest: str
    """Of everything that decides the numbers: record and image bytes, tokenizer, template, image options, row options."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def ids(self) -> list[str]:
        """The id of each example."""
        return [entry.id for entry in self.entries]

    def record(self, example: int) -> Demonstration | PreferencePair:
        """The record of an example (its id without a copy's suffix)."""
        return self.source.record(self.entries[example].record)

    def example(self, example: int) -> tuple[EncodedExample, list[EncodedImage]]:
        """An example as tokens, and its images as patches.

        Raises:
            UserError: The file or an image is no longer what was indexed.
        """
        entry = self.entries[example]
        encoded, images, digest = self.source.load(entry.record)
        if (digest, encoded.token_count, encoded.patch_count) != (entry.digest, entry.tokens, entry.patches):
            where = self.source.file.where(entry.record)
            raise UserError(f"{where}: the record or one of its images changed since the data were indexed; start the run again")
        return encoded, images

    def row(self, row: int, shape: BatchShape, reference: Float32[np.ndarray, "N 2"] | None = None) -> Row:
        """The arrays of one row; -1 gives a row of padding."""
        pad = self.source.processor.pad_token_id
        if row < 0:
            return empty_row(shape, pad)
        # A generator, so that one example's images are in memory at a time.
        return assemble_row(((example, *self.example(example)) for example in self.rows[row]), shape, pad, reference)

    def statistics(self) -> Statistics:
        """How full the rows are, and what was left out."""
        room, patch_room = len(self.rows) * self.shape.tokens, len(self.rows) * self.shape.patches
        return Statistics(
            examples=len(self.entries),
            rows=len(self.rows),
            skipped={reason: len(ids) for reason, ids in self.skipped.items()},
            token_fill=sum(entry.tokens for entry in self.entries) / room,
            patch_fill=sum(entry.patches for entry in self.entries) / patch_room if patch_room else 0.0,
        )


def open_dataset(
    config: DataConfig,
    stage: Stage,
    processor: Processor,
    *,
    path: Path | None = None,
    select: Callable[[str], bool] | None = None,
    kept: IndexFolder | None = None,
    show_progress: bool = True,
) -> Dataset:
    """Indexes a data file and plans its rows.

    Args:
        config: The data options.
        stage: sft reads demonstrations, dpo preference pairs.
        processor: The model directory's processor, loaded with the config's options.
        path: The file, instead of `config.path`.
        select: Keeps the records whose id it accepts.
        kept: Where the index is kept for the next time; none: nowhere.
        show_progress: Draws a progress bar on stderr.

    Raises:
        UserError: Names the file, line and field or image of the first fault; or nothing is left to use.
    """
    source = open_source(config, stage, processor, path)
    entries: list[Entry] = []
    skipped: dict[str, list[str]] = collections.defaultdict(list)
    for entry in entries_of(source, kept, show_progress=show_progress):
        if select is not None and not select(entry.id):
            continue
        reason = _SAME_RESPONSES if entry.same_responses else _does_not_fit(entry, config)
        if reason and config.too_long == "error" and not entry.same_responses:
            raise UserError(
                f"{source.file.where(entry.record)}: {reason} ({entry.tokens} tokens, {entry.patches} patches); raise the limit, "
                "lower data.max_pixels (or data.max_tiles), or set data.too_long=skip"
            )
        if reason:
            skipped[reason].append(entry.id)
        else:
            entries.append(entry)
    if not entries:
        reasons = "; ".join(f"{reason}: {len(ids)}" for reason, ids in skipped.items()) or "none selected"
        raise UserError(f"{source.file.path}: no examples left to use ({reasons})")
    return _plan(source, entries, dict(skipped))


def split(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """Train and evaluation parts: an example's side follows from its id alone, so it stays when others come or go.

    Copies of one record stay on one side. Each side gets at least one example.
    """
    values = [_number_of(entry.id) for entry in dataset.entries]
    limit = max(fraction, min(values))
    held_out = [entry for entry, value in zip(dataset.entries, values, strict=True) if value <= limit]
    kept = [entry for entry, value in zip(dataset.entries, values, strict=True) if value > limit]
    if not kept:
        path = dataset.source.file.path
        raise UserError(f"{path}: eval_fraction={fraction} leaves nothing to train on from {counted(len(values), 'example')}; lower it")
    return _plan(dataset.source, kept, dataset.skipped), _plan(dataset.source, held_out, {})


def open_splits(
    config: DataConfig, stage: Stage, processor: Processor, *, kept: IndexFolder | None = None, show_progress: bool = True
) -> tuple[Dataset, Dataset | None]:
    """The training data and, if the config asks for any, the evaluation data."""
    train = open_dataset(config, stage, processor, kept=kept, show_progress=show_progress)
    if config.eval_path is not None:
        return train, open_dataset(config, stage, processor, path=config.eval_path, kept=kept, show_progress=show_progress)
    return split(train, config.eval_fraction) if config.eval_fraction else (train, None)


def _does_not_fit(entry: Entry, config: DataConfig) -> str:
    if entry.tokens > config.row_tokens:
        return f"longer than row_tokens={config.row_tokens}"
    if config.row_patches and entry.patches > config.row_patches:
        return f"more image patches than row_patches={config.row_patches}"
    return ""


def _plan(source: Source, entries: Sequence[Entry], skipped: dict[str, list[str]]) -> Dataset:
    """Packs the entries into rows, and takes the digest of what was packed and how."""
    config = source.config
    tokens = np.array([entry.tokens for entry in entries])
    patches = np.array([entry.patches for entry in entries])
    # A tenth more patches than the data's mean ratio: tokens, not patches, should decide when a row is full.
    room = config.row_patches or max(int(patches.max()), math.ceil(1.1 * patches.sum() / tokens.sum() * config.row_tokens))
    plan = pack(tokens, patches, config.row_tokens, room) if config.packing else [[example] for example in range(len(entries))]

    def fullest(values: Sequence[int] | np.ndarray, multiple: int) -> int:
        return -(-max(int(sum(values[example] for example in row)) for row in plan) // multiple) * multiple

    shape = BatchShape(
        tokens=min(fullest(tokens, _TOKEN_MULTIPLE), config.row_tokens),
        patches=fullest(patches, source.processor.patch_multiple),
        scored=fullest([entry.scored for entry in entries], _SCORED_MULTIPLE),
        responses=fullest([entry.responses for entry in entries], 1),
        patch_dim=source.processor.patch_dim,
        position_axes=source.processor.position_axes,
    )
    settings = (source.stage, source.format, config.row_tokens, room, config.packing, config.shared_prompt)
    digest = hashlib.sha256(repr(settings).encode() + source.processor.fingerprint.encode())
    for entry in entries:
        digest.update(entry.digest)
    return Dataset(source, tuple(entries), skipped, tuple(map(tuple, plan)), shape, digest.hexdigest())


def _number_of(identity: str) -> float:
    """A number in [0, 1) that follows from the id; copies (`~2`) count as their original."""
    first = hashlib.sha256(identity.partition("~")[0].encode()).digest()[:8]
    return int.from_bytes(first, "big") / 2**64
