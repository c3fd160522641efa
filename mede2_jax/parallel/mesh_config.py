"""How the devices are arranged, for configs: a command that needs no device begins without JAX."""

from __future__ import annotations

from mede2_jax.config import Config


class MeshConfig(Config):
    """How the devices are arranged. The product must equal the number of devices; one axis may be -1 (what remains)."""

    data: int = 1
    """Replicas: each holds all parameters and takes its own rows. The outermost axis: as many as machines keep fsdp inside of one."""
    fsdp: int = -1
    """Splits parameters, optimizer state and rows (ZeRO-3)."""
    tensor: int = 1
    """Splits heads, feed-forward and vocabulary (Megatron)."""
    sequence: int = 1
    """Splits each row's tokens, and parameters as fsdp does, for rows too long for a device; keys are gathered. It must divide rows."""
