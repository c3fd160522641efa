"""What was said to a model and what it replied, found from a score: only a file that is still the one that was scored is believed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import shown
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import file_digest, recorded_path
from mede2_jax.report.scores import Score
from mede2_jax.score.config import ColumnsConfig
from mede2_jax.score.responses import PARENTS, read_responses
from mede2_jax.tasks.asking import SHUFFLE, THEN
from mede2_jax.tasks.tables import Row, rows

Sample = tuple[str, int | None, int]
"""An item, the seed of its options' order (None: the owner's own), and the number of a reply to it so asked."""
Segment = tuple[str, str]
"""`think` or `text`, and what stands there."""


_TAGS = re.compile(r"<think>|</think>", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Image:
    """The place of an image in a turn."""

    name: str


@dataclasses.dataclass(frozen=True)
class Turn:
    """Of a conversation."""

    role: str
    pieces: tuple[str | Image, ...]


@dataclasses.dataclass(frozen=True)
class Reply:
    """One sample's."""

    text: str
    before: tuple[Turn, ...] = ()
    """What came between the question and it: a first reply, and what was said to that."""
    asked: tuple[Turn, ...] = ()
    """The question as it was asked; empty where the file does not say."""
    tokens: int | None = None


@dataclasses.dataclass
class Replies:
    """All that a score is of."""

    by: dict[Sample, Reply] = dataclasses.field(default_factory=dict)
    asked: dict[str, tuple[Turn, ...]] = dataclasses.field(default_factory=dict)
    """By item, where the file says it: rollouts do."""
    root: Path | None = None
    """Where the images of these lie."""
    faults: list[str] = dataclasses.field(default_factory=list)
    """Why something is not here."""


def read_replies(score: Score, root: Path | None = None) -> Replies:
    """The replies of a score; what cannot be had is said, and no error: the score stands without it.

    Args:
        score: Of what.
        root: Where image paths start, if the user says so.
    """
    replies = Replies()
    try:
        path = responses_file(score)
        _read(score, path, root, replies)
    except UserError as error:
        return Replies(faults=[f"{score.model}: replies are not shown: {error}"])
    return replies


def responses_file(score: Score) -> Path:
    """The file that was scored.

    Raises:
        UserError: It is not there, or has changed since.
    """
    recorded = score.said.responses
    if not recorded.path:
        raise UserError(f"{score.file} does not say which file was scored")
    path = found(recorded.path, score.file)
    if file_digest(path) != recorded.digest:
        raise UserError(f"{path} has changed since it was scored")
    return path


def found(text: str, file: Path) -> Path:
    """A file as score.json names it: from the folder the command ran in, or beside it, or where `evaluate` has it, two folders up.

    Raises:
        UserError: It is in none of these places.
    """
    for place in (file, file.parent.parent):
        path = recorded_path(text, place)
        if path.is_file():
            return path
    raise UserError(f"{shown(text, 200)} is not there any more")


def segments(text: str) -> list[Segment]:
    """A reply with its thoughts apart, also those that have no end, or whose beginning was the prompt's; tags stand in neither."""
    parts: list[Segment] = []
    tags = list(_TAGS.finditer(text))
    at, thinks = 0, bool(tags) and tags[0][0].lower() == "</think>"
    for tag in tags:
        if (tag[0].lower() == "<think>") == thinks:  # opened twice, or closed twice: text like any other
            continue
        parts.append(("think" if thinks else "text", text[at : tag.start()]))
        at, thinks = tag.end(), not thinks
    parts.append(("think" if thinks else "text", text[at:]))
    return [(kind, said) for kind, said in parts if said.strip()]


def turns(messages: Sequence[Any], images: Sequence[str]) -> tuple[Turn, ...]:
    """A rollout's prompt, with its images in their places.

    Raises:
        UserError: It is no conversation.
    """
    names = iter(images)
    try:
        return tuple(Turn(str(one["role"]), tuple(_pieces(one["content"], names))) for one in messages)
    except (KeyError, TypeError, StopIteration, RuntimeError):
        raise UserError(f"a prompt is no conversation ({shown(messages)})") from None


def _pieces(content: Any, names: Iterator[str]) -> Iterator[str | Image]:
    if isinstance(content, str):
        yield content
        return
    for part in content:
        yield Image(str(next(names))) if part["type"] == "image" else str(part["text"])


def _read(score: Score, path: Path, root: Path | None, replies: Replies) -> None:
    columns = score.said.responses.columns
    if columns.get("id") == PARENTS:
        replies.by = _rollouts(score, path, replies)
        try:
            replies.root = image_root(path, root)
        except UserError as error:
            replies.faults.append(f"{score.model}: images are not shown: {error}")
    else:
        read = read_responses(path, ColumnsConfig(id=columns.get("id"), response=columns.get("response")), errors_are_objects=True)
        replies.by = _each_once((((one.id, None, one.sample), Reply(one.text)) for one in read.responses), path)
    wanted = {one.of for one in score.verdicts if one.finish != "failed"}
    if missing := len(wanted - replies.by.keys()):
        replies.faults.append(f"{score.model}: {counted(missing, 'reply', 'replies')} not found in {path}")


def _each_once(some: Iterable[tuple[Sample, Reply]], path: Path) -> dict[Sample, Reply]:
    found: dict[Sample, Reply] = {}
    for name, reply in some:
        if name in found:
            raise UserError(f"samples of one item cannot be told apart in {path}")
        found[name] = reply
    return found


def _rollouts(score: Score, path: Path, replies: Replies) -> dict[Sample, Reply]:
    """Of our own rollouts the conversations too; a question's is kept once."""
    known: dict[tuple[Turn, ...], tuple[Turn, ...]] = {}

    def read() -> Iterator[tuple[Sample, Reply]]:
        for where, row in rows(path):
            if (name := _name(row, score, where)) is None:
                continue
            messages, images = row.get("prompt"), row.get("images") or []
            if not (isinstance(messages, list) and isinstance(images, list)):
                raise UserError(f"{where}: fields 'prompt' and 'images' must be lists")
            all_turns = turns(messages, images)
            first = next((place for place, turn in enumerate(all_turns) if turn.role == "assistant"), len(all_turns))
            asked = known.setdefault(all_turns[:first], all_turns[:first])  # once in memory, for all samples
            replies.asked.setdefault(name[0], asked)
            count = row.get("response_tokens")
            yield name, Reply(str(row.get("response", "")), all_turns[first:], asked, count if isinstance(count, int) else None)

    return _each_once(read(), path)


def _name(row: Row, score: Score, where: str) -> Sample | None:
    """Which reply a rollout is; None where it is none to this task and prompt, or the first of two turns."""
    parents, metadata, sample = row.get(PARENTS), row.get("metadata"), row.get("sample", 0)
    if not (isinstance(parents, list) and parents and isinstance(parents[0], str) and isinstance(sample, int)):
        raise UserError(f"{where}: no rollout (fields '{PARENTS}' and 'sample')")
    said: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    item, prompt, seed = (said.get(name) for name in ("item", "prompt", SHUFFLE))
    if not isinstance(item, str) or not isinstance(prompt, str):  # not of evaluate: the question is the item
        return parents[0], None, sample
    if THEN in said or (row.get("source"), prompt) != (score.said.task, score.said.prompt):
        return None
    return item, seed if isinstance(seed, int) else None, sample
