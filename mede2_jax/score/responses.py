"""Responses to a benchmark from a file of anybody's: which item, which sample, what was said, and how it ended."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from mede2_jax.config import UserError, counted
from mede2_jax.data.record_file import half_character
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.outputs.manifest import Said, read_said
from mede2_jax.score.config import ColumnsConfig
from mede2_jax.tasks.asking import ORDER, SHUFFLE, THEN, asked_as, question_id
from mede2_jax.tasks.item import Task, python_literal
from mede2_jax.tasks.tables import Row, rows

Finish = Literal["stop", "cut", "refused", "failed"]
PARENTS = "parents"
"""The column of a rollout of ours that names its question."""
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

_LISTED = re.compile(r"""\s*\[(\s*["'].*|.*["']\s*)\]\s*""", re.DOTALL)
"""A cell that begins or ends as a list of texts does."""


@dataclasses.dataclass(frozen=True)
class Response:
    """One sample of an item."""

    id: str
    sample: int
    text: str
    finish: Finish
    is_first: bool = False
    """Whether it is the first of two turns, and the reply to the second one is scored."""
    shuffle: int | None = None
    """The seed of the order in which the options were shown; None: the owner's own."""
    order: str = ""
    """That order; empty: the owner's own, or there were no options."""


@dataclasses.dataclass(frozen=True)
class Responses:
    """All of a file."""

    path: Path
    responses: tuple[Response, ...]
    columns: Mapping[str, str]
    """By which columns they were found."""
    models: tuple[str, ...]
    """What the rows call the model, each once."""
    is_evaluation: bool = False
    """Whether python -m mede2_jax.evaluate sampled them: ids are `task/prompt/item`, of several tasks and prompts."""


def read_responses(path: Path, columns: ColumnsConfig, *, errors_are_objects: bool = False) -> Responses:
    """Reads a file of responses.

    Args:
        path: The file.
        columns: How its columns are called.
        errors_are_objects: As `Task.errors_are_objects`: any object is a reply that failed.

    Raises:
        UserError: It cannot be read; columns are missing, or could be several; a row is not as it should be.
    """
    found: dict[str, str] = {}
    responses: list[Response] = []
    models: dict[str, None] = {}
    is_evaluation = True
    for where, row in rows(path):
        if not found:
            found = _find_columns(row, columns, where)
        if path.suffix.lower() == ".csv":  # the one form that has no lists of its own
            row = {**row, **{name: _cell(row[name], name, where) for name in {found["response"], columns.finish} & row.keys()}}
        if not errors_are_objects:
            _check_objects(row.get(found["response"]), found["response"], where)
        given = list(_of_row(row, found, columns, where))
        responses.extend(given)
        if isinstance(model := row.get("model"), str):
            models[model] = None
        is_evaluation = is_evaluation and found["id"] == PARENTS and all(one.id == _asked_id(row) for one in given)
    if not responses:
        raise UserError(f"{path}: no responses in the file")
    if found["id"] == PARENTS:
        responses.extend(_failed(path, {(one.id, one.sample) for one in responses}))
    return Responses(path, tuple(responses), found, tuple(models), is_evaluation)


def of_prompt(responses: Responses, task: Task, prompt: str | None) -> tuple[Responses, str]:
    """What a file has of one task and prompt, by the items' own ids, and the prompt: a file of `evaluate` holds several.

    Args:
        responses: All of the file.
        task: Which task.
        prompt: Which prompt; None: the only one that the file has of it, or else the owner's first.

    Raises:
        UserError: The task has no such prompt, the file has nothing of it, or has several and none is given.
    """
    if prompt is not None and prompt not in (*task.our_prompts, *task.prompts):
        raise UserError(f"{task.no_prompt(prompt)}: {', '.join((*task.prompts, *task.our_prompts))}")
    if not responses.is_evaluation:
        return responses, prompt or task.prompts[0]
    scored = [one for one in responses.responses if not one.is_first]
    parts = [(asked_as(one.id), one) for one in scored]
    there = sorted({asked.prompt for asked, _ in parts if asked.task == task.name})
    chosen = prompt or (there[0] if len(there) == 1 else None)
    if chosen is None and there:
        raise UserError(
            f"{responses.path} has replies to several prompts of {task.name}; say which with --prompt=NAME ({', '.join(there)})"
        )
    kept = tuple(dataclasses.replace(one, id=asked.item, shuffle=asked.shuffle) for asked, one in parts if asked[:2] == (task.name, chosen))
    if not kept:
        others = sorted({f"{asked.task}/{asked.prompt}" for asked, _ in parts})
        said = f"has replies of {', '.join(map(shown, others))}" if others else "has first turns only, and the second ones are scored"
        raise UserError(f"{responses.path} has none of {task.name}{f'/{prompt}' if prompt else ''}: it {said}")
    return dataclasses.replace(responses, responses=kept), str(chosen)


def how_asked(prompt: str, known: Sequence[bool]) -> str:
    """How tables say that some were asked so, where of each it is known or taken for granted."""
    if not any(known):
        return f"prompt not known (taken for {prompt})"
    return f"asked as {prompt}" + ("" if all(known) else " (not known of some)")


def without(responses: Responses, ids: Sequence[str]) -> Responses:
    """All but the responses to some items."""
    gone = set(ids)
    return dataclasses.replace(responses, responses=tuple(one for one in responses.responses if one.id not in gone)) if gone else responses


def of_part(responses: Responses, task: Task) -> tuple[Responses, int]:
    """Without those to items of the whole that the task is a part of, and how many these are.

    Raises:
        UserError: All are.
    """
    rest = without(responses, [one.id for one in responses.responses if task.is_outside(one.id)])
    if not rest.responses:
        ids = shown(responses.responses[0].id)
        raise UserError(
            f"{responses.path}: none of its responses is to an item of {task.name}, a part of its benchmark (ids such as {ids})"
        )
    return rest, len(responses.responses) - len(rest.responses)


def _asked_id(row: Row) -> str | None:
    """The id that `evaluate` gives to a question, by what it says of it."""
    metadata = row.get("metadata")
    if not isinstance(metadata, Mapping):
        return None
    return question_id(row.get("source"), metadata.get("prompt"), metadata.get("item"), metadata.get(SHUFFLE))


def _failed(path: Path, there: Set[tuple[str, int]]) -> Iterator[Response]:
    """Samples of a rollout of ours that did not come, by the manifest beside it: they stay in the denominator."""
    said = read_said(path, Said)
    for failed in said.failed if said is not None else ():
        question, samples = failed.get("question"), failed.get("samples")
        if isinstance(question, str) and isinstance(samples, list):
            numbers = [number for number in samples if isinstance(number, int) and number >= 0 and (question, number) not in there]
            yield from (Response(question, number, "", "failed") for number in numbers)


def _find_columns(row: Row, columns: ColumnsConfig, where: str) -> dict[str, str]:
    """The names of the id's and the response's column, by the first row."""
    if PARENTS in row and "response" in row and columns.id is None and columns.response is None:
        return {"id": PARENTS, "response": "response"}  # a rollout of ours
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
    if found["id"] == PARENTS and isinstance(identity, list) and identity:
        identity = identity[0]
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise UserError(f"{where}: column {found['id']!r} must be an item's id, found {shown(identity)}")
    if found["response"] not in row:
        raise UserError(f"{where}: column {found['response']!r} is missing; give every row one, empty where the model said nothing")
    said, first = row[found["response"]], _sample(row.get(columns.sample, 0), columns.sample, where)
    if said == []:
        raise UserError(f"{where}: column {found['response']!r} has an empty list; give an empty text where the model said nothing")
    several = isinstance(said, list)
    metadata = row["metadata"] if found["id"] == PARENTS and isinstance(row.get("metadata"), Mapping) else {}
    order = metadata.get(ORDER, "") if identity == _asked_id(row) else ""
    if not isinstance(order, str):
        raise UserError(f"{where}: metadata.{ORDER} must be the letters of the options as they were shown, found {shown(order)}")
    texts, finish = said if several else [said], row.get(columns.finish)
    if isinstance(finish, list) and (not several or len(finish) != len(texts)):
        raise UserError(
            f"{where}: column {columns.finish!r} has a list of {len(finish)} for {counted(len(texts), 'text')}; give one for each"
        )
    for number, one in enumerate(texts):
        text, ended = _text(one, found["response"], where)
        of_this = finish[number] if isinstance(finish, list) else finish
        yield Response(str(identity), first + number, text, ended or _FINISHES.get(str(of_this), "stop"), THEN in metadata, order=order)


def _sample(value: Any, name: str, where: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():  # of a CSV file
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where}: column {name!r} must be the sample's number from 0, found {shown(value)}")
    return value


def _cell(cell: str, name: str, where: str) -> str | list[Any]:
    """A cell of a CSV file: a list of texts where it is one in JSON's or Python's notation, else the text.

    Raises:
        UserError: It looks like a list of texts and is neither.
    """
    if not _LISTED.fullmatch(cell):
        return cell
    try:
        value = parse_json(cell)
    except JSONFault:
        value = python_literal(cell)
        # Python joins texts that no comma parts, as NumPy writes them: only what it would write itself is what it reads.
        value = value if repr(value) == cell.strip() else None
    if not isinstance(value, list) or half_character(value) is not None:
        raise UserError(
            f"{where}: column {name!r} begins or ends as a list of texts does, and is none in JSON's or Python's notation "
            f"({shown(cell)}); write it as JSON, or give the file as JSONL"
        )
    return value


def _check_objects(said: Any, name: str, where: str) -> None:
    """Refuses an object where a text is meant, but for an API's error.

    Raises:
        UserError: As said.
    """
    for one in said if isinstance(said, list) else [said]:
        if isinstance(one, Mapping) and "error" not in one:
            raise UserError(
                f"{where}: column {name!r} must be text, or a list of texts, found the object {shown(one)}; "
                "give the text in it, and null (or an object with `error`) where no reply came"
            )


def _text(said: Any, name: str, where: str) -> tuple[str, Finish | None]:
    """The text, and how it ended where its form says so: nothing, or an error object, is no reply."""
    if said is None or isinstance(said, Mapping):
        return "", "failed"
    if not isinstance(said, str):
        raise UserError(f"{where}: column {name!r} must be text, or a list of texts, found {shown(said)}")
    return said, None
