"""Which items of which tasks are asked, in which ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.config import MOST_FAULTS, UserError, counted
from mede2_jax.evaluate.config import EvaluateConfig
from mede2_jax.foreign import shown
from mede2_jax.tasks.asking import OPEN
from mede2_jax.tasks.catalogue import Items, check_columns, find_task, open_items
from mede2_jax.tasks.item import Task


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is asked of one task."""

    items: Items
    """All of the task, without images."""
    prompts: tuple[str, ...]
    ids: tuple[str, ...]
    """Of the items that are asked, in the order of the files."""
    shuffles: tuple[int, ...] = ()
    """Seeds of the orders in which options are shown; none: the owner's own."""

    @property
    def is_partial(self) -> bool:
        """Whether some items are left out."""
        return len(self.ids) < len(self.items.items)


def choose(config: EvaluateConfig) -> list[Chosen]:
    """Reads the tasks' files, and says which items are asked.

    Raises:
        UserError: There is no such task or prompt, files cannot be read, or an id, a shard or a limit leaves nothing.
    """
    named = [find_task(name) for name in config.task]  # all names before the first file
    prompts = [tuple(dict.fromkeys(name for said in config.prompt for name in task.prompt_names(said))) for task in named]
    tasks = [_items(task, data, config) for task, data in zip(named, config.folders, strict=True)]
    for items in tasks:
        check_columns(items.task, items.files, images=True)
    if unknown := [one for one in config.ids if not any(one in items.by_id for items in tasks)]:
        several = ", ".join(map(shown, unknown[:MOST_FAULTS])) + (", …" if len(unknown) > MOST_FAULTS else "")
        raise UserError(f"--ids: {several} {'is' if len(unknown) == 1 else 'are'} no item of {', '.join(config.task)}")
    chosen = [Chosen(items, asked, _ids(items, config), config.shuffle_options) for items, asked in zip(tasks, prompts, strict=True)]
    if config.shuffle_options:
        _check_shuffles(chosen, config)
    for one in chosen:
        known = one.items.by_id
        for prompt in one.prompts:
            if all(one.items.task.as_asked(known[name], prompt) is None for name in one.ids):
                raise UserError(f"{one.items.task.name}: options of all items that are asked are images, which {prompt} cannot leave out")
    return chosen


def _items(task: Task, data: Path, config: EvaluateConfig) -> Items:
    try:
        return open_items(task, data, images=False)
    except UserError as error:
        if len(config.task) > 1 and len(config.data) == 1 and data.is_file():
            raise UserError(f"{error}; --data is one file for {len(config.task)} tasks: give one for each, with commas between") from None
        raise


def identity(chosen: Sequence[Chosen]) -> Mapping[str, Any]:
    """What an evaluation is of: another one may not go on with its files. Which of the items are asked may change."""
    return {
        one.items.task.name: {"data": one.items.digest, "prompts": list(one.prompts)}
        | ({"shuffle_options": list(one.shuffles)} if one.shuffles else {})
        for one in chosen
    }


def _check_shuffles(chosen: Sequence[Chosen], config: EvaluateConfig) -> None:
    if any(OPEN in one.prompts for one in chosen):
        raise UserError(f"--shuffle_options has nothing to shuffle where --prompt={OPEN} leaves the options out; evaluate that apart")
    for one in chosen:
        task, known, why = one.items.task, one.items.by_id, ""
        if task.options_in_picture:
            why = "has its options in its pictures"
        elif not any(item.options for item in one.items.items):
            why = "has no options"
        elif not any(known[name].options for name in one.ids):
            why = "has no options in the items that are asked"
        if why:
            raise UserError(f"--shuffle_options: {task.name} {why}; leave that task out")
        open_items = sum(not known[name].options for name in one.ids)
        if config.k and max(config.k) > config.n and open_items:  # better said now than when all is paid
            once = f"{counted(open_items, 'item')} of {task.name} without options, in no order"
            raise UserError(f"k={max(config.k)} is more than n={config.n}, the samples of {once}; ask for more samples, or a smaller k")


def _ids(items: Items, config: EvaluateConfig) -> tuple[str, ...]:
    index, shards = config.part
    wanted, name = set(config.ids), items.task.name
    ids = [item.id for item in items.items if not wanted or item.id in wanted]
    if not ids:
        raise UserError(f"--ids has no item of {name}; leave that task out")
    if not (part := ids[index::shards][: config.limit]):
        raise UserError(f"--shard={config.shard} has no item of {name}: there are {len(ids)}; use fewer shards")
    return tuple(part)
