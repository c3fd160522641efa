"""Requests as rows: what the Flax sampler prepares on the host before a prompt reaches the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.processor import EncodedImage, Processor
from mede2_jax.data.rows import DEMONSTRATION, BatchShape, EncodedExample, assemble_row, causal_segment, prompt_tokens
from mede2_jax.engines.chat import ChatFailure, ChatRequest
from mede2_jax.engines.flax.programs import padded_size

SMALLEST_PROMPT = 256
"""Tokens to which the shortest prompts are padded."""


@dataclass(frozen=True)
class Limits:
    """What a prompt may have."""

    prompt_tokens: int
    max_tokens: int
    """Of a response."""
    positions: int | None
    """Of prompt and response together; None: any number."""


@dataclass(frozen=True)
class Prompt:
    """A request's prompt, encoded."""

    request: ChatRequest
    example: EncodedExample
    images: tuple[EncodedImage, ...]

    @property
    def length(self) -> int:
        """Tokens, those of images among them."""
        return self.example.token_count

    @property
    def response_position(self) -> int:
        """Rotary position of the token after the prompt, as in training: the largest of the prompt's, and one."""
        return int(self.example.segments[0].positions.max()) + 1


def encode_prompt(request: ChatRequest, processor: Processor, limits: Limits) -> Prompt | ChatFailure:
    """Tokens and patches of a request, or why it cannot be answered."""
    try:
        if request.n < 1:
            raise UserError(f"n={request.n}; ask for at least 1 sample")
        if request.schema is not None:
            raise UserError("the Flax sampler does not hold a response to a JSON schema; use vLLM or an API")
        grids = tuple(processor.grid(image.height, image.width) for image in request.decoded)
        tokens = prompt_tokens(request.messages, processor, grids)
        _check_length(len(tokens), limits)
        images = tuple(processor.encode_image(image) for image in request.decoded)
    except UserError as error:
        return ChatFailure(request, str(error))
    segment = causal_segment(tokens, np.zeros(0, np.int32), 0, processor, grids)
    return Prompt(request, EncodedExample((segment,), grids, (DEMONSTRATION,)), images)


def prompt_batch(prompts: Sequence[Prompt | None], processor: Processor, longest: int) -> dict[str, np.ndarray]:
    """One prompt a row (None: padding) in the smallest sizes that hold them all; text, images and `length` [B].

    Args:
        prompts: The rows.
        processor: The model's.
        longest: Tokens of the largest size.
    """
    real = [prompt for prompt in prompts if prompt is not None]
    patches = max(prompt.example.patch_count for prompt in real)
    shape = BatchShape(
        tokens=padded_size(max(prompt.length for prompt in real), min(SMALLEST_PROMPT, longest), longest),
        patches=padded_size(patches, processor.patch_multiple) if patches else 0,
        scored=0,
        responses=1,
        patch_dim=processor.patch_dim,
        position_axes=processor.position_axes,
    )
    rows = [
        assemble_row([] if prompt is None else [(0, prompt.example, prompt.images)], shape, processor.pad_token_id) for prompt in prompts
    ]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return batch | {"length": np.array([0 if prompt is None else prompt.length for prompt in prompts], np.int32)}


def _check_length(length: int, limits: Limits) -> None:
    if length > limits.prompt_tokens:
        raise UserError(
            f"the prompt has {length:,} tokens, more than max_prompt_tokens={limits.prompt_tokens:,}; raise it, or shorten the text or "
            "shrink the images"
        )
    if limits.positions is not None and length + limits.max_tokens > limits.positions:
        raise UserError(
            f"the prompt's {length:,} tokens and max_tokens={limits.max_tokens:,} are more than the model's {limits.positions:,} "
            "positions; lower max_tokens, or shorten the prompt"
        )
