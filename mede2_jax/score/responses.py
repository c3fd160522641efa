"""Responses to a benchmark from a file of anybody's: which item, which sample, what was said, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.score.config import ColumnsConfig
from mede2_jax.tasks.tables import Row, rows

Finish = Literal["stop", "cut", "refused", "failed"]
IDS = ("id", "question_id", "item_id", "qid", "link", "index")
RESPONSES = ("response", "responses", "prediction", "predictions", "output", "reply", "model_output", "model_response", "value")
_FINISHES: Mapping[str, Finish] = {
    "length": "cut",
    "max_tokens": "cut",
    "MAX_TOKENS": "cut",
    "content_filter": "refused",
    "refusal": "refused",
    "SAFETY": "refused",
    "error": "failed",
}
"""What APIs call an end that is none; every other one is an end."""


@dataclasses.dataclass(frozen=True)
class Response:
    """One sample of an item."""

    id: str
    sample: int
    text: str
    finish: Finish
    where: str


@dataclasses.dataclass(frozen=True)
class Responses:
    """All of a file."""

    path: Path
    responses: tuple[Response, ...]
    columns: Mapping[str, str]
    """By which columns they were found."""
    models: tuple[str, ...]
    """What the rows call the model, each once."""


def read_responses(path: Path, columns: ColumnsConfig) -> Responses:
    """Reads a file of responses.

    Args:
        path: The file.
        columns: How its columns are called.

    Raises:
        UserError: It cannot be read; columns are missing, or could be several; a row is not as it should be.
    """
    found: dict[str, str] = {}
    responses: list[Response] = []
    models: dict[str, None] = {}
    for where, row in rows(path):
        if not found:
            found = _find_columns(row, columns, where)
        responses.extend(_of_row(row, found, columns, where))
        if isinstance(model := row.get("model"), str):
            models[model] = None
    if not responses:
        raise UserError(f"{path}: no responses in the file")
    return Responses(path, tuple(responses), found, tuple(models))


def _find_columns(row: Row, columns: ColumnsConfig, where: str) -> dict[str, str]:
    """The names of the id's and the response's column, by the first row."""
    if "parents" in row and "response" in row and columns.id is None and columns.response is None:
        return {"id": "parents", "response": "response"}  # a rollout of ours
    return {
        "id": _find("id", columns.id, IDS, row, where),
        "response": _find("response", columns.response, RESPONSES, row, where),
    }


def _find(what: str, given: str | None, usual: Sequence[str], row: Row, where: str) -> str:
    there = shown(", ".join(map(str, row)), 200)
    if given is not None:
        if given not in row:
            raise UserError(f"{where}: no column {given!r}, which --columns.{what} names; the columns are {there}")
        return given
    candidates = [name for name in usual if name in row]
    if what == "response" and len(candidates) > 1:
        raise UserError(f"{where}: {' or '.join(map(repr, candidates))} may be the response; say which with --columns.response=NAME")
    if not candidates:
        raise UserError(f"{where}: no column of {what}s is found; say which with --columns.{what}=NAME (the columns are {there})")
    return candidates[0]


def _of_row(row: Row, found: Mapping[str, str], columns: ColumnsConfig, where: str) -> Iterator[Response]:
    identity = row.get(found["id"])
    if found["id"] == "parents" and isinstance(identity, list) and identity:
        identity = identity[0]
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise UserError(f"{where}: column {found['id']!r} must be an item's id, found {shown(identity)}")
    if found["response"] not in row:
        raise UserError(f"{where}: column {found['response']!r} is missing; give every row one, empty where the model said nothing")
    said, first = row[found["response"]], _sample(row.get(columns.sample, 0), columns.sample, where)
    several = isinstance(said, list)
    finish = row.get(columns.finish)
    for number, one in enumerate(said if several else [said]):
        text, ended = _text(one, found["response"], where)
        of_this = finish[number] if several and isinstance(finish, list) and len(finish) == len(said) else finish
        yield Response(str(identity), first + number, text, ended or _FINISHES.get(str(of_this), "stop"), where)


def _sample(value: Any, name: str, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():  # of a CSV file
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where}: column {name!r} must be the sample's number from 0, found {shown(value)}")
    return value


def _text(said: Any, name: str, where: str) -> tuple[str, Finish | None]:
    """The text, and how it ended where its form says so: nothing, or an error object, is no reply."""
    if said is None or isinstance(said, Mapping):
        return "", "failed"
    if not isinstance(said, str):
        raise UserError(f"{where}: column {name!r} must be text, or a list of texts, found {shown(said)}")
    return said, None
