"""MMMU-Pro (MMMU-Benchmark/MMMU, mmmu-pro): 1,730 questions in three settings, which are never mixed; health alone, too."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.reasoning.prompts import VISION
from mede2_jax.scoring.mmmu_pro import read
from mede2_jax.scoring.reading import Rule
from mede2_jax.tasks.asking import MARK, OURS, Asked, ItemImage, Piece, image_of, with_choices, with_images_in_place
from mede2_jax.tasks.item import Item, Task, letter, lettered, text
from mede2_jax.tasks.mmmu import (
    HEALTH,
    MMMU,
    NESTED,
    as_the_owner_has_them,
    discipline_of,
    held_image,
    images_by_mark,
    is_nested,
    is_of_other_subjects,
    listed,
    marked_images,
    marked_texts,
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


TELLING = 30
"""So many items of a setting with ten options cannot all have four or fewer: most have more."""


class MMMUPro(Task):
    """One setting, of all subjects or of health."""

    setting_column = "setting"
    columns = ("id", "question", "options", "answer", "subject", setting_column)
    always_with_images = True
    prompts = ("cot", "direct")
    errors_are_objects = True

    def __init__(self, setting: str, subjects: tuple[str, ...], counts: Mapping[str, int]):
        self.setting, self.subjects, self.counts = setting, subjects, counts
        self.breakdowns = ("subject",) if subjects else ("discipline", "subject")
        self.options_in_picture = setting == "vision"
        self.image_columns = ("image",) if setting == "vision" else MMMU.image_columns
        self.name = f"mmmu_pro_{setting}" + ("_health" if subjects else "")
        self.title = f"MMMU-Pro{'-Health' if subjects else ''} ({setting})"
        self.never_open = "its choices are in the picture" if setting == "vision" else ""
        self.files = (f"{SETTINGS[setting]}/test-*.parquet", f"mmmu_pro_{setting}*")

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. In the vision setting question and options are in the picture."""
        identity = text(row, "id", where)
        self.check_setting(row, where)
        options = lettered(listed(row.get("options"), "options", where))
        question = text(row, "question", where, empty=True) if "question" in row else ""
        images: tuple[ItemImage, ...]
        if self.setting == "vision":
            images = (held_image(row["image"], "image", where),) if row.get("image") is not None else ()
        else:
            images = marked_images(row, marked_texts(question, options), where)
        subject = text(row, "subject", where)  # MMMU's own rows, which have no such column, are others
        return Item(
            id=identity,
            question=question,
            answer=letter(text(row, "answer", where), options, "answer", where),
            options=options,
            images=images,
            groups={**discipline_of(subject), "subject": subject},
            fields={NESTED: "yes"} if is_nested(row.get("options")) else {},
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
        options = as_the_owner_has_them(item)
        lines = [item.question, *(f"{one}. {option}" for one, option in options.items()), INSTRUCTIONS[prompt, "standard"]]
        by_mark, marks = images_by_mark(item), MARK.findall(marked_texts(item.question, item.options))
        images = [image_of(number, by_mark, item.id) for number in marks]
        return Asked((MARK.sub("<image>", "\n".join(lines)), *images))

    def _screenshot(self, item: Item) -> ItemImage:
        if not item.images:
            raise UserError(f"{shown(item.id)}: its file holds no image, in which question and options are; fetch the parquet files")
        return item.images[0]

    def check_setting(self, row: Mapping[str, Any], where: str) -> None:
        """See `Task.check_setting`. It is named as in `standard10_cot`, or as the owner calls his folders."""
        said = row.get(self.setting_column)
        found = re.match(r"(standard|vision)\D*(10|4)?", said) if isinstance(said, str) else None
        setting = "".join(filter(None, found.groups())) if found else ""
        if setting in SETTINGS and setting != self.setting:
            raise UserError(f"{where}: its 'setting' is {shown(said)}, and not {self.setting}; take the task of that setting")

    def check_set(self, items: Sequence[Item], where: str) -> None:
        """See `Task.check_set`. Ids are the same in all settings, and items with ten options have at times fewer."""
        many = sum(len(item.options) > 4 for item in items)
        if self.setting == "standard4" and 2 * many > len(items):
            raise UserError(
                f"{where}: {many:,} of {len(items):,} items have more than 4 options, so it is another setting's; take its task"
            )
        if self.setting != "standard4" and not many and len(items) >= TELLING:
            raise UserError(f"{where}: none of {len(items):,} items has more than 4 options, so it is mmmu_pro_standard4's; take that task")

    def holds(self, item: Item) -> bool:
        """By subject."""
        return not self.subjects or item.groups["subject"] in self.subjects

    def is_outside(self, identity: str) -> bool:
        """See `Task.is_outside`."""
        return is_of_other_subjects(identity, self.subjects)

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        return Rule(functools.partial(read, options=item.options if prompt == OURS else as_the_owner_has_them(item)))


_HEALTH_COUNTS = dict(zip((f"subject={subject}" for subject in HEALTH), (52, 59, 60, 57, 58), strict=True))
TASKS = tuple(
    MMMUPro(setting, subjects, counts)
    for setting in SETTINGS
    for subjects, counts in (((), {"": 1730}), (HEALTH, {"": 286, **_HEALTH_COUNTS}))
)
