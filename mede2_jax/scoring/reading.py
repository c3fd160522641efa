"""What was read in a reply, by which step of a rule, and whether it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from mede2_jax.reasoning.answers import Outcome

NOTHING = "nothing"
"""The step of a reply in which no step of a rule read anything."""

Truth = str | Sequence[str]
"""The right answer: a letter, or a text; or several, each of which is right."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read in a reply."""

    answer: str | None
    """A capital letter, or for an open answer the text. None: nothing could be read."""
    step: str
    """Which step of the rule decided: a short name that stays the same, to be counted in tables."""
    texts: tuple[str, ...] = ()
    """What MMMU's rule for open answers compares: texts in its form,"""
    numbers: tuple[float, ...] = ()
    """and numbers."""


def is_answer(reading: Reading, truth: Truth) -> bool:
    """Whether the answer is the right letter; capital and small ones are the same."""
    return reading.answer is not None and reading.answer.lower() in {right.lower() for right in several(truth)}


@dataclasses.dataclass(frozen=True)
class Rule:
    """An owner's rule, for one item: what it reads in a reply, and whether that is right."""

    read: Callable[[str], Reading]
    is_right: Callable[[Reading, Truth], bool] = is_answer


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was read in a sample, and what became of it."""

    reading: Reading
    outcome: Outcome


def outcome_of(reading: Reading, truth: Truth, is_right: Callable[[Reading, Truth], bool] = is_answer) -> Outcome:
    """What becomes of a sample."""
    return "unparsed" if reading.answer is None else "correct" if is_right(reading, truth) else "wrong"


def several(truth: Truth) -> Sequence[str]:
    """The right answers, also where it is one."""
    return (truth,) if isinstance(truth, str) else truth
