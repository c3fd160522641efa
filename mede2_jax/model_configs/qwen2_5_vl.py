"""What a config.json of Qwen2.5-VL says, of any released size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Self

import pydantic

from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign
from mede2_jax.model_configs.fields import Layers, Size, missing, only, part, read_section
from mede2_jax.model_configs.qwen2 import UNSUPPORTED, DecoderSection, Qwen2Config, decoder_config

TokenId = Annotated[int, pydantic.Field(ge=0, le=2**31)]


class VisionSection(Foreign):
    """The fields of `vision_config`."""

    depth: Layers
    hidden_size: Size
    intermediate_size: Size
    num_heads: Size
    out_hidden_size: Size
    in_channels: Size | None = None
    in_chans: Size | None = None
    patch_size: Size
    temporal_patch_size: Size
    spatial_merge_size: Size
    window_size: Size
    fullatt_block_indexes: list[Annotated[int, pydantic.Field(ge=0)]]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 4:
            raise ValueError(f"hidden_size={self.hidden_size} does not divide into num_heads={self.num_heads} of a multiple of 4")
        if self.window_size < (unit := self.patch_size * self.spatial_merge_size):
            raise ValueError(f"window_size={self.window_size} is less than the {unit} pixels of a merged patch")
        if (
            len(set(self.fullatt_block_indexes)) < len(self.fullatt_block_indexes)
            or max(self.fullatt_block_indexes, default=0) >= self.depth
        ):
            raise ValueError(f"fullatt_block_indexes={shown(self.fullatt_block_indexes)} must be different layers of depth={self.depth}")
        if (channels := self.channels) != 3:
            raise ValueError(f"in_channels={channels} is not supported, only 3")
        return self

    @property
    def channels(self) -> int:
        """Under either name."""
        return self.in_channels or self.in_chans or 3


class OuterSection(Foreign):
    """The outermost fields."""

    image_token_id: TokenId
    video_token_id: TokenId
    vision_start_token_id: TokenId
    tie_word_embeddings: bool | None = None


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
    nested = part(raw, "text_config") if raw.get("text_config") is not None else {}
    vision = part(raw, "vision_config")
    only(vision, {"hidden_act": "silu"}, "vision ")
    only({**raw, **nested}, UNSUPPORTED)
    outer, text = read_section(OuterSection, raw), read_section(DecoderSection, {**raw, **nested})
    if text.rope.kinds - {"mrope", "default"}:
        kinds = sorted(text.rope.kinds)
        raise ValueError(f"config.json: rope type {shown(kinds)} is not supported, only mrope without scaling; remove the scaling")
    if text.rope.mrope_section is None:
        raise missing("mrope_section")
    tied = outer.tie_word_embeddings if outer.tie_word_embeddings is not None else text.tie_word_embeddings
    language = decoder_config(text, tied=bool(tied), mrope_section=tuple(text.rope.mrope_section))
    tower = read_section(VisionSection, vision, "vision ")
    if 2 * sum(language.mrope_section or ()) != language.head_dim:
        raise ValueError(f"config.json: mrope_section {language.mrope_section} must sum to half of head_dim={language.head_dim}")
    if tower.out_hidden_size != language.hidden_size:
        raise ValueError(f"config.json: vision out_hidden_size={tower.out_hidden_size} differs from hidden_size={language.hidden_size}")
    return Qwen2_5VLConfig(
        language=language,
        vision=VisionConfig(
            in_channels=tower.channels,
            fullatt_block_indexes=tuple(tower.fullatt_block_indexes),
            **tower.model_dump(exclude={"in_channels", "in_chans", "fullatt_block_indexes"}),
        ),
        **outer.model_dump(exclude={"tie_word_embeddings"}),
    )
