"""What others wrote: text that is shown on a terminal, and JSON. Nothing of it is trusted, and no fault in it is a traceback."""

from __future__ import annotations

import collections
import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Lists and objects within one another. No file this package reads has ten; Python's own limit depends on its version and on who calls."""

TOO_MANY_DIGITS = "a number of more than 4,300 digits"

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Characters that a terminal obeys instead of showing them: C0, C1, bidirectional marks, line separators; and halves of characters."""


class JSONFault(ValueError):
    """Text that is not JSON, or JSON that says two things. The message is one line and says where.

    Args:
        message: What is wrong.
        syntax: Where the parser stopped; None: it is JSON, but not what may be read.
    """

    def __init__(self, message: str, syntax: json.JSONDecodeError | None = None) -> None:
        super().__init__(message)
        self.syntax = syntax


def visible(text: str) -> str:
    """`text` with what a terminal would obey written as escapes; line ends and tabs stay."""
    return _UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


def one_line(text: str) -> str:
    """`text` without line ends, with what a terminal would obey written as escapes."""
    return visible(" ".join(text.split()))


def shown(value: Any, limit: int = 60) -> str:
    """A foreign value as a message quotes it: text as it is, anything else as JSON; one line, cut to `limit` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    text = one_line(text[: 4 * limit])  # what follows is cut in any case
    return text if len(text) <= limit else text[: limit - 1] + "…"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, strictly: UTF-8, no name twice in an object, finite numbers, no deeper than `MAX_DEPTH`.

    Raises:
        JSONFault: Anything else.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite)
    except JSONFault:
        raise
    except UnicodeDecodeError as error:
        raise JSONFault(f"not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise JSONFault(describe_json_error(error), error) from None
    except RecursionError:
        raise JSONFault("JSON nested too deeply") from None
    except ValueError:  # Python's limit on converting digits
        raise JSONFault(TOO_MANY_DIGITS) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
        raise JSONFault("JSON nested too deeply")
    return value


def describe_json_error(error: json.JSONDecodeError, end: str = "the end", *, line: bool = True) -> str:
    """What the parser met, and where.

    Args:
        error: The parser's.
        end: What it has met where no text is left.
        line: Whether to name the line, if it is not the first.
    """
    # Its messages end as its own places go on: "Unterminated string starting at", "Invalid \\escape: ".
    expected = error.msg.rstrip(": ").removesuffix(" at").removesuffix(" starting")
    found = repr(error.doc[error.pos : error.pos + 20]) if error.pos < len(error.doc) else end
    place = f"line {error.lineno} column {error.colno}" if line and error.lineno > 1 else f"column {error.colno}"
    return f"not valid JSON at {place}: {expected[0].lower()}{expected[1:]}, found {found}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = collections.Counter(name for name, _ in pairs)
        raise JSONFault(f"{shown(next(name for name, times in names.items() if times > 1))!r} is given twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise JSONFault(f"{name} is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise JSONFault(f"the number {shown(text, 20)} is too large")
    return number


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level:
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())]
        depth += 1
        if depth > MAX_DEPTH:
            return True
    return False
