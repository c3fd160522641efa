"""LLaMA-Factory's sharegpt format, in which `<image>` in a text is an image.

A turn is `{"from", "value"}` or `{"role", "content"}`. The `system` column counts where the conversation has no system turn of its own.
"""

from __future__ import annotations

from typing import Any

from mede2_jax.data.raw import PLACEHOLDER, Json, images_of, messages_of, text_of
from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import Demonstration, Record
from mede2_jax.data.turns import Place, is_empty, other_columns, read_flags, taken_out
from mede2_jax.foreign import shown

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
OTHER_MEDIA = ("<video>", "<audio>")
"""LLaMA-Factory's marks beside `<image>`."""
_NAMES = frozenset({"id", "conversations", "messages", "system", "images", "image", "chosen", "rejected"})


def from_sharegpt(raw: Json, kind: type[Record]) -> Json:
    """The fields of a record of `kind`.

    Raises:
        ValueError: Names the field and what is wrong with it.
    """
    name = "messages" if raw.get("messages") is not None and raw.get("conversations") is None else "conversations"
    place: Place = "demonstration" if kind is Demonstration else "prompt"
    turns = [_turn(turn, f"{name}.{i}", place) for i, turn in enumerate(messages_of(raw, name))]
    images, known = images_of(raw), _NAMES - ({"messages"} if name == "conversations" else set())
    if not is_empty(raw.get("system")):
        system = text_of(raw["system"], "system")
        if turns and turns[0]["role"] == "system":
            known = known - {"system"}
        else:
            turns.insert(0, {"role": "system", "content": system})
    turns, unscored = taken_out(turns)
    responses = {} if kind is Demonstration else {field: _response(raw, field) for field in ("chosen", "rejected")}
    _check_placeholders(turns, images)
    messages = [turn | {"content": _parts(turn["content"])} for turn in turns]
    record: Json = {"images": images, "metadata": other_columns(raw, known, has_images=bool(images))}
    if kind is Demonstration:
        return record | {"messages": messages, "unscored": unscored}
    return record | {"prompt": messages} | responses


def _turn(turn: Any, field: str, place: Place) -> Json:
    if not isinstance(turn, dict):
        raise ValueError(f"field {field!r} must be an object with 'from' and 'value', found {json_kind(turn)}")
    keys = ("from", "value") if "from" in turn or "value" in turn else ("role", "content")
    role = turn.get(keys[0])
    flags = read_flags(turn, field, keys, _ROLES.get(role, "") if isinstance(role, str) else "", place)
    for key in keys:
        if turn.get(key) is None:
            raise ValueError(f"field '{field}.{key}' is missing")
    role = text_of(role, f"{field}.{keys[0]}")
    if role not in _ROLES:
        raise ValueError(f"field '{field}.{keys[0]}': role {shown(role)!r} is not supported (known: {', '.join(_ROLES)})")
    return {"role": _ROLES[role], "content": text_of(turn[keys[1]], f"{field}.{keys[1]}")} | flags


def _response(raw: Json, field: str) -> str:
    if raw.get(field) is None:
        raise ValueError(f"field {field!r} is missing")
    value = raw[field]
    if isinstance(value, str):
        return value
    turn = _turn(value, field, "response")
    if turn["role"] != "assistant":
        raise ValueError(f"field {field!r} must be the assistant's turn, found {turn['role']!r}")
    return turn["content"]


def _check_placeholders(turns: list[Json], images: list[str]) -> None:
    if other := next((mark for mark in OTHER_MEDIA if any(mark in turn["content"] for turn in turns)), None):
        raise ValueError(
            f"a text holds {other!r}, which stands for a file in sharegpt's format, and videos and audios are not supported; give frames "
            "as images, or set data.format=mede2 if it is plain text"
        )
    if not images and any(PLACEHOLDER in turn["content"] for turn in turns):
        raise ValueError(
            f"a text holds {PLACEHOLDER!r}, which stands for an image in sharegpt's format, but there are 0 files in field 'images'; "
            "name them, or set data.format=mede2 if it is plain text"
        )


def _parts(text: str) -> str | list[Json]:
    if PLACEHOLDER not in text:
        return text
    parts: list[Json] = []
    for index, piece in enumerate(text.split(PLACEHOLDER)):
        parts += [{"type": "image"}] if index else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts
