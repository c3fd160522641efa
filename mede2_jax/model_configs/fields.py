"""How the parts of a config.json are read: each is a model of the fields that count, and a fault is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import pydantic

from mede2_jax.config import describe_validation_error
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign

SectionT = TypeVar("SectionT", bound=Foreign)

Size = Annotated[int, pydantic.Field(gt=0, le=2**24)]
"""Of an axis."""
Epsilon = Annotated[float, pydantic.Field(ge=1e-30, lt=1)]
"""Of a norm; float32 has no smaller number that every device keeps from being 0."""
Theta = Annotated[float, pydantic.Field(ge=1, le=1e15)]
"""Base of rotary frequencies; powers of it are float32."""
Layers = Annotated[int, pydantic.Field(gt=0, le=1000)]


def read_section(kind: type[SectionT], raw: Mapping[str, Any], what: str = "") -> SectionT:
    """A part of config.json.

    Args:
        kind: Its fields.
        raw: The part.
        what: What errors call it, such as `vision `.

    Raises:
        ValueError: A field is missing or of another type. The message names it.
    """
    try:
        return kind.model_validate(dict(raw))
    except pydantic.ValidationError as error:
        lost = next((item["loc"] for item in error.errors() if item["type"] == "missing"), None)
        if lost is not None:
            raise missing(str(lost[-1])) from None
        raise ValueError(f"config.json: {what}{shown(describe_validation_error(error), 500)}") from None


def part(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object in config.json.

    Raises:
        ValueError: It is missing, or no object.
    """
    found = raw.get(name)
    if found is None:
        raise missing(name)
    if not isinstance(found, dict):
        raise ValueError(f"config.json: {name} must be an object (got {shown(repr(found))})")
    return found


def missing(name: str) -> ValueError:
    """The error about a field that is not there."""
    return ValueError(f"config.json: {name!r} is missing")


def only(raw: Mapping[str, Any], supported: Mapping[str, Any], what: str = "") -> None:
    """Raises ValueError where a field says something else than the one thing that is supported."""
    for name, value in supported.items():
        found = raw.get(name)
        if found is not None and found != value:
            raise ValueError(f"config.json: {what}{name}={shown(repr(found))} is not supported, only {value!r}")
