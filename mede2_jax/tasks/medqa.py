"""MedQA, US, four options, test (jind11/MedQA): 1,273 questions. Its owner has no rule for language models; MedXpertQA's is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mede2_jax.tasks.item import Item, exactly, letter, lettered, options_of, text
from mede2_jax.tasks.medxpertqa import AskedAsMedXpertQA

SIZE = 4
"""Options of each item; the owner also has them with five."""


class MedQA(AskedAsMedXpertQA):
    """As in the owner's archive, or one of the two re-uploads of it."""

    name, title = "medqa", "MedQA (US, 4 options)"
    files = ("4_options/phrases_no_exclude_test.jsonl", "phrases_no_exclude_test.jsonl", "data/test-*.parquet", "test.json*", "medqa*")
    columns = (
        "id",
        "question",
        "answer",
        "options",
        "meta_info",
        "answer_idx",
        "sent1",
        "ending0",
        "ending1",
        "ending2",
        "ending3",
        "label",
    )
    breakdowns = ("step",)
    counts: Mapping[str, int] = {"": 1273, "step=step1": 679, "step=step2&3": 594}

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. Rows have no id; their number is it."""
        if "sent1" in row:  # a re-upload for multiple choice by likelihood
            options = lettered([text(row, f"ending{number}", where) for number in range(SIZE)])
            answer = text(row, "label", where)
            right = letter("ABCD"[int(answer)] if answer in ("0", "1", "2", "3") else answer, options, "label", where)
            return Item(id=text(row, "id", where), question=text(row, "sent1", where), answer=right, options=options)
        options = options_of(row.get("options"), "options", where)
        step = text(row, "meta_info", where)
        return Item(
            id=text(row, "id", where) if "id" in row else "",
            question=text(row, "question", where),
            answer=letter(text(row, "answer_idx", where), options, "answer_idx", where),
            options=exactly(options, SIZE, "options", where),
            groups={"step": "step2&3" if step == "stfep2&3" else step},  # a slip in the owner's file
        )


TASKS = (MedQA(),)
