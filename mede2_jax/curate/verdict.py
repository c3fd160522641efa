"""What a step of curation says of questions: which it leaves out, why, and which hang together."""

from __future__ import annotations

import dataclasses
from typing import Any

from mede2_jax.data.records import Question


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Why a question is left out."""

    reason: str
    by: str = ""
    """Id of the question, or `BENCHMARK/ITEM`, that it is too like; empty: none."""
    similarity: float | None = None
    """Of the texts."""
    distance: float | None = None
    """Of the images: share of bits of their hashes that differ."""
    pass_rate: float | None = None
    """Share of the responses to it that are right."""

    def content(self) -> dict[str, Any]:
        """For the file of what was left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, "")}


@dataclasses.dataclass(frozen=True)
class Edited:
    """A question whose text was to be edited."""

    question: Question
    """As it is now."""
    kept: str
    """Why it is as it was; empty: it is not."""
    removed: tuple[str, ...] = ()
    """What was taken out."""


@dataclasses.dataclass
class Step:
    """A step's findings, by number of the question."""

    name: str
    dropped: dict[int, Dropped] = dataclasses.field(default_factory=dict)
    edited: dict[int, Edited] = dataclasses.field(default_factory=dict)
    together: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Pairs of questions that a split must not part."""
    certificates: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Of leakage."""
