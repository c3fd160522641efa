"""Sizes of a Qwen2 decoder, alone or inside a vision-language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

UNSUPPORTED = {"hidden_act": "silu", "use_sliding_window": False}


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
    text: Mapping[str, Any], *, rope: Mapping[str, Any], tied: bool, mrope_section: tuple[int, ...] | None, max_positions: int | None = None
) -> Qwen2Config:
    """Reads the decoder's part of a config.json.

    Args:
        text: The fields of Qwen2's own config.
        rope: Its `rope_parameters` or `rope_scaling`, empty if there are none.
        tied: Whether the vocabulary projection is the embedding.
        mrope_section: See `Qwen2Config`.
        max_positions: See `Qwen2Config`.

    Raises:
        ValueError: A field is missing, or asks for something this model does not do.
    """
    for name, supported in UNSUPPORTED.items():
        if text.get(name, supported) != supported:
            raise ValueError(f"config.json: {name}={text[name]!r} is not supported, only {supported!r}")
    width, heads = required(text, "hidden_size"), required(text, "num_attention_heads")
    return Qwen2Config(
        hidden_size=width,
        intermediate_size=required(text, "intermediate_size"),
        num_layers=required(text, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=required(text, "num_key_value_heads"),
        head_dim=text.get("head_dim") or width // heads,
        vocab_size=required(text, "vocab_size"),
        tie_word_embeddings=tied,
        rms_norm_eps=required(text, "rms_norm_eps"),
        rope_theta=float(rope.get("rope_theta") or required(text, "rope_theta")),
        mrope_section=mrope_section,
        max_position_embeddings=text.get("max_position_embeddings"),
        max_positions=max_positions,
    )


def required(mapping: Mapping[str, Any], name: str) -> Any:
    """A field of config.json.

    Raises:
        ValueError: It is missing.
    """
    if name not in mapping:
        raise ValueError(f"config.json: {name!r} is missing")
    return mapping[name]
