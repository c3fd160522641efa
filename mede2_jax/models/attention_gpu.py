"""Attention over key ranges as fused GPU kernels: Pallas, compiled by Triton (Ampere, Hopper and newer).

The algorithm is FlashAttention-2 (Dao 2023): an online softmax forward; a backward that recomputes the weights from the saved
log-normaliser, once by blocks of queries (for q) and once by blocks of keys (for k and v). What is ours are the ranges: a
program reads only the key blocks that one of its queries sees (or the query blocks that see one of its keys), and masks
only those that not all of them see in full. So packing, windows and causality cost what they use, as in `attention.py`.

Axes: B rows, T tokens, N query heads, K key/value heads (N = K·G), H head dimension.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from mede2_jax.models.attention_names import MASKED, SAVED

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


MULTIPLE = 128
"""What lengths are padded to."""
HALF = Tiles(forward=Tile(128, 64, 8, 3), d_q=Tile(128, 64, 8, 3), d_kv=Tile(64, 64, 4, 2))
"""For 16-bit inputs, measured on an H100 (docs/benchmarks.md)."""
SINGLE = Tiles(forward=Tile(64, 32, 4, 2), d_q=Tile(64, 32, 4, 2), d_kv=Tile(32, 64, 4, 2))
"""For float32, whose blocks take twice the shared memory."""


def fused_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    key_start: Int[Array, "B T"],
    key_end: Int[Array, "B T"],
    *,
    tiles: Tiles | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """As `attention.attention`, on one device.

    Args:
        q: Queries.
        k: Keys; query head n reads key head n // G.
        v: Values.
        key_start: First key each query sees.
        key_end: One past the last key; an empty range gives zeros.
        tiles: How the work is cut; by default by the dtype of q.
        interpret: Whether to run the kernels' Python on any platform, for tests.
    """
    length, head_dim = q.shape[1], q.shape[3]
    padding = -length % MULTIPLE
    q, k, v = (jnp.pad(x, ((0, 0), (0, padding), (0, 0), (0, 0))) for x in (q, k, v))
    key_start, key_end = (jnp.pad(x, ((0, 0), (0, padding))) for x in (key_start, key_end))
    tiles = tiles or (SINGLE if q.dtype == jnp.float32 else HALF)
    kernels = _Kernels(tiles, head_dim, q.shape[2] // k.shape[2], interpret)
    return _fused(kernels, q, k, v, key_start, key_end)[:, :length]


@dataclasses.dataclass(frozen=True)
class _Kernels:
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
        return self.head_dim**-0.5

    def call(self, kernel: Callable[..., None], tile: Tile, **options: Any) -> Callable[..., Any]:
        params = triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
        return pl.pallas_call(
            functools.partial(kernel, self, tile),
            compiler_params=params,
            interpret=self.interpret,
            name=kernel.__name__.removeprefix("_"),
            **options,
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(kernels: _Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array) -> jax.Array:
    return _forward(kernels, q, k, v, key_start, key_end)[0]


def _forward(
    kernels: _Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T"]]:
    """Output and log-normaliser, to base 2."""
    tile = kernels.tiles.forward
    bounds = key_bounds(key_start, key_end, tile.queries, tile.keys)
    call = kernels.call(
        _forward_kernel,
        tile,
        grid=_by_queries(q, tile),
        in_specs=[*_bound_specs(q, tile), _query_spec(kernels, q, tile), *_all_keys_specs(kernels, k), *_range_specs(q, tile)],
        out_specs=[_query_spec(kernels, q, tile), _per_query_spec(q, tile)],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(_per_query(q), jnp.float32)],
    )
    out, normaliser = call(*bounds, q, k, v, key_start, key_end)
    return out, normaliser


def _forward_rule(kernels: _Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array):
    out, normaliser = _forward(kernels, q, k, v, key_start, key_end)
    out, normaliser = checkpoint_name(out, SAVED), checkpoint_name(normaliser, SAVED)
    return out, (q, k, v, key_start, key_end, out, normaliser)


def _backward_rule(kernels: _Kernels, residuals: tuple[jax.Array, ...], d_out: jax.Array):
    q, k, v, key_start, key_end, out, normaliser = residuals
    delta = jnp.einsum("btnh,btnh->bnt", d_out, out, preferred_element_type=jnp.float32)
    d_q = _queries_backward(kernels, q, k, v, key_start, key_end, d_out, normaliser, delta)
    d_k, d_v = _keys_backward(kernels, q, k, v, key_start, key_end, d_out, normaliser, delta)
    return d_q, d_k, d_v, None, None


_fused.defvjp(_forward_rule, _backward_rule)


def _queries_backward(kernels: _Kernels, q, k, v, key_start, key_end, d_out, normaliser, delta) -> jax.Array:
    tile = kernels.tiles.d_q
    bounds = key_bounds(key_start, key_end, tile.queries, tile.keys)
    query, per_query = _query_spec(kernels, q, tile), _per_query_spec(q, tile)
    call = kernels.call(
        _d_q_kernel,
        tile,
        grid=_by_queries(q, tile),
        in_specs=[*_bound_specs(q, tile), query, *_all_keys_specs(kernels, k), *_range_specs(q, tile), query, per_query, per_query],
        out_specs=query,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )
    return call(*bounds, q, k, v, key_start, key_end, d_out, normaliser, delta)


def _keys_backward(kernels: _Kernels, q, k, v, key_start, key_end, d_out, normaliser, delta) -> tuple[jax.Array, jax.Array]:
    """A program has one block of keys and one query head: what the G heads send back to one key head is added up afterwards.

    One program for all G heads would save that sum and leave most of a GPU idle: Qwen2.5-VL 7B has 4 key heads.
    """
    tile, groups = kernels.tiles.d_kv, kernels.groups
    length, width = q.shape[1], kernels.width
    bounds = query_bounds(key_start, key_end, tile.queries, tile.keys)
    bound = pl.BlockSpec((None, None), lambda j, n, b: (b, j))
    key = pl.BlockSpec((None, tile.keys, None, width), lambda j, n, b: (b, j, n // groups, 0))
    out = pl.BlockSpec((None, tile.keys, None, width), lambda j, n, b: (b, j, n, 0))
    query = pl.BlockSpec((None, length, None, width), lambda j, n, b: (b, 0, n, 0))
    ranges = pl.BlockSpec((None, length), lambda j, n, b: (b, 0))
    per_query = pl.BlockSpec((None, None, length), lambda j, n, b: (b, n, 0))
    call = kernels.call(
        _d_kv_kernel,
        tile,
        grid=(length // tile.keys, q.shape[2], q.shape[0]),
        in_specs=[bound, bound, bound, bound, query, key, key, ranges, ranges, query, per_query, per_query],
        out_specs=[out, out],
        out_shape=[jax.ShapeDtypeStruct(q.shape, k.dtype)] * 2,
    )
    by_head = call(*bounds, q, k, v, key_start, key_end, d_out, normaliser, delta)
    if groups == 1:
        return by_head
    d_k, d_v = (jnp.sum(x.reshape(*k.shape[:3], groups, -1), axis=3, dtype=jnp.float32).astype(k.dtype) for x in by_head)
    return d_k, d_v


def key_bounds(key_start: jax.Array, key_end: jax.Array, queries: int, keys: int) -> tuple[jax.Array, ...]:
    """Of each block of queries: the key blocks [first, last) that one of it sees, and of these [whole, partial) that all see in full.

    Returns:
        first, whole, partial, last: [B, T/queries] each; `first <= whole <= partial <= last` where any is seen.
    """
    start, end = (x.reshape(x.shape[0], -1, queries) for x in (key_start, key_end))
    used = end > start
    first = jnp.min(jnp.where(used, start, key_start.shape[1]), axis=-1) // keys
    last = -(-jnp.max(jnp.where(used, end, 0), axis=-1) // keys)
    last = jnp.maximum(last, first)
    everyone = jnp.all(used, axis=-1)
    whole = jnp.clip(jnp.where(everyone, -(-jnp.max(start, axis=-1) // keys), last), first, last)
    partial = jnp.clip(jnp.where(everyone, jnp.min(end, axis=-1) // keys, last), whole, last)
    return first, whole, partial, last


def query_bounds(key_start: jax.Array, key_end: jax.Array, queries: int, keys: int) -> tuple[jax.Array, ...]:
    """Of each block of keys: the smallest range [first, last) of query blocks outside which nobody sees it, and inside it a
    range [whole, partial) of blocks whose queries all see all of it: the first such run.

    Returns:
        first, whole, partial, last: [B, T/keys] each, in ascending order.
    """
    first, whole, partial, last = (x[..., None] for x in key_bounds(key_start, key_end, queries, keys))
    block = jnp.arange(key_start.shape[1] // keys)
    sees, all_see = (first <= block) & (block < last), (whole <= block) & (block < partial)  # [B, query blocks, key blocks]
    count = sees.shape[1]
    before, after = jnp.argmax(sees, axis=1), count - jnp.argmax(sees[:, ::-1], axis=1)
    begin = jnp.where(jnp.any(all_see, axis=1), jnp.argmax(all_see, axis=1), after)
    query_block = jnp.arange(count)[:, None]
    ends = ~all_see & (query_block >= begin[:, None])
    end = jnp.where(jnp.any(ends, axis=1), jnp.argmax(ends, axis=1), count)
    used = jnp.any(sees, axis=1)
    return tuple(jnp.where(used, x, 0).astype(jnp.int32) for x in (before, begin, jnp.minimum(jnp.maximum(end, begin), after), after))


def _by_queries(q: jax.Array, tile: Tile) -> tuple[int, int, int]:
    return q.shape[1] // tile.queries, q.shape[2], q.shape[0]


def _per_query(q: jax.Array) -> tuple[int, int, int]:
    return q.shape[0], q.shape[2], q.shape[1]


def _bound_specs(q: jax.Array, tile: Tile) -> list[pl.BlockSpec]:
    # The last queries of a causal row see the most keys: their programs are started first.
    last = q.shape[1] // tile.queries - 1
    return [pl.BlockSpec((None, None), lambda i, n, b: (b, last - i))] * 4


def _query_spec(kernels: _Kernels, q: jax.Array, tile: Tile) -> pl.BlockSpec:
    last = q.shape[1] // tile.queries - 1
    return pl.BlockSpec((None, tile.queries, None, kernels.width), lambda i, n, b: (b, last - i, n, 0))


def _per_query_spec(q: jax.Array, tile: Tile) -> pl.BlockSpec:
    last = q.shape[1] // tile.queries - 1
    return pl.BlockSpec((None, None, tile.queries), lambda i, n, b: (b, n, last - i))


def _range_specs(q: jax.Array, tile: Tile) -> list[pl.BlockSpec]:
    last = q.shape[1] // tile.queries - 1
    return [pl.BlockSpec((None, tile.queries), lambda i, n, b: (b, last - i))] * 2


def _all_keys_specs(kernels: _Kernels, k: jax.Array) -> list[pl.BlockSpec]:
    return [pl.BlockSpec((None, k.shape[1], None, kernels.width), lambda i, n, b: (b, 0, n // kernels.groups, 0))] * 2


def _forward_kernel(
    kernels: _Kernels, tile: Tile, first, whole, partial, last, q_ref, k_ref, v_ref, start_ref, end_ref, out_ref, normaliser_ref
) -> None:
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
    carry = _masked_at_the_ends(key_block, first, whole, partial, last, carry)
    acc, top, total = carry
    seen = total > 0
    total = jnp.where(seen, total, 1.0)
    _store(kernels, out_ref, acc / total[:, None])
    normaliser_ref[...] = jnp.where(seen, top + jnp.log2(total), 0.0)


def _d_q_kernel(
    kernels: _Kernels,
    tile: Tile,
    first,
    whole,
    partial,
    last,
    q_ref,
    k_ref,
    v_ref,
    start_ref,
    end_ref,
    d_out_ref,
    normaliser_ref,
    delta_ref,
    d_q_ref,
) -> None:
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

    d_q = _masked_at_the_ends(key_block, first, whole, partial, last, jnp.zeros((tile.queries, kernels.width), jnp.float32))
    _store(kernels, d_q_ref, d_q * kernels.scale)


def _d_kv_kernel(
    kernels: _Kernels,
    tile: Tile,
    first,
    whole,
    partial,
    last,
    q_ref,
    k_ref,
    v_ref,
    start_ref,
    end_ref,
    d_out_ref,
    normaliser_ref,
    delta_ref,
    d_k_ref,
    d_v_ref,
) -> None:
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
    d_k, d_v = _masked_at_the_ends(query_block, first, whole, partial, last, (zeros, zeros))
    _store(kernels, d_k_ref, d_k * kernels.scale)
    _store(kernels, d_v_ref, d_v)


def _masked_at_the_ends(body: Callable[..., Any], first: Any, whole: Any, partial: Any, last: Any, carry: Any) -> Any:
    """Blocks [first, last) in order; those in [whole, partial) are seen in full."""
    carry = lax.fori_loop(first[()], whole[()], functools.partial(body, masked=True), carry)
    carry = lax.fori_loop(whole[()], partial[()], functools.partial(body, masked=False), carry)
    return lax.fori_loop(partial[()], last[()], functools.partial(body, masked=True), carry)


def _visible(j: jax.Array, keys: int, start: jax.Array, end: jax.Array) -> jax.Array:
    key = j * keys + jnp.arange(keys)
    return (key[None, :] >= start[:, None]) & (key[None, :] < end[:, None])


def _load(kernels: _Kernels, ref: Any) -> jax.Array:
    """A block whose last axis is the head dimension, zeros beyond it."""
    if kernels.width == kernels.head_dim:
        return ref[...]
    return triton.load(ref, mask=(jnp.arange(kernels.width) < kernels.head_dim)[None, :], other=0.0)


def _store(kernels: _Kernels, ref: Any, value: jax.Array) -> None:
    if kernels.width == kernels.head_dim:
        ref[...] = value.astype(ref.dtype)
    else:
        triton.store(ref, value.astype(ref.dtype), mask=(jnp.arange(kernels.width) < kernels.head_dim)[None, :])


def _dot(kernels: _Kernels, a: jax.Array, b: jax.Array, *, trans_b: bool = False) -> jax.Array:
    """a·b, or a·bᵀ, in float32."""
    # float32 inputs as three products of their TF32 halves: as exact as float32, on the matrix units.
    exact = lax.Precision.HIGHEST if kernels.interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    precision = exact if a.dtype == jnp.float32 else None
    contract = (((1,), (1 if trans_b else 0,)), ((), ()))
    return lax.dot_general(a, b, contract, precision=precision, preferred_element_type=jnp.float32)
