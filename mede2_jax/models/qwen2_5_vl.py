"""Qwen2.5-VL (Bai et al. 2025): a windowed vision transformer, a patch merger and the Qwen2 decoder.

The geometry of images (window order, key ranges, positions) comes with the batch: the model sees arrays of fixed shapes.
Axes: B rows, T tokens, P patches, C vision width, D model; M = merge² patches make one image token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mede2_jax.model_configs.qwen2_5_vl import Qwen2_5VLConfig, VisionConfig
from mede2_jax.models.attention import attention
from mede2_jax.models.layers import Linear, RematPolicy, RMSNorm, SwiGLU, inverse_frequencies, place_images, rotate, scan_layers
from mede2_jax.models.qwen2 import HIDDEN, Qwen2
from mede2_jax.parallel.rules import constrain

VISION_ROPE_THETA = 10000.0
VISION_NORM_EPS = 1e-6


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
