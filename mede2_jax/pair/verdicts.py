"""What the judgments say of each response, read in one pass: repeated ones become one verdict, or none where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.data.judged import difference
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment
from mede2_jax.pair.config import PairConfig
from mede2_jax.reasoning.answers import Outcome
from mede2_jax.reasoning.rubric import ASPECTS, Aspect, Criterion, failed

DISAGREE = "judgments disagree"
WRONG = "judged wrong"


@dataclass(slots=True)
class JudgedRollout:
    """The judgments of one response."""

    where: str
    """Place of the first."""
    question: str
    of: str
    outcome: Outcome | None
    ids: list[str] = field(default_factory=list)
    verdicts: list[tuple[bool, ...]] = field(default_factory=list)
    """In the order of `ASPECTS`."""


def read_judgments(path: Path) -> dict[str, JudgedRollout]:
    """The judgments in a file by rollout.

    Raises:
        UserError: The first fault in the file, with line and field; or a judgment that is there twice.
    """
    file = RecordFile(path)
    judged: dict[str, JudgedRollout] = {}
    for number in range(len(file)):
        judgment = read_own(file[number], Judgment, where := file.where(number))
        entry = judged.setdefault(judgment.rollout, JudgedRollout(where, judgment.question, judgment.of, judgment.outcome))
        if judgment.id in entry.ids:
            raise UserError(f"{where}: field 'id': {judgment.id!r} is there twice; take one out")
        if other := difference(judgment.of, entry.of):
            what = "another response than" if other == "response" else "other images than"
            raise UserError(f"{where}: a judgment of {what} {entry.where}, both called {judgment.rollout!r}; take one out")
        entry.of = max(judgment.of, entry.of, key=len)  # the one that knows its images
        entry.ids.append(judgment.id)
        entry.verdicts.append(tuple(judgment.verdicts[aspect] for aspect in ASPECTS))
    return judged


def overruled(judged: Mapping[str, JudgedRollout], people: Mapping[str, JudgedRollout]) -> dict[str, JudgedRollout]:
    """The judgments of both, those of people alone where they have judged a response.

    Raises:
        UserError: People have judged another response of that id than the judge.
    """
    for id, one in people.items():
        if id in judged and (other := difference(one.of, judged[id].of)):
            what = "another response" if other == "response" else "other images"
            raise UserError(
                f"{one.where}: people judged {what} than {judged[id].where}, both called {id!r}; give files that belong together"
            )
    return {**judged, **people}


def fails(judged: JudgedRollout, config: PairConfig) -> tuple[Criterion, ...] | str:
    """The criteria that a response fails (none: it is positive), or why it can be neither chosen nor rejected."""
    columns = dict(zip(ASPECTS, zip(*judged.verdicts, strict=True), strict=True))
    # Where rules have compared the answer with the right one, they have decided; elsewhere the judge does.
    needed: list[Aspect] = [*config.criteria, *(["correctness"] if judged.outcome is None else [])]  # type: ignore[list-item]
    verdicts = {aspect: _decided(columns[aspect], config) for aspect in needed}
    if None in verdicts.values():
        return DISAGREE
    if not verdicts.get("correctness", True):
        return WRONG
    return failed({aspect: bool(met) for aspect, met in verdicts.items()}, config.criteria)


def _decided(votes: Sequence[bool], config: PairConfig) -> bool | None:
    """What the votes say together; None where they say nothing."""
    share = sum(votes) / len(votes)
    if config.agreement == "unanimous":
        return {0.0: False, 1.0: True}.get(share)
    return None if share == 0.5 else share > 0.5
