"""From a JSON object in one of three formats to a record.

| format | demonstration | preference pair |
|---|---|---|
| `mede2` | messages, images | prompt, images, chosen, rejected |
| `sharegpt` (LLaMA-Factory) | conversations or messages, `<image>` in texts, system, images | + chosen, rejected turns |
| `trl` (conversational) | messages, or prompt and completion; images or paths in parts | prompt or a common prefix; chosen, rejected |
"""

from __future__ import annotations

import itertools
import json
from typing import Any, Literal, TypeVar

import pydantic

from mede2_jax.config import UserError, counted
from mede2_jax.data.faults import describe_fault
from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import Demonstration, Judgment, PreferencePair, Prompted, Question, Record, Rollout
from mede2_jax.foreign import shown

Format = Literal["mede2", "sharegpt", "trl"]
RecordT = TypeVar("RecordT", Demonstration, PreferencePair)
OwnT = TypeVar("OwnT", Question, Rollout, Judgment)
Json = dict[str, Any]

PLACEHOLDER = "<image>"
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_FILE_KEYS = frozenset({"image", "path", "url", "base64"})
"""Where TRL, Qwen and transformers put an image inside its part; only paths can be read."""
_SHAPES: dict[type[Record], str] = {
    Demonstration: '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
    PreferencePair: '{"prompt": [{"role": "user", "content": "…"}], "chosen": "…", "rejected": "…"}',
}


def detect_format(raw: Json) -> Format:
    """The format a record's fields show."""
    if raw.get("conversations") is not None:
        return "sharegpt"
    responses = [raw[name] for name in ("chosen", "rejected") if name in raw]
    if any(isinstance(response, dict) for response in responses):
        return "sharegpt"
    if any(isinstance(response, list) for response in responses) or any(raw.get(name) is not None for name in ("completion", "image")):
        return "trl"
    contents = _contents(raw.get("messages"), raw.get("prompt"))
    parts = _object_parts(contents)
    if any(_FILE_KEYS & part.keys() or (part.get("type") == "image" and "text" in part) for part in parts):
        return "trl"
    if "messages" in raw and any(isinstance(content, str) and PLACEHOLDER in content for content in contents):
        return "sharegpt"
    if "messages" in raw and raw.get("images") and not any(part.get("type") == "image" for part in parts):
        return "trl"
    return "mede2"


def read_record(raw: Json, kind: type[RecordT], format: Format, where: str) -> RecordT:
    """Turns a JSON object into a record.

    Raises:
        UserError: Names the place (`where`), the field and what is wrong with it.
    """
    adapt = {"mede2": _from_mede2, "sharegpt": _from_sharegpt, "trl": _from_trl}[format]
    try:
        _check_kind(raw, kind)
        return kind.model_validate(adapt(raw, kind) | _identity(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_fault(error, kind)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def read_own(raw: Json, kind: type[OwnT], where: str) -> OwnT:
    """Turns a JSON object of a kind that has only the project's own format into a record.

    Raises:
        UserError: As `read_record`.
    """
    try:
        if kind is Question and ("chosen" in raw or "rejected" in raw):
            raise ValueError("this is a preference pair (it has 'chosen' or 'rejected'), not a question; take these fields out")
        if kind is Question and "prompt" not in raw:
            raise ValueError(
                f"field 'prompt' is missing (found: {shown(', '.join(raw)) or 'no fields'}); "
                'write {"prompt": [{"role": "user", "content": "…"}], "answer": "…"}'
            )
        if issubclass(kind, Prompted):
            for message in _list(raw, "prompt"):
                _refuse_video(message)
        return kind.model_validate({name: value for name, value in raw.items() if name != "id"} | _identity(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_fault(error, kind)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _check_kind(raw: Json, kind: type[Record]) -> None:
    """Refuses records of the other kind, and those that hold no conversation, with what to write instead."""
    is_pair = "chosen" in raw or "rejected" in raw
    if kind is Demonstration and is_pair:
        raise ValueError("this is a preference pair (it has 'chosen' or 'rejected'); SFT needs demonstrations")
    if any(raw.get(name) is not None for name in ("conversations", "messages", "prompt")) or isinstance(raw.get("chosen"), list):
        if kind is PreferencePair and not is_pair:
            raise ValueError("fields 'chosen' and 'rejected' are missing; DPO needs preference pairs")
        return
    if "instruction" in raw:
        fault = "field 'instruction': alpaca records are not read"
    else:
        fault = f"field {'prompt' if kind is PreferencePair else 'messages'!r} is missing (found: {shown(', '.join(raw)) or 'no fields'})"
    raise ValueError(f"{fault}; write {_SHAPES[kind]}, or LLaMA-Factory's sharegpt or TRL's conversational form")


def _from_mede2(raw: Json, kind: type[Record]) -> Json:
    for message in _list(raw, "prompt" if kind is PreferencePair else "messages"):
        _refuse_video(message)
    return {name: value for name, value in raw.items() if name != "id"}


def _from_sharegpt(raw: Json, kind: type[Record]) -> Json:
    name = "messages" if raw.get("messages") is not None and raw.get("conversations") is None else "conversations"
    _refuse_unsupported(raw)
    turns = [_sharegpt_turn(turn, f"{name}.{i}") for i, turn in enumerate(_list(raw, name))]
    if raw.get("system"):
        turns.insert(0, {"role": "system", "content": _text(raw["system"], "system")})
    messages = [turn | {"content": _split_placeholders(turn["content"])} for turn in turns]
    record: Json = {"images": _images(raw)}
    if kind is Demonstration:
        return record | {"messages": messages}
    responses = {field: _sharegpt_response(raw, field) for field in ("chosen", "rejected")}
    return record | {"prompt": messages} | responses


def _sharegpt_turn(turn: Any, field: str) -> Json:
    if not isinstance(turn, dict):
        raise ValueError(f"field {field!r} must be an object with 'from' and 'value', found {json_kind(turn)}")
    keys = ("from", "value") if "from" in turn or "value" in turn else ("role", "content")
    for key in keys:
        if turn.get(key) is None:
            raise ValueError(f"field '{field}.{key}' is missing")
    role = _text(turn[keys[0]], f"{field}.{keys[0]}")
    if role not in _SHAREGPT_ROLES:
        raise ValueError(f"field '{field}.{keys[0]}': role {shown(role)!r} is not supported (known: {', '.join(_SHAREGPT_ROLES)})")
    return {"role": _SHAREGPT_ROLES[role], "content": _text(turn[keys[1]], f"{field}.{keys[1]}")}


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
    _refuse_unsupported(raw)
    name = "prompt" if kind is PreferencePair else "messages"
    body: Json = {}
    if kind is PreferencePair:
        messages, chosen, rejected = _trl_pair(raw)
        body = {"chosen": _trl_response(chosen, "chosen"), "rejected": _trl_response(rejected, "rejected")}
    elif raw.get("completion") is not None:
        messages = _trl_messages(raw, "prompt")
        if any(message["role"] == "assistant" for message in messages):
            raise ValueError(
                "field 'prompt' has an assistant turn, which training on 'messages' would score; put the conversation in 'messages'"
            )
        if raw.get("label") is False:
            raise ValueError("field 'label' is false: this completion is not wanted, and SFT would imitate it; take such records out")
        messages = messages + _trl_answer(raw, "completion")
    else:
        messages = _trl_messages(raw, "messages")
    messages, images = _trl_images(messages, _images(raw))
    return body | {name: messages, "images": images}


def _trl_pair(raw: Json) -> tuple[list[Json], list[Json], list[Json]]:
    """Prompt, chosen and rejected messages; a prompt that is not given is what the two begin with."""
    if raw.get("prompt") is not None:
        return _trl_messages(raw, "prompt"), _trl_answer(raw, "chosen"), _trl_answer(raw, "rejected")
    chosen, rejected = _trl_messages(raw, "chosen"), _trl_messages(raw, "rejected")
    # The last turn is a response, also where both are the same.
    alike = itertools.takewhile(lambda turns: turns[0] == turns[1], zip(chosen[:-1], rejected[:-1], strict=False))
    shared = len(list(alike))
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _trl_answer(raw: Json, field: str) -> list[Json]:
    # After a prompt of messages, a plain text can only be the assistant's turn.
    if isinstance(raw.get(field), str):
        return [{"role": "assistant", "content": raw[field]}]
    return _trl_messages(raw, field)


def _trl_messages(raw: Json, field: str) -> list[Json]:
    result = []
    for index, message in enumerate(_list(raw, field)):
        if not isinstance(message, dict):
            raise ValueError(f"field '{field}.{index}' must be an object with 'role' and 'content', found {json_kind(message)}")
        for key in ("role", "content"):
            if message.get(key) is None:
                raise ValueError(f"field '{field}.{index}.{key}' is missing")
        _refuse_video(message)
        content, place = message["content"], f"{field}.{index}.content"
        if isinstance(content, list):
            content = [_trl_part(part, f"{place}.{at}") for at, part in enumerate(content)]
        elif not isinstance(content, str):
            raise ValueError(f"field {place!r} must be text or a list of parts, found {json_kind(content)}")
        result.append({"role": message["role"], "content": content})
    return result


def _trl_part(part: Any, field: str) -> Json:
    """A text part, or an image part with the `file` it names, if it names one."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": _text(part.get("text"), f"{field}.text")}
    if kind != "image":
        raise ValueError(f'field {field!r} must be {{"type": "text", "text": "…"}} or {{"type": "image"}}, found {shown(part)}')
    files = [part[key] for key in sorted(_FILE_KEYS) if part.get(key) is not None]
    if not files:
        return {"type": "image"}
    if len(files) > 1 or not isinstance(files[0], str) or part.get("base64") is not None:
        raise ValueError(f'field {field!r} must give one file ("path": "a.png"), found {shown(part)}; save images as files')
    return {"type": "image", "file": files[0]}


def _trl_response(messages: list[Json], field: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = [message["role"] for message in messages]
        raise ValueError(f"field {field!r} must hold one assistant turn after the prompt, found {roles}")
    parts = _parts(messages[0])
    if any(part["type"] != "text" for part in parts):
        raise ValueError(f"field {field!r} holds an image; images belong in the prompt")
    return "".join(part["text"] for part in parts)


def _trl_images(messages: list[Json], images: list[str]) -> tuple[list[Json], list[str]]:
    """Messages whose image parts name no file, and the files in their order.

    As in TRL, `images` fills the parts that name none; without image parts they come before the first user turn's text.
    """
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


def _list(raw: Json, field: str) -> list[Any]:
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


def _images(raw: Json) -> list[str]:
    images = raw.get("images") if raw.get("images") is not None else raw.get("image")
    images = [] if images is None else [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError(f"field 'images' must be a list of file paths, found {shown(images)}")
    return images


def _identity(raw: Json) -> Json:
    given = raw.get("id")
    if given is None:
        return {}
    if not isinstance(given, (str, int, float)):
        raise ValueError(f"field 'id' must be text or a number, found {json_kind(given)}")
    return {"id": str(given)}


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field {field!r} must be text, found {json_kind(value)}")
    return value


def _refuse_video(message: Any) -> None:
    if any(part.get("type") == "video" for part in _object_parts(_contents([message]))):
        raise ValueError("video input is not supported; give frames as images")


def _refuse_unsupported(raw: Json) -> None:
    """What the neighbours' trainers would show the model, and ours does not."""
    if raw.get("videos") or raw.get("audios"):
        raise ValueError("videos and audios are not supported; give frames as images")
    if raw.get("tools") not in (None, "", "[]", []):
        raise ValueError("field 'tools' is not supported; describe the tools in the system turn, or take the record out")


def _contents(*conversations: Any) -> list[Any]:
    """The contents of all messages in what may or may not be lists of messages."""
    lists = [messages for messages in conversations if isinstance(messages, list)]
    return [message.get("content") for messages in lists for message in messages if isinstance(message, dict)]


def _object_parts(contents: list[Any]) -> list[Json]:
    return [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
