"""What is traced, and where it is."""

from __future__ import annotations

from pathlib import Path

from mede2_jax.config import Config


class TraceConfig(Config):
    """What to trace, and where it is."""

    pairs: Path = Path("runs/pairs.jsonl")
    """Pairs: what `python -m mede2_jax.pair` writes."""
    judgments: Path | None = None
    """The judgments, if they are no longer where the manifest of the pairs says."""
    people: Path | None = None
    """The judgments of people, likewise."""
    rollouts: Path | None = None
    """The rollouts, likewise."""
    score: Path | None = None
    """Instead of a pair: a folder with a score.json. Its model's history is shown, down to the data of every run."""
    curated: Path | None = None
    """Instead of a pair: what `python -m mede2_jax.curate` wrote. It is said what became of the question with that id, and why."""
    demonstrations: Path | None = None
    """Instead of a pair: what `python -m mede2_jax.distill` wrote. The history of the demonstration with that id is shown."""
    limit: int = 1500
    """Characters of a text to show; 0: all."""
