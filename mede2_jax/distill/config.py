"""Whose responses become demonstrations, and by which rules, as one frozen config; and the embedded default that needs no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from mede2_jax.config import Config
from mede2_jax.embedded import SAMPLE_QUESTIONS, SAMPLE_ROLLOUTS, Embedded
from mede2_jax.reasoning.remarks import MERITS, Merit

EMBEDDED = Embedded(
    {"out": "runs/demonstrations.jsonl"}, {"questions": SAMPLE_QUESTIONS, "rollouts": SAMPLE_ROLLOUTS}, ("questions", "rollouts")
)
"""The sample's questions and responses."""
EVEN = 1.5
"""Times its even share, that a teacher may take by default."""


class DistillConfig(Config):
    """Questions, teachers' responses to them, and what makes a demonstration of one."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"output": "out", "teachers": "rollouts", "media_dir": "image_root"}

    questions: Path | None = None
    """The questions, such as `python -m mede2_jax.curate` writes them."""
    rollouts: tuple[Path, ...] = ()
    """Teachers' responses, what `python -m mede2_jax.rollout` writes; several files with commas between."""
    expansions: tuple[Path, ...] = ()
    """Reasoning written out, of teachers who give only a summary: what rollout --ask=expansion --questions=ROLLOUTS writes."""
    ratings: tuple[Path, ...] = ()
    """Ratings of the candidates that this command has written: rollout --ask=rating --questions=OUT.candidates.jsonl. None: the rules
    alone decide."""
    missing: Literal["refuse", "accept"] = "refuse"
    """A candidate without a rating, where there are ratings: refuse: an error that says how to ask; accept: it is left out, with that
    reason. For what an API refuses for good."""
    reviews: tuple[Path, ...] = ()
    """What people say of demonstrations that this command has written, as `python -m mede2_jax.review import` brings it in. What more than
    half of them do not grant every one of --criteria is left out."""
    out: Path | None = None
    """File for the demonstrations. Beside it: responses that keep the rules (.candidates.jsonl) and those left out with their reasons
    (.dropped.jsonl). What this command wrote there before is replaced."""
    criteria: tuple[Merit, ...] = MERITS
    """What more than half of its ratings must grant a candidate."""
    min_words: int = Field(default=40, ge=0)
    """Of the reasoning; with fewer it shows nothing."""
    max_words: int = Field(default=4000, ge=1)
    """Of the reasoning."""
    max_repetition: float = Field(default=0.2, ge=0.0, le=1.0)
    """Largest share of the reasoning's runs of ten words that were there before."""
    max_foreign: float = Field(default=0.02, ge=0.0, le=1.0)
    """Largest share of its letters that are of a script which the question has not (Greek letters are everybody's)."""
    per_question: int = Field(default=1, ge=1)
    """Demonstrations of one question, the best ones."""
    quota: float | None = Field(default=None, gt=0.0, le=1.0)
    """Of how many of the demonstrations that there can be one teacher may give, as a share; none: one and a half times its even share."""
    seed: int = 0
    """Of which candidate is taken among equals."""
    image_root: Path | None = None
    """Folder that image paths start from; none: the one that the manifest of the questions names, or their folder."""

    @field_validator("rollouts", "expansions", "ratings", "reviews")
    @classmethod
    def _are_different(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must name each file once")
        return value

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words={self.min_words} is more than max_words={self.max_words}")
        return self

    def beside(self, what: str) -> Path:
        """Another file of this run: `demonstrations.WHAT.jsonl` by `demonstrations.jsonl`."""
        assert self.out is not None
        return self.out.with_name(f"{self.out.stem}.{what}.jsonl")
