"""What a judge says in JSON: Yes or No to each of some questions, with or without a reason, read strictly from what chat models write."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mede2_jax.config import Config
from mede2_jax.foreign import JSONFault, parse_json, shown

NameT = TypeVar("NameT", bound=str)

_FENCE, _FENCE_END = re.compile(r"```(?:json)?\s*(?=\{)"), re.compile(r"(?<=\})\s*```")
_OBJECT = re.compile(r'\{\s*"')
_THOUGHT_END = re.compile(r"</(?:think|thinking|thoughts?|reasoning)>", re.IGNORECASE)
_TRIES = 1000
"""Braces with a name after them that are looked at; a text with more is no reply."""


class Verdict(Config):
    """A judge's answer to one question."""

    met: bool
    reason: str | None = None
    """Why, in a sentence; None where the judge was not asked."""


class Unreadable(ValueError):
    """A judge's reply does not say what it should; the text says what is wrong with it."""


def verdicts_schema(names: Sequence[str], *, reasons: bool) -> dict[str, Any]:
    """The JSON schema of a reply.

    Args:
        names: Of the questions.
        reasons: Whether a reason stands before each Yes or No.
    """
    answer: dict[str, Any] = {"type": "string", "enum": ["Yes", "No"]}
    if reasons:
        # The reason comes first: what is written before a verdict can still change it.
        parts = {"Reason": {"type": "string"}, "Verdict": answer}
        answer = {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    return {"type": "object", "properties": dict.fromkeys(names, answer), "required": list(names), "additionalProperties": False}


def read_verdicts(text: str, names: Mapping[NameT, str], *, reasons: bool) -> dict[NameT, Verdict]:
    """Reads a judge's reply: the one object in it that gives a verdict on every question.

    Thoughts, code fences, words and other objects around it do no harm, and neither do keys of its own. Objects whose verdicts differ
    are not chosen from, but for those of a thought that an answer follows.

    Args:
        text: The reply.
        names: Of the questions in the JSON, by what they are here.
        reasons: Whether a reason stands before each Yes or No.

    Raises:
        Unreadable: There is no such object, a verdict is missing or neither Yes nor No, or two objects differ.
    """
    # The whole text is read as one object where that says more of what is wrong with it.
    text, values = _said(text)
    said = [partial for value in values if (partial := _verdicts(value, names, reasons))]
    complete = [verdicts for verdicts in said if len(verdicts) == len(names)]
    if not complete:
        value = _read_object(text)
        return {one: _read_verdict(value, name, reasons) for one, name in names.items()}
    last = complete[-1]
    if differing := [names[one] for verdicts in said for one, verdict in verdicts.items() if verdict.met != last[one].met]:
        raise Unreadable(f"it holds objects that differ, in {differing[0]!r}")
    return last


def read_object(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Reads a reply that is one JSON object: the one in it that has all these names. What stands around it does no harm.

    Raises:
        Unreadable: There is no such object, or there are two that differ.
    """
    text, values = _said(text)
    complete = [value for value in values if all(name in value for name in names)]
    if not complete:
        value = _read_object(text)
        raise Unreadable(f"{next((name for name in names if name not in value), names[0])!r} is missing")
    if any(value != complete[-1] for value in complete):
        raise Unreadable("it holds objects that differ")
    return complete[-1]


def _said(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The objects of a reply, of those of a thought and those after it the latter, and the text that they are from."""
    found, thought = _objects(text), _last_thought_end(text)
    if thought and any(start >= thought for start, _ in found):
        text, found = text[thought:], [(start - thought, end - thought) for start, end in found if start >= thought]
    return text, [_parsed(text[start:end]) for start, end in found]


def _last_thought_end(text: str) -> int:
    return max((match.end() for match in _THOUGHT_END.finditer(text)), default=0)


def _objects(text: str) -> list[tuple[int, int]]:
    """Where JSON objects begin and end that lie in no other."""
    found, at, decoder = [], 0, json.JSONDecoder()
    for _ in range(_TRIES):
        if (match := _OBJECT.search(text, at)) is None:
            break
        try:
            _, at = decoder.raw_decode(text, match.start())
            found.append((match.start(), at))
        except RecursionError:
            break
        except ValueError:
            at = match.start() + 1
    return found


def _parsed(body: str) -> dict[str, Any]:
    """An object read strictly: one that says a thing twice may say both, so it says nothing."""
    try:
        value = parse_json(body)
    except JSONFault as fault:
        raise Unreadable(str(fault)) from None
    assert isinstance(value, dict)
    return value


def _verdicts(value: Mapping[str, Any], names: Mapping[NameT, str], reasons: bool) -> dict[NameT, Verdict]:
    """Those verdicts of an object that can be read."""
    found: dict[NameT, Verdict] = {}
    for one, name in names.items():
        with contextlib.suppress(Unreadable):
            found[one] = _read_verdict(value, name, reasons)
    return found


def _read_verdict(value: Mapping[str, Any], name: str, reasons: bool) -> Verdict:
    if name not in value:
        raise Unreadable(f"{name!r} is missing")
    said, reason = value[name], None
    if reasons:
        if not (isinstance(said, dict) and isinstance(said.get("Reason"), str)):
            raise Unreadable(f"{name!r} must be an object with 'Reason' and 'Verdict', found {shown(json.dumps(said, ensure_ascii=False))}")
        reason, said = said["Reason"].strip() or None, said.get("Verdict")
    word = said.strip().casefold() if isinstance(said, str) else None
    if word not in ("yes", "no"):
        raise Unreadable(f"{name!r} must be Yes or No, found {shown(json.dumps(said, ensure_ascii=False))}")
    return Verdict(met=word == "yes", reason=reason)


def _fenced(text: str) -> str:
    """What stands between the first code fence before an object and the last one after one; nothing where there are not both."""
    if (begin := _FENCE.search(text)) is None:
        return ""
    end = max((match.start() for match in _FENCE_END.finditer(text, begin.end())), default=0)
    return text[begin.end() : end]


def _read_object(text: str) -> dict[str, Any]:
    body = _fenced(text) or text[max(text.find("{"), 0) : text.rfind("}") + 1]
    if not body:
        raise Unreadable("it holds no JSON object" if text.strip() else "it is empty")
    try:
        value = parse_json(body)  # an object that says a thing twice may say both: it is refused
    except JSONFault as fault:
        nested = "its JSON is nested too deeply" if str(fault).startswith("JSON nested") else str(fault)
        raise Unreadable(f"it is {fault}" if fault.syntax else nested) from None
    assert isinstance(value, dict)
    return value
