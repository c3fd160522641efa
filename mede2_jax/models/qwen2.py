"""The Qwen2 decoder: grouped-query attention with q/k/v bias, RMSNorm, SwiGLU, rotary positions.

Shared by Qwen2.5-VL (three-axis rotary positions) and every other family whose language model is Qwen2 or Qwen2.5.
Axes: B rows, T tokens, D model, N heads, K kv-heads, H head dimension, V vocabulary, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from mede2_jax.model_configs.qwen2 import Qwen2Config
from mede2_jax.models.attention import attention
from mede2_jax.models.layers import (
    Embedding,
    Linear,
    RematPolicy,
    RMSNorm,
    SwiGLU,
    inverse_frequencies,
    rotate,
    scan_keeping,
    scan_layers,
)
from mede2_jax.parallel.rules import constrain

HIDDEN = ("rows", "tokens", None)
KeyValues = tuple[jax.Array, jax.Array]
"""Keys, rotated, and values: [B, T, K, H] each, with a leading axis L for all layers."""


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
        """Hidden states after the final norm, in the dtype of `embeddings`.

        Raises:
            ValueError: The rows are longer than the config's `max_positions`.
        """
        limit = self.config.max_positions
        if limit is not None and embeddings.shape[1] > limit:
            raise ValueError(f"rows of {embeddings.shape[1]} tokens: past {limit} positions the rotary embedding would be scaled")
        angles = rotary_angles(self.config, positions)

        def step(layer: DecoderLayer, x: jax.Array, _: None) -> jax.Array:
            return constrain(layer(x, angles, key_start, key_end), HIDDEN)

        return self.norm(scan_layers(self.layers, step, constrain(embeddings, HIDDEN), remat=self.remat))

    def with_keys(
        self,
        embeddings: Float[Array, "B T D"],
        positions: Int[Array, "B T"] | Int[Array, "B 3 T"],
        attend: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """Hidden states after the final norm, and every layer's keys and values, for decoding.

        Args:
            embeddings: As `__call__` takes them, of any number of tokens.
            positions: Of the tokens; one that is shared by all tokens of a row may stand for them.
            attend: (layer number, q, k, v) to the attention's output, in the shape of q.
        """
        angles = rotary_angles(self.config, positions)

        def step(layer: DecoderLayer, x: jax.Array, index: jax.Array) -> tuple[jax.Array, KeyValues]:
            x, kept = layer.attending(x, angles, functools.partial(attend, index))
            return constrain(x, HIDDEN), kept

        numbers = jnp.arange(self.config.num_layers)
        x, kept = scan_keeping(self.layers, step, constrain(embeddings, HIDDEN), per_layer=numbers)
        return self.norm(x), kept

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
        return self.attending(x, angles, lambda q, k, v: attention(q, k, v, key_start, key_end))[0]

    def attending(
        self, x: Float[Array, "B T D"], angles: jax.Array, attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """The layer's output when (q, k, v) attend as given, and its keys and values."""
        attended, kept = self.attention(self.input_norm(x), angles, attend)
        x = x + attended
        return x + self.mlp(self.post_attention_norm(x)), kept


class SelfAttention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023) with bias on q, k and v only."""

    def __init__(self, config: Qwen2Config, *, dtype: Any, rngs: nnx.Rngs, stack: int):
        self.config = config
        width, q_width, kv_width = config.hidden_size, config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = Linear(width, q_width, ("embed", "heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.k_proj = Linear(width, kv_width, ("embed", "kv_heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.v_proj = Linear(width, kv_width, ("embed", "kv_heads"), bias=True, dtype=dtype, rngs=rngs, stack=stack)
        self.o_proj = Linear(q_width, width, ("heads", "embed"), bias=False, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Float[Array, "B T F"],
        attend: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """What (q, k, v) attend to, projected back, and the keys and values."""
        q, k, v = (_heads(project(x), self.config.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, angles), rotate(k, angles)
        return self.o_proj(attend(q, k, v).reshape(*x.shape[:2], -1)), (k, v)


def rotary_angles(config: Qwen2Config, positions: Int[Array, "B T"] | Int[Array, "B 3 T"]) -> Float[Array, "B T F"]:
    """Angle of each rotary frequency at each token, F = H/2.

    With `mrope_section` (Qwen2-VL, Wang et al. 2024, section 2.1) the first frequencies follow the temporal position,
    the next the vertical, the last the horizontal one.
    """
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    if config.mrope_section is None:
        return positions[..., None].astype(jnp.float32) * frequencies
    # Slices, not a gather by axis: a partitioner would replicate what it cannot see through.
    split = np.cumsum(config.mrope_section)[:-1]
    turns = [positions[:, axis, :, None].astype(jnp.float32) * part for axis, part in enumerate(jnp.split(frequencies, split))]
    return jnp.concatenate(turns, axis=-1)


def _heads(x: jax.Array, head_dim: int) -> jax.Array:
    return x.reshape(*x.shape[:2], -1, head_dim)
