"""What a report is made of, as one frozen config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from mede2_jax.config import Config


class ReportConfig(Config):
    """Scores and runs, and where their report goes."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "score": "scores",
        "run": "runs",
        "manifests": "funnel",
        "output": "out",
        "baseline": "base",
        "human": "people",
    }

    scores: tuple[str, ...] = ()
    """Folders that evaluate or score wrote, as FOLDER or NAME=FOLDER; folders of one NAME are one model's. Tables keep their order."""
    runs: tuple[str, ...] = ()
    """Training runs, for their curves, as FOLDER or NAME=FOLDER."""
    funnel: tuple[Path, ...] = ()
    """Files of questions, rollouts, judgments and pairs (or their manifests), in their order: what went in and what was left out."""
    judgments: Path | None = None
    """Judgments, to be set beside those of people."""
    people: Path | None = None
    """Verdicts of people: JSONL, JSON, CSV or parquet with `rollout` and the criteria, each yes or no."""
    base: str | None = None
    """The model that gains are measured from, by its name; none: the first one."""
    out: Path | None = None
    """The report's folder. What a report wrote there before is replaced, and nothing else."""
    single_file: bool = False
    """One HTML with all in it, images as thumbnails, instead of a folder with data and images beside it."""
    cases: int = Field(default=3, ge=0, le=50)
    """Cases that are shown of two models side by side; 0: none."""
    peers: bool = True
    """Also read choices as MedEvalKit and VLMEvalKit do, for columns beside ours."""
    seed: int = 0
    """Of the bootstrap."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Of the bootstrap."""
    image_root: Path | None = None
    """Where image paths of rollouts start; none: where their manifests say, or at their files."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """An image with more is named, and not shown."""

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.judgments is None) != (self.people is None):
            raise ValueError("judgments and people belong together: give both files, or neither")
        return self
