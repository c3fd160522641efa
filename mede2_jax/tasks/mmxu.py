"""MMXU-test (LinjieMu/MMXU): 3,000 questions on two chest X-rays of a patient each; the images are MIMIC-CXR's, under its own terms.

Neither prompt nor rule is published; MedXpertQA's rule is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.tasks.asking import Asked, ItemImage, Piece, with_choices
from mede2_jax.tasks.item import Item, letter, options_of, text
from mede2_jax.tasks.medxpertqa import AskedAsMedXpertQA, asked_as

_PATIENT = re.compile(r"(?:^|/)(p\d{8})/")


class MMXU(AskedAsMedXpertQA):
    """The test set."""

    name, title = "mmxu", "MMXU-test"
    files = ("MMXU-test.jsonl", "mmxu*")
    columns = ("id", "content_type", "question", "options", "answer", "cur_image_path", "prior_image_path")
    breakdowns = ("content_type",)
    counts: Mapping[str, int] = {"": 3000, "content_type=no change": 1000, "content_type=worsen": 1000, "content_type=improved": 1000}
    clustered = True  # by patient

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. The image before comes first."""
        options = options_of(row.get("options"), "options", where)
        paths = [_path(row, name, where) for name in ("prior_image_path", "cur_image_path")]
        patient = _PATIENT.search(paths[1])
        if patient is None:
            raise UserError(f"{where}: column 'cur_image_path' names no patient (p and eight digits), found {shown(paths[1])}")
        return Item(
            id=text(row, "id", where),
            question=text(row, "question", where),
            answer=letter(text(row, "answer", where), options, "answer", where),
            options=options,
            images=tuple(map(ItemImage, paths)),
            groups={"content_type": text(row, "content_type", where)},
            cluster=patient[1],
        )

    def question_of(self, item: Item) -> tuple[Piece, ...]:
        """See `Task.question_of`."""
        prior, current = item.images
        return ("Prior image: ", prior, "\nCurrent image: ", current, "\n" + with_choices(item.question, item.options))

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`. He says nothing of it: MedXpertQA's prompts, and each image named in the question."""
        return asked_as(prompt, tuple(item.options), self.question_of(item))


def _path(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    return text({**row, name: value[0]} if isinstance(value, list) and len(value) == 1 else row, name, where)


TASKS = (MMXU(),)
