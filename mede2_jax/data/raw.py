"""A record as it stands in a file: its fields by name, with one line for each that is of another type."""

from __future__ import annotations

import json
from typing import Any

from mede2_jax.data.record_file import json_kind
from mede2_jax.foreign import shown

Json = dict[str, Any]

PLACEHOLDER = "<image>"


def messages_of(raw: Json, field: str) -> list[Any]:
    """A field that holds a list, of what is not known yet.

    Raises:
        ValueError: It is missing, or no list.
    """
    value = raw.get(field)
    if value is None:
        raise ValueError(f"field {field!r} is missing")
    if isinstance(value, str):
        raise ValueError(
            f"field {field!r} must be a list of messages, found text (of TRL's formats the conversational one is read); "
            f'write {json.dumps(field)}: [{{"role": "user", "content": "…"}}{"" if field == "prompt" else ", …"}]'
        )
    if not isinstance(value, list):
        raise ValueError(f"field {field!r} must be a list of messages, found {json_kind(value)}")
    return value


def images_of(raw: Json) -> list[str]:
    """The files of `images`, or of `image`.

    Raises:
        ValueError: They are no paths, or the two fields name different ones.
    """
    found = []
    for name in ("images", "image"):
        images = raw.get(name)
        images = [] if images is None else [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ValueError(f"field 'images' must be a list of file paths, found {shown(images)}")
        found.append(images)
    many, one = found
    if many and one and many != one:
        raise ValueError(f"fields 'images' and 'image' name different files ({shown(many)} and {shown(one)}); keep one of them")
    return many or one


def text_of(value: Any, field: str) -> str:
    """`value`, if it is a text.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} must be text, found {json_kind(value)}")
    return value


def contents_of(*conversations: Any) -> list[Any]:
    """The contents of all messages in what may or may not be lists of messages."""
    lists = [messages for messages in conversations if isinstance(messages, list)]
    return [message.get("content") for messages in lists for message in messages if isinstance(message, dict)]


def object_parts(contents: list[Any]) -> list[Json]:
    """The parts among these contents that are objects."""
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]


def refuse_video(message: Any) -> None:
    """Raises ValueError if a message has a video part."""
    if any(part.get("type") == "video" for part in object_parts(contents_of([message]))):
        raise ValueError("video input is not supported; give frames as images")
