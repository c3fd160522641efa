"""Options of a benchmark: those of training, and how to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from mede2_jax.config import Config
from mede2_jax.sizing.synthetic import SyntheticConfig
from mede2_jax.train.config import TrainConfig


class TRLConfig(Config):
    """How TRL runs, with --peer=trl."""

    python: Path | None = None
    """Of an environment with TRL; none: the one that `bash launch/trl_env.sh` makes, .venv-trl/bin/python of this checkout."""
    batch: int = Field(default=8, ge=1)
    """Pairs, or demonstrations, a step; on a GPU halved until they fit. On a CPU 1 takes the least memory, and pads nothing."""
    steps: int | None = Field(default=None, ge=1)
    """Steps that are timed, after `warmup` others; none: as many as here."""
    defaults: bool = True
    """On a CPU run it twice: at its best, projecting labelled positions only onto the vocabulary, and as it comes, projecting all."""
    attention: str | None = Field(default=None, pattern=r"^[a-z0-9_]+$")
    """transformers' attention, such as flash_attention_2 (to be installed beside TRL); none: its default."""
    liger: bool = False
    """Liger's kernels (to be installed beside TRL)."""


class BenchmarkConfig(TrainConfig):
    """A benchmark of a training step."""

    synthetic: SyntheticConfig = SyntheticConfig()
    steps: int = Field(default=10, ge=1)
    """Steps that are timed, one by one, and once more with the input pipeline."""
    warmup: int = Field(default=2, ge=1)
    """Steps before that; the first one compiles."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Of one device in `compute_dtype`, for the MFU; none: known for some accelerators, else no MFU is given."""
    peer: Literal["trl"] | None = None
    """Run TRL first, on the same records, model (with random weights) and machine, and show the ratio."""
    trl: TRLConfig = TRLConfig()
    json_: Annotated[Path | None, tyro.conf.arg(name="json")] = Field(default=None, alias="json")
    """Write all figures to this file."""
    profile: Path | None = None
    """Record a trace of three steps into this folder (for TensorBoard or Perfetto)."""
