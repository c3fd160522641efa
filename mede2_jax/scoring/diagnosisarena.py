r"""DiagnosisArena's rules: a choice in a box, and the scores that a judge gives to five diagnoses.

The owner's script for choices compares the reply with the method `lower` of the right letter, which it does not call: every reply is
wrong for it, and its figure is 0. `read_choice` is the rule that it means. A reply without a box, or a judge's reply that cannot be read,
ends the owner's run; here the first is unparsed, and the second a failure of the judge, which the caller counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mede2_jax.reasoning.judge_reply import Unreadable
from mede2_jax.reasoning.prompts import Prompt
from mede2_jax.scoring.boxes import boxes
from mede2_jax.scoring.judging import Finding, Judging
from mede2_jax.scoring.reading import NOTHING, Reading, Truth, several

JUDGE = Prompt(
    name="diagnosisarena-judge",
    version=1,
    origin="SPIRAL-MED/DiagnosisArena",
    text="""
You are an expert in diagnosing challenging cases. You will receive a student's answer containing 5 differential diagnoses, as well as \
the reference diagnosis. You need to score each diagnosis from the student's answer according to the following rules:

2 = The student’s diagnosis exactly matches the reference diagnosis; \n\
1 = The student’s diagnosis is a broad category that includes the reference diagnosis; \n\
0 = The student's diagnosis does not meet the criteria for a score of 1 or 2.

Here is the student’s answer: \n\
%s

Here is the reference diagnosis: \n\
%s

Output Format: Output the scores in the following format. \n\
1. Disease 1 Name: \\boxed{The Score of Disease 1};
2. Disease 2 name: \\boxed{The Score of Disease 2};
...
""",
)
"""The owner's, with places for the reply and the reference."""

_EXACT = 2
"""The judge's score of a diagnosis that is the reference."""
_COUNTED = 5
"""Diagnoses that count for top-5."""


def read_choice(reply: str, letters: Sequence[str]) -> Reading:
    """What the first box holds: a letter, in either case, or whatever stands there, which is then no right answer."""
    said = next(boxes(reply), "").strip()
    if not said:
        return Reading(None, NOTHING)
    return Reading(said.upper() if said.upper() in letters else said, "box")


@dataclasses.dataclass(frozen=True)
class Scores:
    """A judge's scores of the diagnoses of a reply, in their order: 2 is the reference, 1 a broader category, 0 neither."""

    scores: tuple[int, ...]

    @property
    def top1(self) -> bool:
        """Whether the first diagnosis is the reference."""
        return self.scores[0] >= _EXACT

    @property
    def top5(self) -> bool:
        """Whether one of the first five is."""
        return max(self.scores[:_COUNTED]) >= _EXACT


def read_judge(reply: str) -> Scores | None:
    """All boxes of a judge's reply as whole numbers; None where there is no box, or one that holds anything else: the judge failed."""
    try:
        scores = tuple(int(box) for box in boxes(reply))
    except ValueError:
        return None
    return Scores(scores) if scores else None


def ask_judge(question: str, truth: Truth, answer: str) -> str:
    """What his judge is told; the question is no part of it."""
    return JUDGE.text % (answer, "; ".join(several(truth)))


def read_finding(reply: str) -> Finding:
    """What his judge says.

    Raises:
        Unreadable: `read_judge` reads nothing.
    """
    scores = read_judge(reply)
    if scores is None:
        raise Unreadable("it holds no \\boxed{…}, or one that is no whole number")
    return Finding(scores.top1, scores.top5)


OWNERS_JUDGE = Judging(JUDGE, 1.0, ask_judge, read_finding, tells_fault=False)
"""His protocol. He says no temperature: 1 is what the APIs then take."""
