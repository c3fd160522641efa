"""What is scored and how, as one frozen config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from mede2_jax.config import Config
from mede2_jax.scoring.modes import Mode

Sizes = tuple[Annotated[int, Field(ge=1)], ...]
"""Of k in pass@k and MV@k."""


class ColumnsConfig(Config):
    """How others call the columns of their responses."""

    id: str | None = None
    """Of the item's id; none: found by the usual names."""
    response: str | None = None
    """Of the response; a list in it is several samples. None: found by the usual names."""
    sample: str = "sample"
    """Of the sample's number, where several rows answer one item."""
    finish: str = "finish_reason"
    """Of why a response ended: `length` is one that was cut."""


class ScoreConfig(Config):
    """Responses to a task, and the rule that reads them."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {
        "tasks": "task",
        "benchmark": "task",
        "predictions": "responses",
        "output": "out",
        "baseline": "against",
    }

    task: str | None = None
    """The benchmark, by its name in --help; or a YAML file that describes one."""
    data: Path | None = None
    """Its files as the owner has them: the folder, or one file. None: the items that the responses' own file carries."""
    responses: Path | None = None
    """Responses: what python -m mede2_jax.rollout wrote, the owner's output file, or any JSONL, JSON, CSV or parquet of ids and texts."""
    out: Path | None = None
    """Folder for score.json and verdicts.jsonl; what this command wrote there before is replaced."""
    mode: Mode = "mede2"
    """official: the owner's rule alone. mede2: the `<answer>`, else a plain answer, else the owner's rule on what follows `</think>`."""
    prompt: str | None = None
    """How the questions were asked, which decides how the owner reads the replies: one of his ways, or mede2. None: the only one in
    a file that python -m mede2_jax.evaluate wrote, else his first."""
    partial: bool = False
    """Score a file that lacks items or samples; the result says so."""
    against: Path | None = None
    """Another score of the same items, its folder: is the difference more than chance?"""
    k: Sizes = ()
    """Of pass@k and MV@k; none: 1, 2, 4, … up to the samples of an item."""
    seed: int = 0
    """Of the bootstrap."""
    resamples: int = Field(default=10_000, ge=100, le=1_000_000)
    """Of the bootstrap."""
    columns: ColumnsConfig = ColumnsConfig()
