"""The device mesh: data × fsdp × tensor; and, where rows are split, sequence between the last two."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from mede2_jax.config import UserError
from mede2_jax.parallel.mesh_config import MeshConfig

AXES = ("data", "fsdp", "tensor")
SPLIT_AXES = ("data", "fsdp", "sequence", "tensor")
"""Of a mesh with mesh.sequence; others have no such axis."""


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of `devices`).

    Raises:
        UserError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    names = AXES if config.sequence == 1 else SPLIT_AXES
    sizes = [getattr(config, name) for name in names]
    shown = " × ".join(f"{name}={size}" for name, size in zip(names, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh {shown}: sizes must be positive, and at most one may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {shown} does not match {len(devices)} device(s); choose sizes whose product is {len(devices)}, or -1 for one axis"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1 and sizes[0] % slices == 0:
        # TPU slices are joined by a slower network than the one inside; everywhere else devices come in the order of their machines.
        inside = (sizes[0] // slices, *sizes[1:])
        outside = (slices, *(1 for _ in sizes[1:]))
        return Mesh(mesh_utils.create_hybrid_device_mesh(inside, outside, devices), names, axis_types=(AxisType.Auto,) * len(names))
    # Axes are automatic: the rules place parameters and rows, the compiler's partitioner does the rest.
    try:
        return jax.make_mesh(tuple(sizes), names, devices=devices, axis_types=(AxisType.Auto,) * len(names))
    except NotImplementedError:  # on a TPU an axis of the mesh is one or several whole axes of the torus
        raise UserError(
            f"mesh {shown} cannot be laid onto this slice: each size must be a product of some of the slice's own (of 4x4x8: 4, 8, 16, 32 "
            "or 128)"
        ) from None


def processes_along(mesh: Mesh) -> dict[str, int]:
    """Over how many processes a group of devices along each axis spreads; 1: it stays inside of one."""
    owner = np.vectorize(lambda device: device.process_index)(mesh.devices)
    lines = {name: np.moveaxis(owner, axis, -1).reshape(-1, owner.shape[axis]) for axis, name in enumerate(mesh.axis_names)}
    return {name: max(len(set(line.tolist())) for line in group) for name, group in lines.items()}


def check_rows_divide(tokens: int, mesh: Mesh) -> None:
    """Refuses rows that `mesh.sequence` does not split evenly.

    Raises:
        UserError: As said.
    """
    pieces = mesh.shape.get("sequence", 1)
    if tokens % pieces:
        raise UserError(
            f"mesh.sequence={pieces} does not divide rows of {tokens} tokens; choose a divisor, or a data.row_tokens that it divides"
        )


WASTEFUL = 1.5
"""Times its share of the parameters that a device may hold before it is worth a line."""


def describe_whole_heads(heads: Mapping[str, int], mesh: Mapping[str, int]) -> str | None:
    """A line for a mesh whose tensor axis does not divide the heads of some part."""
    whole = [f"the {count} heads of {part}" for part, count in heads.items() if count % mesh["tensor"]]
    if not whole:
        return None
    return (
        f"mesh.tensor={mesh['tensor']} does not divide {' and '.join(whole)}: each of its devices computes attention for all of them; "
        "choose a divisor, and mesh.fsdp for the rest"
    )


def describe_excess(excess: float, mesh: Mapping[str, int]) -> str | None:
    """A line for a mesh that leaves large parameters whole."""
    if excess < WASTEFUL:
        return None
    split = " × ".join(f"{name}={mesh[name]}" for name in SPLIT_AXES[1:] if name in mesh)
    return (
        f"{split} does not divide the widths of this model: a device holds {excess:.1f} times "
        "its share of the parameters; choose sizes that divide them (powers of two), and mesh.data for the rest"
    )
