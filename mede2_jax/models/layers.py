"""Layers that every model family shares. Modules hold parameters with logical axis names; calls are plain functions.

A module built with `stack=L` holds the parameters of L layers along a leading axis; `scan_layers` runs them.
Axes: B rows, T tokens, D model, F feed-forward, H head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from mede2_jax.models.apart import is_apart, layer_of
from mede2_jax.models.attention import SAVED
from mede2_jax.models.trained import spread
from mede2_jax.parallel.rules import Axes, lookup

INIT_STD = 0.02
PRODUCT = "product"
"""Name of what a linear layer gives, for remat policies: with its adapter, so that one array is kept of it and not three."""
RematPolicy = Literal["none", "full", "dots", "dots_no_batch", "offload"]


def param(value: Callable[[], jax.Array], axes: Axes, stack: int | None) -> nnx.Param:
    """A parameter with the logical names of its axes ("layers" is put in front of a stacked one)."""
    return nnx.Param(value(), axes=axes if stack is None else ("layers", *axes))


class Linear(nnx.Module):
    """y = x·kernel + bias, in the dtype of x; kernel [in, out]."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        axes: tuple[str | None, str | None],
        *,
        bias: bool,
        dtype: Any,
        rngs: nnx.Rngs,
        stack: int | None = None,
    ):
        shape = (d_in, d_out) if stack is None else (stack, d_in, d_out)
        self.kernel = param(lambda: jax.random.normal(rngs.params(), shape, dtype) * jnp.asarray(INIT_STD, dtype), axes, stack)
        self.bias = param(lambda: jnp.zeros((*shape[:-2], d_out), dtype), axes[1:], stack) if bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """The product, in the dtype of x."""
        return checkpoint_name(self.product(x), PRODUCT)

    def product(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """The same, for a caller that adds to it and names the sum."""
        # Trained in full, its gradient is narrow until devices have added it up: in float32 they would send each other twice as much.
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + spread(self.bias[...], y)


class Embedding(nnx.Module):
    """A [V, D] table: rows looked up by token, or the vocabulary projection of an untied head."""

    def __init__(self, vocab: int, width: int, *, dtype: Any, rngs: nnx.Rngs):
        self.embedding = param(
            lambda: jax.random.normal(rngs.params(), (vocab, width), dtype) * jnp.asarray(INIT_STD, dtype), ("vocab", "embed"), None
        )

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Rows of the table, in its dtype."""
        return lookup(self.embedding[...], tokens)


class RMSNorm(nnx.Module):
    """x / rms(x) · scale, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float, *, dtype: Any, stack: int | None = None):
        self.eps = eps
        self.scale = param(lambda: jnp.ones((width,) if stack is None else (stack, width), dtype), (None,), stack)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The normalised x, in its dtype."""
        x32 = x.astype(jnp.float32)
        normal = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        # The original rounds to the compute dtype before it scales; so do we, for equal results in bfloat16.
        return normal.astype(x.dtype) * spread(self.scale[...], x)


class LayerNorm(nnx.Module):
    """(x − mean) / √variance · scale + bias, computed in float32 and rounded once (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float, *, dtype: Any, stack: int | None = None):
        self.eps = eps
        shape = (width,) if stack is None else (stack, width)
        self.scale = param(lambda: jnp.ones(shape, dtype), (None,), stack)
        self.bias = param(lambda: jnp.zeros(shape, dtype), (None,), stack)

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """The normalised x, in its dtype."""
        centred = x.astype(jnp.float32) - jnp.mean(x.astype(jnp.float32), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        return (normal * self.scale[...] + self.bias[...]).astype(x.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer 2020)."""

    def __init__(self, width: int, inner: int, *, bias: bool, dtype: Any, rngs: nnx.Rngs, stack: int | None = None):
        self.gate_proj = Linear(width, inner, ("embed", "mlp"), bias=bias, dtype=dtype, rngs=rngs, stack=stack)
        self.up_proj = Linear(width, inner, ("embed", "mlp"), bias=bias, dtype=dtype, rngs=rngs, stack=stack)
        self.down_proj = Linear(inner, width, ("mlp", "embed"), bias=bias, dtype=dtype, rngs=rngs, stack=stack)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The transformed x, in its dtype."""
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


def place_images(embeddings: Float[Array, "B T D"], images: Float[Array, "B I D"], image_index: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Puts image embedding `image_index[t]` in the place of token t; −1 keeps the text embedding."""
    chosen = jnp.take_along_axis(images, jnp.maximum(image_index, 0)[..., None], axis=1)
    return jnp.where(image_index[..., None] >= 0, chosen, embeddings)


def inverse_frequencies(dim: int, theta: float) -> Float[Array, " F"]:
    """θ^(−2j/dim) for j < dim/2 (Su et al. 2021)."""
    return 1.0 / theta ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)


def rotate(x: Float[Array, "B T N H"], angles: Float[Array, "B T F"]) -> Float[Array, "B T N H"]:
    """Rotary embedding in float32: pairs (x_j, x_{j+H/2}) turn by angle j; F = H/2."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def scan_layers(
    layers: nnx.Module, step: Callable[[Any, jax.Array, Any], jax.Array], x: jax.Array, *, remat: RematPolicy, per_layer: Any = None
) -> jax.Array:
    """Runs stacked layers one after another: x ← step(layer, x, per_layer[l]). Compile time does not grow with L, but where they are apart.

    Args:
        layers: A module whose parameters have a leading layer axis.
        step: Called with a module of one layer, x, and that layer's slice of `per_layer`.
        x: The first layer's input.
        remat: What the backward pass keeps instead of recomputing; see `remat_policy`.
        per_layer: A pytree of arrays with a leading layer axis, or None.
    """
    return scan_keeping(layers, lambda layer, x, extra: (step(layer, x, extra), None), x, remat=remat, per_layer=per_layer)[0]


def scan_keeping(
    layers: nnx.Module,
    step: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    *,
    remat: RematPolicy = "none",
    per_layer: Any = None,
) -> tuple[jax.Array, Any]:
    """`scan_layers` with a step that also returns what to keep of each layer: the last x, and that with a leading layer axis.

    Where parameters are held apart, the layers are traced one by one, and compile time grows with them.
    """
    graph, stacked = nnx.split(layers)
    leaves = jax.tree.leaves(stacked, is_leaf=is_apart)
    apart = [leaf for leaf in leaves if is_apart(leaf)]

    def body(x: jax.Array, slices: tuple[Any, Any]) -> tuple[jax.Array, Any]:
        state, extra = slices
        return step(nnx.merge(graph, state), x, extra)

    if remat != "none":  # without a loop around it, XLA would merge what is computed again with what was computed before
        body = jax.checkpoint(body, policy=remat_policy(remat), prevent_cse=bool(apart))
    if not apart:
        return jax.lax.scan(body, x, (stacked, per_layer))
    kept = []
    for index in range(len(apart[0].layers)):
        x, one = body(x, layer_of((stacked, per_layer), index))
        kept.append(one)
    return x, jax.tree.map(lambda *layers: jnp.stack(layers), *kept)


def remat_policy(name: RematPolicy) -> Callable[..., Any] | None:
    """What to keep of each layer for the backward pass.

    `full` keeps the layer's input only; `dots` all matrix products; `dots_no_batch` what each linear layer gives, its adapter
    added; `offload` the same in host memory. All but `full` also keep attention's output and normaliser, so that it runs once forward.
    """
    policies = jax.checkpoint_policies
    if name == "full":
        return policies.nothing_saveable
    if name == "dots_no_batch":
        return policies.save_only_these_names(SAVED, PRODUCT)
    if name == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[SAVED], names_which_can_be_offloaded=[PRODUCT], offload_src="device", offload_dst="pinned_host"
        )
    return policies.save_from_both_policies(policies.dots_saveable, policies.save_only_these_names(SAVED))
