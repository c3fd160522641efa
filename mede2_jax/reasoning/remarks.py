"""What a model says about a question: of which type it is, how it reads without what its images show. And about a response: the reasoning
that it sums up, and whether it is good enough to teach by."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal, NamedTuple, get_args

from mede2_jax.config import counted
from mede2_jax.foreign import shown
from mede2_jax.reasoning.judge_reply import Unreadable, Verdict, read_object, read_verdicts
from mede2_jax.reasoning.words import words

QuestionType = Literal["pattern_recognition", "knowledge_recall"]
_TYPES: dict[QuestionType, str] = {"pattern_recognition": "Pattern_Recognition", "knowledge_recall": "Knowledge_Recall"}
assert set(_TYPES) == set(get_args(QuestionType))

Merit = Literal["correct_answer", "logical_structure", "plausible_reasoning"]
MERITS: tuple[Merit, ...] = get_args(Merit)
"""The criteria of a demonstration (paper, section 3.2)."""
_MERITS: dict[Merit, str] = {merit: "_".join(map(str.capitalize, merit.split("_"))) for merit in MERITS}

_THOUGHT_END = re.compile("</think>", re.IGNORECASE)
_EXPANDED = re.compile(r"<expanded>(.*?)</expanded>", re.DOTALL | re.IGNORECASE)
_MARK = re.compile(r"<image \d+>")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_NEGATIONS = frozenset(["no", "not", "non", "none", "never", "neither", "nor", "without", "except", "denies", "denied", "cannot"])
JOINTS = 0.1
"""Words that may be others where parts are joined, as a share of those that stay."""
FEW_JOINTS = 3
"""So many may be in any case."""


def read_types(text: str) -> dict[QuestionType, Verdict]:
    """Of which types a question is.

    Raises:
        Unreadable: The reply does not say it.
    """
    return read_verdicts(text, _TYPES, reasons=True)


class Refinement(NamedTuple):
    """A question without what its images show."""

    question: str
    removed: tuple[str, ...]
    """The passages that were taken out."""


def read_refinement(text: str) -> Refinement:
    """A question as a model has edited it.

    Raises:
        Unreadable: The reply does not say it.
    """
    value = read_object(text, ("Removed", "Question"))
    question, removed = value["Question"], value["Removed"]
    if not isinstance(question, str) or not question.strip():
        raise Unreadable(f"'Question' must be text, found {shown(repr(question))}")
    if not isinstance(removed, list) or not all(isinstance(passage, str) for passage in removed):
        raise Unreadable(f"'Removed' must be a list of texts, found {shown(repr(removed))}")
    return Refinement(question.strip(), tuple(passage for passage in removed if passage.strip()))


def read_expansion(text: str) -> str:
    """The reasoning that a response sums up, written out.

    Raises:
        Unreadable: The reply does not hold one text between <expanded> and </expanded>.
    """
    found = _EXPANDED.findall(_THOUGHT_END.split(text)[-1])
    if len(found) != 1 or not found[0].strip():
        raise Unreadable(f"it holds {counted(len(found), 'text')} between <expanded> and </expanded>, instead of one that says something")
    return str(found[0].strip())


def read_rating(text: str) -> dict[Merit, Verdict]:
    """Which criteria a demonstration meets.

    Raises:
        Unreadable: The reply does not say it.
    """
    return read_verdicts(text, _MERITS, reasons=True)


def changed_beside(before: str, after: Refinement) -> str:
    """What else an edited question has changed than to leave out what was removed; empty: nothing.

    Passages must have stood there. Of what is left marks, numbers and negations must be the same, and all words but a few joints.

    Args:
        before: The question as it was, with its marks.
        after: The question as it is.
    """
    rest = before
    for passage in sorted(after.removed, key=len, reverse=True):
        match = re.search(r"\s+".join(map(re.escape, passage.split())), rest)
        if match is None:
            return f"a passage that is said to be removed is not there: {shown(passage, 60)}"
        rest = f"{rest[: match.start()]} {rest[match.end() :]}"
    if _MARK.findall(after.question) != _MARK.findall(before):
        return "places of images"
    if Counter(_NUMBER.findall(_MARK.sub(" ", rest))) != Counter(_NUMBER.findall(_MARK.sub(" ", after.question))):
        return "numbers"
    left, there = Counter(words(rest)), Counter(words(after.question))
    if any(left[word] != there[word] for word in _NEGATIONS):
        return "negations"
    most = max(FEW_JOINTS, JOINTS * left.total())
    if (left - there).total() > most or (there - left).total() > most:
        return "words"
    return "" if "?" in after.question or "?" not in rest else "what is asked"
