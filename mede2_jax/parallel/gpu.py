"""What JAX and XLA are told before they look for GPUs: how much memory they may take, and how to compile."""

from __future__ import annotations

import importlib.util
import os

MEMORY = 0.92
"""Share of a GPU's memory that JAX takes at once; by itself it takes 0.75. The rest is NCCL's and the driver's."""
_XLA_SHARE = 0.80
"""Of a GPU's memory, what XLA takes as the bound of a program's, before the factor below."""

FLAGS = {
    # Gathers of parameters are begun before what comes before their use is done.
    "--xla_gpu_enable_latency_hiding_scheduler": "true",
    # As a percentage. Beyond the bound XLA computes values again by itself (`.remat`): for a step that fits it takes half as long again.
    "--xla_gpu_memory_limit_slop_factor": str(round(100 * MEMORY / _XLA_SHARE)),
    # XLA joins a product with its adapter's narrow one, for which it copies both weights side by side, and both results apart.
    "--xla_gpu_dot_merger_threshold_mb": "0",
}
"""Flags of a training step on GPUs, which `plan` compiles with too."""
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def prepare_gpu() -> None:
    """Called before JAX looks for devices; what the user chose stays."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY))
    if any(importlib.util.find_spec(plugin) for plugin in PLUGINS):  # TPUs' own library refuses flags that it does not know
        os.environ["XLA_FLAGS"] = with_flags(os.environ.get("XLA_FLAGS", ""), FLAGS)


def with_flags(given: str, flags: dict[str, str]) -> str:
    """XLA_FLAGS with those added that it does not name yet."""
    there = {flag.partition("=")[0] for flag in given.split()}
    return " ".join([*given.split(), *(f"{name}={value}" for name, value in flags.items() if name not in there)])
