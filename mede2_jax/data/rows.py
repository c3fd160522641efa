"""From records to rows: the arrays of one packed row.

T tokens, P patches, S scored tokens, R responses of a row; every attention is one contiguous key range per query.

    demonstration   t_1 … t_n                                  t_i sees [start, own index + 1)
    pair            c_n … c_1 | p_1 … p_m | r_1 … r_k          c_i sees [own index, end of prompt)
                    (the chosen response is stored reversed)   p_j and r_j see [start of prompt, own index + 1)

so that both responses of a pair share the prompt and its images, which are computed once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int32

from mede2_jax.config import UserError
from mede2_jax.data.processor import EncodedImage, Grid, Processor
from mede2_jax.data.records import Demonstration, Message, PreferencePair

CHOSEN, REJECTED, DEMONSTRATION = 0, 1, 2
"""Values of `response_role`."""

Row = dict[str, np.ndarray]


@dataclass(frozen=True)
class BatchShape:
    """The fixed sizes of every row of a run."""

    tokens: int
    patches: int
    scored: int
    responses: int
    patch_dim: int
    position_axes: int = 3
    """Axes of a token's position; `positions` of a row is [axes, T], or [T] when there is one."""

    def union(self, other: Self) -> Self:
        """The smallest shape that holds the rows of both."""
        assert (self.patch_dim, self.position_axes) == (other.patch_dim, other.position_axes)
        return type(self)(
            tokens=max(self.tokens, other.tokens),
            patches=max(self.patches, other.patches),
            scored=max(self.scored, other.scored),
            responses=max(self.responses, other.responses),
            patch_dim=self.patch_dim,
            position_axes=self.position_axes,
        )


@dataclass(frozen=True)
class Segment:
    """Tokens that attend only to one another, in storage order; indices count from the segment's first token."""

    tokens: Int32[np.ndarray, " T"]
    positions: Int32[np.ndarray, "*A T"]
    key_start: Int32[np.ndarray, " T"]
    key_end: Int32[np.ndarray, " T"]
    image_index: Int32[np.ndarray, " T"]
    scored_index: Int32[np.ndarray, " S"]
    scored_target: Int32[np.ndarray, " S"]
    scored_response: Int32[np.ndarray, " S"]


@dataclass(frozen=True)
class EncodedExample:
    """A record as tokens. Each segment holds all of the record's images."""

    segments: tuple[Segment, ...]
    grids: tuple[Grid, ...]
    roles: tuple[int, ...]

    @property
    def token_count(self) -> int:
        """Tokens it takes in a row."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def patch_count(self) -> int:
        """Patches it takes in a row."""
        return len(self.segments) * sum(height * width for height, width in self.grids)

    @property
    def scored_count(self) -> int:
        """Scored tokens it has."""
        return sum(len(segment.scored_index) for segment in self.segments)


def encode_demonstration(record: Demonstration, processor: Processor, grids: Sequence[Grid]) -> EncodedExample:
    """One causal segment; the assistant's turns and their end tokens are scored, but for those that the record leaves out."""
    conversation = processor.chat.demonstration(record.messages, record.unscored)
    # Placeholders are never scored, so widening them adds only unscored tokens.
    repeats = processor.token_repeats(conversation.tokens, grids)
    tokens, scored = np.repeat(conversation.tokens, repeats), np.repeat(conversation.scored, repeats)
    segment = causal_segment(tokens, np.flatnonzero(scored), 0, processor, grids)
    return EncodedExample((segment,), tuple(grids), (DEMONSTRATION,))


def encode_pair(record: PreferencePair, processor: Processor, grids: Sequence[Grid], *, shared_prompt: bool) -> EncodedExample:
    """One segment with a shared prompt, or two causal segments that each repeat the prompt and its images."""
    prompt = prompt_tokens(record.prompt, processor, grids)
    responses = [processor.chat.response(getattr(record, field), f"field {field!r}") for field in ("chosen", "rejected")]
    if shared_prompt:
        segments = [_shared(prompt, responses[0], responses[1], processor, grids)]
    else:
        segments = [
            causal_segment(np.concatenate([prompt, response]), len(prompt) + np.arange(len(response)), role, processor, grids)
            for role, response in enumerate(responses)
        ]
    return EncodedExample(tuple(segments), tuple(grids), (CHOSEN, REJECTED))


def assemble_row(
    examples: Iterable[tuple[int, EncodedExample, Sequence[EncodedImage]]],
    shape: BatchShape,
    pad_token_id: int,
    reference: np.ndarray | None = None,
) -> Row:
    """Lays examples one after the other into the arrays of a row.

    Args:
        examples: (dataset index, example, its images), in order.
        shape: Sizes of the row; what is left over is padding.
        pad_token_id: The token of the padding.
        reference: [N, 2] reference log-probabilities of chosen and rejected by dataset index; zeros when None.

    Returns:
        The fields of a batch without the row axis: `tokens [T]`, `positions [axes, T]` or `[T]`, `patches [P, patch_dim]`, …
    """
    row = empty_row(shape, pad_token_id)
    at, patch_at, unit_at, scored_at, response_at = 0, 0, 0, 0, 0
    for index, example, images in examples:
        for segment in example.segments:
            _place_segment(row, segment, at, unit_at, scored_at, response_at)
            for image in images:
                patch_at = _place_image(row, image, patch_at)
            at += len(segment.tokens)
            unit_at += int((segment.image_index >= 0).sum())
            scored_at += len(segment.scored_index)
        slots = slice(response_at, response_at + len(example.roles))
        row["response_pair"][slots] = index
        row["response_role"][slots] = example.roles
        row["response_weight"][slots] = 1.0
        if reference is not None and example.roles == (CHOSEN, REJECTED):
            row["response_reference"][slots] = reference[index]
        response_at += len(example.roles)
    return row


def empty_row(shape: BatchShape, pad_token_id: int) -> Row:
    """A row of padding only: empty key ranges, weight 0."""
    integers = {
        "tokens": ((shape.tokens,), pad_token_id),
        "positions": ((shape.tokens,) if shape.position_axes == 1 else (shape.position_axes, shape.tokens), 0),
        "key_start": ((shape.tokens,), 0),
        "key_end": ((shape.tokens,), 0),
        "image_index": ((shape.tokens,), -1),
        "patch_positions": ((shape.patches, 2), 0),
        "patch_window_start": ((shape.patches,), 0),
        "patch_window_end": ((shape.patches,), 0),
        "patch_image_start": ((shape.patches,), 0),
        "patch_image_end": ((shape.patches,), 0),
        "scored_index": ((shape.scored,), 0),
        "scored_target": ((shape.scored,), 0),
        "scored_response": ((shape.scored,), -1),
        "response_pair": ((shape.responses,), -1),
        "response_role": ((shape.responses,), -1),
    }
    floats = {
        "patches": (shape.patches, shape.patch_dim),
        "response_reference": (shape.responses,),
        "response_weight": (shape.responses,),
    }
    row = {name: np.full(size, value, dtype=np.int32) for name, (size, value) in integers.items()}
    return row | {name: np.zeros(size, dtype=np.float32) for name, size in floats.items()}


def prompt_tokens(messages: Sequence[Message], processor: Processor, grids: Sequence[Grid]) -> Int32[np.ndarray, " T"]:
    """The tokens of a prompt whose images are `grids`, each image as many tokens as it takes: what training and sampling both see."""
    tokens = processor.chat.prompt(messages)
    return np.repeat(tokens, processor.token_repeats(tokens, grids))


def causal_segment(
    tokens: Int32[np.ndarray, " T"],
    scored: np.ndarray,
    response: int,
    processor: Processor,
    grids: Sequence[Grid],
) -> Segment:
    """Tokens of which each sees those before it, and the images.

    Args:
        tokens: All of them.
        scored: Indices of those to score, none of them 0.
        response: Which response of the example they belong to.
        processor: For positions and image places.
        grids: Of the images.
    """
    length = len(tokens)
    return Segment(
        tokens=tokens,
        positions=processor.positions(tokens, grids),
        key_start=np.zeros(length, dtype=np.int32),
        key_end=np.arange(1, length + 1, dtype=np.int32),
        image_index=processor.image_index(tokens, grids),
        scored_index=(scored - 1).astype(np.int32),
        scored_target=tokens[scored],
        scored_response=np.full(len(scored), response, dtype=np.int32),
    )


def _shared(
    prompt: Int32[np.ndarray, " M"],
    chosen: Int32[np.ndarray, " N"],
    rejected: Int32[np.ndarray, " K"],
    processor: Processor,
    grids: Sequence[Grid],
) -> Segment:
    n, m, k = len(chosen), len(prompt), len(rejected)
    index = np.arange(n + m + k, dtype=np.int32)
    prompt_positions = processor.positions(prompt, grids)
    following = prompt_positions.max() + 1
    onward = [np.broadcast_to(following + np.arange(count), (*prompt_positions.shape[:-1], count)) for count in (n, k)]
    last = n + m - 1  # the prompt's last token predicts the first token of both responses
    before_chosen = np.append(last, np.arange(n - 1, 0, -1))
    before_rejected = np.append(last, np.arange(n + m, n + m + k - 1))
    return Segment(
        tokens=np.concatenate([chosen[::-1], prompt, rejected]),
        positions=np.concatenate([onward[0][..., ::-1], prompt_positions, onward[1]], axis=-1).astype(np.int32),
        key_start=np.where(index < n, index, n).astype(np.int32),
        key_end=np.where(index < n, n + m, index + 1).astype(np.int32),
        image_index=np.concatenate([np.full(n, -1), processor.image_index(prompt, grids), np.full(k, -1)]).astype(np.int32),
        scored_index=np.concatenate([before_chosen, before_rejected]).astype(np.int32),
        scored_target=np.concatenate([chosen, rejected]),
        scored_response=np.repeat(np.array([CHOSEN, REJECTED], dtype=np.int32), [n, k]),
    )


def _place_segment(row: Row, segment: Segment, at: int, unit_at: int, scored_at: int, response_at: int) -> None:
    tokens = slice(at, at + len(segment.tokens))
    row["tokens"][tokens] = segment.tokens
    row["positions"][..., tokens] = segment.positions
    row["key_start"][tokens] = segment.key_start + at
    row["key_end"][tokens] = segment.key_end + at
    row["image_index"][tokens] = np.where(segment.image_index >= 0, segment.image_index + unit_at, -1)
    scored = slice(scored_at, scored_at + len(segment.scored_index))
    row["scored_index"][scored] = segment.scored_index + at
    row["scored_target"][scored] = segment.scored_target
    row["scored_response"][scored] = segment.scored_response + response_at


def _place_image(row: Row, image: EncodedImage, at: int) -> int:
    geometry, count = image.geometry, len(image.patches)
    patches = slice(at, at + count)
    if at + count > len(row["patches"]):
        raise UserError(f"a row needs more than its {len(row['patches'])} patches: an image changed its size since the data were indexed")
    row["patches"][patches] = image.patches
    row["patch_positions"][patches] = geometry.patch_positions
    row["patch_window_start"][patches] = geometry.window_start + at
    row["patch_window_end"][patches] = geometry.window_end + at
    row["patch_image_start"][patches] = at
    row["patch_image_end"][patches] = at + count
    return at + count
