"""InternVL3 (Zhu et al. 2025): InternViT on square tiles, pixel shuffle, a projector and the Qwen2 decoder.

Two encoders: InternViT-300M (LayerNorm, biases on q, k and v) and InternViT-6B (RMSNorm, no such biases, q and k normalised
over the whole width). An image is one tile, or several and a thumbnail; a tile never sees another.
Axes: B rows, T tokens, P patches, I tiles of all rows, G patches along a tile, C vision width, D model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from mede2_jax.model_configs.internvl3 import InternVL3Config, VisionConfig
from mede2_jax.models.attention import BLOCK, attention
from mede2_jax.models.layers import INIT_STD, LayerNorm, Linear, RematPolicy, RMSNorm, param, place_images, scan_layers
from mede2_jax.models.qwen2 import Qwen2
from mede2_jax.models.trained import spread
from mede2_jax.parallel.rules import constrain

TILES = ("tiles", None, None)
PROJECTOR_NORM_EPS = 1e-5
LAYER_SCALE_INIT = 0.1
CUBIC = -0.75
"""Keys' coefficient a of the cubic convolution, as PyTorch has it."""


class InternVL3(nnx.Module):
    """The model in its three trainable parts: `vision`, `projector`, `language`."""

    def __init__(
        self,
        config: InternVL3Config,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        compute_dtype: Any = jnp.float32,
        remat: RematPolicy = "none",
    ):
        self.config, self.compute_dtype = config, compute_dtype
        self.vision = VisionTower(config, dtype=param_dtype, remat=remat, rngs=rngs)
        self.projector = Projector(config, dtype=param_dtype, rngs=rngs)
        self.language = Qwen2(config.language, dtype=param_dtype, remat=remat, rngs=rngs)

    def hidden_states(self, batch: Mapping[str, jax.Array]) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, from the batch fields described in `mede2_jax.data.rows`."""
        embeddings = self.language.embed(batch["tokens"]).astype(self.compute_dtype)
        if batch["patches"].shape[1]:
            embeddings = place_images(embeddings, self.image_embeddings(batch), batch["image_index"])
        return self.language(embeddings, batch["positions"], batch["key_start"], batch["key_end"])

    def image_embeddings(self, batch: Mapping[str, jax.Array]) -> Float[Array, "B P//M D"]:
        """Tile after tile, one embedding for each merge² patches, in reading order.

        Raises:
            ValueError: The patches are not whole tiles.
        """
        patches, per_tile = batch["patches"], self.config.grid**2
        rows, count, _ = patches.shape
        if count % per_tile:
            raise ValueError(f"{count} patches a row are not whole tiles of {per_tile}")
        tiles = patches.astype(self.compute_dtype).reshape(rows * count // per_tile, per_tile, -1)
        used = batch["patch_window_end"] > batch["patch_window_start"]
        features = self.vision(tiles, used.reshape(-1, per_tile)[:, 0])
        return self.projector(pixel_shuffle(features, self.config.merge)).reshape(rows, -1, self.config.language.hidden_size)

    def vocabulary(self) -> Float[Array, "V D"]:
        """The vocabulary projection, one row a token."""
        return self.language.vocabulary()


class VisionTower(nnx.Module):
    """InternViT: patch, class and position embeddings, then transformer blocks; each tile is a row of its own.

    The original's stochastic depth, which only acted in its own training, is not done; nor does transformers.
    """

    def __init__(self, config: InternVL3Config, *, dtype: Any, remat: RematPolicy, rngs: nnx.Rngs):
        vision = config.vision
        self.config, self.grid, self.remat = vision, config.grid, remat
        self.patch_embed = Linear(vision.patch_dim, vision.hidden_size, (None, "embed"), bias=True, dtype=dtype, rngs=rngs)
        self.class_token = _embedding((1, 1, vision.hidden_size), dtype, rngs)
        self.positions = _embedding((1, 1 + vision.table_grid**2, vision.hidden_size), dtype, rngs)
        self.blocks = VisionBlock(vision, dtype=dtype, rngs=rngs, stack=vision.depth)

    def __call__(self, tiles: Float[Array, "I G*G X"], used: Bool[Array, " I"]) -> Float[Array, "I G*G C"]:
        """Patch features without the class token's; in tiles that are padding nothing is seen, and all stays finite."""
        x = self.embed(tiles)
        key_start = jnp.zeros(x.shape[:2], jnp.int32)
        key_end = jnp.broadcast_to(jnp.where(used, x.shape[1], 0)[:, None], x.shape[:2])

        def step(block: VisionBlock, x: jax.Array, _: None) -> jax.Array:
            return constrain(block(x, key_start, key_end), TILES)

        return scan_layers(self.blocks, step, constrain(x, TILES), remat=self.remat)[:, 1:]

    def embed(self, tiles: Float[Array, "I G*G X"]) -> Float[Array, "I 1+G*G C"]:
        """The class token and the patches, each with its position's embedding."""
        patches = self.patch_embed(tiles)
        first = spread(self.class_token[...][0], patches[:, :1])
        positions = resized_positions(self.positions[...], self.grid)
        x = jnp.concatenate([first, patches], axis=1)
        return x + spread(positions[0], x)


class VisionBlock(nnx.Module):
    """x + scale · attention(norm(x)), then x + scale · mlp(norm(x)) (layer scale: Touvron et al. 2021)."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        norm = LayerNorm if config.norm == "layer_norm" else RMSNorm
        self.norm1 = norm(config.hidden_size, config.norm_eps, dtype=dtype, stack=stack)
        self.attention = VisionAttention(config, dtype=dtype, rngs=rngs, stack=stack)
        self.layer_scale1 = LayerScale(config.hidden_size, dtype=dtype, stack=stack)
        self.norm2 = norm(config.hidden_size, config.norm_eps, dtype=dtype, stack=stack)
        self.mlp = VisionMLP(config, dtype=dtype, rngs=rngs, stack=stack)
        self.layer_scale2 = LayerScale(config.hidden_size, dtype=dtype, stack=stack)

    def __call__(self, x: jax.Array, key_start: jax.Array, key_end: jax.Array) -> jax.Array:
        """One block's output [I, 1 + G², C]."""
        x = x + self.layer_scale1(self.attention(self.norm1(x), key_start, key_end))
        return x + self.layer_scale2(self.mlp(self.norm2(x)))


class VisionAttention(nnx.Module):
    """Multi-head attention; with `qk_norm`, q and k are normalised before they are split into heads."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        width, inward, bias = config.hidden_size, ("embed", "heads"), config.qkv_bias
        self.num_heads = config.num_heads
        self.q_proj = Linear(width, width, inward, bias=bias, dtype=dtype, rngs=rngs, stack=stack)
        self.k_proj = Linear(width, width, inward, bias=bias, dtype=dtype, rngs=rngs, stack=stack)
        self.v_proj = Linear(width, width, inward, bias=bias, dtype=dtype, rngs=rngs, stack=stack)
        self.q_norm = RMSNorm(width, config.qk_norm_eps, dtype=dtype, stack=stack) if config.qk_norm else None
        self.k_norm = RMSNorm(width, config.qk_norm_eps, dtype=dtype, stack=stack) if config.qk_norm else None
        self.projection_layer = Linear(width, width, ("heads", "embed"), bias=True, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: Float[Array, "I N C"], key_start: jax.Array, key_end: jax.Array) -> Float[Array, "I N C"]:
        """Attention over key ranges, projected back."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (y.reshape(*x.shape[:2], self.num_heads, -1) for y in (q, k, v))
        out = attention(q, k, v, key_start, key_end, block=even_block(x.shape[1]), layout=TILES[:2])
        return self.projection_layer(out.reshape(x.shape))


class VisionMLP(nnx.Module):
    """fc2(gelu(fc1(x)))."""

    def __init__(self, config: VisionConfig, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        width, inner = config.hidden_size, config.intermediate_size
        self.fc1 = Linear(width, inner, ("embed", "mlp"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.fc2 = Linear(inner, width, ("mlp", "embed"), bias=True, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: Float[Array, "I N C"]) -> Float[Array, "I N C"]:
        """The transformed x, in its dtype."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class LayerScale(nnx.Module):
    """x · scale, one learned factor a channel."""

    def __init__(self, width: int, *, dtype: Any, stack: int):
        self.scale = param(lambda: jnp.full((stack, width), LAYER_SCALE_INIT, dtype), (None,), stack)

    def __call__(self, x: Float[Array, "I N C"]) -> Float[Array, "I N C"]:
        """The scaled x, in its dtype."""
        return x * spread(self.scale[...], x)


class Projector(nnx.Module):
    """Norm and a two-layer perceptron into the language width."""

    def __init__(self, config: InternVL3Config, *, dtype: Any, rngs: nnx.Rngs):
        width, out = config.vision.hidden_size * config.merge**2, config.language.hidden_size
        self.norm = LayerNorm(width, PROJECTOR_NORM_EPS, dtype=dtype)
        self.linear_1 = Linear(width, out, ("embed", "mlp"), bias=True, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(out, out, ("mlp", "embed"), bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "I U E"]) -> Float[Array, "I U D"]:
        """Embeddings for the decoder."""
        return self.linear_2(jax.nn.gelu(self.linear_1(self.norm(x)), approximate=False))


def pixel_shuffle(x: Float[Array, "I G*G C"], merge: int) -> Float[Array, "I U M*C"]:
    """Lays the features of merge × merge patches (M in all) side by side, row by row; U = G² / M, in reading order."""
    tiles, count, width = x.shape
    side = round(count**0.5) // merge
    squares = x.reshape(tiles, side, merge, side, merge, width).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(tiles, side * side, merge * merge * width)


def resized_positions(table: Float[Array, "1 N C"], grid: int) -> Float[Array, "1 1+G*G C"]:
    """The class token's position embedding, and the patches' interpolated to `grid` patches along a side."""
    size = round((table.shape[1] - 1) ** 0.5)
    if size == grid:
        return table
    resize = bicubic_matrix(size, grid)
    patches = table[0, 1:].astype(jnp.float32).reshape(size, size, -1)
    resized = jnp.einsum("ij,kl,jlc->ikc", resize, resize, patches, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([table[:, :1], resized.reshape(1, grid * grid, -1).astype(table.dtype)], axis=1)


def bicubic_matrix(old: int, new: int) -> np.ndarray:
    """[new, old]: what PyTorch's bicubic interpolation without aligned corners multiplies a line of `old` values with.

    Cubic convolution (Keys 1981) over four neighbours, those outside replaced by the nearest one inside.
    """
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for offset in range(-1, 3):
        distance = np.abs(centre - first - offset)
        near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + offset, 0, old - 1)), np.where(distance <= 1, near, far))
    return matrix.astype(np.float32)


def even_block(length: int) -> int:
    """The block of attention that leaves least of the last one empty: 1025 tokens are 5 × 208 rather than 5 × 256."""
    return -(-length // -(-length // BLOCK) // 8) * 8


def _embedding(shape: tuple[int, int, int], dtype: Any, rngs: nnx.Rngs) -> nnx.Param:
    return param(lambda: jax.random.normal(rngs.params(), shape, dtype) * jnp.asarray(INIT_STD, dtype), (None, None, "embed"), None)


def abstract_params(config: InternVL3Config, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Shapes of all parameters as a nested dict, without allocating them."""
    model = nnx.eval_shape(lambda: InternVL3(config, rngs=nnx.Rngs(0), param_dtype=dtype))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))
