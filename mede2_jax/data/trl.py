"""TRL's conversational format.

`images` fills the image parts of messages that name no file of their own; without image parts they come before the first user turn's text.
"""

from __future__ import annotations

import itertools
from typing import Any

from mede2_jax.config import counted
from mede2_jax.data.raw import PLACEHOLDER, Json, images_of, messages_of, refuse_video, text_of
from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import PreferencePair, Record
from mede2_jax.data.turns import UNSCORED, Place, check_part, is_empty, other_columns, read_flags, taken_out
from mede2_jax.foreign import shown

FILE_KEYS = frozenset({"image", "path", "url", "base64"})
"""Where TRL, Qwen and transformers put an image inside its part; only paths can be read."""

_SHARED = frozenset({"id", "images", "image"})


def from_trl(raw: Json, kind: type[Record]) -> Json:
    """The fields of a record of `kind`.

    Raises:
        ValueError: Names the field and what is wrong with it.
    """
    if not is_empty(raw.get("system")):
        raise ValueError("field 'system' is not read in TRL's format; make it the conversation's first turn, or set data.format=sharegpt")
    if kind is PreferencePair:
        messages, chosen, rejected = _pair(raw)
        body: Json = {"chosen": _response(chosen, "chosen"), "rejected": _response(rejected, "rejected")}
        name, known = "prompt", {"prompt", "chosen", "rejected"}
    elif raw.get("completion") is not None:
        messages = [_unscored(message) for message in _messages(raw, "prompt", "prompt")] + _answer(raw, "completion", "demonstration")
        body, name, known = {}, "messages", {"prompt", "completion"}
    else:
        messages, body, name, known = _messages(raw, "messages", "demonstration"), {}, "messages", {"messages"}
    messages, unscored = taken_out(messages)
    messages, images = _filled(messages, images_of(raw))
    if name == "messages":
        body["unscored"] = unscored
    return body | {name: messages, "images": images, "metadata": other_columns(raw, _SHARED | known, has_images=bool(images))}


def _unscored(message: Json) -> Json:
    """Of a prompt beside a completion: TRL scores the completion only."""
    return message | ({UNSCORED: True} if message["role"] == "assistant" else {})


def _pair(raw: Json) -> tuple[list[Json], list[Json], list[Json]]:
    """Prompt, chosen and rejected messages; a prompt that is not given is what the two begin with."""
    if raw.get("prompt") is not None:
        return _messages(raw, "prompt", "prompt"), _answer(raw, "chosen", "response"), _answer(raw, "rejected", "response")
    chosen, rejected = (_messages(raw, field, "prompt", "response") for field in ("chosen", "rejected"))
    # The last turn is a response, also where both are the same.
    alike = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(chosen[:-1], rejected[:-1], strict=False))
    shared = len(list(alike))
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _answer(raw: Json, field: str, place: Place) -> list[Json]:
    # After a prompt of messages, a plain text can only be the assistant's turn.
    if isinstance(raw.get(field), str):
        return [{"role": "assistant", "content": raw[field]}]
    return _messages(raw, field, place)


def _messages(raw: Json, field: str, place: Place, last: Place | None = None) -> list[Json]:
    """The messages of a field; the last of them may be another `Place`'s."""
    found = messages_of(raw, field)
    places = [place] * len(found)
    places[-1:] = [last or place]
    return [_message(message, f"{field}.{index}", places[index]) for index, message in enumerate(found)]


def _message(message: Any, field: str, place: Place) -> Json:
    if not isinstance(message, dict):
        raise ValueError(f"field {field!r} must be an object with 'role' and 'content', found {json_kind(message)}")
    flags = read_flags(message, field, ("role", "content"), str(message.get("role")), place)
    for key in ("role", "content"):
        if message.get(key) is None:
            raise ValueError(f"field '{field}.{key}' is missing")
    refuse_video(message)
    content, within = message["content"], f"{field}.content"
    if isinstance(content, list):
        content = [_part(part, f"{within}.{at}") for at, part in enumerate(content)]
    elif not isinstance(content, str):
        raise ValueError(f"field {within!r} must be text or a list of parts, found {json_kind(content)}")
    return {"role": message["role"], "content": content} | flags


def _part(part: Any, field: str) -> Json:
    """A text part, or an image part with the `file` it names, if it names one."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        check_part(part, field, ("type", "text"))
        return {"type": "text", "text": text_of(part.get("text"), f"{field}.text")}
    if kind != "image":
        raise ValueError(f'field {field!r} must be {{"type": "text", "text": "…"}} or {{"type": "image"}}, found {shown(part)}')
    check_part(part, field, ("type", *FILE_KEYS))
    files = [part[key] for key in sorted(FILE_KEYS) if part.get(key) is not None]
    if not files:
        return {"type": "image"}
    if len(files) > 1 or not isinstance(files[0], str) or part.get("base64") is not None:
        raise ValueError(f'field {field!r} must give one file ("path": "a.png"), found {shown(part)}; save images as files')
    return {"type": "image", "file": files[0]}


def _response(messages: list[Json], field: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise ValueError(f"field {field!r} must hold one assistant turn after the prompt, found {roles}")
    parts = _parts(messages[0])
    if any(part["type"] != "text" for part in parts):
        raise ValueError(f"field {field!r} holds an image; images belong in the prompt")
    return "".join(part["text"] for part in parts)


def _filled(messages: list[Json], images: list[str]) -> tuple[list[Json], list[str]]:
    """Messages whose image parts name no file, and the files in their order."""
    own = [part.get("file") for message in messages for part in _parts(message) if part["type"] == "image"]
    if not own:
        if images and any(PLACEHOLDER in part["text"] for message in messages for part in _parts(message)):
            raise ValueError(
                f"a text holds {PLACEHOLDER!r}, which stands for an image in sharegpt's format only; write parts: "
                '{"type": "image"}, {"type": "text", "text": "…"}'
            )
        return _images_first(messages, len(images)), images
    if images == own:  # named in both places
        images = []
    named, empty = len(own) - own.count(None), own.count(None)
    if named and empty != len(images):
        raise ValueError(
            f"{counted(empty, 'image part')} without a file of its own in the messages but {counted(len(images), 'file')} in field 'images'"
        )
    rest = iter(images)
    files = [file if file is not None else next(rest) for file in own] if named else images
    return [message | {"content": _without_files(message["content"])} for message in messages], files


def _without_files(content: str | list[Json]) -> str | list[Json]:
    return content if isinstance(content, str) else [{key: part[key] for key in part if key != "file"} for part in content]


def _images_first(messages: list[Json], count: int) -> list[Json]:
    messages = list(messages)
    for index, message in enumerate(messages):
        if count and message["role"] == "user":
            messages[index] = message | {"content": [{"type": "image"}] * count + _parts(message)}
            break
    return messages


def _parts(message: Json) -> list[Json]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
