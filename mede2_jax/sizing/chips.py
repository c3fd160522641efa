"""Devices and their makers' figures: dense bfloat16 FLOP/s, memory, and one direction of the links of one device."""

from __future__ import annotations

import dataclasses
from typing import Literal

Platform = Literal["tpu", "gpu", "cpu"]
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device. What nobody plans for has its peak alone; 0 is unknown."""

    platform: Platform
    kind: str
    """As JAX names it."""
    memory: int = 0
    """Bytes that a program may use."""
    tflops: float | None = None
    """Dense bfloat16; none is claimed for a CPU."""
    memory_bandwidth: float = 0.0
    """Bytes a second."""
    link_bandwidth: float = 0.0
    """Bytes a second that a device receives from its neighbours, over all its links."""
    node_devices: int | None = None
    """Devices that are joined by `link_bandwidth`; none: all of a slice."""
    network_bandwidth: float = 0.0
    """Bytes a second that a device receives from other nodes."""


CHIPS = {
    "v4": Chip("tpu", "TPU v4", tflops=275.0),
    "v5e": Chip("tpu", "TPU v5 lite", int(15.75 * GIB), 197.0, 819e9, 200e9),
    "v5p": Chip("tpu", "TPU v5", int(95.74 * GIB), 459.0, 2765e9, 600e9),
    "v6e": Chip("tpu", "TPU v6 lite", int(31.25 * GIB), 918.0, 1640e9, 400e9),
    "a100": Chip("gpu", "NVIDIA A100-SXM4-80GB", tflops=312.0),
    "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 84_929_347_584, 989.4, 3352e9, 450e9, 8, 50e9),
    "h100-nvl": Chip("gpu", "NVIDIA H100 NVL", tflops=835.0),
    "h100-pcie": Chip("gpu", "NVIDIA H100 PCIe", tflops=756.0),
    "h200": Chip("gpu", "NVIDIA H200", 150_121_545_728, 989.4, 4800e9, 450e9, 8, 50e9),
    "h200-nvl": Chip("gpu", "NVIDIA H200 NVL", tflops=835.0),
    "gh200": Chip("gpu", "NVIDIA GH200 480GB", tflops=989.4),
    "cpu": Chip("cpu", "cpu"),
}
"""By the names that topologies are written with (`h100:8`)."""

OTHER_KINDS = {
    "TPU v5e": "v5e",
    "TPU v5p": "v5p",
    "TPU v6e": "v6e",
    "NVIDIA A100-SXM4-40GB": "a100",
    "NVIDIA A100-PCIE-40GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100",
    "NVIDIA GH200 144G HBM3e": "gh200",
}
"""What JAX calls a chip elsewhere, and chips whose arithmetic is the same."""


def peak_tflops(device_kind: str) -> float | None:
    """The bfloat16 peak of a device by the name that JAX gives it, if it is known.

    The whole name counts: an `H100 PCIe` or a slice of a GPU (MIG) is less than an H100.
    """
    name = OTHER_KINDS.get(device_kind)
    chips = [CHIPS[name]] if name else [chip for chip in CHIPS.values() if chip.kind == device_kind]
    return chips[0].tflops if chips else None
