"""Attention over one contiguous key range per query.

Query i sees the keys `key_start[i] <= j < key_end[i]`. Packed causal text, packed images, vision windows, padding (an
empty range gives 0) and preference pairs that share their prompt are all of this form.

Queries and keys need not be as many: a device may have a part of a row's queries and all of its keys.

Axes: B rows, T tokens (or patches), S keys, N query heads, K key/value heads (N = K·G), H head dimension.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from mede2_jax.models.attention_names import MASKED, NOBODY, SAVED
from mede2_jax.parallel import rules

BLOCK = 256
Backend = Literal["auto", "xla", "fused"]
"""`xla`: the blockwise implementation below, on every platform. `fused`: the platform's own kernels. `auto`: fused where there are some."""

_backend: ContextVar[Backend] = ContextVar("backend", default="auto")


@contextlib.contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Which implementation `attention` has while a function is traced inside."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def has_fused(platform: str) -> bool:
    """Whether there are fused kernels for a platform (`cpu`, `gpu`, `tpu`)."""
    return platform in ("gpu", "tpu")


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    key_start: Int[Array, "B T"],
    key_end: Int[Array, "B T"],
    *,
    block: int = BLOCK,
    layout: tuple[str | None, str | None] = ("rows", "tokens"),
) -> Float[Array, "B T N H"]:
    """Softmax attention, scaled by 1/√H, with scores and softmax in float32.

    Nothing of shape T×S is stored, forward or backward, and blocks of keys that no query of a block sees are not
    computed: packing, windows and causality cost what they use.

    Args:
        q: Queries.
        k: Keys; query head n reads key head n // G.
        v: Values.
        key_start: First key each query sees.
        key_end: One past the last key; a range with `key_end <= key_start` is empty and gives zeros.
        block: Queries and keys a block, of the `xla` backend.
        layout: Logical names of the rows and of the queries.
    """
    k, v = (split_evenly(x, q.shape[2]) for x in (k, v))
    return rules.per_shard(
        _implementation(min(block, -(-q.shape[1] // 8) * 8)),
        (q, k, v, key_start, key_end),
        ((*layout, "heads", None), *((layout[0], None, "kv_heads", None),) * 2, layout, layout),
        (*layout, "heads", None),
    )


def _implementation(block: int) -> Callable[..., jax.Array]:
    """What runs on each device, by backend and platform."""
    chosen, platform = _backend.get(), rules.platform()
    if chosen == "xla" or (chosen == "auto" and not has_fused(platform)):
        return functools.partial(_blockwise, block=block)
    if not has_fused(platform):
        raise ValueError(f"there are no fused attention kernels for platform {platform!r}; use the backend 'auto' or 'xla'")
    # Pallas is slow to import, and each of its backends wants its own platform.
    if platform == "gpu":
        from mede2_jax.models import attention_gpu

        return attention_gpu.fused_attention
    from mede2_jax.models import attention_tpu

    return attention_tpu.fused_attention


def split_evenly(x: Float[Array, "*B K H"], query_heads: int) -> Float[Array, "*B M H"]:
    """Keys or values with their heads repeated when a mesh splits the query heads further than there are key heads."""
    pieces, heads = rules.axis_size("heads"), x.shape[-2]
    if heads % pieces == 0 or query_heads % pieces:
        return x
    return jnp.repeat(x, pieces // math.gcd(heads, pieces), axis=-2)


def _blockwise(q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array, *, block: int) -> jax.Array:
    """Rows one after another: each row's loop bounds follow from its own ranges."""
    length = q.shape[1]
    groups = q.shape[2] // k.shape[2]
    q, k, v = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0))) for x in (q, k, v))
    key_start, key_end = (jnp.pad(x, ((0, 0), (0, -length % block))) for x in (key_start, key_end))
    queries = q.reshape(*q.shape[:2], k.shape[2], groups, q.shape[3]).transpose(0, 2, 3, 1, 4)  # [B, K, G, T, H]
    keys, values = (x.transpose(0, 2, 1, 3) for x in (k, v))  # [B, K, S, H]
    out = lax.map(lambda row: _row_attention(block, *row), (queries, keys, values, key_start, key_end))
    return out.transpose(0, 3, 1, 2, 4).reshape(q.shape)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _row_attention(
    block: int,
    q: Float[Array, "K G T H"],
    k: Float[Array, "K S H"],
    v: Float[Array, "K S H"],
    key_start: Int[Array, " T"],
    key_end: Int[Array, " T"],
) -> Float[Array, "K G T H"]:
    return _forward(block, q, k, v, key_start, key_end)[0]


def _forward(
    block: int, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> tuple[jax.Array, Float[Array, "K G T"]]:
    """The online softmax (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022): output and log-normaliser."""
    head_groups = q.shape[:2]
    scale = q.shape[-1] ** -0.5

    def query_block(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        q_i, start_i, end_i, first, last = _query_block(block, i, q, key_start, key_end)

        def key_block(j: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            acc, top, total = carry
            k_j, v_j = _slice(k, j, block), _slice(v, j, block)
            visible = _visible(j, block, start_i, end_i)
            scores = jnp.where(visible, _scores(q_i, k_j) * scale, MASKED)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0.0)
            shrink = jnp.exp(top - new_top)
            update = jnp.einsum("kgqs,ksh->kgqh", weights.astype(v.dtype), v_j, preferred_element_type=jnp.float32)
            return acc * shrink[..., None] + update, new_top, total * shrink + weights.sum(-1)

        zeros = jnp.zeros((*head_groups, block), jnp.float32)
        start = (jnp.zeros((*head_groups, block, q.shape[-1]), jnp.float32), zeros + MASKED, zeros)
        acc, top, total = lax.fori_loop(first, last, key_block, start)
        seen = total > 0
        out = jnp.where(seen[..., None], acc / jnp.where(seen, total, 1.0)[..., None], 0.0)
        return out.astype(q.dtype), jnp.where(seen, top + jnp.log(jnp.where(seen, total, 1.0)), 0.0)

    out, normaliser = lax.map(query_block, jnp.arange(q.shape[2] // block))
    return _join(out), _join(normaliser)


def _forward_rule(block: int, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array):
    out, normaliser = _forward(block, q, k, v, key_start, key_end)
    out, normaliser = checkpoint_name(out, SAVED), checkpoint_name(normaliser, SAVED)
    return out, (q, k, v, key_start, key_end, out, normaliser)


def _backward_rule(block: int, residuals: tuple[jax.Array, ...], d_out: jax.Array):
    """Recomputes each block's weights from the saved normaliser (FlashAttention, algorithm 4)."""
    q, k, v, key_start, key_end, out, normaliser = residuals
    scale = q.shape[-1] ** -0.5
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)  # [K, G, T]

    def query_block(carry: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        q_i, start_i, end_i, first, last = _query_block(block, i, q, key_start, key_end)
        d_out_i, normaliser_i, delta_i = (lax.dynamic_slice_in_dim(x, i * block, block, axis=2) for x in (d_out, normaliser, delta))

        def key_block(j: jax.Array, inner: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            d_q, d_k, d_v = inner
            k_j, v_j = _slice(k, j, block), _slice(v, j, block)
            visible = _visible(j, block, start_i, end_i)
            scores = jnp.where(visible, _scores(q_i, k_j) * scale, MASKED)
            weights = jnp.where(visible, jnp.exp(scores - normaliser_i[..., None]), 0.0)
            d_v_j = jnp.einsum("kgqs,kgqh->ksh", weights.astype(v.dtype), d_out_i, preferred_element_type=jnp.float32)
            d_weights = jnp.einsum("kgqh,ksh->kgqs", d_out_i, v_j, preferred_element_type=jnp.float32)
            d_scores = (weights * (d_weights - delta_i[..., None]) * scale).astype(q.dtype)
            d_q += jnp.einsum("kgqs,ksh->kgqh", d_scores, k_j, preferred_element_type=jnp.float32)
            d_k_j = jnp.einsum("kgqs,kgqh->ksh", d_scores, q_i, preferred_element_type=jnp.float32)
            return d_q, _add(d_k, j, block, d_k_j), _add(d_v, j, block, d_v_j)

        d_q, d_k, d_v = lax.fori_loop(first, last, key_block, (jnp.zeros(q_i.shape, jnp.float32), *carry))
        return (d_k, d_v), d_q.astype(q.dtype)

    start = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32))
    (d_k, d_v), d_q = lax.scan(query_block, start, jnp.arange(q.shape[2] // block))
    return _join(d_q), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_row_attention.defvjp(_forward_rule, _backward_rule)


def _query_block(
    block: int, i: jax.Array, q: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Block i of the queries, its ranges, and the first and one past the last key block that any of it sees."""
    q_i = lax.dynamic_slice_in_dim(q, i * block, block, axis=2)
    start_i, end_i = _slice(key_start, i, block, axis=0), _slice(key_end, i, block, axis=0)
    used = end_i > start_i
    first = jnp.min(jnp.where(used, start_i, NOBODY)) // block
    last = -(-jnp.max(jnp.where(used, end_i, 0)) // block)
    return q_i, start_i, end_i, first, last


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.einsum("kgqh,ksh->kgqs", q, k, preferred_element_type=jnp.float32)


def _visible(j: jax.Array, block: int, start: jax.Array, end: jax.Array) -> jax.Array:
    key = j * block + jnp.arange(block)
    return (key >= start[:, None]) & (key < end[:, None])


def _slice(x: jax.Array, j: jax.Array, block: int, axis: int = 1) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, j * block, block, axis=axis)


def _add(total: jax.Array, j: jax.Array, block: int, part: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(total, _slice(total, j, block) + part, j * block, axis=1)


def _join(blocks: jax.Array) -> jax.Array:
    """[blocks, K, G, block, …] to [K, G, T, …]."""
    moved = jnp.moveaxis(blocks, 0, 2)
    return moved.reshape(*moved.shape[:2], -1, *moved.shape[4:])
