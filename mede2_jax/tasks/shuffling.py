"""Options in another order: which one a seed gives an item, and which option a letter of it stands for.

An order is the letters of the options in the places in which they are shown: `CADB` shows option C as A, option A as B, …
"""

from __future__ import annotations

import dataclasses
import hashlib

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.scoring.reading import Truth
from mede2_jax.tasks.item import Item, Task


def order_of(seed: int, item: Item) -> str:
    """The order that a seed gives an item: it follows from the seed, the item's id and the letters, and is the same everywhere."""

    def place(letter: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{item.id}\0{letter}".encode()).digest()

    return "".join(sorted(item.options, key=place))


def shuffled(task: Task, item: Item, order: str) -> Item:
    """The item with its options in another order, and as right letter the one where its text now stands.

    Raises:
        UserError: It is no order of these options.
    """
    if sorted(order) != sorted(item.options):
        letters = ", ".join(item.options) or "none"
        raise UserError(f"{shown(item.id)}: {shown(repr(order))} is no order of its options ({letters}); is the benchmark's file the same?")
    now = dict(zip(order, item.options, strict=True))
    answer: Truth = now[item.answer] if isinstance(item.answer, str) else tuple(now[one] for one in item.answer)
    options = {letter: item.options[whose] for letter, whose in zip(item.options, order, strict=True)}
    return task.following_options(item, dataclasses.replace(item, options=options, answer=answer))


def meant_by(letter: str | None, item: Item, order: str) -> str | None:
    """The option that a letter read in a reply stands for, by its own letter; what is no letter of the item is given back as it is.

    Args:
        letter: As read.
        item: In its own order.
        order: In which it was shown.
    """
    return letter if letter is None else dict(zip(item.options, order, strict=True)).get(letter, letter)
