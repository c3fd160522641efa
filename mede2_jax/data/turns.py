"""What the objects of a record hold besides what is read: which turns are scored, and keys that nothing here understands.

Nothing is dropped in silence. What a turn or a part holds and is not understood is refused by name; what a record of another
trainer's format holds besides is kept in `metadata`, unless it changes what that trainer would show the model or score.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any, Literal

from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import Demonstration, Record
from mede2_jax.fields import nearest
from mede2_jax.foreign import shown

Json = dict[str, Any]
Place = Literal["demonstration", "prompt", "response"]
"""Of a turn: assistants' turns of a demonstration are scored unless they say otherwise, a prompt's never, a response always."""

FLAGS = ("weight", "loss", "train", "training", "loss_weight", "loss_scale")
"""Whether a turn is scored, as OpenAI, Swift, Axolotl and LLaMA-Factory call it; null is the same as left out."""
UNSCORED = "unscored"
"""Key of a turn, as readers hand it on, that is not scored; no JSON file's, since it is refused there."""

_TURN_HINTS = {
    "tool_calls": "tool calls are not supported; write them into the content, or take the record out",
    "function_call": "tool calls are not supported; write them into the content, or take the record out",
    "mask": "trainers differ on what it means; write weight: 0 for a turn that is not scored, and take it out",
    "train_detail": "a turn is scored as a whole; write weight: 0 for one that is not, or take the record out",
} | dict.fromkeys(
    ("reasoning_content", "reasoning", "thinking", "thought"),
    "a thought is read as part of the content only; write it there, as <think> … </think> before the answer",
)
_VIDEO = "videos and audios are not supported; give frames as images"
_PAIR = "field {!r}: Swift's preference pairs are not read; write 'chosen' and 'rejected'"
_TOOLS = "field {!r} is not supported; describe the tools in the system turn, or take the record out"
_MASK = "field {!r} is not supported: a turn is scored as a whole; write weight: 0 into one that is not, and take it out"
_ONLINE = "field {!r} weighs a response, which SFT and DPO here do not; take it out"
_REFERENCE = "field {!r} is not read: reference log-probabilities are those of the model that the run starts from; take it out"
_RECORD_FAULTS = {
    "videos": _VIDEO,
    "audios": _VIDEO,
    "video": _VIDEO,
    "audio": _VIDEO,
    "tools": _TOOLS,
    "functions": _TOOLS,
    "objects": "field {!r} is not supported; write the places of objects into the texts, as the model is to read and write them",
    "chat_template_kwargs": "field {!r} is not supported: all conversations are rendered alike; take it out",
    "input_ids": "field {!r} holds tokens, and training would read the texts instead; take it out",
    "assistant_masks": _MASK,
    "completion_mask": _MASK,
    "loss_mask": _MASK,
    "loss_masks": _MASK,
    "weights": _MASK,
    "advantage": _ONLINE,
    "advantages": _ONLINE,
    "ref_chosen_logps": _REFERENCE,
    "ref_rejected_logps": _REFERENCE,
    "rejected_response": _PAIR,
    "rejected_messages": _PAIR,
    "rejected_images": _PAIR,
}
"""What the neighbours' trainers would show the model or score by, and ours does not."""
_RECORD_FLAGS = (*FLAGS, "sample_weight")
_MEDIA = re.compile(r"^data:(image|video|audio)/|\.(png|jpe?g|bmp|gif|tiff?|webp|dcm|mp4|avi|mov|wav|mp3)$", re.IGNORECASE)


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: tables with a column for every key fill it so."""
    return value is None or value in ("", [], {})


def without_nulls(raw: Json) -> Json:
    """A record without its nulls, and without what says of the whole of it that it is as usual."""
    return {name: value for name, value in raw.items() if value is not None and not _is_usual(name, value)}


def _is_usual(name: str, value: Any) -> bool:
    if name in _RECORD_FLAGS:
        return value == 1  # true is 1
    return name in _RECORD_FAULTS and (is_empty(value) or value == "[]")


def check_record(raw: Json, kind: type[Record]) -> None:
    """Refuses what a record of any format says that changes what another trainer would show the model or score.

    Raises:
        ValueError: Names the field.
    """
    for name, value in raw.items():
        if name in _RECORD_FAULTS:
            raise ValueError(_RECORD_FAULTS[name].format(name))
        if name in _RECORD_FLAGS:
            raise ValueError(f"field {name!r} is {shown(value)}: records are not weighed; take out the record, or the field")
    for name in ("label", "kto_tag"):
        if kind is Demonstration and raw.get(name) is False:
            raise ValueError(f"field {name!r} is false: this response is not wanted, and SFT would imitate it; take such records out")


def _is_media(value: Any) -> bool:
    """A file's name, or what Hugging Face's datasets make of a picture or a recording."""
    if isinstance(value, dict):
        return value.keys() == {"bytes", "path"}
    return isinstance(value, str) and _MEDIA.search(value) is not None


def other_columns(raw: Json, known: Collection[str], *, has_images: bool) -> Json:
    """The columns of a record that its format does not have; they say nothing to the model.

    Args:
        raw: The record.
        known: The names that its format has.
        has_images: Whether images are read of it.

    Raises:
        ValueError: One is a known name misspelt, or names a picture where none is read.
    """
    columns = {name: value for name, value in raw.items() if name not in known}
    for name, value in columns.items():
        if not is_empty(value) and (meant := _meant(name, tuple(sorted(known)))):
            raise ValueError(f"unknown field {shown(name)!r}; did you mean {meant!r}?")
        items = value if isinstance(value, list) else [value]
        if not has_images and any(map(_is_media, items)):
            raise ValueError(f"field {shown(name)!r} names a file ({shown(value)}) that is not read; call it 'images', or take it out")
    return columns


_meant = functools.lru_cache(maxsize=1024)(nearest)
"""Remembered, since the columns of a file are the same in every record."""


def read_flags(turn: Json, field: str, known: Collection[str], role: str, place: Place) -> Json:
    """`{UNSCORED: True}` for an assistant's turn that is not to be scored, else nothing.

    Args:
        turn: As it stands in the file.
        field: Its dotted name.
        known: Keys that are read elsewhere.
        role: Whose turn it is.
        place: What it is part of.

    Raises:
        ValueError: A key is not understood, flags contradict one another, or one asks for what training does not do.
    """
    flags: dict[str, bool] = {}
    for key, value in turn.items():
        if key in known or is_empty(value):
            continue
        if key not in FLAGS:
            hint = f": {_TURN_HINTS[key]}" if key in _TURN_HINTS else "; take it out"
            raise ValueError(f"unknown field {shown(f'{field}.{key}', 120)!r}{hint}")
        if isinstance(value, str) or value not in (0, 1):
            raise ValueError(f"field '{field}.{key}' must be 0 or 1 (a turn is scored or not, never weighed), found {_found(value)}")
        flags[key] = bool(value)
    if len(set(flags.values())) > 1:
        raise ValueError(f"turn {field!r}: {' and '.join(flags)} contradict one another; keep one of them")
    for key, scored in flags.items():
        if scored and (role != "assistant" or place == "prompt"):
            whose = "a prompt's turn" if place == "prompt" else f"the {shown(role)}'s turn"
            raise ValueError(f"field '{field}.{key}' asks for {whose} to be scored, which it never is; take it out")
        if not scored and place == "response":
            raise ValueError(f"field '{field}.{key}' asks for a response not to be scored; take the record out")
    return {UNSCORED: True} if role == "assistant" and False in flags.values() else {}


def _found(value: Any) -> str:
    return json_kind(value) if not isinstance(value, str) else f"the text {shown(value)!r}"


def check_part(part: Json, field: str, known: Collection[str]) -> None:
    """Refuses what a part of a content holds that is not read.

    Raises:
        ValueError: Names the key.
    """
    for key, value in part.items():
        if key not in known and not is_empty(value):
            raise ValueError(f"unknown field {shown(f'{field}.{key}', 120)!r}; take it out")


def taken_out(messages: list[Any]) -> tuple[list[Any], list[int]]:
    """Messages without the mark of those that are not scored, and the places of these."""
    places = [place for place, message in enumerate(messages) if isinstance(message, dict) and UNSCORED in message]
    marked = set(places)
    return [_unmarked(message) if place in marked else message for place, message in enumerate(messages)], places


def _unmarked(message: Json) -> Json:
    return {key: value for key, value in message.items() if key != UNSCORED}
