"""Sizes of a Qwen2 decoder, alone or inside a vision-language model."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import pydantic

from mede2_jax.json_file import Foreign
from mede2_jax.model_configs.fields import Epsilon, Layers, Size, Theta, missing

UNSUPPORTED = {"hidden_act": "silu", "use_sliding_window": False}


class RopeSection(Foreign):
    """`rope_parameters` or `rope_scaling`, as far as they are read."""

    type: str | None = None
    rope_type: str | None = None
    rope_theta: Theta | None = None
    mrope_section: list[Size] | None = None

    @property
    def kinds(self) -> set[str]:
        """What it asks for, under either name."""
        return {kind for kind in (self.type, self.rope_type) if kind is not None}


class DecoderSection(Foreign):
    """The fields of Qwen2's own config."""

    WITH_NULL: ClassVar = ("num_key_value_heads",)

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Layers
    num_attention_heads: Size
    num_key_value_heads: Size | None
    """None: as many as there are heads."""
    head_dim: Annotated[int, pydantic.Field(ge=0, le=2**16)] = 0
    """0: the width divided by the heads."""
    vocab_size: Size
    rms_norm_eps: Epsilon
    rope_theta: Theta | None = None
    rope_parameters: RopeSection = RopeSection()
    rope_scaling: RopeSection = RopeSection()
    max_position_embeddings: Size | None = None
    tie_word_embeddings: bool | None = None
    model_type: str | None = None
    architectures: list[str] = pydantic.Field(default_factory=list)
    layer_types: list[str] = pydantic.Field(default_factory=list)

    @pydantic.model_validator(mode="after")
    def _check_heads(self) -> Self:
        heads, shared = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if heads % shared:
            raise ValueError(f"num_attention_heads={heads} does not divide into num_key_value_heads={shared}")
        if not self.width or self.width % 2:
            raise ValueError(f"head_dim={self.width} is not supported, only even numbers")
        return self

    @property
    def width(self) -> int:
        """Of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def rope(self) -> RopeSection:
        """The newer form, or the older one; of both, the one with something in it."""
        return self.rope_parameters if self.rope_parameters.model_fields_set else self.rope_scaling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2Config:
    """Sizes of the decoder, as in the checkpoint's config.json."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, ...] | None
    """How many rotary frequencies follow the temporal, vertical and horizontal position; None: one position axis."""
    max_position_embeddings: int | None = None
    """The longest sequence the model was made for."""
    max_positions: int | None = None
    """Rows may be this long; the original scales the rotary embedding of longer ones, which is not done here. None: no limit."""


def decoder_config(
    text: DecoderSection, *, tied: bool, mrope_section: tuple[int, ...] | None, max_positions: int | None = None
) -> Qwen2Config:
    """Reads the decoder's part of a config.json.

    Args:
        text: The fields of Qwen2's own config.
        tied: Whether the vocabulary projection is the embedding.
        mrope_section: See `Qwen2Config`.
        max_positions: See `Qwen2Config`.

    Raises:
        ValueError: A field is missing.
    """
    if (theta := text.rope.rope_theta or text.rope_theta) is None:
        raise missing("rope_theta")
    return Qwen2Config(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        num_kv_heads=text.num_key_value_heads or text.num_attention_heads,
        head_dim=text.width,
        vocab_size=text.vocab_size,
        tie_word_embeddings=tied,
        rms_norm_eps=text.rms_norm_eps,
        rope_theta=theta,
        mrope_section=mrope_section,
        max_position_embeddings=text.max_position_embeddings,
        max_positions=max_positions,
    )
