r"""DiagnosisArena's rules: a choice in a box, and the scores that a judge gives to five diagnoses.

The owner's script for choices compares the reply with the method `lower` of the right letter, which it does not call: every reply is
wrong for it, and its figure is 0. `read_choice` is the rule that it means. A reply without a box, or a judge's reply that cannot be read,
ends the owner's run; here the first is unparsed, and the second a failure of the judge, which the caller counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mede2_jax.scoring.boxes import boxes
from mede2_jax.scoring.reading import NOTHING, Reading

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
