"""What Gemini's generateContent answers, checked before anything of it is used."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic
from pydantic.alias_generators import to_camel

from mede2_jax.config import UserError
from mede2_jax.engines.paid.outcome import Outcome, no_answer
from mede2_jax.engines.wire.attempts import MalformedReply
from mede2_jax.engines.wire.http import quoted
from mede2_jax.engines.wire.lenient import AnObject, Text, Tokens
from mede2_jax.foreign import JSONFault, parse_json
from mede2_jax.json_file import Foreign, check

BLOCKED = ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION")
"""Ends of a response that say: not this one, and not the next time either."""


class _Model(Foreign):
    """Null is the same as left out, and what is nearly of a type is of it: the reply is paid for."""

    model_config = pydantic.ConfigDict(alias_generator=to_camel, strict=False)


class _Part(_Model):
    text: str | None = None
    thought: bool = False


class _Content(_Model):
    parts: list[_Part] = pydantic.Field(default_factory=list)


class _Rating(_Model):
    category: str = ""
    probability: str = ""
    blocked: bool = False


class _Candidate(_Model):
    content: _Content | None = None
    finish_reason: str | None = None
    finish_message: Text = None
    safety_ratings: list[_Rating] = pydantic.Field(default_factory=list)


class _Feedback(_Model):
    block_reason: str | None = None
    safety_ratings: list[_Rating] = pydantic.Field(default_factory=list)


class _Usage(_Model):
    prompt_token_count: Tokens = None
    candidates_token_count: Tokens = None
    thoughts_token_count: Tokens = None


class _Reply(_Model):
    candidates: list[_Candidate] = pydantic.Field(default_factory=list)
    prompt_feedback: _Feedback | None = None
    usage_metadata: Annotated[_Usage | None, AnObject] = None
    model_version: Text = None


def read_reply(raw: str) -> Outcome:
    """Reads a reply.

    Raises:
        MalformedReply: It is not JSON, or no reply of generateContent.
    """
    try:
        reply = check(parse_json(raw), _Reply, "reply")
    except (JSONFault, UserError) as error:
        raise MalformedReply(quoted(str(error))) from None
    if not reply.model_fields_set:
        raise MalformedReply(f"nothing that generateContent says is in {quoted(raw)!r}")
    counts = _counts(reply)
    if reply.prompt_feedback is not None and reply.prompt_feedback.block_reason:
        reason = quoted(reply.prompt_feedback.block_reason)
        said = f"the prompt was blocked: {reason}{_categories(reply.prompt_feedback.safety_ratings)}"
        return no_answer(said, is_final=True, end="refused", **counts)
    if not reply.candidates:
        return no_answer("the reply has no candidates", is_final=False, **counts)
    return _read(reply.candidates[0], counts)


def _read(candidate: _Candidate, counts: dict[str, Any]) -> Outcome:
    parts = candidate.content.parts if candidate.content else []
    text = "".join(part.text or "" for part in parts if not part.thought)
    end = candidate.finish_reason or "FINISH_REASON_UNSPECIFIED"
    if end == "STOP" and text:
        return Outcome(text=text, **counts)
    if end == "MAX_TOKENS":
        if text:
            return Outcome(text=text, finish_reason="length", **counts)
        said = "max_tokens were used up by thinking before the answer began; raise max_tokens"
        return no_answer(said, is_final=True, end="cut", **counts)
    said = quoted(end)
    details = _categories(candidate.safety_ratings) + (f" ({quoted(candidate.finish_message)})" if candidate.finish_message else "")
    if end in BLOCKED:
        return no_answer(f"the response was blocked: {said}{details}", is_final=True, end="refused", **counts)
    # Now and then the model stops without a word; asked once more, it mostly answers.
    return no_answer(
        f"the reply has no text ({said}{details})" if not text else f"the response broke off: {said}{details}", is_final=False, **counts
    )


def _counts(reply: _Reply) -> dict[str, Any]:
    usage = reply.usage_metadata
    if usage is None:
        return {"model": reply.model_version or ""}
    # Thoughts are not among the candidates' tokens, but they are on the bill as output.
    response: int | None = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    if usage.candidates_token_count is None and any(candidate.content and candidate.content.parts for candidate in reply.candidates):
        response = None  # there is a response, and it does not say how long it is
    return {"prompt_tokens": usage.prompt_token_count, "response_tokens": response, "model": reply.model_version or ""}


def _categories(ratings: list[_Rating]) -> str:
    """The categories that had a part in a block."""
    names = [rating.category.removeprefix("HARM_CATEGORY_").lower() for rating in ratings if rating.blocked or rating.probability == "HIGH"]
    return f" ({quoted(', '.join(names))})" if names else ""
