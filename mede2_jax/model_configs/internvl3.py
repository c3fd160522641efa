"""What a config.json of InternVL3 says, in transformers' and in the original format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast, get_args

import pydantic

from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign
from mede2_jax.model_configs.fields import Epsilon, Layers, Size, missing, only, part, read_section
from mede2_jax.model_configs.qwen2 import UNSUPPORTED, DecoderSection, Qwen2Config, decoder_config

Norm = Literal["layer_norm", "rms_norm"]
Format = Literal["hf", "original"]
HF_ONLY = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu"}
HF_VISION_ONLY = {"hidden_act": "gelu", "use_mask_token": False, "use_absolute_position_embeddings": True, "use_mean_pooling": True}


class VisionSection(Foreign):
    """The fields of `vision_config` in both formats; None where the formats have defaults of their own."""

    num_hidden_layers: Layers
    hidden_size: Size
    intermediate_size: Size
    num_attention_heads: Size
    num_channels: Size = 3
    patch_size: Size | list[Size]
    image_size: Size | list[Size]
    norm_type: str | None = None
    layer_norm_eps: Epsilon = 1e-6
    attention_bias: bool | None = None
    use_qk_norm: bool | None = None
    qkv_bias: bool | None = None
    qk_normalization: bool | None = None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size={self.hidden_size} does not divide into num_attention_heads={self.num_attention_heads}")
        if self.num_channels != 3:
            raise ValueError(f"num_channels={self.num_channels} is not supported, only 3")
        for name in ("patch_size", "image_size"):
            sides = getattr(self, name)
            if isinstance(sides, list) and (len(sides) != 2 or sides[0] != sides[1]):
                raise ValueError(f"{name}={shown(sides)} is not supported, only squares")
        return self


class OuterSection(Foreign):
    """The outermost fields in both formats."""

    downsample_ratio: Annotated[float, pydantic.Field(allow_inf_nan=False)] = 0.5
    force_image_size: Annotated[int, pydantic.Field(ge=0, le=2**24)] = 0
    """0: the vision part's."""
    image_token_id: Annotated[int, pydantic.Field(ge=0, le=2**31)] | None = None
    tie_word_embeddings: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes and kind of the vision encoder, as in config.json's `vision_config`."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    image_size: int
    """Side in pixels of the tiles that the position embedding was made for."""
    norm: Norm
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool
    qk_norm_eps: float

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch: channels × height × width."""
        return self.in_channels * self.patch_size**2

    @property
    def table_grid(self) -> int:
        """Patches along a side of the position embedding."""
        return self.image_size // self.patch_size

    @property
    def attention_layers(self) -> tuple[int, int]:
        """How many layers attend within windows (here: tiles), and how many within whole images."""
        return self.depth, 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class InternVL3Config:
    """What the model needs of config.json."""

    language: Qwen2Config
    vision: VisionConfig
    tile_size: int
    """Side of a tile in pixels."""
    merge: int
    """Patches along a side of the square that makes one image token: 1 / downsample_ratio."""
    image_token_id: int | None
    """None where config.json leaves it to the tokenizer (the original format)."""
    format: Format
    """Whose names the checkpoint's tensors have: those of transformers (`-hf`) or of the original release."""

    @property
    def grid(self) -> int:
        """G, patches along a side of a tile."""
        return self.tile_size // self.vision.patch_size


def config_from_hf(raw: Mapping[str, Any]) -> InternVL3Config:
    """Reads a config.json of model_type `internvl` (the -hf checkpoints) or `internvl_chat` (the original ones).

    Raises:
        ValueError: A field is missing, or asks for something this model does not do.
    """
    original = raw.get("model_type") == "internvl_chat"
    decoder, vision = part(raw, "llm_config" if original else "text_config"), part(raw, "vision_config")
    only(raw, {"select_layer": -1} if original else HF_ONLY)
    if original and (version := raw.get("ps_version") or "v1") != "v2":
        raise ValueError(f"config.json: ps_version={shown(repr(version))} is not supported, only 'v2' (v1 hands on a transposed image)")
    outer, text = read_section(OuterSection, raw), _language(decoder)
    tower = _original_vision(vision) if original else _hf_vision(vision)
    tile, ratio = (outer.force_image_size if original else 0) or tower.image_size, outer.downsample_ratio
    merge = round(1 / ratio) if ratio > 1e-3 else 0
    if not merge or merge * ratio != 1 or tile % (merge * tower.patch_size):
        raise ValueError(f"config.json: downsample_ratio={ratio} does not divide a tile of {tile} pixels in patches of {tower.patch_size}")
    # The original builds its decoder from llm_config alone; the outermost field wins in transformers.
    outermost = None if original else outer.tie_word_embeddings
    tied = outermost if outermost is not None else text.tie_word_embeddings
    # Dynamic scaling leaves the first `max_position_embeddings` positions as they are, so rows are limited to these.
    limited = bool(text.rope.kinds - {"default"})
    if limited and text.max_position_embeddings is None:
        raise missing("max_position_embeddings")
    return InternVL3Config(
        language=decoder_config(text, tied=bool(tied), mrope_section=None, max_positions=text.max_position_embeddings if limited else None),
        vision=tower,
        tile_size=tile,
        merge=merge,
        image_token_id=outer.image_token_id,
        format="original" if original else "hf",
    )


def _language(raw: Mapping[str, Any]) -> DecoderSection:
    only(raw, UNSUPPORTED)
    text = read_section(DecoderSection, raw)
    kind = text.model_type or (text.architectures or ["none"])[0]
    if kind not in ("qwen2", "Qwen2ForCausalLM"):
        found = shown(kind)
        raise ValueError(f"config.json: a language model of type {found!r} is not supported, only 'qwen2' (1B, 2B, 8B, 14B, 38B, 78B)")
    if other := set(text.layer_types) - {"full_attention"}:
        raise ValueError(f"config.json: layer_types {shown(sorted(other))} are not supported, only 'full_attention'")
    if kinds := text.rope.kinds - {"default", "dynamic"}:
        raise ValueError(f"config.json: rope type {shown(sorted(kinds))} is not supported, only 'default' and 'dynamic'")
    return text


def _hf_vision(raw: Mapping[str, Any]) -> VisionConfig:
    """What is left out has the defaults of transformers' InternVLVisionConfig."""
    only(raw, HF_VISION_ONLY, "vision ")
    vision = read_section(VisionSection, raw, "vision ")
    # transformers builds the norms of queries and keys without passing the configured epsilon.
    return _vision(vision, "layer_norm", vision.attention_bias or False, vision.use_qk_norm or False, qk_norm_eps=1e-6)


def _original_vision(raw: Mapping[str, Any]) -> VisionConfig:
    """What is left out has the defaults of the original's InternVisionConfig."""
    only(raw, {"hidden_act": "gelu"}, "vision ")
    vision = read_section(VisionSection, raw, "vision ")
    normalised = True if vision.qk_normalization is None else vision.qk_normalization
    return _vision(vision, "rms_norm", vision.qkv_bias or False, normalised, qk_norm_eps=vision.layer_norm_eps)


def _vision(vision: VisionSection, default_norm: Norm, qkv_bias: bool, qk_norm: bool, *, qk_norm_eps: float) -> VisionConfig:
    norm = vision.norm_type or default_norm
    if norm not in get_args(Norm):
        raise ValueError(f"config.json: vision norm_type={shown(norm)!r} is not supported, only 'layer_norm' and 'rms_norm'")
    patch, image = (sides[0] if isinstance(sides, list) else sides for sides in (vision.patch_size, vision.image_size))
    return VisionConfig(
        depth=vision.num_hidden_layers,
        hidden_size=vision.hidden_size,
        intermediate_size=vision.intermediate_size,
        num_heads=vision.num_attention_heads,
        in_channels=vision.num_channels,
        patch_size=patch,
        image_size=image,
        norm=cast(Norm, norm),
        norm_eps=vision.layer_norm_eps,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        qk_norm_eps=qk_norm_eps,
    )
