"""What people review, where their reviews come back, and what these are compared with: a frozen config for each of the three commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from mede2_jax.config import Config


class Reviewed(Config):
    """What is reviewed: responses, by MMRP's criteria, or demonstrations, by theirs."""

    rollouts: Path | None = None
    """Responses, reviewed as a judge judges them: what `python -m mede2_jax.rollout` writes."""
    demonstrations: Path | None = None
    """Instead: demonstrations, reviewed by the criteria of their rating: what `python -m mede2_jax.distill` writes. Right answers are
    taken from the candidates beside them (.candidates.jsonl)."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the file's manifest names, or its folder."""

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.rollouts is not None and self.demonstrations is not None:
            raise ValueError("rollouts and demonstrations are reviewed by criteria of their own: give one of the two")
        return self

    @property
    def file(self) -> Path:
        """The one that is given."""
        found = self.rollouts or self.demonstrations
        assert found is not None
        return found


class ExportConfig(Reviewed):
    """Tasks for Label Studio."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"output": "out", "media_dir": "image_root", "n": "limit", "sample": "limit"}

    judgments: Path | None = None
    """Only responses that have a judgment in this file; people do not see it."""
    out: Path | None = None
    """Folder for tasks.json, labels.xml and images/. What this command wrote there before is replaced; images stay, since a project that
    was made of it may still show them."""
    limit: int | None = Field(default=None, ge=1)
    """So many of them, drawn by the seed (the paper has 1,000); none: all."""
    ids: tuple[str, ...] = ()
    """Only these, by id; several with commas between."""
    seed: int = 0
    """Of which are drawn, and of their order: nobody reviews all responses to one question in a row."""
    images: Literal["served", "embedded"] = "served"
    """served: files beside the tasks, which Label Studio shows from there; embedded: in the tasks themselves, for a few."""
    max_image_pixels: int = Field(default=50_000_000, gt=0)
    """An image file with more pixels is an error."""


class ImportConfig(Reviewed):
    """Label Studio's export."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"output": "out", "annotations": "export", "media_dir": "image_root"}

    export: tuple[Path, ...] = ()
    """What Label Studio exports as JSON (not JSON-MIN, not CSV); several files with commas between."""
    out: Path | None = None
    """File for the reviews, one line each: judgments of people, or reviews of demonstrations. What this command wrote there before is
    replaced."""


class AgreementConfig(Config):
    """Reviews, and what they are compared with."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"output": "out", "reviews": "people", "judge": "judgments"}

    people: Path | None = None
    """Verdicts of people: what `review import` writes, or any JSONL, JSON, CSV or parquet with `rollout` and the criteria, yes or no."""
    judgments: Path | None = None
    """The judge's, on the same responses: what `python -m mede2_jax.judge` writes."""
    demonstrations: Path | None = None
    """Instead: demonstrations with their ratings, where people have reviewed demonstrations."""
    out: Path | None = None
    """Folder for agreement.json, the tables (CSV and Markdown), figure3-judge.png and .svg, and look.csv. What this command wrote there
    before is replaced."""
    look: int = Field(default=20, ge=0)
    """Judgments to look at that are shown, those that differ most first; look.csv has all."""
    seed: int = 0
    """Of the intervals."""

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.judgments is not None and self.demonstrations is not None:
            raise ValueError("people reviewed responses or demonstrations: give judgments or demonstrations, not both")
        return self
