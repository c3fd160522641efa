"""The Qwen2 decoder: grouped-query attention with q/k/v bias, RMSNorm, SwiGLU, rotary positions.

Shared by Qwen2.5-VL (three-axis rotary positions) and every other family whose language model is Qwen2 or Qwen2.5.
Axes: B rows, T tokens, D model, N heads, K kv-heads, H head dimension, V vocabulary, L layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mede2_jax.models.attention import attention
from mede2_jax.models.layers import Embedding, Linear, RematPolicy, RMSNorm, SwiGLU, inverse_frequencies, rotate, scan_layers
from mede2_jax.parallel.rules import constrain

HIDDEN = ("rows", None, None)


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


class Qwen2(nnx.Module):
    """Embedding, decoder layers, final norm, vocabulary projection."""

    def __init__(self, config: Qwen2Config, *, dtype: Any, remat: RematPolicy, rngs: nnx.Rngs):
        self.config, self.remat = config, remat
        self.embed = Embedding(config.vocab_size, config.hidden_size, dtype=dtype, rngs=rngs)
        self.layers = DecoderLayer(config, dtype=dtype, rngs=rngs, stack=config.num_layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype)
        self.head = None if config.tie_word_embeddings else Embedding(config.vocab_size, config.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | Int[Array, "B 3 T"],
        key_start: Int[Array, "B T"],
        key_end: Int[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, in the dtype of `embeddings`."""
        angles = rotary_angles(self.config, positions)

        def step(layer: DecoderLayer, x: jax.Array, _: None) -> jax.Array:
            return constrain(layer(x, angles, key_start, key_end), HIDDEN)

        return self.norm(scan_layers(self.layers, step, constrain(embeddings, HIDDEN), remat=self.remat))

    def vocabulary(self) -> Float[Array, "V D"]:
        """The matrix whose product with a hidden state gives the logits; the embedding itself when tied."""
        return (self.head or self.embed).embedding[...]


class DecoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Qwen2Config, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        self.input_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, stack=stack)
        self.attention = SelfAttention(config, dtype=dtype, rngs=rngs, stack=stack)
        self.post_attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype=dtype, stack=stack)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=False, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: jax.Array, angles: jax.Array, key_start: jax.Array, key_end: jax.Array) -> jax.Array:
        """One layer's output [B, T, D]."""
        x = x + self.attention(self.input_norm(x), angles, key_start, key_end)
        return x + self.mlp(self.post_attention_norm(x))


class SelfAttention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023) with bias on q, k and v only."""

    def __init__(self, config: Qwen2Config, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        self.config = config
        width, q_width, kv_width = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(width, q_width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.k_proj = Linear(width, kv_width, ("embed", "kv_heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.v_proj = Linear(width, kv_width, ("embed", "kv_heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.o_proj = Linear(q_width, width, ("heads", "embed"), bias=False, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: Float[Array, "B T D"], angles: Float[Array, "B T F"], key_start: jax.Array, key_end: jax.Array) -> jax.Array:
        """Attention over key ranges, projected back to [B, T, D]."""
        q, k, v = (_heads(project(x), self.config.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        out = attention(rotate(q, angles), rotate(k, angles), v, key_start, key_end)
        return self.o_proj(out.reshape(*x.shape[:2], -1))


def rotary_angles(config: Qwen2Config, positions: Int[Array, "B T"] | Int[Array, "B 3 T"]) -> Float[Array, "B T F"]:
    """Angle of each rotary frequency at each token, F = H/2.

    With `mrope_section` (Qwen2-VL, Wang et al. 2024, section 2.1) the first frequencies follow the temporal position,
    the next the vertical, the last the horizontal one.
    """
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    if config.mrope_section is None:
        return positions[..., None].astype(jnp.float32) * frequencies
    axis = jnp.repeat(jnp.arange(3), jnp.array(config.mrope_section), total_repeat_length=config.head_dim // 2)
    return jnp.take(positions, axis, axis=1).transpose(0, 2, 1).astype(jnp.float32) * frequencies


def _heads(x: jax.Array, head_dim: int) -> jax.Array:
    return x.reshape(*x.shape[:2], -1, head_dim)
