"""Machines by name, as the real compilers see them: `v5e:8x8`, `v5p:2x4x4`, `v6e:8x8`, `h100:8`, `h200:64`, `cpu:8`.

Nothing of them has to be here: libtpu compiles for a TPU slice that is described to it, the CUDA plugin for GPUs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from mede2_jax.config import UserError
from mede2_jax.parallel import gpu
from mede2_jax.sizing.chips import CHIPS, Chip, Platform

PLANNED = ("v5e", "v5p", "v6e", "h100", "h200", "cpu")
"""Chips whose figures are complete, and that a compiler can be told of."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine, by name."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many devices."""
        return math.prod(self.shape)

    @property
    def capacity(self) -> int:
        """Bytes of one device that a step may use."""
        return int(self.chip.memory * gpu.MEMORY) if self.chip.platform == "gpu" else self.chip.memory


def parse_topology(name: str) -> Topology:
    """Reads `chip:shape`.

    Raises:
        UserError: No such chip, or a shape that it cannot have.
    """
    chip, colon, shape = name.partition(":")
    if chip not in PLANNED or not colon:
        raise UserError(
            f"topology {name!r} is not one of chip:shape, with a chip of {', '.join(PLANNED)}, such as v5e:8x8, v5p:2x4x4, h100:8"
        )
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(f"topology {name!r}: the shape {shape!r} must be numbers joined by x, such as {_example(chip)}")
    sizes, wanted = tuple(map(int, shape.split("x"))), _axes(chip)
    if len(sizes) != wanted:
        raise UserError(f"topology {name!r}: {chip} takes {wanted} size{'s' * (wanted > 1)}, such as {_example(chip)}, got {len(sizes)}")
    found = Topology(name, CHIPS[chip], sizes)
    node = found.chip.node_devices
    if node and found.size > node and found.size % node:
        raise UserError(f"topology {name!r}: {chip}s come in nodes of {node}; choose a multiple of {node}, or fewer")
    return found


def _axes(chip: str) -> int:
    return {"v5e": 2, "v6e": 2, "v5p": 3}.get(chip, 1)


def _example(chip: str) -> str:
    return f"{chip}:{ {1: '8', 2: '8x8', 3: '2x4x4'}[_axes(chip)] }"


def open_devices(topology: Topology) -> list[Any]:
    """Devices that programs can be compiled for, though none of them is here.

    Raises:
        UserError: The compiler is not installed, or knows no such topology.
    """
    if topology.chip.platform == "cpu":
        if len(jax.devices("cpu")) < topology.size:
            flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.size}"
            raise UserError(f"topology {topology.name!r}: this process has {len(jax.devices('cpu'))} CPU device(s); set {flag}")
        return list(jax.devices("cpu"))[: topology.size]
    _check_compiler(topology.chip.platform)
    try:
        if topology.chip.platform == "tpu":
            return list(topologies.get_topology_desc(topology.name, "tpu").devices)
        shape = _gpu_shape(topology)
        return list(topologies.get_topology_desc("", "cuda", target_config=_gpu_target(topology.chip), topology=shape).devices)
    except Exception as error:  # the plugins raise what they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"topology {topology.name!r}: the compiler refuses it: {reason}") from None


def _check_compiler(platform: Platform) -> None:
    module, what = {"tpu": ("libtpu", "TPUs needs libtpu"), "gpu": ("jax_cuda13_plugin", "GPUs needs JAX's CUDA plugin")}[platform]
    if importlib.util.find_spec(module) is None:
        raise UserError(
            f"compiling for {what}, which is not installed; pip install -e '.[plan-{platform}]' (bash launch/plan_env.sh {platform} "
            f"makes an environment, .venv-plan-{platform})"
        )


def _gpu_shape(topology: Topology) -> str:
    """Partitions × hosts × devices of a host, as the plugin has it."""
    node = min(topology.chip.node_devices or topology.size, topology.size)
    return f"1x{topology.size // node}x{node}"


def prepare(topology: Topology) -> None:
    """Settings that the compilers read when JAX starts: called before any device is asked for. No accelerator is looked for."""
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is held, so plans may be made side by side
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL"):
        os.environ.setdefault(name, "3")  # they miss the machine that is not there, at length
    flags: dict[Platform, dict[str, str]] = {
        # A run's own, but for two: without a GPU to time kernels on, cuBLAS has the only default there is.
        "gpu": {"--xla_gpu_autotune_level": "0", "--xla_gpu_enable_triton_gemm": "false", **gpu.FLAGS},
        "cpu": {"--xla_force_host_platform_device_count": str(topology.size)},
        "tpu": {},
    }
    os.environ["XLA_FLAGS"] = gpu.with_flags(os.environ.get("XLA_FLAGS", ""), flags[topology.chip.platform])


def _gpu_target(chip: Chip) -> str:
    """XLA's description of a Hopper GPU, as the CUDA driver would give it."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {int(chip.memory_bandwidth)}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {chip.memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
device_description_str: "{chip.kind}"
"""
