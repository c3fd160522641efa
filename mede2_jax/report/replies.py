"""What was said to a model and what it replied, found from a score: only a file that is still the one that was scored is believed."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import file_digest, recorded_path
from mede2_jax.report.scores import Score
from mede2_jax.score.config import ColumnsConfig
from mede2_jax.score.responses import PARENTS, read_responses
from mede2_jax.tasks.asking import asked_as
from mede2_jax.tasks.tables import rows

Sample = tuple[str, int]
"""An item, and the number of a reply to it."""
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
    """What came between the question and it: a first reply, and what was said to that; all of it where the question was put otherwise."""
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


def read_replies(score: Score) -> Replies:
    """The replies of a score; what cannot be had is said, and no error: the score stands without it."""
    replies = Replies()
    try:
        path = responses_file(score)
        _read(score, path, replies)
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


def _read(score: Score, path: Path, replies: Replies) -> None:
    columns = score.said.responses.columns
    is_ours = columns.get("id") == PARENTS
    said = ColumnsConfig() if is_ours else ColumnsConfig(id=columns.get("id"), response=columns.get("response"))
    read = read_responses(path, said)
    asks = (score.said.task, score.said.prompt) if read.is_evaluation else None
    some = [(_item(one.id, asks), one) for one in read.responses if not one.is_first]
    counts = Counter((*item, one.sample) for item, one in some if item is not None)
    if any(count > 1 for count in counts.values()):
        raise UserError(f"samples of one item cannot be told apart in {path}")
    texts = {(*item, one.sample): one.text for item, one in some if item is not None}
    details = dict(_details(path, asks, replies)) if is_ours else {}
    wanted = {one.reply: (one.id, one.sample) for one in score.verdicts}
    replies.by = {wanted[name]: details.get(name, Reply(text)) for name, text in texts.items() if name in wanted}
    if missing := len(wanted) - len(replies.by):
        replies.faults.append(f"{score.model}: {missing:,} replies are not in {path}")
    if is_ours:
        try:
            replies.root = image_root(path, None)
        except UserError as error:
            replies.faults.append(f"{score.model}: images are not shown: {error}")


def _item(id: str, asks: tuple[str, str] | None) -> tuple[str, int | None] | None:
    """The item that a reply is to, and the order of its options; None where something else was asked.

    Args:
        id: Of the reply: the item's, or, of an evaluation, that of the question.
        asks: The task and prompt that are wanted of an evaluation.
    """
    if asks is None:
        return id, None
    said = asked_as(id)
    return (said.item, said.shuffle) if said[:2] == asks else None


def _details(path: Path, asks: tuple[str, str] | None, replies: Replies) -> Iterator[tuple[tuple[str, int | None, int], Reply]]:
    """Of our own rollouts the conversations too; the question's is kept once, and again where its options stood in another order."""
    for where, row in rows(path):
        parents, metadata = row.get(PARENTS), row.get("metadata")
        if not (isinstance(parents, list) and parents and isinstance(parents[0], str)):
            continue
        if (item := _item(parents[0], asks)) is None:
            continue
        if isinstance(metadata, Mapping) and "then" in metadata:  # a first turn
            continue
        messages, images = row.get("prompt"), row.get("images") or []
        if not (isinstance(messages, list) and isinstance(images, list)):
            raise UserError(f"{where}: fields 'prompt' and 'images' must be lists")
        all_turns = turns(messages, images)
        first = next((place for place, turn in enumerate(all_turns) if turn.role == "assistant"), len(all_turns))
        asked = replies.asked.setdefault(item[0], all_turns[:first])
        before = all_turns[first:] if asked == all_turns[:first] else all_turns
        tokens = row.get("response_tokens")
        yield (
            (*item, row.get("sample", 0)),
            Reply(str(row.get("response", "")), before, tokens if isinstance(tokens, int) else None),
        )
