"""Medbullets (HanjieChen/ChallengeClinicalQA): 308 questions with four or five options. No rule is published; MedXpertQA's is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.tasks.item import Item, exactly, letter, lettered, options_of, text
from mede2_jax.tasks.medxpertqa import AskedAsMedXpertQA


class Medbullets(AskedAsMedXpertQA):
    """One of its two sets."""

    columns = ("link", "question", "opa", "opb", "opc", "opd", "ope", "options", "answer_idx")
    counts: Mapping[str, int] = {"": 308}
    clustered = True  # ten questions stand there twice

    def __init__(self, options: int):
        self.size = options
        self.name, self.title = f"medbullets_op{options}", f"Medbullets ({options} options)"
        self.files = (f"medbullets_op{options}*", f"op{options}/*")

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. The link is the only name that both sets share."""
        if "opa" in row:
            options = lettered([text(row, f"op{one}", where) for one in "abcde"[: self.size]])
            if self.size == 4 and row.get("ope"):
                fifth = shown(row["ope"])
                raise UserError(
                    f"{where}: column 'ope' holds a fifth option ({fifth}), so this is of medbullets_op5; take that task or file"
                )
        else:
            options = exactly(options_of(row.get("options"), "options", where), self.size, "options", where)
        question = text(row, "question", where)
        return Item(
            id=text(row, "link", where) if "link" in row else "",
            question=question,
            answer=letter(text(row, "answer_idx", where), options, "answer_idx", where),
            options=options,
            cluster=question,
        )


TASKS = (Medbullets(4), Medbullets(5))
