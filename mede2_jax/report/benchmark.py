"""The items of a score from the benchmark's own files: right answers, options, groups, images. Where these are gone, a report has less."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.report.replies import Image, Turn, found, responses_file
from mede2_jax.report.scores import Board, Score
from mede2_jax.score.config import ColumnsConfig
from mede2_jax.score.responses import read_responses
from mede2_jax.score.verdicts import carried_items
from mede2_jax.tasks.asking import OURS, Asked, ItemImage
from mede2_jax.tasks.catalogue import Items, digest_of, find_task, read_items
from mede2_jax.tasks.image_files import image_bytes, image_roots
from mede2_jax.tasks.item import Item, Task
from mede2_jax.tasks.own import OwnTask


@dataclasses.dataclass(frozen=True)
class Known:
    """What the benchmark's files say of a board's items."""

    task: Task | None
    items: Mapping[str, Item]
    """Without images."""
    files: tuple[Path, ...] = ()
    fault: str = ""
    """Why there is nothing."""

    @property
    def clusters(self) -> dict[str, str] | None:
        """Of each item what it hangs together with; None where all stand alone, or nobody knows."""
        if self.task is None or not self.task.clustered:
            return None
        return {id: item.cluster or id for id, item in self.items.items()}


def known_items(board: Board) -> Known:
    """The items of a board, from the first score whose files are still there."""
    faults = []
    for score in board.scores:
        try:
            return _known(score)
        except UserError as error:
            faults.append(str(error))
    return Known(None, {}, fault=f"{board.title}: right answers and groups are not shown: {faults[0]}")


def asked_items(known: Known, prompt: str, wanted: Set[str], keep: bool) -> Iterator[tuple[str, tuple[Turn, ...], dict[str, bytes], str]]:
    """Items as they were asked, for replies whose file has no prompts.

    Args:
        known: The benchmark.
        prompt: Which of its prompts.
        wanted: Their ids.
        keep: Whether images are wanted.

    Yields:
        Id, turns, the bytes of each image by its name, and why one is missing.

    Raises:
        UserError: The benchmark has no such prompt, or its files cannot be read.
    """
    if known.task is None:
        return
    if prompt not in (OURS, *known.task.prompts):
        raise UserError(f"{known.task.name} has no prompt {shown(prompt)!r} in this version")
    for item in read_items(known.task, known.files, images=keep):
        if item.id not in wanted:
            continue
        try:
            asked = known.task.asked(item, prompt)
        except UserError as error:
            yield item.id, (Turn("user", (item.question,)),), {}, str(error)
            continue
        images, fault = _bytes(known, asked)
        yield item.id, _turns(asked), images, fault


def _known(score: Score) -> Known:
    task = _task(score)
    if score.said.data_is_carried:
        path = responses_file(score)
        columns = score.said.responses.columns
        items = carried_items(
            task, read_responses(path, ColumnsConfig(id=columns.get("id"), response=columns.get("response")), errors_are_objects=True)
        )
        return Known(task, items.by_id, (path,))
    files = tuple(found(name, score.file) for name in score.said.data.files)
    if not files or digest_of(files) != score.said.data.digest:
        raise UserError(f"the benchmark's files have changed since {score.file} was written")
    return Known(task, Items(task, files, "", tuple(read_items(task, files, images=False))).by_id, files)


def _task(score: Score) -> Task:
    """The task of a score; one of a YAML file only if that says the same."""
    path, digest = (score.said.definition.get(name) for name in ("path", "digest"))
    if not isinstance(path, str):
        return find_task(score.said.task)
    task = find_task(str(found(path, score.file)))
    if not isinstance(task, OwnTask) or task.definition["digest"] != digest:
        raise UserError(f"{path} has changed since {score.file} was written")
    return task


def _bytes(known: Known, asked: Asked) -> tuple[dict[str, bytes], str]:
    assert known.task is not None
    roots = [root for file in known.files for root in image_roots(known.task, file)]
    images: dict[str, bytes] = {}
    for image in asked.images:
        try:
            images[image.name] = image_bytes(image, roots)
        except UserError as error:
            return images, str(error)
    return images, ""


def _turns(asked: Asked) -> tuple[Turn, ...]:
    system = () if asked.system is None else (Turn("system", (asked.system,)),)
    user = tuple(Image(piece.name) if isinstance(piece, ItemImage) else piece for piece in asked.user)
    return (*system, Turn("user", user))
