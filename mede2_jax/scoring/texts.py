"""Rules for benchmarks whose owner has none that could be programmed: answers as texts, and how much of the right one a reply holds.

| kind | what is read | right |
|---|---|---|
| yes or no, short | the answer as `reasoning/answers.py` reads one, without a mark too | as it compares: `Yes, there is` is yes |
| open | the whole reply | its normal form is that of the right answer |

Few replies to an open question are the right text and nothing else, so papers print something softer beside it: the share of the right
answer's words that the reply holds (`recall`, as LLaVA-Med does for VQA-RAD, SLAKE and PathVQA), which a reply that says everything gets,
and F1, which it does not. Neither changes whether an answer counts as right.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

from mede2_jax.reasoning.answers import Given, given_answer, grade_text
from mede2_jax.reasoning.normal_form import normalised
from mede2_jax.scoring.reading import NOTHING, Reading, Rule, Truth, several


def closed_rule(truth: Truth) -> Rule:
    """The rule for an item whose answer is yes or no, or some words.

    Args:
        truth: The item's right answer: whether a reply without a mark is an answer at all depends on it.
    """
    return Rule(functools.partial(read_closed, truth=truth), is_closed_answer)


def read_closed(reply: str, truth: Truth) -> Reading:
    """The answer that a reply gives, where it can be compared with the right one."""
    given = given_answer(reply)
    if given.text is None or all(grade_text(given, right) == "unparsed" for right in several(truth)):
        return Reading(None, NOTHING)
    return Reading(given.text, "closed answer")


def is_closed_answer(reading: Reading, truth: Truth) -> bool:
    """Whether the answer is a right one."""
    given = Given(reading.answer, "tag", "")
    return any(grade_text(given, right) == "correct" for right in several(truth))


def open_rule() -> Rule:
    """The rule for an item with an open answer."""
    return Rule(read_whole, is_same_text)


def read_whole(reply: str) -> Reading:
    """All of the reply."""
    text = reply.strip()
    return Reading(text, "whole reply") if text else Reading(None, NOTHING)


def is_same_text(reading: Reading, truth: Truth) -> bool:
    """Whether the texts are the same in normal form; an empty form is equal to none."""
    said = normalised(reading.answer or "")
    return bool(said) and any(said == normalised(right) for right in several(truth))


@dataclasses.dataclass(frozen=True)
class SharedWords:
    """What a text has in common with the right answer, each from 0 to 1."""

    recall: float
    """Of the right answer's words, the share that the text holds; a word that is there twice must be said twice."""
    f1: float
    """Harmonic mean of that and of the share of the text's words that the right answer holds."""
    recall_llava_med: float
    """As LLaVA-Med's script counts: a word of the right answer counts as often as the text says it, so that repeating one helps."""


def shared_words(text: str | None, truth: Truth) -> SharedWords:
    """What a text has in common with the right answer; of several, the best of each. None has nothing.

    Words are those of the normal form. LLaVA-Med's own form differs in small things: number words are digits there, all points are gone.
    """
    said = Counter(normalised(text or "").split())
    found = [_shared(said, Counter(normalised(right).split())) for right in several(truth)]
    names = [field.name for field in dataclasses.fields(SharedWords)]
    return SharedWords(**{name: max(getattr(one, name) for one in found) for name in names})


def _shared(said: Counter[str], right: Counter[str]) -> SharedWords:
    common = (said & right).total()
    if not common:
        return SharedWords(0.0, 0.0, 0.0)
    repeated = sum(count for word, count in said.items() if word in right)
    missing = sum(count for word, count in right.items() if word not in said)
    return SharedWords(common / right.total(), 2 * common / (said.total() + right.total()), repeated / (repeated + missing))
