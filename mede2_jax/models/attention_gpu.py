"""Attention over key ranges as fused GPU kernels: Pallas, compiled by Triton (Ampere, Hopper and newer).

The algorithm is FlashAttention-2 (Dao 2023): an online softmax forward; a backward that recomputes the weights from the saved
log-normaliser, once by blocks of queries (for q) and once by blocks of keys (for k and v). What is ours are the ranges: a
program reads only the key blocks that one of its queries sees (or the query blocks that see one of its keys), and masks
only those that not all of them see in full. So packing, windows and causality cost what they use, as in `attention.py`.

Axes: B rows, T queries, S keys, N query heads, K key/value heads (N = K·G), H head dimension.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from mede2_jax.models.attention_gpu_kernels import Kernels, Tile, Tiles, d_kv_kernel, d_q_kernel, forward_kernel
from mede2_jax.models.attention_names import NOBODY, SAVED

MULTIPLE = 128
"""What lengths are padded to."""
HALF = Tiles(forward=Tile(128, 64, 8, 3), d_q=Tile(128, 64, 8, 3), d_kv=Tile(64, 64, 4, 2))
"""For 16-bit inputs, measured on an H100 (docs/benchmarks.md)."""
SINGLE = Tiles(forward=Tile(64, 32, 4, 2), d_q=Tile(64, 32, 4, 2), d_kv=Tile(32, 64, 4, 2))
"""For float32, whose blocks take twice the shared memory."""


def fused_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
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
    q, k, v = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % MULTIPLE), (0, 0), (0, 0))) for x in (q, k, v))
    key_start, key_end = (jnp.pad(x, ((0, 0), (0, -length % MULTIPLE))) for x in (key_start, key_end))
    tiles = tiles or (SINGLE if q.dtype == jnp.float32 else HALF)
    kernels = Kernels(tiles, head_dim, q.shape[2] // k.shape[2], interpret)
    return _fused(kernels, q, k, v, key_start, key_end)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(kernels: Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array) -> jax.Array:
    return _forward(kernels, q, k, v, key_start, key_end)[0]


def _forward(
    kernels: Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N T"]]:
    """Output and log-normaliser, to base 2."""
    tile = kernels.tiles.forward
    bounds = key_bounds(key_start, key_end, tile.queries, tile.keys)
    call = kernels.call(
        forward_kernel,
        tile,
        grid=_by_queries(q, tile),
        in_specs=[*_bound_specs(q, tile), _query_spec(kernels, q, tile), *_all_keys_specs(kernels, k), *_range_specs(q, tile)],
        out_specs=[_query_spec(kernels, q, tile), _per_query_spec(q, tile)],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct(_per_query(q), jnp.float32)],
    )
    out, normaliser = call(*bounds, q, k, v, key_start, key_end)
    return out, normaliser


def _forward_rule(kernels: Kernels, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array):
    out, normaliser = _forward(kernels, q, k, v, key_start, key_end)
    out, normaliser = checkpoint_name(out, SAVED), checkpoint_name(normaliser, SAVED)
    return out, (q, k, v, key_start, key_end, out, normaliser)


def _backward_rule(kernels: Kernels, residuals: tuple[jax.Array, ...], d_out: jax.Array):
    q, k, v, key_start, key_end, out, normaliser = residuals
    delta = jnp.einsum("btnh,btnh->bnt", d_out, out, preferred_element_type=jnp.float32)
    d_q = _queries_backward(kernels, q, k, v, key_start, key_end, d_out, normaliser, delta)
    d_k, d_v = _keys_backward(kernels, q, k, v, key_start, key_end, d_out, normaliser, delta)
    return d_q, d_k, d_v, None, None


_fused.defvjp(_forward_rule, _backward_rule)


def _queries_backward(kernels: Kernels, q, k, v, key_start, key_end, d_out, normaliser, delta) -> jax.Array:
    tile = kernels.tiles.d_q
    bounds = key_bounds(key_start, key_end, tile.queries, tile.keys)
    query, per_query = _query_spec(kernels, q, tile), _per_query_spec(q, tile)
    call = kernels.call(
        d_q_kernel,
        tile,
        grid=_by_queries(q, tile),
        in_specs=[*_bound_specs(q, tile), query, *_all_keys_specs(kernels, k), *_range_specs(q, tile), query, per_query, per_query],
        out_specs=query,
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )
    return call(*bounds, q, k, v, key_start, key_end, d_out, normaliser, delta)


def _keys_backward(kernels: Kernels, q, k, v, key_start, key_end, d_out, normaliser, delta) -> tuple[jax.Array, jax.Array]:
    """A program has one block of keys and one query head: what the G heads send back to one key head is added up afterwards.

    One program for all G heads would save that sum and leave most of a GPU idle: Qwen2.5-VL 7B has 4 key heads.
    """
    tile, groups = kernels.tiles.d_kv, kernels.groups
    queries, keys, width = q.shape[1], k.shape[1], kernels.width
    bounds = query_bounds(key_start, key_end, tile.queries, tile.keys, keys // tile.keys)
    bound = pl.BlockSpec((None, None), lambda j, n, b: (b, j))
    key = pl.BlockSpec((None, tile.keys, None, width), lambda j, n, b: (b, j, n // groups, 0))
    out = pl.BlockSpec((None, tile.keys, None, width), lambda j, n, b: (b, j, n, 0))
    query = pl.BlockSpec((None, queries, None, width), lambda j, n, b: (b, 0, n, 0))
    ranges = pl.BlockSpec((None, queries), lambda j, n, b: (b, 0))
    per_query = pl.BlockSpec((None, None, queries), lambda j, n, b: (b, n, 0))
    call = kernels.call(
        d_kv_kernel,
        tile,
        grid=(keys // tile.keys, q.shape[2], q.shape[0]),
        in_specs=[bound, bound, bound, bound, query, key, key, ranges, ranges, query, per_query, per_query],
        out_specs=[out, out],
        out_shape=[jax.ShapeDtypeStruct((q.shape[0], keys, *q.shape[2:]), k.dtype)] * 2,
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
    first = jnp.min(jnp.where(used, start, NOBODY), axis=-1) // keys
    last = -(-jnp.max(jnp.where(used, end, 0), axis=-1) // keys)
    first = jnp.minimum(first, last)
    everyone = jnp.all(used, axis=-1)
    whole = jnp.clip(jnp.where(everyone, -(-jnp.max(start, axis=-1) // keys), last), first, last)
    partial = jnp.clip(jnp.where(everyone, jnp.min(end, axis=-1) // keys, last), whole, last)
    return first, whole, partial, last


def query_bounds(key_start: jax.Array, key_end: jax.Array, queries: int, keys: int, key_blocks: int) -> tuple[jax.Array, ...]:
    """Of each block of keys: the smallest range [first, last) of query blocks outside which nobody sees it, and inside it a
    range [whole, partial) of blocks whose queries all see all of it: the first such run.

    Returns:
        first, whole, partial, last: [B, key_blocks] each, in ascending order.
    """
    first, whole, partial, last = (x[..., None] for x in key_bounds(key_start, key_end, queries, keys))
    block = jnp.arange(key_blocks)
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


def _query_spec(kernels: Kernels, q: jax.Array, tile: Tile) -> pl.BlockSpec:
    last = q.shape[1] // tile.queries - 1
    return pl.BlockSpec((None, tile.queries, None, kernels.width), lambda i, n, b: (b, last - i, n, 0))


def _per_query_spec(q: jax.Array, tile: Tile) -> pl.BlockSpec:
    last = q.shape[1] // tile.queries - 1
    return pl.BlockSpec((None, None, tile.queries), lambda i, n, b: (b, n, last - i))


def _range_specs(q: jax.Array, tile: Tile) -> list[pl.BlockSpec]:
    last = q.shape[1] // tile.queries - 1
    return [pl.BlockSpec((None, tile.queries), lambda i, n, b: (b, last - i))] * 2


def _all_keys_specs(kernels: Kernels, k: jax.Array) -> list[pl.BlockSpec]:
    return [pl.BlockSpec((None, k.shape[1], None, kernels.width), lambda i, n, b: (b, 0, n // kernels.groups, 0))] * 2
