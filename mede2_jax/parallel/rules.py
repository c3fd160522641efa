"""Sharding rules: logical axis names to mesh axes, in one table.

Parameters and activations carry logical names ("embed", "heads", "rows"). This module alone knows that a mesh has the
axes `data` (replicas), `fsdp` (parameters and rows are split, as in ZeRO-3) and `tensor` (heads, feed-forward and
vocabulary are split, as in Megatron), and some also `sequence` (parameters and each row's tokens are split). A mesh axis
that does not divide a dimension is left out of that dimension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]
"""Logical names of an array's dimensions; None for one that is never split."""

RULES: dict[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "tokens": ("sequence",),
    "tiles": ("data", "fsdp", "sequence"),
    "embed": ("fsdp", "sequence"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
    "rank": (),
    "adapted": ("tensor", "fsdp", "sequence"),
}

_mesh: ContextVar[Mesh | None] = ContextVar("mesh", default=None)


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
    """Makes `constrain` and `per_shard` act on `mesh` while a function is traced inside."""
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


def platform() -> str:
    """Of the devices of the mesh in use, which may be others than those of this machine; without one, this machine's."""
    mesh = _mesh.get()
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def partition_spec(axes: Axes, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The mesh axes of each dimension.

    Args:
        axes: Logical names, one a dimension.
        shape: The array's shape, to leave out mesh axes that do not divide it.
        mesh: The mesh.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {tuple(shape)}")
    parts: list[Any] = []
    for name, size in zip(axes, shape, strict=True):
        chosen: list[str] = []
        for mesh_axis in RULES[name] if name else ():
            factor = mesh.shape.get(mesh_axis, 1)
            if factor > 1 and size % factor == 0:
                chosen.append(mesh_axis)
                size //= factor
        parts.append(tuple(chosen) if len(chosen) > 1 else chosen[0] if chosen else None)
    return PartitionSpec(*parts)


def named_sharding(axes: Axes, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """`partition_spec` on `mesh`, as a sharding."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh))


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Asks the compiler to lay `x` out by the rules; the identity when no mesh is in use."""
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, named_sharding(axes, x.shape, mesh))


def axis_size(name: str) -> int:
    """Into how many pieces a dimension of this logical name is split on the mesh in use (1 without one)."""
    mesh = _mesh.get()
    size = 1
    for mesh_axis in RULES[name] if mesh is not None else ():
        size *= mesh.shape.get(mesh_axis, 1)  # type: ignore[union-attr]
    return size


def per_shard(function: Callable[..., jax.Array], arrays: Sequence[jax.Array], in_axes: Sequence[Axes], out_axes: Axes) -> jax.Array:
    """Runs `function` on each device's own piece of `arrays`.

    For code that the compiler's partitioner would handle badly, such as loops whose trip count depends on the data, or
    fused kernels. The result has the shape of `arrays[0]`.
    """
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return function(*arrays)
    in_specs = tuple(partition_spec(axes, array.shape, mesh) for axes, array in zip(in_axes, arrays, strict=True))
    out_specs = partition_spec(out_axes, arrays[0].shape, mesh)
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*arrays)


def lookup(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows [B, T, D] of a ("vocab", "embed") table [V, D] by `tokens` [B, T], laid out by ("rows", "tokens", None).

    Moves what was looked up, never the table: each device takes its piece of the vocabulary and of the width for all rows of
    its fsdp group (and all tokens of its sequence group), and an all-to-all brings the pieces of a row (of a token) together. Left to
    itself, the partitioner replicates the result.
    """
    mesh = _mesh.get()
    if mesh is None or mesh.size == 1:
        return jnp.take(table, tokens, axis=0)
    layout, places = partition_spec(("vocab", "embed"), table.shape, mesh), partition_spec(("rows", "tokens"), tokens.shape, mesh)
    (vocab, width), (row_axes, token_axes) = map(_names, layout), map(_names, places)

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if not vocab:
            found = jnp.take(table, tokens, axis=0)
        else:
            own = tokens - jax.lax.axis_index(vocab) * table.shape[0]
            inside = (own >= 0) & (own < table.shape[0])
            taken = jnp.take(table, jnp.clip(own, 0, table.shape[0] - 1), axis=0)
            found = jax.lax.psum(jnp.where(inside[..., None], taken, 0), vocab)
        for axis in reversed(width):  # the innermost first, whose pieces lie side by side
            if axis in (*row_axes, *token_axes):
                found = jax.lax.all_to_all(found, axis, split_axis=0 if axis in row_axes else 1, concat_axis=2, tiled=True)
            else:
                found = jax.lax.all_gather(found, axis, axis=2, tiled=True)
        return found

    grouped = PartitionSpec(*(tuple(axis for axis in axes if axis not in width) or None for axes in (row_axes, token_axes)))
    out = PartitionSpec(*places, None)
    return jax.shard_map(local, mesh=mesh, in_specs=(layout, grouped), out_specs=out, check_vma=False)(table, tokens)


def _names(part: Any) -> tuple[str, ...]:
    """Mesh axes of one dimension of a spec."""
    return (part,) if isinstance(part, str) else tuple(part or ())
