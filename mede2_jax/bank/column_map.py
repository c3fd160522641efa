"""A table by a YAML file that says which column is what: that of a benchmark of one's own (`tasks/own_config.py`), and its licence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from mede2_jax.config import UserError, describe_validation_error, read_yaml
from mede2_jax.tasks.asking import CHOICES, choices
from mede2_jax.tasks.item import Item, text
from mede2_jax.tasks.own import OwnTask
from mede2_jax.tasks.own_config import Name, OwnColumns, OwnConfig

LICENCE = "licence"
"""In the fields of an item."""


class BankColumns(OwnColumns):
    """Which column is what."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"license": "licence"}

    licence: Name | None = None
    """Of the licence of each row."""


class ColumnMap(OwnConfig):
    """A table of questions."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {**OwnConfig.FORMER_NAMES, "license": "licence"}

    columns: BankColumns
    licence: str = ""
    """Of all rows, where no column says it."""


def read_map(path: Path) -> MappedTable:
    """The table that a YAML file describes.

    Raises:
        UserError: It cannot be read, has unknown keys (the nearest known one is named), or wrong values.
    """
    try:
        return MappedTable(ColumnMap.model_validate(read_yaml(ColumnMap, path)), path)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {describe_validation_error(error)}") from None


class MappedTable(OwnTask):
    """Its rows, as items."""

    def __init__(self, config: ColumnMap, path: Path):
        super().__init__(config, path)
        self.licence_column, self.licence = config.columns.licence, config.licence
        if self.licence_column is not None:
            self.columns = tuple(dict.fromkeys((*self.columns, self.licence_column)))

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. `fields` say the licence too. Choices that the question ends with, as MedXpertQA's do, are taken off it."""
        item, column = super().read(row, where), self.licence_column
        said = text(row, column, where, empty=True).strip() if column is not None and row.get(column, "") is not None else ""
        question = item.question.rstrip().removesuffix(f"{CHOICES}{choices(item.options)}") if item.options else item.question
        return dataclasses.replace(item, question=question, fields={**item.fields, LICENCE: said or self.licence})
