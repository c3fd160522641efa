"""What the TPU kernels of attention_tpu.py compute at one step of their grid.

Axes: a reference holds [heads, queries, H], [key heads, keys, H], [1, queries] (ranges) or [heads, 1, queries]; scores
and weights are transposed, [keys, queries].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from mede2_jax.models.attention_names import MASKED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """One step of a grid: a block of queries looks at a block of keys."""

    block: int
    heads: int
    per_key: int
    first_key: jax.Array
    useful: jax.Array  # some query sees some key
    first: jax.Array  # of those that add to the same output
    last: jax.Array

    def visible(self, start_ref: Any, end_ref: Any) -> jax.Array:
        """[keys, queries]."""
        key = self.first_key + lax.broadcasted_iota(jnp.int32, (self.block,) * 2, 0)
        return (key >= start_ref[...]) & (key < end_ref[...])

    def each_head(self, function: Callable[[Any, Any], None]) -> None:
        """Calls `function(query head, key head)` for those of the step."""

        def body(head: jax.Array, _: None) -> None:
            function(head, lax.div(head, jnp.int32(self.per_key)))

        lax.fori_loop(0, self.heads, body, None)


def forward(visit: Visit, start: Any, end: Any, q: Any, k: Any, v: Any, out: Any, normaliser: Any, acc: Any, top: Any, total: Any) -> None:
    """The online softmax (Milakov & Gimelshein 2018; FlashAttention, Dao et al. 2022)."""

    @pl.when(visit.first)
    def _() -> None:
        acc[...], total[...] = jnp.zeros(acc.shape, acc.dtype), jnp.zeros(total.shape, total.dtype)
        top[...] = jnp.full(top.shape, MASKED, top.dtype)

    @pl.when(visit.useful)
    def _() -> None:
        visible = visit.visible(start, end)

        def head(n: Any, m: Any) -> None:
            scores = jnp.where(visible, _scores(q[n], k[m]), MASKED)
            old_top = top[n]
            new_top = jnp.maximum(old_top, scores.max(0, keepdims=True))
            # A query that has seen nothing yet has the maximum MASKED, of which its scores must not be rid.
            weights = jnp.exp(scores - jnp.where(new_top > MASKED, new_top, 0.0))
            shrink = jnp.exp(old_top - new_top)
            acc[n] = acc[n] * shrink + _dot(v[m], weights.astype(v.dtype), 0, 0)
            total[n] = total[n] * shrink + weights.sum(0, keepdims=True)
            top[n] = new_top

        visit.each_head(head)

    @pl.when(visit.last)
    def _() -> None:
        def head(n: Any, _: Any) -> None:
            seen = total[n] > 0
            divisor = jnp.where(seen, total[n], 1.0)
            out[n] = (acc[n] / divisor).T.astype(out.dtype)
            normaliser[n] = jnp.where(seen, top[n] + jnp.log(divisor), 0.0)

        visit.each_head(head)


def queries(
    visit: Visit, start: Any, end: Any, q: Any, k: Any, v: Any, d_out: Any, normaliser: Any, delta: Any, d_q: Any, acc: Any
) -> None:
    """The gradient by the queries, from weights recomputed with the saved normaliser (FlashAttention, algorithm 4)."""

    @pl.when(visit.first)
    def _() -> None:
        acc[...] = jnp.zeros(acc.shape, acc.dtype)

    @pl.when(visit.useful)
    def _() -> None:
        visible = visit.visible(start, end)

        def head(n: Any, m: Any) -> None:
            _, d_scores = _weights(visible, q[n], k[m], v[m], d_out[n], normaliser[n], delta[n])
            acc[n] += _dot(k[m], d_scores.astype(k.dtype), 0, 0)

        visit.each_head(head)

    @pl.when(visit.last)
    def _() -> None:
        def head(n: Any, _: Any) -> None:
            d_q[n] = (acc[n] * q.shape[-1] ** -0.5).T.astype(d_q.dtype)

        visit.each_head(head)


def keys(
    visit: Visit, start: Any, end: Any, q: Any, k: Any, v: Any, d_out: Any, normaliser: Any, delta: Any, d_k: Any, d_v: Any,
    acc_k: Any, acc_v: Any,
) -> None:  # fmt: skip
    """The gradients by keys and values, summed over the query heads that share them."""

    @pl.when(visit.first)
    def _() -> None:
        acc_k[...], acc_v[...] = jnp.zeros(acc_k.shape, acc_k.dtype), jnp.zeros(acc_v.shape, acc_v.dtype)

    @pl.when(visit.useful)
    def _() -> None:
        visible = visit.visible(start, end)

        def head(n: Any, m: Any) -> None:
            weights, d_scores = _weights(visible, q[n], k[m], v[m], d_out[n], normaliser[n], delta[n])
            acc_v[m] += _dot(weights.astype(d_out.dtype), d_out[n], 1, 0)
            acc_k[m] += _dot(d_scores.astype(q.dtype), q[n], 1, 0)

        visit.each_head(head)

    @pl.when(visit.last)
    def _() -> None:
        d_k[...], d_v[...] = (acc_k[...] * q.shape[-1] ** -0.5).astype(d_k.dtype), acc_v[...].astype(d_v.dtype)


PRODUCTS = {forward: 2, queries: 3, keys: 4}
"""Matrix products of a visit and head."""


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """[keys, queries]."""
    return _dot(k, q, 1, 1) * q.shape[-1] ** -0.5


def _weights(
    visible: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array, normaliser: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One block's weights, and the gradient by its scores before they are scaled by 1/√H, both [keys, queries]."""
    weights = jnp.exp(jnp.where(visible, _scores(q, k), MASKED) - normaliser)
    return weights, weights * (_dot(v, d_out, 1, 1) - delta)


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)
