"""What a config.json of InternVL3 says, in transformers' and in the original format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, cast

from mede2_jax.model_configs.qwen2 import Qwen2Config, decoder_config, required

Norm = Literal["layer_norm", "rms_norm"]
Format = Literal["hf", "original"]
HF_ONLY = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu"}
HF_VISION_ONLY = {"hidden_act": "gelu", "use_mask_token": False, "use_absolute_position_embeddings": True, "use_mean_pooling": True}


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
    text, vision = required(raw, "llm_config" if original else "text_config"), required(raw, "vision_config")
    _only(raw, {"select_layer": -1} if original else HF_ONLY)
    if original and (version := raw.get("ps_version", "v1")) != "v2":
        raise ValueError(f"config.json: ps_version={version!r} is not supported, only 'v2' (v1 hands on a transposed image)")
    tower = _original_vision(vision) if original else _hf_vision(vision)
    tile, ratio = (raw.get("force_image_size") if original else None) or tower.image_size, raw.get("downsample_ratio", 0.5)
    merge = round(1 / ratio) if ratio else 0
    if merge * ratio != 1 or tile % (merge * tower.patch_size):
        raise ValueError(f"config.json: downsample_ratio={ratio} does not divide a tile of {tile} pixels in patches of {tower.patch_size}")
    return InternVL3Config(
        # The original builds its decoder from llm_config alone; the outermost field wins in transformers.
        language=_language(text, tied=bool((text if original else {**text, **raw}).get("tie_word_embeddings", False))),
        vision=tower,
        tile_size=tile,
        merge=merge,
        image_token_id=raw.get("image_token_id"),
        format="original" if original else "hf",
    )


def _language(text: Mapping[str, Any], *, tied: bool) -> Qwen2Config:
    """Dynamic scaling leaves the first `max_position_embeddings` positions as they are, so rows are limited to these."""
    kind = text.get("model_type") or (text.get("architectures") or ["none"])[0]
    if kind not in ("qwen2", "Qwen2ForCausalLM"):
        raise ValueError(f"config.json: a language model of type {kind!r} is not supported, only 'qwen2' (1B, 2B, 8B, 14B, 38B, 78B)")
    if other := set(text.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError(f"config.json: layer_types {sorted(other)} are not supported, only 'full_attention'")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = {rope[name] for name in ("type", "rope_type") if name in rope} - {"default"}
    if kinds - {"dynamic"}:
        raise ValueError(f"config.json: rope type {sorted(kinds)} is not supported, only 'default' and 'dynamic'")
    limit = required(text, "max_position_embeddings") if kinds else None
    return decoder_config(text, rope=rope, tied=tied, mrope_section=None, max_positions=limit)


def _hf_vision(vision: Mapping[str, Any]) -> VisionConfig:
    """What is left out has the defaults of transformers' InternVLVisionConfig."""
    _only(vision, HF_VISION_ONLY, "vision ")
    return _vision(
        vision,
        norm=vision.get("norm_type", "layer_norm"),
        qkv_bias=bool(vision.get("attention_bias", False)),
        qk_norm=bool(vision.get("use_qk_norm", False)),
        # transformers builds these two norms without passing the configured epsilon.
        qk_norm_eps=1e-6,
    )


def _original_vision(vision: Mapping[str, Any]) -> VisionConfig:
    """What is left out has the defaults of the original's InternVisionConfig."""
    _only(vision, {"hidden_act": "gelu"}, "vision ")
    return _vision(
        vision,
        norm=vision.get("norm_type", "rms_norm"),
        qkv_bias=bool(vision.get("qkv_bias", False)),
        qk_norm=bool(vision.get("qk_normalization", True)),
        qk_norm_eps=vision.get("layer_norm_eps", 1e-6),
    )


def _vision(vision: Mapping[str, Any], *, norm: str, qkv_bias: bool, qk_norm: bool, qk_norm_eps: float) -> VisionConfig:
    width, heads = required(vision, "hidden_size"), required(vision, "num_attention_heads")
    if norm not in ("layer_norm", "rms_norm"):
        raise ValueError(f"config.json: vision norm_type={norm!r} is not supported, only 'layer_norm' and 'rms_norm'")
    if width % heads:
        raise ValueError(f"config.json: vision hidden_size={width} does not divide into num_attention_heads={heads}")
    return VisionConfig(
        depth=required(vision, "num_hidden_layers"),
        hidden_size=width,
        intermediate_size=required(vision, "intermediate_size"),
        num_heads=heads,
        in_channels=vision.get("num_channels", 3),
        patch_size=_side(vision, "patch_size"),
        image_size=_side(vision, "image_size"),
        norm=cast(Norm, norm),
        norm_eps=vision.get("layer_norm_eps", 1e-6),
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
        qk_norm_eps=qk_norm_eps,
    )


def _side(vision: Mapping[str, Any], name: str) -> int:
    """A size that is one number, or the same number twice."""
    value = required(vision, name)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise ValueError(f"config.json: vision {name}={value} is not supported, only squares")
    return sides.pop()


def _only(raw: Mapping[str, Any], supported: Mapping[str, Any], what: str = "") -> None:
    for name, value in supported.items():
        if raw.get(name, value) != value:
            raise ValueError(f"config.json: {what}{name}={raw[name]!r} is not supported, only {value!r}")
