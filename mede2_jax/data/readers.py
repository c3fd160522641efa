"""From a JSON object in one of three formats to a record.

| format | demonstration | preference pair |
|---|---|---|
| `mede2` | messages, images | prompt, images, chosen, rejected |
| `sharegpt` (LLaMA-Factory) | conversations or messages, `<image>` in texts, system, images | + chosen, rejected turns |
| `trl` (conversational) | messages, or prompt and completion; images or paths in parts | prompt or a common prefix; chosen, rejected |
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import pydantic

from mede2_jax.config import UserError
from mede2_jax.data.faults import describe_fault
from mede2_jax.data.raw import PLACEHOLDER, Json, contents_of, messages_of, object_parts, refuse_video
from mede2_jax.data.record_file import json_kind
from mede2_jax.data.records import Demonstration, Judgment, PreferencePair, Prompted, Question, Record, Remark, Review, Rollout
from mede2_jax.data.sharegpt import from_sharegpt
from mede2_jax.data.trl import FILE_KEYS, from_trl
from mede2_jax.data.turns import Place, check_record, is_empty, read_flags, taken_out, without_nulls
from mede2_jax.foreign import shown

Format = Literal["mede2", "sharegpt", "trl"]
RecordT = TypeVar("RecordT", Demonstration, PreferencePair)
OwnT = TypeVar("OwnT", Question, Rollout, Remark, Judgment, Review)

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
    contents = contents_of(raw.get("messages"), raw.get("prompt"))
    parts = object_parts(contents)
    if any(FILE_KEYS & part.keys() or (part.get("type") == "image" and "text" in part) for part in parts):
        return "trl"
    if "messages" in raw and (raw.get("system") or any(isinstance(content, str) and PLACEHOLDER in content for content in contents)):
        return "sharegpt"
    if "messages" in raw and raw.get("images") and not any(part.get("type") == "image" for part in parts):
        return "trl"
    return "mede2"


def read_record(raw: Json, kind: type[RecordT], format: Format, where: str) -> RecordT:
    """Turns a JSON object into a record.

    Raises:
        UserError: Names the place (`where`), the field and what is wrong with it.
    """
    adapt = {"mede2": _from_mede2, "sharegpt": from_sharegpt, "trl": from_trl}[format]
    try:
        raw = without_nulls(raw)
        _check_kind(raw, kind)
        check_record(raw, kind)
        return kind.model_validate(adapt(raw, kind) | _identity(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_fault(error, kind)}{_other_format(error)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def read_own(raw: Json, kind: type[OwnT], where: str) -> OwnT:
    """Turns a JSON object of a kind that has only the project's own format into a record.

    Raises:
        UserError: As `read_record`.
    """
    try:
        if kind is Question:
            raw = without_nulls(raw)
            _check_question(raw)
            raw |= {"prompt": _turns(raw, "prompt", "prompt")[0]}
        elif issubclass(kind, Prompted):
            if kind is Rollout and raw.get("about") is not None:
                raise ValueError("this is what a model says about something (rollout --ask), not an answer; give rollouts without --ask")
            for message in messages_of(raw, "prompt"):
                refuse_video(message)
        return kind.model_validate(_without_id(raw) | _identity(raw))
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_fault(error, kind)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _check_question(raw: Json) -> None:
    if "chosen" in raw or "rejected" in raw:
        raise ValueError("this is a preference pair (it has 'chosen' or 'rejected'), not a question; take these fields out")
    if "response" in raw and "sample" in raw:
        raise ValueError("this is a response to a question (it has 'response'), not a question; ask about it with rollout --ask=rating")
    if "prompt" not in raw:
        raise ValueError(
            f"field 'prompt' is missing (found: {shown(', '.join(raw)) or 'no fields'}); "
            'write {"prompt": [{"role": "user", "content": "…"}], "answer": "…"}'
        )


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
    if kind is PreferencePair:
        return _without_id(raw) | {"prompt": _turns(raw, "prompt", "prompt")[0]}
    messages, unscored = _turns(raw, "messages", "demonstration")
    if unscored and "unscored" in raw:
        raise ValueError("field 'unscored' and flags of turns both say which turns are not scored; keep one of them")
    return _without_id(raw) | {"messages": messages} | ({"unscored": unscored} if unscored else {})


def _without_id(raw: Json) -> Json:
    return {name: value for name, value in raw.items() if name != "id"}


def _turns(raw: Json, field: str, place: Place) -> tuple[list[Any], list[int]]:
    """Turns as a record has them, and which are not scored. What is no turn stays as it is: the record's kind refuses it."""
    turns = []
    for index, message in enumerate(messages_of(raw, field)):
        refuse_video(message)
        if isinstance(message, dict):
            flags = read_flags(message, f"{field}.{index}", ("role", "content"), str(message.get("role")), place)
            message = {key: _content(message[key]) for key in ("role", "content") if key in message} | flags
        turns.append(message)
    return taken_out(turns)


def _content(content: Any) -> Any:
    """A content without the keys by which its parts say nothing."""
    if not isinstance(content, list):
        return content
    return [{key: part[key] for key in part if _says(part, key)} if isinstance(part, dict) else part for part in content]


def _says(part: Json, key: str) -> bool:
    return not is_empty(part[key]) or key == "type" or (part.get("type"), key, part[key]) == ("text", "text", "")


def _other_format(error: pydantic.ValidationError) -> str:
    """What reads a record that has a column more."""
    item = error.errors(include_url=False)[0]
    is_column = item["type"] == "extra_forbidden" and len(item["loc"]) == 1
    return "; data.format=trl keeps other trainers' columns in the metadata" if is_column else ""


def _identity(raw: Json) -> Json:
    given = raw.get("id")
    if given is None:
        return {}
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise ValueError(f"field 'id' must be text or a number, found {json_kind(given)}")
    return {"id": str(given)}
