"""Fields that a reply can do without: of another type, they are as good as left out, and no reason to throw away what is paid for."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic


def _count(value: Any) -> int | None:
    """A number of tokens; None where it is none."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


Tokens = Annotated[int | None, pydantic.BeforeValidator(_count)]
Text = Annotated[str | None, pydantic.BeforeValidator(lambda value: value if isinstance(value, str) else None)]
AnObject = pydantic.BeforeValidator(lambda value: value if isinstance(value, dict) else None)
Place = Annotated[int, pydantic.BeforeValidator(lambda value: 0 if value is None else value)]
"""Of a sample among several; of one, servers need not say it."""
