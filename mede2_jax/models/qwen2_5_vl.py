"""Qwen2.5-VL (Bai et al. 2025): a windowed vision transformer, a patch merger and the Qwen2 decoder.

The geometry of images (window order, key ranges, positions) comes with the batch: the model sees arrays of fixed shapes.
Axes: B rows, T tokens, P patches, C vision width, D model; M = merge² patches make one image token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mede2_jax.models.attention import attention
from mede2_jax.models.layers import Linear, RematPolicy, RMSNorm, SwiGLU, inverse_frequencies, rotate, scan_layers
from mede2_jax.models.qwen2 import HIDDEN, Qwen2, Qwen2Config
from mede2_jax.parallel.rules import constrain

VISION_ROPE_THETA = 10000.0
VISION_NORM_EPS = 1e-6
UNSUPPORTED = {"hidden_act": "silu", "use_sliding_window": False}


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
    vision = raw["vision_config"] if "vision_config" in raw else _missing("vision_config")
    for name, supported in UNSUPPORTED.items():
        if text.get(name, supported) != supported:
            raise ValueError(f"config.json: {name}={text[name]!r} is not supported, only {supported!r}")
    if vision.get("hidden_act", "silu") != "silu":
        raise ValueError(f"config.json: vision hidden_act={vision['hidden_act']!r} is not supported, only 'silu'")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = {rope[name] for name in ("type", "rope_type") if name in rope}
    if kinds - {"mrope", "default"}:
        raise ValueError(f"config.json: rope type {sorted(kinds)} is not supported, only mrope without scaling; remove the scaling")
    width, heads = _get(text, "hidden_size"), _get(text, "num_attention_heads")
    language = Qwen2Config(
        hidden_size=width,
        intermediate_size=_get(text, "intermediate_size"),
        num_layers=_get(text, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=_get(text, "num_key_value_heads"),
        head_dim=text.get("head_dim") or width // heads,
        vocab_size=_get(text, "vocab_size"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        rms_norm_eps=_get(text, "rms_norm_eps"),
        rope_theta=float(rope.get("rope_theta") or _get(text, "rope_theta")),
        mrope_section=tuple(_get(rope, "mrope_section")),
    )
    tower = VisionConfig(
        in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
        fullatt_block_indexes=tuple(_get(vision, "fullatt_block_indexes")),
        **{
            field.name: _get(vision, field.name)
            for field in dataclasses.fields(VisionConfig)
            if field.name not in ("in_channels", "fullatt_block_indexes")
        },
    )
    if 2 * sum(language.mrope_section or ()) != language.head_dim:
        raise ValueError(f"config.json: mrope_section {language.mrope_section} must sum to half of head_dim={language.head_dim}")
    if tower.out_hidden_size != language.hidden_size:
        raise ValueError(f"config.json: vision out_hidden_size={tower.out_hidden_size} differs from hidden_size={language.hidden_size}")
    ids = {name: _get(raw, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}
    return Qwen2_5VLConfig(language=language, vision=tower, **ids)


class Qwen2_5VL(nnx.Module):
    """The model in its three trainable parts: `vision`, `projector`, `language`."""

    def __init__(
        self,
        config: Qwen2_5VLConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        compute_dtype: Any = jnp.float32,
        remat: RematPolicy = "none",
    ):
        self.config, self.compute_dtype = config, compute_dtype
        self.vision = VisionTower(config.vision, dtype=param_dtype, remat=remat, rngs=rngs)
        self.projector = PatchMerger(config.vision, dtype=param_dtype, rngs=rngs)
        self.language = Qwen2(config.language, dtype=param_dtype, remat=remat, rngs=rngs)

    def hidden_states(self, batch: Mapping[str, jax.Array]) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, from the batch fields described in `mede2_jax.data.rows`."""
        embeddings = self.language.embed(batch["tokens"]).astype(self.compute_dtype)
        if batch["patches"].shape[1]:
            embeddings = place_images(embeddings, self.image_embeddings(batch), batch["image_index"])
        return self.language(embeddings, batch["positions"], batch["key_start"], batch["key_end"])

    def image_embeddings(self, batch: Mapping[str, jax.Array]) -> Float[Array, "B P//M D"]:
        """One embedding for each merge² patches, in storage order."""
        ranges = tuple(batch[f"patch_{kind}_{end}"] for kind in ("window", "image") for end in ("start", "end"))
        patches = batch["patches"].astype(self.compute_dtype)
        return self.projector(self.vision(patches, batch["patch_positions"], *ranges))

    def vocabulary(self) -> Float[Array, "V D"]:
        """The vocabulary projection, one row a token."""
        return self.language.vocabulary()


def place_images(embeddings: Float[Array, "B T D"], images: Float[Array, "B I D"], image_index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Puts image embedding `image_index[t]` in the place of token t; −1 keeps the text embedding."""
    chosen = jnp.take_along_axis(images, jnp.maximum(image_index, 0)[..., None], axis=1)
    return jnp.where(image_index[..., None] >= 0, chosen, embeddings)


class VisionTower(nnx.Module):
    """Patch embedding and transformer blocks; each block attends within windows, a few within whole images."""

    def __init__(self, config: VisionConfig, *, dtype: Any, remat: RematPolicy, rngs: nnx.Rngs):
        self.config, self.remat = config, remat
        self.patch_embed = Linear(config.patch_dim, config.hidden_size, (None, "embed"), bias=False, dtype=dtype, rngs=rngs)
        self.blocks = VisionBlock(config, dtype=dtype, rngs=rngs, stack=config.depth)

    def __call__(
        self,
        patches: Float[Array, "B P X"],
        positions: Int[Array, "B P 2"],
        window_start: Int[Array, "B P"],
        window_end: Int[Array, "B P"],
        image_start: Int[Array, "B P"],
        image_end: Int[Array, "B P"],
    ) -> Float[Array, "B P C"]:
        """Patch features, in storage order; empty ranges (padding) stay finite."""
        angles = vision_angles(self.config, positions)
        whole_image = jnp.array([index in self.config.fullatt_block_indexes for index in range(self.config.depth)])

        def step(block: VisionBlock, x: jax.Array, whole: jax.Array) -> jax.Array:
            start = jnp.where(whole, image_start, window_start)
            end = jnp.where(whole, image_end, window_end)
            return constrain(block(x, angles, start, end), HIDDEN)

        return scan_layers(self.blocks, step, constrain(self.patch_embed(patches), HIDDEN), remat=self.remat, per_layer=whole_image)


class VisionBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); biases everywhere."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        self.norm1 = RMSNorm(config.hidden_size, VISION_NORM_EPS, dtype=dtype, stack=stack)
        self.attention = VisionAttention(config, dtype=dtype, rngs=rngs, stack=stack)
        self.norm2 = RMSNorm(config.hidden_size, VISION_NORM_EPS, dtype=dtype, stack=stack)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=True, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: jax.Array, angles: jax.Array, key_start: jax.Array, key_end: jax.Array) -> jax.Array:
        """One block's output [B, P, C]."""
        x = x + self.attention(self.norm1(x), angles, key_start, key_end)
        return x + self.mlp(self.norm2(x))


class VisionAttention(nnx.Module):
    """Multi-head attention with one fused q/k/v projection and two-dimensional rotary positions."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        self.num_heads = config.num_heads
        width = config.hidden_size
        self.qkv = Linear(width, 3 * width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.proj = Linear(width, width, ("heads", "embed"), bias=True, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: Float[Array, "B P C"], angles: Float[Array, "B P F"], key_start: jax.Array, key_end: jax.Array) -> jax.Array:
        """Attention over key ranges, projected back to [B, P, C]."""
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, -1), 2, 0)
        out = attention(rotate(q, angles), rotate(k, angles), v, key_start, key_end)
        return self.proj(out.reshape(x.shape))


class PatchMerger(nnx.Module):
    """Norm, concatenation of merge² neighbouring patches, and a two-layer perceptron into the language width."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs):
        self.width = config.hidden_size * config.spatial_merge_size**2
        self.norm = RMSNorm(config.hidden_size, VISION_NORM_EPS, dtype=dtype)
        self.up = Linear(self.width, self.width, ("embed", "mlp"), bias=True, dtype=dtype, rngs=rngs)
        self.down = Linear(self.width, config.out_hidden_size, ("mlp", "embed"), bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B P C"]) -> Float[Array, "B P//M D"]:
        """One embedding for each merge² consecutive patches."""
        merged = self.norm(x).reshape(x.shape[0], -1, self.width)
        return self.down(jax.nn.gelu(self.up(merged), approximate=False))


def vision_angles(config: VisionConfig, positions: Int[Array, "B P 2"]) -> Float[Array, "B P F"]:
    """Half of the frequencies follow the patch's row, half its column; F = head dimension / 2."""
    head_dim = config.hidden_size // config.num_heads
    frequencies = inverse_frequencies(head_dim // 2, VISION_ROPE_THETA)
    return (positions[..., None].astype(jnp.float32) * frequencies).reshape(*positions.shape[:2], -1)


def abstract_params(config: Qwen2_5VLConfig, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Shapes of all parameters as a nested dict, without allocating them."""
    model = nnx.eval_shape(lambda: Qwen2_5VL(config, rngs=nnx.Rngs(0), param_dtype=dtype))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _get(mapping: Mapping[str, Any], name: str) -> Any:
    return mapping[name] if name in mapping else _missing(name)


def _missing(name: str) -> Any:
    raise ValueError(f"config.json: {name!r} is missing")
