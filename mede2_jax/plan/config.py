"""Options of a plan: those of training, and the machine to plan for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from mede2_jax.sizing.synthetic import SyntheticConfig
from mede2_jax.train.config import TrainConfig


class PlanConfig(TrainConfig):
    """A training step for a machine that nobody has to own."""

    topology: str
    """v5e:8x8, v5p:2x4x4, v6e:8x8 (TPU chips), h100:8, h100:64, h200:8 (GPUs), cpu:8 (this machine, for tests)."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """The examples that rows are filled with."""
    sweep: bool = False
    """Try meshes, remat policies and row sizes, and rank those that fit."""
    sweep_minutes: float = Field(default=30.0, gt=0)
    """Start no further compilation after so long."""
    largest: int = Field(default=12, ge=0)
    """How many of the largest buffers, and of the largest collectives, to list."""
    json_: Annotated[Path | None, tyro.conf.arg(name="json")] = Field(default=None, alias="json")
    """Write all figures to this file."""
    hlo: Path | None = None
    """Write the compiled program's text to this file."""
