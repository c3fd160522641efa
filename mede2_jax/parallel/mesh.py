"""The device mesh: data × fsdp × tensor."""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, Mesh

from mede2_jax.config import Config, UserError

AXES = ("data", "fsdp", "tensor")


class MeshConfig(Config):
    """How the devices are arranged. The product must equal the number of devices; one axis may be -1 (what remains)."""

    data: int = 1
    """Replicas: each holds all parameters and takes its own rows."""
    fsdp: int = -1
    """Splits parameters, optimizer state and rows (ZeRO-3)."""
    tensor: int = 1
    """Splits heads, feed-forward and vocabulary (Megatron)."""


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices (or of `devices`).

    Raises:
        UserError: The axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    shown = " × ".join(f"{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh {shown}: sizes must be positive, and at most one may be -1")
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {shown} does not match {len(devices)} device(s); choose sizes whose product is {len(devices)}, or -1 for one axis"
        )
    # Axes are automatic: the rules place parameters and rows, the compiler's partitioner does the rest.
    return jax.make_mesh(tuple(sizes), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))
