"""What a config.json of Qwen2.5-VL says, of any released size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mede2_jax.model_configs.qwen2 import Qwen2Config, decoder_config, required


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of the vision tower, as in config.json's `vision_config`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    window_size: int
    fullatt_block_indexes: tuple[int, ...]

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch: channels × frames × height × width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def attention_layers(self) -> tuple[int, int]:
        """How many layers attend within windows, and how many within whole images."""
        whole = len(self.fullatt_block_indexes)
        return self.depth - whole, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen2_5VLConfig:
    """What the model needs of config.json."""

    language: Qwen2Config
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int


def config_from_hf(raw: Mapping[str, Any]) -> Qwen2_5VLConfig:
    """Reads a config.json, in the released form (flat) or the newer one (`text_config`, `rope_parameters`).

    Raises:
        ValueError: A field is missing, or asks for something this model does not do.
    """
    text = {**raw, **raw.get("text_config", {})}
    vision = required(raw, "vision_config")
    if vision.get("hidden_act", "silu") != "silu":
        raise ValueError(f"config.json: vision hidden_act={vision['hidden_act']!r} is not supported, only 'silu'")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = {rope[name] for name in ("type", "rope_type") if name in rope}
    if kinds - {"mrope", "default"}:
        raise ValueError(f"config.json: rope type {sorted(kinds)} is not supported, only mrope without scaling; remove the scaling")
    language = decoder_config(
        text,
        rope=rope,
        tied=bool(raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        mrope_section=tuple(required(rope, "mrope_section")),
    )
    tower = VisionConfig(
        in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
        fullatt_block_indexes=tuple(required(vision, "fullatt_block_indexes")),
        **{
            field.name: required(vision, field.name)
            for field in dataclasses.fields(VisionConfig)
            if field.name not in ("in_channels", "fullatt_block_indexes")
        },
    )
    if 2 * sum(language.mrope_section or ()) != language.head_dim:
        raise ValueError(f"config.json: mrope_section {language.mrope_section} must sum to half of head_dim={language.head_dim}")
    if tower.out_hidden_size != language.hidden_size:
        raise ValueError(f"config.json: vision out_hidden_size={tower.out_hidden_size} differs from hidden_size={language.hidden_size}")
    ids = {name: required(raw, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}
    return Qwen2_5VLConfig(language=language, vision=tower, **ids)
