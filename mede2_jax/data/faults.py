"""What is wrong with a record, in words for someone who has never seen pydantic: the field, the rule, what was found."""

from __future__ import annotations

import pydantic

from mede2_jax.config import counted
from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import Record
from mede2_jax.fields import nearest
from mede2_jax.foreign import shown

RULES = {
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
}
"""What pydantic's error types ask for."""


def describe_fault(error: pydantic.ValidationError, kind: type[Record]) -> str:
    """The first fault in words for someone who has never seen pydantic."""
    item = error.errors(include_url=False)[0]
    path, value, context = _without_tags(item["loc"]), item["input"], item.get("ctx", {})
    field = shown(".".join(str(part) for part in path), 120)
    match item["type"]:
        case "missing":
            return f"field {field!r} is missing"
        case "extra_forbidden" if len(path) > 1:
            return f"unknown field {field!r}; take it out"
        case "extra_forbidden":
            near = nearest(field, kind.model_fields)
            return f"unknown field {field!r}" + (f"; did you mean {near!r}?" if near else f" (known: {', '.join(kind.model_fields)})")
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"field {field!r} must be {context['expected']}, found {shown(value)}"
        case "too_short":
            return f"field {field!r} must hold at least {counted(context['min_length'], 'message')}, found {len(value)}"
        case "string_too_short":
            return f"field {field!r} is empty"
        case "string_unicode":
            return f"field {field!r} holds one half of a surrogate pair (\\ud800 to \\udfff); write the whole character"
        case "union_tag_invalid" | "union_tag_not_found":
            return f'field {field!r} must be {{"type": "text", "text": "…"}} or {{"type": "image"}}, found {shown(value)}'
        case "tuple_type" if path[-1] == "content":
            return f"field {field!r} must be text or a list of parts, found {json_kind(value)}"
        case fault:
            return f"field {field!r} {RULES.get(fault, 'is not as it should be')}, found {json_kind(value)}"


def _without_tags(path: tuple[int | str, ...]) -> list[int | str]:
    """pydantic puts the tags of unions into the path of an error; the user's file does not have them."""
    field: list[int | str] = []
    for at, part in enumerate(path):
        before = path[max(at - 2, 0) : at]
        tag = before[-1:] == ("content",) or (len(before) == 2 and before[0] == "parts")
        field += [] if tag else [part]
    return field
