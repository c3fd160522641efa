"""How a stored array is read by several devices: each its part of the file, once, whatever part of it each is to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def reading_layout(leaf: jax.ShapeDtypeStruct, chunk: Sequence[int]) -> Any:
    """The sharding in which the fewest bytes are read in all: the array's own, or one axis split over all devices of its mesh.

    Its own is bad where a kernel is split along columns and stored in rows, and where it is replicated: every device would read
    all of it. From another one, devices give their parts to one another, over links that are faster than a file system.

    Args:
        leaf: Shape, and the sharding that is wanted.
        chunk: What is read as a whole.
    """
    wanted = leaf.sharding
    if not isinstance(wanted, NamedSharding) or wanted.mesh.size == 1:
        return wanted
    mesh = wanted.mesh
    split = [
        NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names)) for axis, size in enumerate(leaf.shape) if size % mesh.size == 0
    ]
    return min([wanted, *split], key=lambda sharding: elements_read(leaf.shape, chunk, sharding))  # of equals, its own


def elements_read(shape: Sequence[int], chunk: Sequence[int], sharding: NamedSharding) -> int:
    """Elements of all chunks that each device's part lies in, summed over devices."""
    total = 0
    for index in sharding.devices_indices_map(tuple(shape)).values():
        read = 1
        for part, size, piece in zip(index, shape, chunk, strict=True):
            start, stop, _ = part.indices(size)
            read *= min(-(-stop // piece) * piece, size) - start // piece * piece
        total += read
    return total


def relaid(array: jax.Array, wanted: Any) -> jax.Array:
    """The array in another sharding over the same devices, by one program of all processes."""
    return array if array.sharding == wanted else jax.jit(lambda x: x, out_shardings=wanted)(array)
