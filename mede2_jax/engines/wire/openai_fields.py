"""What a server of the OpenAI chat protocol does not take of a request, learnt from its refusal.

Models and servers differ: some take the reply's length only as `max_completion_tokens`, some no temperature, seed or JSON schema. A
refusal names the field; the request is then sent without it. A field whose *value* is refused (a temperature of 3) stays: that is the
user's to mend.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from mede2_jax.engines.wire.attempts import Refused

RENAMED = {"max_tokens": "max_completion_tokens"}
"""Sent under another name. The length is never left out, since nothing else bounds what a reply costs."""
LEFT_OUT = {"temperature": 1.0, "top_p": 1.0, "seed": None, "response_format": None, "n": 1}
"""Left out; the value that means the same, where there is one."""
OF_THE_ANSWER = ("temperature", "top_p", "seed", "response_format")
"""Of these, what may change an answer."""

_UNSUPPORTED = re.compile(
    r"unsupported|not (?:\w+ )?support|n['’]t support|unavailable|not available|unknown|unrecogni[sz]ed|unexpected|not permitted"
    r"|not allowed|extra_forbidden|deprecated|no longer|cannot be (?:used|set|specified)|cannot both|not recogni[sz]ed|not accept"
    r"|not implemented|invalid (?:parameter|argument|field|property)|only (?:the default|1)\b|instead of"
)
_SCHEMA = re.compile(r"response.?format|json.?schema|structured.?output|guided|grammar")


def refused_field(body: Mapping[str, Any], refusal: Refused) -> str | None:
    """The field of a request that a refusal says is not taken; None: it says something else.

    Args:
        body: The request as it was sent.
        refusal: What the server said.
    """
    said, parameter = refusal.said.lower(), re.split(r"[.\[]", refusal.parameter)[0]
    if "response_format" in body and (parameter == "response_format" or _SCHEMA.search(said)):
        return "response_format"
    if not _UNSUPPORTED.search(said):
        return None
    sent = [name for name in (*RENAMED, *LEFT_OUT) if name in body]
    if parameter in sent:
        return parameter
    places = {name: match.start() for name in sent if (match := re.search(rf"(?<!\w){name}(?!\w)", said))}
    # Where it names two that do not go together, the one whose value means nothing goes.
    return min(places, key=lambda name: (name not in LEFT_OUT or body[name] != LEFT_OUT[name], places[name]), default=None)


def without(body: Mapping[str, Any], fields: Collection[str]) -> dict[str, Any]:
    """A request without fields that are not taken, or with them under another name."""
    return {
        RENAMED.get(name, name) if name in fields else name: value for name, value in body.items() if name not in {*fields} - {*RENAMED}
    }


def describe(url: str, body: Mapping[str, Any], fields: Collection[str]) -> str:
    """What the user hears of fields that are not taken."""
    gone = [_with_value(name, body[name]) for name in LEFT_OUT if name in fields and name in body]
    parts = [f"{url} takes no {' and no '.join(gone)}: asked without, so that its own way holds"] if gone else []
    named = [f"{name} as {RENAMED[name]}" for name in RENAMED if name in fields]
    return "; ".join([*parts, *((f"{url} takes {name}" if not parts else f"and {name}") for name in named)])


def _with_value(name: str, value: Any) -> str:
    return f"{name}={value:g}" if isinstance(value, float) else name
