"""MMMU-Pro (MMMU-Benchmark/MMMU, mmmu-pro): 1,730 questions in three settings, which are never mixed; health alone, too."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.reasoning.prompts import VISION
from mede2_jax.scoring.mmmu_pro import read
from mede2_jax.scoring.reading import Rule
from mede2_jax.tasks.asking import MARK, Asked, ItemImage, Piece, image_of, with_choices, with_images_in_place
from mede2_jax.tasks.item import Item, Task, letter, lettered, text
from mede2_jax.tasks.mmmu import (
    HEALTH,
    MMMU,
    held_image,
    images_by_mark,
    listed,
    marked_images,
    marked_texts,
    subject_of,
    with_images_in_order,
)

SETTINGS = {"standard10": "standard (10 options)", "standard4": "standard (4 options)", "vision": "vision"}
"""Ours, and the owner's name of its folder."""
_LAST_LINE = (
    " The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of options."
)
_STEPS = " Think step by step before answering."
_DIRECT = "Answer with the option letter from the given choices directly."
INSTRUCTIONS = {
    ("cot", "standard"): f"Answer the preceding multiple choice question.{_LAST_LINE}{_STEPS}",
    ("direct", "standard"): _DIRECT,
    ("cot", "vision"): f"Write out the multiple-choice question in the image and then solve it.{_LAST_LINE}{_STEPS}",
    ("direct", "vision"): _DIRECT + _LAST_LINE,
}
"""By prompt, and by whether question and options are text or in the picture."""


class MMMUPro(Task):
    """One setting, of all subjects or of health."""

    columns = ("id", "question", "options", "answer", "subject")
    image_columns = ("image", *MMMU.image_columns)
    breakdowns = ("subject",)
    prompts = ("cot", "direct")

    def __init__(self, setting: str, subjects: tuple[str, ...], counts: Mapping[str, int]):
        self.setting, self.subjects, self.counts = setting, subjects, counts
        self.options_in_picture = setting == "vision"
        self.name = f"mmmu_pro_{setting}" + ("_health" if subjects else "")
        self.title = f"MMMU-Pro{'-Health' if subjects else ''} ({setting})"
        self.never_open = "its choices are in the picture" if setting == "vision" else ""
        self.files = (f"{SETTINGS[setting]}/test-*.parquet", f"mmmu_pro_{setting}*")

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. In the vision setting question and options are in the picture."""
        identity = text(row, "id", where)
        options = lettered(listed(row.get("options"), "options", where))
        question = text(row, "question", where, empty=True) if "question" in row else ""
        images: tuple[ItemImage, ...]
        if self.setting == "vision":
            images = (held_image(row["image"], "image", where),) if row.get("image") is not None else ()
        else:
            images = marked_images(row, marked_texts(question, options), where)
        return Item(
            id=identity,
            question=question,
            answer=letter(text(row, "answer", where), options, "answer", where),
            options=options,
            images=images,
            groups={"subject": text(row, "subject", where) if "subject" in row else subject_of(identity, where)},
        )

    def following_options(self, before: Item, item: Item) -> Item:
        """See `Task.following_options`."""
        return item if self.options_in_picture else with_images_in_order(before, item)

    def question_of(self, item: Item) -> tuple[Piece, ...]:
        """See `Task.question_of`. Images stand in the places of their marks; a picture that holds all is named."""
        if self.setting == "vision":
            return (self._screenshot(item), VISION.text)
        return with_images_in_place(with_choices(item.question, item.options), images_by_mark(item), item.id)

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`. Images come after the text, as often as their marks, of which only `<image>` is left."""
        if self.setting == "vision":
            return Asked((INSTRUCTIONS[prompt, "vision"], self._screenshot(item)))
        lines = [item.question, *(f"{one}. {option}" for one, option in item.options.items()), INSTRUCTIONS[prompt, "standard"]]
        by_mark, marks = images_by_mark(item), MARK.findall(marked_texts(item.question, item.options))
        images = [image_of(number, by_mark, item.id) for number in marks]
        return Asked((MARK.sub("<image>", "\n".join(lines)), *images))

    def _screenshot(self, item: Item) -> ItemImage:
        if not item.images:
            raise UserError(f"{shown(item.id)}: its file holds no image, in which question and options are; fetch the parquet files")
        return item.images[0]

    def holds(self, item: Item) -> bool:
        """By subject."""
        return not self.subjects or item.groups["subject"] in self.subjects

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        return Rule(functools.partial(read, options=item.options))


_HEALTH_COUNTS = dict(zip((f"subject={subject}" for subject in HEALTH), (52, 59, 60, 57, 58), strict=True))
TASKS = tuple(
    MMMUPro(setting, subjects, counts)
    for setting in SETTINGS
    for subjects, counts in (((), {"": 1730}), (HEALTH, {"": 286, **_HEALTH_COUNTS}))
)
