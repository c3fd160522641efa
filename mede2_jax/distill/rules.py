"""The rules that a response keeps which may teach: its form, its answer, and how its reasoning reads. The first that it breaks is named."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

from mede2_jax.data.records import Question, Rollout
from mede2_jax.distill.config import DistillConfig
from mede2_jax.reasoning.answers import given_answer, grade
from mede2_jax.reasoning.words import words

NOT_ENDED, UNKNOWN, NO_THOUGHT, NO_ANSWER, WRONG = (
    "it did not come to its end",
    "no right answer is known",
    "no reasoning within <think>",
    "no answer can be read",
    "its answer is not right",
)
TAGS, SHORT, LONG, REPEATS, FOREIGN, TOLD = (
    "tags within its reasoning or answer",
    "its reasoning is too short",
    "its reasoning is too long",
    "its reasoning repeats itself",
    "its reasoning is in another script",
    "it speaks of an answer that was given",
)
RUN = 10
"""Words of the runs that count as repeated."""
COMMON = 0.05
"""Share of a text's letters from which a script is one of its own."""
LONGEST_ANSWER = 500
"""Characters of an answer."""

_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?\s*(?:think|answer|expanded)\s*>", re.IGNORECASE)
_TOLD = re.compile(
    r"\b(?:given|provided|supplied|reference|expected|stated)\s+(?:correct\s+|right\s+)?answers?\b"
    r"|\banswer\s+(?:key|sheet)\b|\bground[\s-]?truth\b"
    r"|\b(?:we|i)(?:\s+(?:already|are|am|was|were))*\s+(?:know|told|given)\s+(?:that\s+)?the\s+(?:correct\s+|right\s+)?answer\b"
    r"|\bthe\s+(?:summary|expert|provided\s+solution|given\s+solution)(?:'s|\s+(?:says?|states?|mentions?|concludes?|gives?|reasoning))\b"
    r"|标准答案|参考答案|给定(?:的)?答案",
    re.IGNORECASE,
)


def thought_and_answer(rollout: Rollout) -> tuple[str, str] | str:
    """The reasoning and the answer of a response, or the rule that it breaks.

    What stands between thought and answer is a summary, and no part of a demonstration.
    """
    if rollout.finish_reason != "stop":
        return NOT_ENDED
    if rollout.answer is None:
        return UNKNOWN
    given = given_answer(rollout.response)
    if given.text is None or given.is_cut or len(given.text) > LONGEST_ANSWER:
        return NO_ANSWER
    match = _THOUGHT.fullmatch(rollout.response)
    return (match[1].strip() if match else "", given.text.strip())


def in_form(thought: str, answer: str) -> str:
    """A demonstration as the paper's system turn asks for it."""
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def broken_rule(thought: str, answer: str, question: Question, config: DistillConfig) -> str:
    """The first rule that a demonstration breaks; empty: none."""
    if grade(in_form(thought, answer), question.answer, question.options) != "correct":
        return WRONG
    if not thought:
        return NO_THOUGHT
    if _TAG.search(thought) or _TAG.search(answer):
        return TAGS
    said = words(thought)
    if len(said) < config.min_words:
        return SHORT
    if len(said) > config.max_words:
        return LONG
    if _repeated(said) > config.max_repetition:
        return REPEATS
    if _foreign(thought, question) > config.max_foreign:
        return FOREIGN
    return TOLD if _TOLD.search(thought) else ""


def _repeated(said: list[str]) -> float:
    """Share of the runs of words that were there before."""
    runs = [tuple(said[place : place + RUN]) for place in range(len(said) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _foreign(thought: str, question: Question) -> float:
    """Share of the letters that are of no script of the question."""
    asked = _scripts(" ".join([*(message.text for message in question.prompt if message.role == "user"), question.answer or ""]))
    known = {script for script, count in asked.items() if count >= COMMON * asked.total()} | {"GREEK"}
    found = _scripts(thought)
    return sum(count for script, count in found.items() if script not in known) / max(found.total(), 1)


def _scripts(text: str) -> Counter[str]:
    return Counter(_script(letter) for letter in text if letter.isalpha())


@functools.cache
def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode, which is that of its script."""
    name = unicodedata.name(letter, "").split(" ", 1)[0].removeprefix("FULLWIDTH").strip()
    return {"HIRAGANA": "JAPANESE", "KATAKANA": "JAPANESE"}.get(name, name or "UNNAMED")
