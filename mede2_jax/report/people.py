"""Does the judge judge as people do (Figure 3)? Its verdicts beside theirs, criterion by criterion, on the same responses."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment, Review
from mede2_jax.foreign import shown
from mede2_jax.reasoning.rubric import MMRP
from mede2_jax.report.drawing import COLOURS, Figure, canvas
from mede2_jax.report.paper import paper
from mede2_jax.report.score_tables import wilson_text
from mede2_jax.report.tables import Table, cells
from mede2_jax.statistics.agreement import Agreement, agreement, kappa_interval
from mede2_jax.statistics.intervals import Interval
from mede2_jax.tasks.tables import rows

Verdicts = Mapping[str, bool]
YES, NO = ("yes", "true", "1", "met"), ("no", "false", "0", "not met")
ALL = "all of them"
"""Stands for a criterion: whether every one is met."""


class Opinion(NamedTuple):
    """What one judge, or one person, says of something."""

    by: str
    """Empty: it is not said who."""
    verdicts: Verdicts


Opinions = Mapping[str, Sequence[Opinion]]
"""By what they are of."""


@dataclasses.dataclass(frozen=True)
class Both:
    """Verdicts on the same responses (or demonstrations), in one order."""

    criteria: tuple[str, ...]
    ids: Sequence[str]
    people: Sequence[Verdicts]
    """Of several people their majority."""
    judge: Sequence[Verdicts]
    questions: Sequence[str]
    """That they answer: what answers one question hangs together."""
    only_people: int
    """Responses that the judge has none of."""
    only_judge: int
    undecided: int
    """Verdicts on criteria that several people, or several judgments, leave in balance: such a response is left out."""

    @property
    def differences(self) -> list[int]:
        """Criteria that people grant beyond those that the judge does."""
        return [sum(one.values()) - sum(other.values()) for one, other in zip(self.people, self.judge, strict=True)]


@dataclasses.dataclass(frozen=True)
class Spread:
    """How the differences are distributed, as the paper says it."""

    sigma: float
    within: int
    """How many are within σ of their mean."""
    of: int

    @classmethod
    def of_differences(cls, differences: Sequence[int]) -> Spread:
        """σ is the root of the mean squared distance from the mean."""
        values = np.asarray(differences)
        sigma = float(values.std())
        return cls(sigma, int(np.sum(np.abs(values - values.mean()) <= sigma)), len(values))


def people_figure(judgments: Path | None, people: Path | None) -> Figure | None:
    """The figure and its table; None where the files are not given.

    Raises:
        UserError: A file cannot be read, or they have no response in common.
    """
    return None if judgments is None or people is None else differences_figure(read_both(judgments, people))


def differences_figure(both: Both) -> Figure:
    """The paper's Figure 3, and the table of agreement."""
    figure, (axes,) = canvas()
    values = range(-len(both.criteria), len(both.criteria) + 1)
    counts = Counter(both.differences)
    axes.bar(list(values), [counts[value] for value in values], 0.8, color=COLOURS[0])
    axes.set_xticks(list(values), [f"{value:+d}" if value else "0" for value in values])
    axes.set_xlabel("criteria met: people − judge")
    axes.set_ylabel("responses")
    spread, said = Spread.of_differences(both.differences), paper().judge
    text = (
        f"People's scores minus the judge's on {spread.of:,} responses: σ = {spread.sigma:.2f}, {spread.within:,} of {spread.of:,} "
        f"({100 * spread.within / spread.of:.1f}%) within σ of their mean. The paper has {said.within}% within σ = {said.sigma}."
    )
    return Figure("figure3-judge", "Judge against people (Figure 3)", text, figure, agreement_table(both))


@dataclasses.dataclass(frozen=True)
class Row:
    """The agreement in one criterion."""

    criterion: str
    counts: tuple[int, int, int, int]
    """Both yes, people only, judge only, both no."""
    agreement: Agreement
    interval: Interval | None
    """Of kappa."""

    @property
    def same(self) -> int:
        """Of how many both say the same."""
        return self.counts[0] + self.counts[3]


def agreement_rows(both: Both, seed: int = 0) -> list[Row]:
    """The agreement in each criterion, and in whether all are met."""
    found = []
    for criterion in (*both.criteria, ALL):
        one, other = ([_met(verdicts, criterion) for verdicts in side] for side in (both.people, both.judge))
        pairs = list(zip(one, other, strict=True))
        counted = Counter(pairs)
        measured = agreement(pairs)
        assert measured is not None
        counts = (counted[True, True], counted[True, False], counted[False, True], counted[False, False])
        found.append(Row(criterion, counts, measured, kappa_interval(pairs, "Cohen", clusters=both.questions, seed=seed)))
    return found


def agreement_table(both: Both, seed: int = 0) -> Table:
    """Of each criterion how often both say the same, and kappa."""
    found = [
        cells(
            row.criterion.replace("_", " "),
            f"{row.same:,} of {len(both.ids):,}",
            wilson_text(row.same, len(both.ids)),
            kappa_text(row.agreement.kappa, row.interval),
            *map(str, row.counts),
        )
        for row in agreement_rows(both, seed)
    ]
    columns = ("criterion", "agree", "% (95% interval)", "Cohen's kappa (95% interval)", "both yes", "people only", "judge only", "both no")
    notes = [f"Of {len(both.people):,} responses that both have judged. Intervals of kappa: bootstrap over questions, seed {seed}."]
    for count, what in (
        (both.only_people, "by people only"),
        (both.only_judge, "by the judge only"),
        (both.undecided, "with as many yes as no"),
    ):
        if count:
            notes.append(f"Left out: {count:,} {what}.")
    return Table("agreement", "Judge against people", columns, tuple(found), tuple(notes))


def kappa_text(kappa: float | None, interval: Interval | None) -> str:
    """Kappa as tables have it."""
    if kappa is None:
        return "–"
    return f"{kappa:.2f}" + (f" ({interval.low:.2f} to {interval.high:.2f})" if interval is not None else "")


def read_both(judgments: Path, people: Path) -> Both:
    """Both files' verdicts by response, several of one response by their majority.

    Raises:
        UserError: A file cannot be read, or they have no response in common.
    """
    judge, questions = read_judge(judgments)
    return side_by_side(read_people(people), judge, questions, MMRP, (people, judgments))


def read_judge(path: Path) -> tuple[Opinions, dict[str, str]]:
    """The verdicts in a file of judgments; and of each response the question."""
    file, found, questions = RecordFile(path), defaultdict[str, list[Opinion]](list), dict[str, str]()
    for number in range(len(file)):
        judgment = read_own(file[number], Judgment, file.where(number))
        found[judgment.rollout].append(_of_judgment(judgment))
        questions[judgment.rollout] = judgment.question
    return found, questions


def read_people(path: Path) -> Opinions:
    """Verdicts of people: judgments or reviews that `review import` wrote, or any table with the criteria.

    Raises:
        UserError: It cannot be read.
    """
    found: dict[str, list[Opinion]] = defaultdict(list)
    for where, row in rows(path):
        if isinstance(row.get("judge"), dict):
            judgment = read_own(dict(row), Judgment, where)
            found[judgment.rollout].append(_of_judgment(judgment))
        elif isinstance(row.get("verdicts"), dict):
            review = read_own(dict(row), Review, where)
            found[review.demonstration].append(Opinion(review.annotator, {str(name): met for name, met in review.verdicts.items()}))
        else:
            found[_rollout(row, where)].append(Opinion("", {criterion: _yes(row, criterion, where) for criterion in MMRP}))
    return found


def side_by_side(
    people: Opinions, judge: Opinions, questions: Mapping[str, str], criteria: tuple[str, ...], paths: tuple[Path, Path]
) -> Both:
    """Both sides' verdicts on what both have.

    Args:
        people: What people say.
        judge: What the judge says.
        questions: Of each response the question that it answers.
        criteria: By which they are compared.
        paths: Where people's and the judge's are from, for messages.

    Raises:
        UserError: They have nothing in common.
    """
    shared = [id for id in people if id in judge]
    if not shared:
        raise UserError(f"{paths[0]} and {paths[1]} have no response in common; both must name rollouts by the same ids")
    pairs = [(id, _majority(people[id], criteria), _majority(judge[id], criteria)) for id in shared]
    clear = [(id, one, other) for id, one, other in pairs if one is not None and other is not None]
    if not clear:
        raise UserError(
            f"{paths[0]}: of every response that is in {paths[1]} too, as many verdicts say yes as no; there is nothing to compare"
        )
    return Both(
        criteria=criteria,
        ids=[id for id, _, _ in clear],
        people=[one for _, one, _ in clear],
        judge=[other for _, _, other in clear],
        questions=[questions.get(id) or id for id, _, _ in clear],
        only_people=len(people) - len(shared),
        only_judge=len(judge) - len(shared),
        undecided=len(pairs) - len(clear),
    )


def _of_judgment(judgment: Judgment) -> Opinion:
    verdicts = {str(criterion): judgment.verdicts[criterion] for criterion in MMRP}
    return Opinion(judgment.judge.model if judgment.judge.engine == "people" else "", verdicts)


def _majority(some: Iterable[Opinion], criteria: Sequence[str]) -> Verdicts | None:
    said = [one.verdicts for one in some]
    counts = {criterion: sum(one[criterion] for one in said) for criterion in criteria}
    if any(2 * count == len(said) for count in counts.values()):
        return None
    return {name: 2 * count > len(said) for name, count in counts.items()}


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
