"""Options of a benchmark: those of training, and how to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field, field_validator

from mede2_jax.config import Config
from mede2_jax.train.config import TrainConfig


class SyntheticConfig(Config):
    """The made-up records that are trained on when no `data.path` is given. Lengths and sizes are drawn evenly between two ends."""

    examples: int = Field(default=96, ge=1)
    """Demonstrations, or pairs."""
    prompt_tokens: int = Field(default=120, ge=1)
    """Of each question, images not counted."""
    response_tokens: tuple[int, int] = (100, 500)
    """Shortest and longest response."""
    images: int = Field(default=1, ge=0)
    """Of each question; 0 for texts alone."""
    text_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions that have no image all the same."""
    image_pixels: tuple[int, int] = (336, 560)
    """Shortest and longest side of an image."""
    seed: int = 0
    keep: Path | None = None
    """Write the records to this folder, which must not be there yet, and leave them there; none: to a temporary one."""

    @field_validator("response_tokens", "image_pixels")
    @classmethod
    def _in_order(cls, ends: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"shortest {ends[0]} is longer than longest {ends[1]}" if ends[0] > ends[1] else f"{ends[0]} is too short")
        return ends


class TRLConfig(Config):
    """How TRL runs, with --peer=trl."""

    python: Path | None = None
    """Of an environment with TRL; none: the one that `bash launch/trl_env.sh` makes, .venv-trl/bin/python of this checkout."""
    batch: int = Field(default=8, ge=1)
    """Pairs, or demonstrations, a step; on a GPU halved until they fit. On a CPU 1 takes the least memory, and pads nothing."""
    steps: int | None = Field(default=None, ge=1)
    """Steps that are timed, after `warmup` others; none: as many as here."""


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
