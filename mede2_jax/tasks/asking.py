"""How an item is asked: a conversation with its images in their places, in one turn or in two."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, Part, TextPart
from mede2_jax.foreign import shown

OURS = "mede2"
"""The prompt of ours that every task has: the paper's system turn, and the question with its choices."""
OPEN = "mede2_open"
"""The same without the choices: the answer is a text, which is compared with that of the right choice."""
OFFICIAL = "official"
"""Stands for each of an owner's ways to ask."""
THEN = "then"
"""In the metadata of a question in two turns: what the user says to the first reply."""
SHUFFLE, ORDER = "shuffle", "order"
"""In the metadata of a question whose options stand in another order than the owner's: the seed; and (of a choice) the order itself."""
CHOICES = "\nAnswer Choices: "
MARK = re.compile(r"<image (\d)>")
"""Stands in a question or an option of MMMU's for the column `image_k`."""


class AskedAs(NamedTuple):
    """What the id of a question says of it."""

    task: str
    prompt: str
    item: str
    shuffle: int | None
    """The seed of its options' order; None: the owner's own."""


def question_id(task: object, prompt: object, item: object, shuffle: object = None) -> str:
    """Of an item asked in one way: `medqa/cot/medqa-3`, with its options in the order of seed 7 `medqa/cot~7/medqa-3`."""
    return f"{task}/{prompt}{'' if shuffle is None else f'~{shuffle}'}/{item}"


def asked_as(id: str) -> AskedAs:
    """What such an id says.

    Raises:
        UserError: It is none.
    """
    parts = id.split("/", 2)
    if len(parts) < 3:
        raise UserError(f"{shown(repr(id))} is no id of a question that evaluate asks (TASK/PROMPT/ITEM); use another --out")
    task, prompt, item = parts
    name, mark, seed = prompt.rpartition("~")
    return AskedAs(task, name, item, int(seed)) if mark and seed.isdecimal() else AskedAs(task, prompt, item, None)


@dataclasses.dataclass(frozen=True)
class ItemImage:
    """An image of an item: a file of the benchmark, or the bytes that its table holds."""

    name: str
    data: bytes | None = None
    """None: it is the file of that name."""


Piece = str | ItemImage
"""Of what a user says."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """An item, as it is asked."""

    user: tuple[Piece, ...]
    """The user's turn: texts, and images where they stand."""
    system: str | None = None
    """None: no system turn."""
    then: str | None = None
    """What the user says to the reply; the reply to this is the one that is scored. None: one turn."""

    @property
    def images(self) -> tuple[ItemImage, ...]:
        """One for each image part, in order; one that stands in two places is there twice."""
        return tuple(piece for piece in self.user if isinstance(piece, ItemImage))

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation up to the first reply."""
        system = () if self.system is None else (Message(role="system", content=self.system),)
        if not self.images:
            return (*system, Message(role="user", content="".join(map(str, self.user))))
        return (*system, Message(role="user", content=tuple(_parts(self.user))))


def second_turn(first: Sequence[Message], reply: str, then: str) -> tuple[Message, ...]:
    """The conversation in which the first reply stands, and what the user says to it."""
    return (*first, Message(role="assistant", content=reply), Message(role="user", content=then))


def choices(options: Mapping[str, str]) -> str:
    """`(A) … (B) …`, as MedXpertQA's questions end."""
    return " ".join(f"({one}) {option}" for one, option in options.items()).strip()


def with_choices(question: str, options: Mapping[str, str]) -> str:
    """A question as MedXpertQA writes it, without blanks around it; an open one has no choices."""
    return (f"{question}{CHOICES}{choices(options)}" if options else question).strip()


def with_images_in_place(text: str, images: Mapping[str, ItemImage], where: str) -> tuple[Piece, ...]:
    """A text of MMMU's, in which every mark is the image that it stands for.

    Args:
        text: With marks, also repeated.
        images: By the number in the mark.
        where: Names the item.

    Raises:
        UserError: A mark has no image.
    """
    pieces = MARK.split(text)
    return tuple(one for place, piece in enumerate(pieces) if (one := image_of(piece, images, where) if place % 2 else piece))


def image_of(number: str, images: Mapping[str, ItemImage], where: str) -> ItemImage:
    """The image that a mark stands for.

    Raises:
        UserError: There is none.
    """
    if number not in images:
        raise UserError(f"{shown(where)}: <image {number}> stands in its text, and its file holds no such image; fetch the parquet files")
    return images[number]


def _parts(pieces: Iterable[Piece]) -> Iterator[Part]:
    """Texts that follow one another are one part."""
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if text:
            yield TextPart(text=text)
        yield ImagePart()
        text = ""
    if text:
        yield TextPart(text=text)
