"""Frozen linear layers in 8 bits: y = (x·q)·s + bias, with one scale s for each output channel.

Symmetric, to the nearest, without calibration: the weights' half of LLM.int8 (Dettmers et al. 2022). Activations stay as they are, so that
an adapter beside such a layer (QLoRA, Dettmers et al. 2023) learns from what the layer really gives.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mede2_jax.models.layers import Linear
from mede2_jax.models.lora import linear_layers
from mede2_jax.models.trained import spread

FrozenDtype = Literal["int8", "float8_e4m3"]
FORMATS = {"int8": (jnp.int8, 127.0), "float8_e4m3": (jnp.float8_e4m3fn, 448.0)}
"""Of each name the dtype, and the number that a channel's largest weight becomes."""
SCALE = "/kernel_scale"
"""How the path of a scale ends; that of its kernel ends in `/kernel`."""


class QuantizedLinear(Linear):
    """A linear layer whose kernel [*, I, O] is held in 8 bits, beside its scales [*, O]; made of one that it takes the place of."""

    def __init__(self, plain: Linear, dtype: FrozenDtype):
        *stack, _, d_out = plain.kernel.shape
        *stack_axes, _, out_axis = plain.kernel.axes
        self.kernel = nnx.Param(jnp.zeros(plain.kernel.shape, FORMATS[dtype][0]), axes=plain.kernel.axes)
        # So small that every device holds all of it but where its kernel is split by channels anyway.
        axes = (*stack_axes, None if out_axis == "embed" else out_axis)
        self.kernel_scale = nnx.Param(jnp.ones((*stack, d_out), jnp.float32), axes=axes)
        self.bias = plain.bias

    def product(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """As `Linear.product`. What is multiplied are small whole numbers, exact in bfloat16 too; the scale follows in float32."""
        # Together: else kernels would be widened long before their turn, and lie there whole.
        x, kernel = jax.lax.optimization_barrier((x, self.kernel[...]))
        y = ((x @ kernel.astype(x.dtype)).astype(jnp.float32) * self.kernel_scale[...]).astype(x.dtype)
        return y if self.bias is None else y + spread(self.bias[...], y)


def quantize_linears(part: nnx.Module, dtype: FrozenDtype) -> None:
    """Replaces every linear layer below `part`, those under an adapter included, in place."""
    for parent, name in list(linear_layers(part)):
        setattr(parent, name, QuantizedLinear(getattr(parent, name), dtype))


def quantize(kernel: Float[Array, "*L I O"], dtype: FrozenDtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(q, s, [Σ(w − q·s)², Σw²] of each layer).

    Args:
        kernel: Of one layer, or a stack, which is done a layer at a time.
        dtype: Of q.
    """
    narrow, largest = FORMATS[dtype]

    def one(layer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        wide = layer.astype(jnp.float32)
        top = jnp.max(jnp.abs(wide), axis=0)
        scale = jnp.where(top > 0, top / largest, 1.0)
        ratio = wide / scale
        held = (jnp.round(ratio) if narrow == jnp.int8 else ratio).astype(narrow)
        off = wide - held.astype(jnp.float32) * scale
        return held, scale, jnp.stack([jnp.sum(off * off), jnp.sum(wide * wide)])

    return jax.lax.map(one, kernel) if kernel.ndim == 3 else one(kernel)
