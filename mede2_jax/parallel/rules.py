"""Sharding rules: logical axis names to mesh axes, in one table.

Parameters and activations carry logical names ("embed", "heads", "rows"). This module alone knows that a mesh has the
axes `data` (replicas), `fsdp` (parameters and rows are split, as in ZeRO-3) and `tensor` (heads, feed-forward and
vocabulary are split, as in Megatron). A mesh axis that does not divide a dimension is left out of that dimension.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]
"""Logical names of an array's dimensions; None for one that is never split."""

RULES: dict[str, tuple[str, ...]] = {
    "rows": ("data", "fsdp"),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "layers": (),
    "rank": (),
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
            factor = mesh.shape[mesh_axis]
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
        size *= mesh.shape[mesh_axis]  # type: ignore[union-attr]
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
