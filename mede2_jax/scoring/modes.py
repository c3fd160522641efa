"""The two ways in which a sample is judged. Every score names its own.

- `official`: the owner's rule alone, on the reply as it came.
- `mede2`: the last complete `<answer>` after the thought. Where there is none, an answer as plain: all that follows the thought, or its
  last line. Where that reads nothing, the owner's rule on what follows the thought. An `<answer>` that cannot be read, or has no end, is
  unparsed, and so is a reply that ends inside its thought.

Neither guesses.
"""

from __future__ import annotations

from typing import Literal

from mede2_jax.reasoning.answers import Given, Outcome, given_answer, grade_text, read_choice
from mede2_jax.reasoning.choices import Options
from mede2_jax.scoring.reading import NOTHING, Reading, Rule, Truth, Verdict, outcome_of, several

Mode = Literal["official", "mede2"]

ANSWER_TAG = "answer tag"
PLAIN = "plain answer"
CUT = "cut"
"""The step of a reply that ends inside a thought or inside its answer."""


def judge(mode: Mode, reply: str, truth: Truth, rule: Rule | None, options: Options | None = None) -> Verdict:
    """Judges a sample.

    Args:
        mode: Which way.
        reply: As it came.
        truth: The right answer, or several: a letter where there are `options`.
        rule: The owner's, for this item; None where he has none, and then `official` reads nothing.
        options: The item's choices; None: the answer is open.
    """
    return official(reply, truth, rule) if mode == "official" else mede2(reply, truth, rule, options)


def official(reply: str, truth: Truth, rule: Rule | None) -> Verdict:
    """What the owner's rule says, without his guesses."""
    if rule is None:
        return Verdict(Reading(None, NOTHING), "unparsed")
    reading = rule.read(reply)
    return Verdict(reading, outcome_of(reading, truth, rule.is_right))


def mede2(reply: str, truth: Truth, rule: Rule | None, options: Options | None = None) -> Verdict:
    """What our three steps say."""
    given = given_answer(reply)
    step = ANSWER_TAG if given.place == "tag" else PLAIN
    if given.is_cut:
        return Verdict(Reading(None, CUT), "unparsed")
    verdict = _choice(given, step, truth, options) if options else _open(given, step, truth)
    if verdict.outcome == "unparsed" and step == PLAIN:
        return official(given.rest, truth, rule)
    return verdict


def _choice(given: Given, step: str, truth: Truth, options: Options) -> Verdict:
    reading = Reading(None if given.text is None else read_choice(given.text, options), step)
    return Verdict(reading, outcome_of(reading, truth))


def _open(given: Given, step: str, truth: Truth) -> Verdict:
    """An open answer is right if it is one of the right ones, and unparsed if it can be compared with none."""
    outcomes = {grade_text(given, right) for right in several(truth)}
    outcome: Outcome = "correct" if "correct" in outcomes else "wrong" if "wrong" in outcomes else "unparsed"
    return Verdict(Reading(None if outcome == "unparsed" else given.text, step), outcome)
