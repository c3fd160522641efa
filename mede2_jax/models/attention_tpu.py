"""Fused attention over key ranges for TPUs: `attention` of models/attention.py as Pallas kernels, forward and backward.

A kernel walks a list of visits, the pairs (block of queries, block of keys) of which some query sees some key. The list is
made on the device from the ranges and prefetched into scalar memory, and its length is the kernel's grid: blocks that
nobody sees are neither fetched nor computed. Output and query gradient take the list query block by query block; key and
value gradients take it key block by key block.

Scores are held transposed, keys × queries, so that whatever belongs to a query (range, maximum, normaliser) is a row of
lanes. A step of the grid handles several heads, which share the mask and the step's overhead; key heads are never repeated.

Axes: B rows, T queries (tokens or patches), S keys, N query heads, K key/value heads (N = K·G), H head dimension.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int, Int32

from mede2_jax.models import attention_tpu_kernels as kernels
from mede2_jax.models.attention_names import SAVED

BLOCK = 512
LANES = 128
STEP_BYTES = 2**20
"""Of queries in a step of the grid. With it all blocks, accumulators and spilled scores fit the 16 MiB of every TPU's VMEM."""
MAX_VISITS = 250_000
"""Scalar memory holds 2¹⁸ numbers."""

# A visit is one int32: (major block << MINOR_BITS | minor block) << FLAG_BITS | flags. The output is cut by the major block.
MINOR_BITS, FLAG_BITS = 14, 3
USEFUL, FIRST, LAST = 1, 2, 4
END = 2**31 - 1

Interpret = bool | pltpu.InterpretParams


def fused_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    key_start: Int[Array, "B T"],
    key_end: Int[Array, "B T"],
    *,
    block: int = BLOCK,
    interpret: Interpret = False,
) -> Float[Array, "B T N H"]:
    """`attention.attention` on one device's shard. float32 arguments are multiplied as float32, not as bfloat16.

    Args:
        q: Queries.
        k: Keys; query head n reads key head n // G.
        v: Values.
        key_start: First key each query sees.
        key_end: One past the last key; a range with `key_end <= key_start` is empty and gives zeros.
        block: At most so many queries and keys a block; on a TPU 128, 256 or 512.
        interpret: Run the kernels as ordinary JAX operations, on any platform.

    Raises:
        ValueError: The list of visits does not fit scalar memory.
    """
    unit, pieces = min(block, LANES), pl.cdiv(q.shape[1], block)
    if q.shape[0] * pieces * pl.cdiv(k.shape[1], block) > MAX_VISITS:
        raise ValueError(f"{q.shape[0]} rows of {k.shape[1]} tokens on one device are too many for blocks of {block}; use fewer rows")
    return _fused(pl.cdiv(pl.cdiv(q.shape[1], pieces), unit) * unit, interpret, q, k, v, key_start, key_end)


def visits(visited: Bool[Array, "B M m"]) -> tuple[Int32[Array, "B visits"], Int32[Array, " B"]]:
    """The list of visits by major block, and its length in each row.

    A major block that visits nothing still has one entry, without the flag USEFUL, because its output has to be written.
    Beyond a row's length the last entry is repeated without flags: the blocks that it names are there already.
    """
    majors, minors = visited.shape[1:]
    wanted = visited.at[:, :, 0].set(visited[:, :, 0] | ~visited.any(-1))
    place = jnp.arange(majors)[:, None] << MINOR_BITS | jnp.arange(minors)
    code = jnp.where(wanted, place << FLAG_BITS | visited * USEFUL, END).reshape(len(visited), -1)
    length = wanted.sum((1, 2), dtype=jnp.int32)
    # Sorting brings what is wanted to the front, in order; the largest of it is the last entry.
    code = jnp.minimum(jnp.sort(code.astype(jnp.int32), axis=1), jnp.where(code < END, code, 0).max(1, keepdims=True))
    major, index = code >> MINOR_BITS + FLAG_BITS, jnp.arange(code.shape[1])
    changes = major[:, 1:] != major[:, :-1]
    first = jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True)
    last = jnp.pad(changes, ((0, 0), (0, 1))) | (index == length[:, None] - 1)
    flagged = code | first * FIRST | last * LAST
    return jnp.where(index < length[:, None], flagged, code & ~(USEFUL | FIRST | LAST)).astype(jnp.int32), length


def seen_blocks(key_start: Int[Array, "B T"], key_end: Int[Array, "B T"], block: int, key_blocks: int) -> Bool[Array, "B M m"]:
    """Whether some query of a block sees some key of a block: [row, query block, key block]."""
    first = jnp.arange(key_blocks) * block
    start, end = key_start[:, :, None], key_end[:, :, None]
    sees = (start < jnp.minimum(end, first + block)) & (end > first)
    return sees.reshape(len(sees), -1, block, len(first)).any(2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fused(
    block: int, interpret: Interpret, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> jax.Array:
    return _forward_rule(block, interpret, q, k, v, key_start, key_end)[0]


def _forward_rule(
    block: int, interpret: Interpret, q: jax.Array, k: jax.Array, v: jax.Array, key_start: jax.Array, key_end: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    plan = _Plan.of(q, k, block, interpret)
    start, end = plan.by_row(key_start), plan.by_row(key_end)
    queries, keys, values = (plan.by_head(x) for x in (q, k, v))
    numbers = jax.ShapeDtypeStruct((*queries.shape[:2], 1, queries.shape[2]), jnp.float32)
    out, normaliser = plan.call(
        kernels.forward,
        seen_blocks(start[:, 0], end[:, 0], block, plan.key_blocks),
        [(plan.ranges, start), (plan.ranges, end), (plan.queries, queries), (plan.keys, keys), (plan.keys, values)],
        [(plan.queries, queries), (plan.numbers, numbers)],
        [(plan.heads, q.shape[3], block), (plan.heads, 1, block), (plan.heads, 1, block)],
    )
    out, normaliser = checkpoint_name(plan.by_token(out, q), SAVED), checkpoint_name(normaliser[:, :, 0], SAVED)
    return out, (q, k, v, key_start, key_end, out, normaliser)


def _backward_rule(block: int, interpret: Interpret, residuals: tuple[jax.Array, ...], d_out: jax.Array):
    q, k, v, key_start, key_end, out, normaliser = residuals
    plan = _Plan.of(q, k, block, interpret)
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    start, end = plan.by_row(key_start), plan.by_row(key_end)
    queries, keys, values, d_outs = (plan.by_head(x) for x in (q, k, v, d_out.astype(q.dtype)))
    numbers = normaliser[:, :, None], plan.by_head(delta[..., None]).swapaxes(2, 3)
    seen = seen_blocks(start[:, 0], end[:, 0], block, plan.key_blocks)

    def arguments(plan: _Plan) -> list[tuple[pl.BlockSpec, jax.Array]]:
        specs = (plan.ranges, plan.ranges, plan.queries, plan.keys, plan.keys, plan.queries, plan.numbers, plan.numbers)
        return list(zip(specs, (start, end, queries, keys, values, d_outs, *numbers), strict=True))

    (d_q,) = plan.call(kernels.queries, seen, arguments(plan), [(plan.queries, queries)], [(plan.heads, q.shape[3], block)])
    plan = dataclasses.replace(plan, by_key=True)
    d_k, d_v = plan.call(
        kernels.keys,
        seen.swapaxes(1, 2),
        arguments(plan),
        [(plan.keys, keys), (plan.keys, values)],
        [(plan.step_keys, block, q.shape[3])] * 2,
    )
    return plan.by_token(d_q, q), plan.by_token(d_k, k), plan.by_token(d_v, v), None, None


_fused.defvjp(_forward_rule, _backward_rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Plan:
    """How a kernel's grid cuts the arrays: (rows, groups of heads, visits, parts of a group's query heads)."""

    blocks: int  # of queries
    key_blocks: int
    width: int
    block: int
    key_heads: int
    step_keys: int  # key heads of a step
    per_key: int  # query heads of a step for each of them
    parts: int  # steps for all query heads of a key head
    by_key: bool = False  # a visit's major block is of keys, not of queries
    interpret: Interpret

    @staticmethod
    def of(q: jax.Array, k: jax.Array, block: int, interpret: Interpret) -> _Plan:
        groups = q.shape[2] // k.shape[2]
        limit = STEP_BYTES // (block * pl.cdiv(q.shape[3], LANES) * LANES * q.dtype.itemsize)
        per_key = _divisor(groups, limit)
        return _Plan(
            blocks=pl.cdiv(q.shape[1], block),
            key_blocks=pl.cdiv(k.shape[1], block),
            width=q.shape[3],
            block=block,
            key_heads=k.shape[2],
            # Keys, values, their gradients and accumulators take twice the room of queries.
            step_keys=_divisor(k.shape[2], limit // (2 * groups)),
            per_key=per_key,
            parts=groups // per_key,
            interpret=interpret,
        )

    @property
    def heads(self) -> int:
        """Query heads of a step."""
        return self.step_keys * self.per_key

    @property
    def grid(self) -> tuple[int, int]:
        """Groups of heads, and parts of a group: by key, the queries of a group take turns."""
        groups = self.key_heads // self.step_keys
        return (groups, self.parts) if self.by_key else (groups * self.parts, 1)

    def by_head(self, x: jax.Array) -> jax.Array:
        """[B, T, N, H] to [B, N, T, H], whole blocks of T."""
        return self._whole_blocks(x).swapaxes(1, 2)

    def by_token(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """Undoes `by_head`, of an array that has the tokens of `like`."""
        return x.swapaxes(1, 2)[:, : like.shape[1]]

    def by_row(self, x: jax.Array) -> jax.Array:
        """[B, T] to [B, 1, T], whole blocks of T."""
        return self._whole_blocks(x.astype(jnp.int32))[:, None]

    def _whole_blocks(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.block), *((0, 0),) * (x.ndim - 2)))

    @property
    def ranges(self) -> pl.BlockSpec:
        """Of [B, 1, T], by query: [1, block]."""
        return pl.BlockSpec((None, 1, self.block), lambda *at: (at[0], 0, self._blocks(*at)[0]))

    @property
    def numbers(self) -> pl.BlockSpec:
        """Of [B, N, 1, T], by query: [heads, 1, block]."""
        return pl.BlockSpec((None, self.heads, 1, self.block), lambda *at: (at[0], self._queries(*at), 0, self._blocks(*at)[0]))

    @property
    def queries(self) -> pl.BlockSpec:
        """Of [B, N, T, H]: [heads, block, H]."""
        shape = (None, self.heads, self.block, self.width)
        return pl.BlockSpec(shape, lambda *at: (at[0], self._queries(*at), self._blocks(*at)[0], 0))

    @property
    def keys(self) -> pl.BlockSpec:
        """Of [B, K, S, H]: [key heads, block, H]."""
        shape, parts = (None, self.step_keys, self.block, self.width), 1 if self.by_key else self.parts
        return pl.BlockSpec(shape, lambda *at: (at[0], lax.div(at[1], jnp.int32(parts)), self._blocks(*at)[1], 0))

    def _queries(self, row: Any, group: Any, visit: Any, part: Any, visit_list: Any) -> Any:
        """Which `heads` query heads a step works on."""
        return group * self.grid[1] + part

    def _code(self, row: Any, visit: Any, visit_list: Any) -> Any:
        return visit_list[row * self.blocks * self.key_blocks + visit]

    def _blocks(self, row: Any, group: Any, visit: Any, part: Any, visit_list: Any) -> tuple[Any, Any]:
        """The visit's block of queries and its block of keys."""
        place = self._code(row, visit, visit_list) >> FLAG_BITS
        major, minor = place >> MINOR_BITS, place & (1 << MINOR_BITS) - 1
        return (minor, major) if self.by_key else (major, minor)

    def call(
        self,
        kernel: Callable[..., None],
        seen: jax.Array,
        inputs: list[tuple[pl.BlockSpec, jax.Array]],
        outputs: list[tuple[pl.BlockSpec, jax.Array | jax.ShapeDtypeStruct]],
        scratch: list[tuple[int, ...]],
    ) -> list[jax.Array]:
        """Runs `kernel(visit, *input refs, *output refs, *scratch refs)` for every visit of `seen` [B, major, minor]."""
        visit_list, lengths = visits(seen)
        groups, parts = self.grid

        def body(visit_ref: Any, *refs: Any) -> None:
            row, group, visit, part = (pl.program_id(axis) for axis in range(4))
            code = self._code(row, visit, visit_ref)
            kernel(
                kernels.Visit(
                    block=self.block,
                    heads=self.heads,
                    per_key=self.per_key,
                    first_key=self._blocks(row, group, visit, part, visit_ref)[1] * self.block,
                    useful=code & USEFUL != 0,
                    first=(code & FIRST != 0) & (part == 0),
                    last=(code & LAST != 0) & (part == parts - 1),
                ),
                *refs,
            )

        run = pl.pallas_call(
            body,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=(len(seen), groups, lengths.max(), parts),
                in_specs=[spec for spec, _ in inputs],
                out_specs=[spec for spec, _ in outputs],
                scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
            ),
            out_shape=[jax.ShapeDtypeStruct(like.shape, like.dtype) for _, like in outputs],
            cost_estimate=self._cost(kernel, [array for _, array in (*inputs, *outputs)]),
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")),
            interpret=self.interpret,
            name=f"attention_{kernel.__name__}",
        )
        # Rematerialisation drops a call that nobody needs if it is jitted; of a bare kernel it does not know that.
        return jax.jit(run)(visit_list.reshape(-1), *(array for _, array in inputs))

    def _cost(self, kernel: Callable[..., None], arrays: list[jax.Array | jax.ShapeDtypeStruct]) -> pl.CostEstimate:
        """Of causal rows, for the compiler, which hides communication behind kernels."""
        scores = arrays[0].shape[0] * self.key_heads * self.per_key * self.parts * self.blocks * self.key_blocks * self.block**2 // 2
        return pl.CostEstimate(
            flops=2 * kernels.PRODUCTS[kernel] * scores * self.width,
            transcendentals=scores,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
        )


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`, and at least 1."""
    return next(d for d in range(max(1, min(number, limit)), 0, -1) if number % d == 0)
