"""What people said, as Label Studio exports it: one opinion of each person on each task.

The format: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign, check, load_any_json
from mede2_jax.review.criteria import COMMENT, CRITERIA, NO, YES, Kind
from mede2_jax.review.labels import NAME

SKIPPED, INCOMPLETE, EARLIER = "skipped by the annotator", "without a verdict on every criterion", "an earlier one of the same person"
AS_JSON = "export as JSON from Label Studio (not JSON-MIN, not CSV)"


class _TaskData(Foreign):
    made_by: str = ""
    kind: str = ""
    id: str = ""
    of: str = ""


class _Result(Foreign):
    from_name: str = ""
    value: dict[str, Any] = pydantic.Field(default_factory=dict)


class _Person(Foreign):
    id: int


class _Annotation(Foreign):
    id: int | str = ""
    completed_by: int | _Person | None = None
    result: list[_Result]
    was_cancelled: bool = False
    updated_at: str = ""


class _Task(Foreign):
    data: _TaskData
    annotations: list[_Annotation]


@dataclass(frozen=True)
class Opinion:
    """What one person said of one thing."""

    where: str
    id: str
    """Of what is reviewed."""
    of: str
    """Its digests when the task was made."""
    annotator: int
    verdicts: Mapping[str, bool]
    comment: str
    updated: str


def read_opinions(paths: Sequence[Path], kind: Kind) -> tuple[list[Opinion], Counter[str]]:
    """The opinions in exports, in the order of their first mention; and how many annotations are none, by reason.

    Raises:
        UserError: A file is no export, or of tasks that were not made here, or of another kind.
    """
    found: dict[tuple[str, int], Opinion] = {}
    left = Counter[str]()
    for path in paths:
        for where, one in _tasks(path):
            _check_task(one.data, kind, where)
            for annotation in one.annotations:
                opinion = _opinion(one.data, annotation, kind, where)
                if isinstance(opinion, str):
                    left[opinion] += 1
                    continue
                before = found.setdefault(key := (opinion.id, opinion.annotator), opinion)
                if before is not opinion:
                    left[EARLIER] += 1
                    found[key] = max(before, opinion, key=lambda some: some.updated)
    return list(found.values()), left


def _tasks(path: Path) -> Iterator[tuple[str, _Task]]:
    value = load_any_json(path, AS_JSON)
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of tasks, found {shown(value)}; {AS_JSON}")
    for number, one in enumerate(value):
        where = f"{path}: task {number + 1}"
        if isinstance(one, dict) and "annotations" not in one:
            raise UserError(f"{where} has no field 'annotations'; {AS_JSON}")
        yield where, check(one, _Task, where, AS_JSON)


def _check_task(data: _TaskData, kind: Kind, where: str) -> None:
    if data.made_by != NAME or not data.id or not data.of:
        raise UserError(f"{where} is none that python -m mede2_jax.review export has made; give the export of such a project alone")
    if data.kind != kind:
        other = "demonstrations" if kind == "response" else "rollouts"
        raise UserError(f"{where} is a {shown(data.kind)}, not a {kind}; give --{other} instead")


def _opinion(data: _TaskData, annotation: _Annotation, kind: Kind, where: str) -> Opinion | str:
    """An opinion, or why it is none."""
    if annotation.was_cancelled:
        return SKIPPED
    person = annotation.completed_by.id if isinstance(annotation.completed_by, _Person) else annotation.completed_by
    if person is None:
        raise UserError(f"{where}: annotation {shown(annotation.id)} does not say who made it (field 'completed_by'); {AS_JSON}")
    verdicts: dict[str, bool] = {}
    comment = ""
    for result in annotation.result:
        if result.from_name == COMMENT:
            comment = _comment(result, where)
        elif result.from_name in CRITERIA[kind]:
            verdicts[result.from_name] = _verdict(result, where)
        else:
            raise UserError(f"{where}: {shown(result.from_name)!r} is no criterion of a {kind}; use the labels.xml of the export unchanged")
    if len(verdicts) < len(CRITERIA[kind]):
        return INCOMPLETE
    return Opinion(where, data.id, data.of, person, verdicts, comment, annotation.updated_at)


def _verdict(result: _Result, where: str) -> bool:
    chosen = result.value.get("choices")
    if chosen not in ([YES], [NO]):
        raise UserError(
            f"{where}: {result.from_name!r} must be {YES} or {NO}, found {shown(chosen)}; use the labels.xml of the export unchanged"
        )
    return chosen == [YES]


def _comment(result: _Result, where: str) -> str:
    said = result.value.get("text")
    lines = said if isinstance(said, list) else [said]
    if not all(isinstance(line, str) for line in lines):
        raise UserError(f"{where}: {COMMENT!r} must be text, found {shown(said)}; {AS_JSON}")
    return "\n".join(map(str, lines))
