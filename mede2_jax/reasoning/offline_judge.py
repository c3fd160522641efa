"""A judge that needs no model: rules over what a case hides from whoever answers it. For data that carries such facts, as the sample does.

| aspect | met when |
|---|---|
| correctness | the final answer is right (`answers.grade`) |
| logical_consistency | it tells what joins the findings, or names an alternative, and has none of the case's false conclusions |
| image_analysis | it tells at least one finding of the images, and does not argue past them |
| no_hallucination | it has none of the case's invented findings |
| reflection | it tells the case's self-check, or checks itself in as many words |

A response tells a fact when most of the fact's runs of three words are in it. That finds what was written down for the case and
nothing else: it is for trying the pipeline and testing it, not for judging models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mede2_jax.reasoning.answers import normalised
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.rubric import Aspect

NAME = "rules/1"
"""Stands where other judges have their model; the number changes with the rules."""
RUN = 3
"""Words."""
TOLD = 0.6
"""Share of a fact's runs that a response must have to tell it."""
_CHECKS = re.compile(
    r"\b(?:wait|hold on|double[- ]check|(?:re)?check (?:this|that|myself|again)|before i settle|one doubt|on second thought|"
    r"question my own|am i missing|let me (?:verify|re-?examine|reconsider))\b",
    re.IGNORECASE,
)

Facts = Mapping[str, Any]


def check_facts(facts: Facts) -> None:
    """Raises ValueError unless the facts of a case are all there."""
    for name in ("link", "reflection", "illogic", "hallucination", "blind"):
        if not (isinstance(facts.get(name), str) and facts[name].strip()):
            raise ValueError(f"field 'metadata.{name}' must be a text: the offline judge compares responses with the facts of a case")
    look, differential = facts.get("look"), facts.get("differential")
    if not (isinstance(look, list) and look and all(isinstance(text, str) and text.strip() for text in look)):
        raise ValueError("field 'metadata.look' must be a list of texts: the offline judge compares responses with the facts of a case")
    if not (isinstance(differential, list) and all(isinstance(item, list) and item and isinstance(item[0], str) for item in differential)):
        raise ValueError("field 'metadata.differential' must be a list of [name, why not]: the offline judge compares responses with it")


def judge(response: str, facts: Facts, *, is_correct: bool) -> dict[Aspect, Verdict]:
    """Judges a response.

    Args:
        response: The whole response.
        facts: Of its case; `check_facts` has passed.
        is_correct: Whether its final answer is right.
    """
    text = _Text(response)
    findings = sum(text.tells(fact) for fact in facts["look"])
    named = [name for name, *_ in facts["differential"] if text.names(name)]
    joins = text.tells(facts["link"])
    illogic, blind, invented = (text.tells(facts[name]) for name in ("illogic", "blind", "hallucination"))
    checks = text.tells(facts["reflection"]) or bool(_CHECKS.search(response))
    return {
        "correctness": Verdict(met=is_correct, reason="the final answer is right" if is_correct else "the final answer is wrong"),
        "logical_consistency": Verdict(
            met=(joins or bool(named)) and not illogic,
            reason="draws a false conclusion"
            if illogic
            else "joins the findings"
            if joins
            else "weighs " + " and ".join(named)
            if named
            else "neither joins the findings nor weighs an alternative",
        ),
        "image_analysis": Verdict(
            met=findings > 0 and not blind,
            reason="argues past the images" if blind else f"tells {findings} of {len(facts['look'])} findings",
        ),
        "no_hallucination": Verdict(met=not invented, reason="tells invented findings" if invented else "invents none of the known"),
        "reflection": Verdict(met=checks, reason="checks itself" if checks else "does not check itself"),
    }


class _Text:
    """A response, ready to be compared with facts."""

    def __init__(self, text: str) -> None:
        self._words = normalised(text).split()
        self._runs = set(_runs(self._words))
        self._whole = f" {' '.join(self._words)} "

    def tells(self, fact: str) -> bool:
        words = normalised(fact).split()
        runs = _runs(words)
        if not runs:
            return self.names(fact)
        return sum(run in self._runs for run in runs) >= TOLD * len(runs)

    def names(self, name: str) -> bool:
        """Whether it has these words, one after the other."""
        return f" {normalised(name)} " in self._whole


def _runs(words: list[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(RUN)), strict=False))
