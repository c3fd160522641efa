"""Open answers that a rule does not find equal to the right one: how a judge is asked whether they mean it, and what its reply says.

A rule comes first, so a judge decides only what rules cannot: whether other words say the same. What it is shown is data: one JSON
object, out of which no text in it can break.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from mede2_jax.reasoning.judge_reply import read_verdicts, verdicts_schema
from mede2_jax.reasoning.prompts import JUDGE_SAME_ANSWER, Prompt, filled_around
from mede2_jax.scoring.reading import Truth, several

JUDGED = "judge"
"""The step of a sample that a judge decided,"""
JUDGE_FAILED = "judge failed"
"""and of one that it was to decide and did not: not correct, and counted apart."""
_SAME = {"same": "Same_Answer"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a judge found in an answer."""

    correct: bool
    top5: bool | None = None
    """Whether one of the first five diagnoses is right; None where one is asked for."""
    reason: str | None = None
    """Why, where it was asked."""


@dataclasses.dataclass(frozen=True)
class Judging:
    """A way to have open answers judged."""

    prompt: Prompt
    temperature: float
    """That it is meant for."""
    ask: Callable[[str, Truth, str], str]
    """The user's turn, of a question, its right answers, and an answer."""
    read: Callable[[str], Finding]
    """What a reply says; raises Unreadable."""
    schema: Mapping[str, Any] | None = None
    """Of the reply; None: it is free text."""
    tells_fault: bool = True
    """Whether a judge whose reply cannot be read hears why; else it is asked the very same again."""


def ask_same_answer(question: str, truth: Truth, answer: str) -> str:
    """What our judge is told."""
    right = several(truth)
    data = {"question": question, "right_answers": list(right), "answer": answer}
    before, after = filled_around(JUDGE_SAME_ANSWER, "DATA")
    return before + json.dumps(data, ensure_ascii=False, indent=1) + after


def read_same_answer(reply: str) -> Finding:
    """What our judge says.

    Raises:
        Unreadable: It does not say whether the answers mean the same, or says both.
    """
    verdict = read_verdicts(reply, _SAME, reasons=True)["same"]
    return Finding(verdict.met, reason=verdict.reason)


SAME_ANSWER = Judging(JUDGE_SAME_ANSWER, 0.0, ask_same_answer, read_same_answer, verdicts_schema(list(_SAME.values()), reasons=True))
"""Ours."""
