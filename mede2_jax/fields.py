"""The options that a config has, by dotted name, and which of them an unknown name most likely means."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import pydantic

LONGEST_NAME = 100
"""Of an unknown option, to look for what it may have meant."""


def options(config_type: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option's dotted name and annotation; an optional section is one too, so that it can be set to none."""
    for name, field in config_type.model_fields.items():
        key = prefix + (field.alias or name)
        nested = model_of(field.annotation)
        if nested is None or is_optional(field.annotation):
            yield key, field.annotation
        if nested is not None:
            yield from options(nested, key + ".")


def model_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The nested config an annotation stands for, seeing through `X | None`."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            return candidate
    return None


def is_optional(annotation: Any) -> bool:
    """Whether it may be none."""
    return type(None) in typing.get_args(annotation)


def is_switch(annotation: Any) -> bool:
    """Whether its flag needs no value."""
    return annotation is bool or bool in typing.get_args(annotation)


def is_list(annotation: Any) -> bool:
    """Whether it takes several values."""
    return any(typing.get_origin(choice) in (tuple, list) for choice in (annotation, *typing.get_args(annotation)))


def meant(config_type: type[pydantic.BaseModel], unknown: str) -> str:
    """The option or section that an unknown dotted name most likely means; "" rather than a wrong one."""
    if len(unknown) > LONGEST_NAME:  # counting edits would take minutes
        return ""
    last, former_names = unknown.rpartition(".")[2], getattr(config_type, "FORMER_NAMES", {})
    if last in former_names:
        return former_names[last]
    known = list(dict(options(config_type)))
    sections = dict.fromkeys(option.rpartition(".")[0] for option in known if "." in option)
    near: list[tuple[int, int, str]] = []
    for name in (*sections, *known):
        # Written as a whole with any separator (lora_rank), or else in another section or none (rank).
        spellings = (unknown.replace(".", "_"), name.replace(".", "_")), (last, name.rpartition(".")[2])
        for order, (seen, right) in enumerate(spellings):
            # One slip in a short name, two from 12 letters on: with more, unrelated names are alike.
            if (edits := _edits(seen, right)) <= 1 + len(right) // 12:
                near.append((edits, order, name))
    return min(near)[2] if near else ""


def nearest(unknown: str, known: Iterable[str]) -> str:
    """The known name that an unknown one is a slip of; "" rather than a wrong one, so always where the known ones have three letters."""
    if len(unknown) > LONGEST_NAME:
        return ""
    near = [(_edits(unknown, name), name) for name in known]
    return min(((edits, name) for edits, name in near if edits <= min(1 + len(name) // 12, len(name) // 4)), default=(0, ""))[1]


def hint(name: str) -> str:
    """What a message adds when it knows what was meant."""
    return f" (did you mean {name!r}?)" if name else ""


def _edits(one: str, other: str) -> int:
    """How many letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == other[j - 2] and wanted == one[i - 2]:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]
