"""From a JSON object in one of three formats to a record.

| format | demonstration | preference pair |
|---|---|---|
| `mede2` | messages, images | prompt, images, chosen, rejected |
| `sharegpt` (LLaMA-Factory) | conversations or messages, `<image>` in texts, system, images | + chosen, rejected turns |
| `trl` | messages, or prompt and completion; images or image | prompt or a common prefix; chosen, rejected lists |
"""

from __future__ import annotations

import difflib
from typing import Any, Literal, TypeVar

import pydantic

from mede2_jax.config import UserError
from mede2_jax.data.records import Demonstration, PreferencePair, Record

Format = Literal["mede2", "sharegpt", "trl"]
RecordT = TypeVar("RecordT", Demonstration, PreferencePair)
Json = dict[str, Any]

PLACEHOLDER = "<image>"
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def detect_format(raw: Json) -> Format:
    """The format a record's fields show."""
    if "conversations" in raw:
        return "sharegpt"
    responses = [raw[name] for name in ("chosen", "rejected") if name in raw]
    if any(isinstance(response, dict) for response in responses):
        return "sharegpt"
    if any(isinstance(response, list) for response in responses) or "completion" in raw or "image" in raw:
        return "trl"
    if "messages" in raw and _has_placeholder(raw["messages"]):
        return "sharegpt"
    if "messages" in raw and raw.get("images") and not _has_image_parts(raw["messages"]):
        return "trl"
    return "mede2"


def read_record(raw: Json, kind: type[RecordT], format: Format, where: str) -> RecordT:
    """Turns a JSON object into a record.

    Raises:
        UserError: Names the place (`where`), the field and what is wrong with it.
    """
    adapt = {"mede2": _from_mede2, "sharegpt": _from_sharegpt, "trl": _from_trl}[format]
    try:
        is_pair = "chosen" in raw or "rejected" in raw
        if kind is Demonstration and is_pair:
            raise ValueError("this is a preference pair (it has 'chosen' or 'rejected'); SFT needs demonstrations")
        return kind.model_validate(adapt(raw, kind))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {_describe(error, kind)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _from_mede2(raw: Json, kind: type[Record]) -> Json:
    name = "prompt" if kind is PreferencePair else "messages"
    if isinstance(raw.get(name), list):
        for message in raw[name]:
            _refuse_video(message)
    return raw


def _from_sharegpt(raw: Json, kind: type[Record]) -> Json:
    name = "messages" if "messages" in raw and "conversations" not in raw else "conversations"
    if raw.get("videos") or raw.get("audios"):
        raise ValueError("videos and audios are not supported; give frames as images")
    turns = [_sharegpt_turn(turn, f"{name}.{i}") for i, turn in enumerate(_list(raw, name))]
    if raw.get("system"):
        turns.insert(0, {"role": "system", "content": raw["system"]})
    messages = [turn | {"content": _split_placeholders(turn["content"])} for turn in turns]
    record: Json = {"images": _images(raw)} | _identity(raw)
    if kind is Demonstration:
        return record | {"messages": messages}
    responses = {field: _sharegpt_response(raw, field) for field in ("chosen", "rejected")}
    return record | {"prompt": messages} | responses


def _sharegpt_turn(turn: Any, field: str) -> Json:
    if not isinstance(turn, dict):
        raise ValueError(f"field {field!r} must be an object with 'from' and 'value', found {type(turn).__name__}")
    keys = ("from", "value") if "from" in turn or "value" in turn else ("role", "content")
    for key in keys:
        if turn.get(key) is None:
            raise ValueError(f"field '{field}.{key}' is missing")
    role, text = turn[keys[0]], turn[keys[1]]
    if role not in _SHAREGPT_ROLES:
        raise ValueError(f"field '{field}.{keys[0]}': role {role!r} is not supported (known: {', '.join(_SHAREGPT_ROLES)})")
    if not isinstance(text, str):
        raise ValueError(f"field '{field}.{keys[1]}' must be text, found {type(text).__name__}")
    return {"role": _SHAREGPT_ROLES[role], "content": text}


def _sharegpt_response(raw: Json, field: str) -> str:
    if raw.get(field) is None:
        raise ValueError(f"field {field!r} is missing")
    value = raw[field]
    if isinstance(value, str):
        return value
    turn = _sharegpt_turn(value, field)
    if turn["role"] != "assistant":
        raise ValueError(f"field {field!r} must be the assistant's turn, found {turn['role']!r}")
    return turn["content"]


def _split_placeholders(text: str) -> str | list[Json]:
    if PLACEHOLDER not in text:
        return text
    parts: list[Json] = []
    for index, piece in enumerate(text.split(PLACEHOLDER)):
        parts += [{"type": "image"}] if index else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _from_trl(raw: Json, kind: type[Record]) -> Json:
    carried: list[str] = []  # paths given inside image parts
    if kind is PreferencePair:
        chosen, rejected = _trl_messages(raw, "chosen", None), _trl_messages(raw, "rejected", None)
        if raw.get("prompt") is not None:
            prompt = _trl_messages(raw, "prompt", carried)
        else:
            shared = 0
            while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
                shared += 1
            prompt = _trl_messages({"chosen": raw["chosen"][:shared]}, "chosen", carried)
            chosen, rejected = chosen[shared:], rejected[shared:]
        body: Json = {"chosen": _trl_response(chosen, "chosen"), "rejected": _trl_response(rejected, "rejected")}
        messages, name = prompt, "prompt"
    elif "completion" in raw:
        messages, name, body = _trl_messages(raw, "prompt", carried), "messages", {}
        if any(message["role"] == "assistant" for message in messages):
            raise ValueError(
                "field 'prompt' has an assistant turn, which training on 'messages' would score; put the conversation in 'messages'"
            )
        messages = messages + _trl_messages(raw, "completion", None)
    else:
        messages, name, body = _trl_messages(raw, "messages", carried), "messages", {}
    images = _images(raw) or carried
    if images and not any(part.get("type") == "image" for message in messages for part in _parts(message)):
        messages = _images_first(messages, len(images))
    return body | {name: messages, "images": images} | _identity(raw)


def _trl_messages(raw: Json, field: str, carried: list[str] | None) -> list[Json]:
    result = []
    for index, message in enumerate(_list(raw, field)):
        if not isinstance(message, dict):
            raise ValueError(f"field '{field}.{index}' must be an object with 'role' and 'content', found {type(message).__name__}")
        for key in ("role", "content"):
            if message.get(key) is None:
                raise ValueError(f"field '{field}.{index}.{key}' is missing")
        _refuse_video(message)
        content = message["content"]
        if not isinstance(content, str):
            content = [_trl_part(part, f"{field}.{index}.content", carried) for part in content]
        result.append({"role": message["role"], "content": content})
    return result


def _trl_part(part: Any, field: str, carried: list[str] | None) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": part.get("text")}
    if kind != "image":
        raise ValueError(f"field {field!r}: part {str(part)[:60]!r} is neither text nor image")
    if part.get("image") is not None:
        if not isinstance(part["image"], str) or carried is None:
            raise ValueError(f"field {field!r}: an image must be a path, in the prompt")
        carried.append(part["image"])
    return {"type": "image"}


def _trl_response(messages: list[Json], field: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise ValueError(f"field {field!r} must hold one assistant turn after the prompt, found {roles}")
    parts = _parts(messages[0])
    if any(part["type"] != "text" for part in parts):
        raise ValueError(f"field {field!r} holds an image; images belong in the prompt")
    return "".join(part["text"] for part in parts)


def _images_first(messages: list[Json], count: int) -> list[Json]:
    """TRL puts images that no part stands for before the first user turn's text."""
    messages = list(messages)
    for index, message in enumerate(messages):
        if message["role"] == "user":
            messages[index] = message | {"content": [{"type": "image"}] * count + _parts(message)}
            break
    return messages


def _parts(message: Json) -> list[Json]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _list(raw: Json, field: str) -> list[Any]:
    if raw.get(field) is None:
        raise ValueError(f"field {field!r} is missing")
    if not isinstance(raw[field], list):
        raise ValueError(f"field {field!r} must be a list of messages, found {type(raw[field]).__name__}")
    return raw[field]


def _images(raw: Json) -> list[str]:
    images = raw.get("images") if raw.get("images") is not None else raw.get("image")
    images = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("field 'images' must be a list of file paths")
    return images


def _identity(raw: Json) -> Json:
    return {"id": str(raw["id"])} if raw.get("id") is not None else {}


def _refuse_video(message: Any) -> None:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") == "video" for part in content):
        raise ValueError("video input is not supported; give frames as images")


def _has_placeholder(messages: Any) -> bool:
    return isinstance(messages, list) and any(
        isinstance(message, dict) and isinstance(message.get("content"), str) and PLACEHOLDER in message["content"] for message in messages
    )


def _has_image_parts(messages: Any) -> bool:
    contents = [message.get("content") for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return any(
        isinstance(content, list) and any(isinstance(part, dict) and part.get("type") == "image" for part in content)
        for content in contents
    )


def _describe(error: pydantic.ValidationError, kind: type[Record]) -> str:
    item = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in _without_tags(item["loc"]))
    if item["type"] == "missing":
        return f"field {field!r} is missing"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, kind.model_fields, n=1)
        return f"unknown field {field!r}" + (f"; did you mean {near[0]!r}?" if near else f" (known: {', '.join(kind.model_fields)})")
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and not field:
        return message
    seen = repr(item["input"])
    return f"field {field!r}: {message} (found {seen if len(seen) <= 60 else seen[:59] + '…'})"


def _without_tags(path: tuple[int | str, ...]) -> list[int | str]:
    """pydantic puts the tags of unions into the path of an error; the user's file does not have them."""
    field: list[int | str] = []
    for at, part in enumerate(path):
        before = path[max(at - 2, 0) : at]
        tag = before[-1:] == ("content",) or (len(before) == 2 and before[0] == "parts")
        field += [] if tag else [part]
    return field
