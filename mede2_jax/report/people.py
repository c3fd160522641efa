"""Does the judge judge as people do (Figure 3)? Its verdicts beside theirs, criterion by criterion, on the same responses."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment
from mede2_jax.foreign import shown
from mede2_jax.reasoning.rubric import MMRP
from mede2_jax.report.drawing import COLOURS, Figure, canvas
from mede2_jax.report.paper import paper
from mede2_jax.report.score_tables import wilson_text
from mede2_jax.report.tables import Table, cells
from mede2_jax.statistics.agreement import agreement
from mede2_jax.tasks.tables import rows

Verdicts = Mapping[str, bool]
YES, NO = ("yes", "true", "1", "met"), ("no", "false", "0", "not met")


@dataclasses.dataclass(frozen=True)
class Both:
    """Verdicts on the same responses, in one order."""

    people: Sequence[Verdicts]
    judge: Sequence[Verdicts]
    only_people: int
    """Responses that the judge has none of."""
    only_judge: int
    undecided: int
    """Verdicts on criteria that several people, or several judgments, leave in balance: such a response is left out."""


def people_figure(judgments: Path | None, people: Path | None) -> Figure | None:
    """The figure and its table; None where the files are not given.

    Raises:
        UserError: A file cannot be read, or they have no response in common.
    """
    if judgments is None or people is None:
        return None
    both = read_both(judgments, people)
    differences = [sum(one.values()) - sum(other.values()) for one, other in zip(both.people, both.judge, strict=True)]
    figure, (axes,) = canvas()
    values = range(-len(MMRP), len(MMRP) + 1)
    counts = Counter(differences)
    axes.bar(list(values), [counts[value] for value in values], 0.8, color=COLOURS[0])
    axes.set_xticks(list(values), [f"{value:+d}" if value else "0" for value in values])
    axes.set_xlabel("criteria met: people − judge")
    axes.set_ylabel("responses")
    sigma = float(np.std(differences))
    within = sum(abs(one - np.mean(differences)) <= sigma for one in differences)
    said = paper().judge
    text = (
        f"People's scores minus the judge's on {len(differences):,} responses: σ = {sigma:.2f}, {within:,} of {len(differences):,} "
        f"({100 * within / len(differences):.1f}%) within σ of their mean. The paper has {said.within}% within σ = {said.sigma}."
    )
    return Figure("figure3-judge", "Judge against people (Figure 3)", text, figure, agreement_table(both))


def agreement_table(both: Both) -> Table:
    """Of each criterion how often both say the same, and kappa."""
    found = []
    for criterion in (*MMRP, "all of them"):
        one, other = ([_met(verdicts, criterion) for verdicts in side] for side in (both.people, both.judge))
        same = sum(a == b for a, b in zip(one, other, strict=True))
        measured = agreement(list(zip(one, other, strict=True)))
        kappa = None if measured is None else measured.kappa
        both_yes, people_only = (sum(a and b == said for a, b in zip(one, other, strict=True)) for said in (True, False))
        judge_only = sum(b and not a for a, b in zip(one, other, strict=True))
        counts = (both_yes, people_only, judge_only, len(one) - both_yes - people_only - judge_only)
        agreed = f"{same:,} of {len(one):,}"
        found.append(
            cells(
                criterion.replace("_", " "),
                agreed,
                wilson_text(same, len(one)),
                "–" if kappa is None else f"{kappa:.2f}",
                *map(str, counts),
            )
        )
    columns = ("criterion", "agree", "% (95% interval)", "Cohen's kappa", "both yes", "people only", "judge only", "both no")
    notes = [f"Of {len(both.people):,} responses that both have judged."]
    for count, what in (
        (both.only_people, "by people only"),
        (both.only_judge, "by the judge only"),
        (both.undecided, "with as many yes as no"),
    ):
        if count:
            notes.append(f"Left out: {count:,} {what}.")
    return Table("agreement", "Judge against people", columns, tuple(found), tuple(notes))


def read_both(judgments: Path, people: Path) -> Both:
    """Both files' verdicts by response, several of one response by their majority.

    Raises:
        UserError: A file cannot be read, or they have no response in common.
    """
    theirs: dict[str, list[Verdicts]] = defaultdict(list)
    for where, row in rows(people):
        theirs[_rollout(row, where)].append({criterion: _yes(row, criterion, where) for criterion in MMRP})
    file, judged = RecordFile(judgments), dict[str, list[Verdicts]](())
    for number in range(len(file)):
        judgment = read_own(file[number], Judgment, file.where(number))
        judged.setdefault(judgment.rollout, []).append({criterion: judgment.verdicts[criterion] for criterion in MMRP})
    shared = [id for id in theirs if id in judged]
    if not shared:
        raise UserError(f"{people} and {judgments} have no response in common; both must name rollouts by the same ids")
    pairs = [(_majority(theirs[id]), _majority(judged[id])) for id in shared]
    clear = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not clear:
        raise UserError(
            f"{people}: of every response that is in {judgments} too, as many verdicts say yes as no; there is nothing to compare"
        )
    only = len(theirs) - len(shared), len(judged) - len(shared)
    return Both([one for one, _ in clear], [other for _, other in clear], *only, len(pairs) - len(clear))


def _majority(some: Sequence[Verdicts]) -> Verdicts | None:
    counts = {criterion: sum(one[criterion] for one in some) for criterion in MMRP}
    return (
        None
        if any(2 * count == len(some) for count in counts.values())
        else {name: 2 * count > len(some) for name, count in counts.items()}
    )


def _met(verdicts: Verdicts, criterion: str) -> bool:
    return all(verdicts.values()) if criterion not in verdicts else verdicts[criterion]


def _rollout(row: Mapping[str, Any], where: str) -> str:
    id = row.get("rollout", row.get("id"))
    if not isinstance(id, str) or not id:
        raise UserError(f"{where}: column 'rollout' must be the id of a rollout, found {shown(id)}")
    return id


def _yes(row: Mapping[str, Any], name: str, where: str) -> bool:
    value = row.get(name)
    said = str(value).strip().lower()
    if isinstance(value, (bool, str, int)) and said in (*YES, *NO):
        return said in YES
    raise UserError(f"{where}: column {name!r} must be yes or no, found {shown(value)}")
