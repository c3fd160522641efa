"""What the GPU kernels of `attention_gpu.py` do with one block of queries, or of keys, and how Triton compiles them.

Axes: T tokens, H head dimension, as Triton has it: padded to a power of two.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from mede2_jax.models.attention_names import MASKED

LOG2E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Tile:
    """How a kernel cuts its work, and how Triton compiles it."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The three kernels' tiles. Queries and keys a block are powers of two that divide `MULTIPLE`."""

    forward: Tile
    d_q: Tile
    d_kv: Tile


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What is known when the kernels are compiled."""

    tiles: Tiles
    head_dim: int
    groups: int
    interpret: bool

    @property
    def width(self) -> int:
        """The head dimension as Triton has it: a power of two, at least 16."""
        return max(16, pl.next_power_of_2(self.head_dim))

    @property
    def scale(self) -> float:
        """Of the scores."""
        return self.head_dim**-0.5

    def call(self, kernel: Callable[..., None], tile: Tile, **options: Any) -> Callable[..., Any]:
        """One of the kernels below as a function of arrays, the first four its bounds; `options` are Pallas' grid and specs."""
        params = triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)

        def body(*refs: Any) -> None:
            kernel(self, tile, refs[:4], *refs[4:])

        return pl.pallas_call(
            body,
            compiler_params=params,
            interpret=self.interpret,
            name=kernel.__name__,
            **options,
        )


def forward_kernel(kernels: Kernels, tile: Tile, bounds, q_ref, k_ref, v_ref, start_ref, end_ref, out_ref, normaliser_ref) -> None:
    """A block of queries: its output, and its log-normaliser to base 2."""
    q, start, end = _load(kernels, q_ref), start_ref[...], end_ref[...]

    def key_block(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array], *, masked: bool):
        acc, top, total = carry
        block = pl.ds(j * tile.keys, tile.keys)
        k, v = _load(kernels, k_ref.at[block]), _load(kernels, v_ref.at[block])
        scores = _dot(kernels, q, k, trans_b=True) * (kernels.scale * LOG2E)
        if masked:
            visible = _visible(j, tile.keys, start, end)
            scores = jnp.where(visible, scores, MASKED)
        new_top = jnp.maximum(top, jnp.max(scores, axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        if masked:  # of a query that has seen nothing yet, all scores equal their maximum
            weights = jnp.where(visible, weights, 0.0)
        shrink = jnp.exp2(top - new_top)
        return acc * shrink[:, None] + _dot(kernels, weights.astype(v.dtype), v), new_top, total * shrink + jnp.sum(weights, axis=1)

    zeros = jnp.zeros((tile.queries,), jnp.float32)
    carry = (jnp.zeros((tile.queries, kernels.width), jnp.float32), zeros + MASKED, zeros)
    carry = _masked_at_the_ends(key_block, bounds, carry)
    acc, top, total = carry
    seen = total > 0
    total = jnp.where(seen, total, 1.0)
    _store(kernels, out_ref, acc / total[:, None])
    normaliser_ref[...] = jnp.where(seen, top + jnp.log2(total), 0.0)


def d_q_kernel(
    kernels: Kernels, tile: Tile, bounds, q_ref, k_ref, v_ref, start_ref, end_ref, d_out_ref, normaliser_ref, delta_ref, d_q_ref
) -> None:
    """A block of queries: the gradient by them."""
    q, start, end, d_out = _load(kernels, q_ref), start_ref[...], end_ref[...], _load(kernels, d_out_ref)
    normaliser, delta = normaliser_ref[...], delta_ref[...]

    def key_block(j: jax.Array, d_q: jax.Array, *, masked: bool) -> jax.Array:
        block = pl.ds(j * tile.keys, tile.keys)
        k, v = _load(kernels, k_ref.at[block]), _load(kernels, v_ref.at[block])
        scores = _dot(kernels, q, k, trans_b=True) * (kernels.scale * LOG2E)
        weights = jnp.exp2(scores - normaliser[:, None])
        if masked:
            weights = jnp.where(_visible(j, tile.keys, start, end), weights, 0.0)
        d_scores = weights * (_dot(kernels, d_out, v, trans_b=True) - delta[:, None])
        return d_q + _dot(kernels, d_scores.astype(k.dtype), k)

    d_q = _masked_at_the_ends(key_block, bounds, jnp.zeros((tile.queries, kernels.width), jnp.float32))
    _store(kernels, d_q_ref, d_q * kernels.scale)


def d_kv_kernel(
    kernels: Kernels, tile: Tile, bounds, q_ref, k_ref, v_ref, start_ref, end_ref, d_out_ref, normaliser_ref, delta_ref, d_k_ref, d_v_ref
) -> None:
    """A block of keys and one query head: the gradients by keys and values."""
    k, v = _load(kernels, k_ref), _load(kernels, v_ref)
    key = pl.program_id(0) * tile.keys + jnp.arange(tile.keys)

    def query_block(i: jax.Array, carry: tuple[jax.Array, jax.Array], *, masked: bool) -> tuple[jax.Array, jax.Array]:
        d_k, d_v = carry
        block = pl.ds(i * tile.queries, tile.queries)
        q, d_out = _load(kernels, q_ref.at[block]), _load(kernels, d_out_ref.at[block])
        # Everything transposed, [keys, queries], so that no product needs a transposed accumulator.
        scores = _dot(kernels, k, q, trans_b=True) * (kernels.scale * LOG2E)
        weights = jnp.exp2(scores - normaliser_ref[block][None, :])
        if masked:
            start, end = start_ref[block], end_ref[block]
            weights = jnp.where((key[:, None] >= start[None, :]) & (key[:, None] < end[None, :]), weights, 0.0)
        d_v += _dot(kernels, weights.astype(d_out.dtype), d_out)
        d_scores = weights * (_dot(kernels, v, d_out, trans_b=True) - delta_ref[block][None, :])
        return d_k + _dot(kernels, d_scores.astype(q.dtype), q), d_v

    zeros = jnp.zeros((tile.keys, kernels.width), jnp.float32)
    d_k, d_v = _masked_at_the_ends(query_block, bounds, (zeros, zeros))
    _store(kernels, d_k_ref, d_k * kernels.scale)
    _store(kernels, d_v_ref, d_v)


def _masked_at_the_ends(body: Callable[..., Any], bounds: Sequence[Any], carry: Any) -> Any:
    """Blocks [first, last) in order; those in [whole, partial) are seen in full."""
    first, whole, partial, last = bounds
    carry = lax.fori_loop(first[()], whole[()], functools.partial(body, masked=True), carry)
    carry = lax.fori_loop(whole[()], partial[()], functools.partial(body, masked=False), carry)
    return lax.fori_loop(partial[()], last[()], functools.partial(body, masked=True), carry)


def _visible(j: jax.Array, keys: int, start: jax.Array, end: jax.Array) -> jax.Array:
    key = j * keys + jnp.arange(keys)
    return (key[None, :] >= start[:, None]) & (key[None, :] < end[:, None])


def _load(kernels: Kernels, ref: Any) -> jax.Array:
    """A block whose last axis is the head dimension, zeros beyond it."""
    if kernels.width == kernels.head_dim:
        return ref[...]
    return triton.load(ref, mask=(jnp.arange(kernels.width) < kernels.head_dim)[None, :], other=0.0)


def _store(kernels: Kernels, ref: Any, value: jax.Array) -> None:
    if kernels.width == kernels.head_dim:
        ref[...] = value.astype(ref.dtype)
    else:
        triton.store(ref, value.astype(ref.dtype), mask=(jnp.arange(kernels.width) < kernels.head_dim)[None, :])


def _dot(kernels: Kernels, a: jax.Array, b: jax.Array, *, trans_b: bool = False) -> jax.Array:
    """a·b, or a·bᵀ, in float32."""
    # float32 inputs as three products of their TF32 halves: as exact as float32, on the matrix units.
    exact = lax.Precision.HIGHEST if kernels.interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    precision = exact if a.dtype == jnp.float32 else None
    contract = (((1,), (1 if trans_b else 0,)), ((), ()))
    return lax.dot_general(a, b, contract, precision=precision, preferred_element_type=jnp.float32)
