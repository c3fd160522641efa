"""MMMU-Pro (MMMU-Benchmark/MMMU, mmmu-pro): 1,730 questions in three settings, which are never mixed; health alone, too."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from mede2_jax.scoring.mmmu_pro import read
from mede2_jax.scoring.reading import Rule
from mede2_jax.tasks.item import Item, ItemImage, Task, letter, lettered, text
from mede2_jax.tasks.mmmu import HEALTH, MMMU, held_image, listed, marked_images, subject_of

SETTINGS = {"standard10": "standard (10 options)", "standard4": "standard (4 options)", "vision": "vision"}
"""Ours, and the owner's name of its folder."""


class MMMUPro(Task):
    """One setting, of all subjects or of health."""

    columns = ("id", "question", "options", "answer", "subject")
    image_columns = ("image", *MMMU.image_columns)
    breakdowns = ("subject",)
    prompts = ("cot", "direct")

    def __init__(self, setting: str, subjects: tuple[str, ...], counts: Mapping[str, int]):
        self.setting, self.subjects, self.counts = setting, subjects, counts
        self.name = f"mmmu_pro_{setting}" + ("_health" if subjects else "")
        self.title = f"MMMU-Pro{'-Health' if subjects else ''} ({setting})"
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
            images = marked_images(row, "\n".join([question, *options.values()]), where)
        return Item(
            id=identity,
            question=question,
            answer=letter(text(row, "answer", where), options, "answer", where),
            options=options,
            images=images,
            groups={"subject": text(row, "subject", where) if "subject" in row else subject_of(identity, where)},
        )

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
