"""What people are asked of a response or a demonstration: what the judge is asked, and the model that rates, word for word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mede2_jax.reasoning.prompts import JUDGE_QUESTIONS, RATING_QUESTIONS
from mede2_jax.reasoning.remarks import MERITS
from mede2_jax.reasoning.rubric import ASPECTS

Kind = Literal["response", "demonstration"]
CRITERIA: dict[Kind, Mapping[str, str]] = {
    "response": dict(zip(ASPECTS, JUDGE_QUESTIONS.values(), strict=True)),
    "demonstration": dict(zip(MERITS, RATING_QUESTIONS.values(), strict=True)),
}
"""Of each kind its criteria, as judgments and ratings name them, with the question."""
YES, NO = "Yes", "No"
COMMENT = "comment"
"""The field for words of one's own."""
