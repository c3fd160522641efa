"""Multimodal Medical Reasoning Preference (MMRP, the paper's section 3.3): its criteria, and how a judge's reply is read.

| aspect | the judge's question (Appendix A) | MMRP |
|---|---|---|
| correctness | Answer Correctness | no: wrong conclusions are taken out before |
| logical_consistency | Logical Consistency | yes |
| image_analysis | Image Analysis Involvement | yes |
| no_hallucination | No Hallucination | yes |
| reflection | Reflection Presence | yes |

A response is positive if it meets all criteria that count, negative if it fails any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mede2_jax.reasoning.judge_reply import Verdict, read_verdicts, verdicts_schema

Aspect = Literal["correctness", "logical_consistency", "image_analysis", "no_hallucination", "reflection"]
Criterion = Literal["logical_consistency", "image_analysis", "no_hallucination", "reflection"]

MMRP: tuple[Criterion, ...] = ("logical_consistency", "image_analysis", "no_hallucination", "reflection")
NAMES: dict[Aspect, str] = {
    "correctness": "Answer_Correctness",
    "logical_consistency": "Logical_Consistency",
    "image_analysis": "Image_Analysis_Involvement",
    "no_hallucination": "No_Hallucination",
    "reflection": "Reflection_Presence",
}
"""Of the aspects in the judge's JSON, in the paper's order."""
ASPECTS: tuple[Aspect, ...] = tuple(NAMES)


def failed(verdicts: Mapping[Aspect, bool], criteria: Sequence[Criterion] = MMRP) -> tuple[Criterion, ...]:
    """The criteria that are not met: none of them makes a response positive, any makes it negative."""
    return tuple(criterion for criterion in criteria if not verdicts[criterion])


def reply_schema(*, reasons: bool) -> dict[str, Any]:
    """The JSON schema of a judge's reply."""
    return verdicts_schema(list(NAMES.values()), reasons=reasons)


def read_reply(text: str, *, reasons: bool) -> dict[Aspect, Verdict]:
    """Reads a judge's reply, as `read_verdicts` does.

    Raises:
        Unreadable: It is none.
    """
    return read_verdicts(text, NAMES, reasons=reasons)
