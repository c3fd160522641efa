"""Do judge and people agree, and people among one another: tables, the paper's Figure 3, and which judgments to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Shown

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Demonstration, Judgment
from mede2_jax.foreign import shown, visible
from mede2_jax.outputs.file import write_whole
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable, partial_path, publish, settle, undone_on_failure
from mede2_jax.reasoning.remarks import MERITS
from mede2_jax.reasoning.rubric import MMRP
from mede2_jax.report.drawing import plain_text, saved
from mede2_jax.report.people import (
    ALL,
    Both,
    Opinion,
    Opinions,
    Row,
    Spread,
    agreement_rows,
    agreement_table,
    differences_figure,
    kappa_text,
    read_judge,
    read_people,
    side_by_side,
)
from mede2_jax.report.tables import Table, cells, comma_separated, markdown, percent
from mede2_jax.review.config import AgreementConfig
from mede2_jax.statistics.agreement import Agreement, Kind, agreement, kappa_interval
from mede2_jax.statistics.intervals import Interval

COMMAND = "python -m mede2_jax.review agreement"
RESULT = "agreement.json"


def agree(config: AgreementConfig, console: Console) -> None:
    """Compares, and writes the folder.

    Args:
        config: What with what, and where to.
        console: Where to show it.

    Raises:
        UserError: Something the user gave cannot be used; what was there is as it was.
    """
    assert config.people is not None and config.out is not None
    place = config.out / RESULT
    check_replaceable(place, COMMAND, "figures")
    people, other = read_people(config.people), config.judgments or config.demonstrations
    assert other is not None
    judge, questions = read_judge(other) if config.judgments is not None else _rated(other)
    criteria = MMRP if config.judgments is not None else MERITS
    _check_criteria(people, criteria, config.people)
    both = side_by_side(people, judge, questions, criteria, (config.people, other))
    rows, among = agreement_rows(both, config.seed), among_people(people, questions, criteria, config.seed)
    look = to_look_at(both, _reasons(config.judgments))
    tables = [agreement_table(both, config.seed), *([among_table(among, config.seed)] if among else []), look_table(look)]
    config.out.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_whole(config.out / f"{table.name}.csv", comma_separated(table))
    write_whole(config.out / "agreement.md", "\n".join(map(markdown, tables[:-1])))
    with plain_text():
        figure = differences_figure(both)
    for suffix, content in saved(figure).items():
        write_whole(config.out / f"{figure.name}.{suffix}", content)
    settle(place, COMMAND)
    with undone_on_failure([place], COMMAND):
        write_whole(partial_path(place), json.dumps(_result(both, rows, among), indent=1) + "\n")
        publish([partial_path(place)], [place], [], [_manifest(config)])
    _show(console, config, tables, figure.text)


def _rated(path: Path) -> tuple[Opinions, dict[str, str]]:
    """What ratings say of demonstrations: a criterion is met that more than half of them grant; and of each the question."""
    file, found, questions = RecordFile(path), dict[str, list[Opinion]](), dict[str, str]()
    for number in range(len(file)):
        demonstration = read_record(file[number], Demonstration, "mede2", where := file.where(number))
        merits = demonstration.metadata.get("merits")
        if not isinstance(merits, dict) or not all(isinstance(merits.get(merit), (int, float)) for merit in MERITS):
            raise UserError(f"{where}: field 'metadata.merits' has no ratings; run python -m mede2_jax.distill with --ratings first")
        found[demonstration.id] = [Opinion("", {merit: merits[merit] > 0.5 for merit in MERITS})]
        questions[demonstration.id] = demonstration.parents[0] if demonstration.parents else demonstration.id
    return found, questions


def _check_criteria(people: Opinions, criteria: Sequence[str], path: Path) -> None:
    for id, some in people.items():
        if missing := [name for name in criteria if any(name not in one.verdicts for one in some)]:
            other = "demonstrations" if criteria is MMRP else "judgments"
            raise UserError(f"{path}: what people say of {shown(id)} has no verdict on {missing[0]!r}; give --{other} instead")


class Among(dict[str, tuple[Agreement, Interval | None]]):
    """The agreement of people with one another, by criterion."""


def among_people(people: Opinions, questions: Mapping[str, str], criteria: Sequence[str], seed: int) -> Among:
    """Of what two or more people have reviewed; empty where there is none.

    Where the same two people reviewed all of it, kappa is Cohen's.
    """
    several = {id: sorted(some, key=lambda one: one.by) for id, some in people.items() if len(some) > 1}
    pairs = {tuple(one.by for one in some) for some in several.values()}
    same_two = len(pairs) == 1 and all(len(set(pair)) == 2 for pair in pairs)
    kind: Kind = "Cohen" if same_two else "Fleiss"
    clusters = [questions.get(id, id) for id in several]
    found = Among()
    for criterion in (*criteria, ALL) if several else ():
        items = [[all(one.verdicts.values()) if criterion == ALL else one.verdicts[criterion] for one in some] for some in several.values()]
        measured = agreement(items, same_judges=same_two)
        assert measured is not None
        found[criterion] = measured, kappa_interval(items, kind, clusters=clusters, seed=seed)
    return found


def among_table(among: Among, seed: int) -> Table:
    """The same as a table."""
    first = next(iter(among.values()))[0]
    rows = [
        cells(name.replace("_", " "), percent(measured.percent), kappa_text(measured.kappa, interval))
        for name, (measured, interval) in among.items()
    ]
    note = f"Of {first.items:,} that two or more people have reviewed. Intervals of kappa: bootstrap over questions, seed {seed}."
    columns = ("criterion", "equal pairs %", f"{first.kind}'s kappa (95% interval)")
    return Table("people", "People among one another", columns, tuple(rows), (note,))


class Look(dict[str, tuple[int, list[str]]]):
    """By response: how far people and judge are apart, and in what."""


def to_look_at(both: Both, reasons: Mapping[str, Mapping[str, str]]) -> Look:
    """Those that differ, the farthest apart first: by the number of criteria, then by the difference of their sums."""
    found = []
    for id, one, other, difference in zip(both.ids, both.people, both.judge, both.differences, strict=True):
        apart = []
        for criterion in both.criteria:
            if one[criterion] != other[criterion]:
                said = f"{criterion.replace('_', ' ')}: people {_yes(one[criterion])}, judge {_yes(other[criterion])}"
                reason = reasons.get(id, {}).get(criterion)
                apart.append(f"{said} ({reason})" if reason else said)
        if apart:
            found.append((id, difference, apart))
    found.sort(key=lambda row: (-len(row[2]), -abs(row[1]), row[0]))
    return Look({id: (difference, apart) for id, difference, apart in found})


def look_table(look: Look) -> Table:
    """The same as a table."""
    rows = [
        cells(id, str(len(apart)), f"{difference:+d}" if difference else "0", "; ".join(apart)) for id, (difference, apart) in look.items()
    ]
    columns = ("rollout", "criteria apart", "people − judge", "in what")
    return Table("look", "Judgments to look at", columns, tuple(rows))


def _reasons(judgments: Path | None) -> dict[str, dict[str, str]]:
    """By response the reasons that a judge gives, if it gives some; of several judgments the first's."""
    found: dict[str, dict[str, str]] = {}
    if judgments is not None:
        file = RecordFile(judgments)
        for number in range(len(file)):
            judgment = read_own(file[number], Judgment, file.where(number))
            said = {str(name): reason for name in MMRP if (reason := getattr(judgment, name).reason)}
            found.setdefault(judgment.rollout, said)
    return found


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def _result(both: Both, rows: Sequence[Row], among: Among) -> dict[str, Any]:
    spread = Spread.of_differences(both.differences)
    return {
        "compared": len(both.ids),
        "left_out": {"people only": both.only_people, "judge only": both.only_judge, "undecided": both.undecided},
        "differences": {str(value): both.differences.count(value) for value in sorted(set(both.differences))},
        "sigma": spread.sigma,
        "within_sigma": spread.within,
        "criteria": {
            row.criterion: {
                **dict(zip(("both_yes", "people_only", "judge_only", "both_no"), row.counts, strict=True)),
                **_kappa(row.agreement, row.interval),
            }
            for row in rows
        },
        "people": {name: {"items": measured.items, **_kappa(measured, interval)} for name, (measured, interval) in among.items()},
    }


def _kappa(measured: Agreement, interval: Interval | None) -> dict[str, Any]:
    ends = None if interval is None else [interval.low, interval.high]
    return {"agreement": measured.percent, "kappa": measured.kappa, "kappa_interval": ends, "kind": measured.kind}


def _manifest(config: AgreementConfig) -> dict[str, Any]:
    inputs = {"people": config.people, "judgments": config.judgments, "demonstrations": config.demonstrations}
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        **{name: {"path": str(path.absolute()), "digest": file_digest(path)} for name, path in inputs.items() if path is not None},
        "versions": {"mede2_jax": __version__},
    }


def _show(console: Console, config: AgreementConfig, tables: Sequence[Table], text: str) -> None:
    *figures, look = tables
    for table in figures:
        console.print(_drawn(table, len(table.rows)))
        for note in table.notes:
            console.print(note, soft_wrap=True, markup=False, style="dim")
    console.print(text, soft_wrap=True, markup=False)
    if look.rows and config.look:
        console.print(_drawn(look, config.look))
    if len(look.rows) > config.look:
        console.print(f"{len(look.rows) - config.look:,} more in look.csv", style="dim")
    console.print(f"figures and tables: {config.out}", soft_wrap=True, markup=False)


def _drawn(table: Table, most: int) -> Shown:
    drawn = Shown(title=table.title)
    for place, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if place < table.headings or column == "in what" else "right", overflow="fold")
    for row in table.rows[:most]:
        drawn.add_row(*(visible(cell.text).replace("[", "\\[") for cell in row))
    return drawn
