"""What a server of the OpenAI chat protocol answers, checked before anything of it is used."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatRequest, Completion
from mede2_jax.engines.wire.attempts import MalformedReply
from mede2_jax.engines.wire.http import quoted
from mede2_jax.engines.wire.lenient import AnObject, Place, Text, Tokens
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.json_file import check

TEXT_PARTS = ("text", "output_text")
"""Types of the parts of a content that are what was said."""
THOUGHTS = ("reasoning_content", "reasoning")
"""Fields of a message in which servers put the reasoning before an answer (DeepSeek's, and vLLM's once; vLLM's and OpenRouter's)."""
THOUGHT_PARTS = ("reasoning", "thinking")
"""Types of the parts of a content that are reasoning."""
NO_TEXT = ("role", "id", "object", "type", "name", "status", "annotations", "audio")
"""Fields of a message that are not what was said."""


class _Message(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    content: str | list[Any] | None = None
    refusal: Text = None

    @property
    def text(self) -> str:
        """What it says: its content, or the texts among the parts of it, without the thoughts."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "".join(str(part.get("text") or "") for part in self._parts if part.get("type", "text") in TEXT_PARTS)

    @property
    def thought(self) -> str:
        """The reasoning that stands apart from the text; empty: none."""
        fields = self.model_extra or {}
        said = next((value for name in THOUGHTS if isinstance(value := fields.get(name), str) and value.strip()), "")
        if said:
            return said.strip()
        texts = (part.get(part["type"]) or part.get("text") for part in self._parts if part.get("type") in THOUGHT_PARTS)
        return "".join(text for text in texts if isinstance(text, str)).strip()

    @property
    def set_aside(self) -> str | None:
        """Where else it has text, whatever the server calls a thought there; None if nowhere."""
        for name, value in (self.model_extra or {}).items():
            if name not in NO_TEXT and _has_text(value):
                return name
        kinds = (part.get("type", "text") for part in self._parts)
        return next((f"content, part {shown(kind)}" for kind in kinds if kind not in TEXT_PARTS), None)

    @property
    def _parts(self) -> list[dict[str, Any]]:
        content = self.content if isinstance(self.content, list) else []
        return [part if isinstance(part, dict) else {"text": part} for part in content]


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_text(item) for item in value.values())
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str) and bool(value.strip())


class _TokenLogprob(pydantic.BaseModel):
    logprob: float


class _Logprobs(pydantic.BaseModel):
    content: list[_TokenLogprob] | None = None


class _Choice(pydantic.BaseModel):
    index: Place = 0
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Usage(pydantic.BaseModel):
    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None


class Reply(pydantic.BaseModel):
    """A chat completion; `prompt_token_ids` and a choice's `token_ids` are vLLM's."""

    model: Text = None
    choices: list[_Choice]
    usage: Annotated[_Usage | None, AnObject] = None
    prompt_token_ids: list[int] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Of a reply that must say so.

        Raises:
            MalformedReply: It does not.
        """
        if self.usage is None or self.usage.prompt_tokens is None:
            raise MalformedReply("it does not say how many tokens the prompt has")
        return self.usage.prompt_tokens


def parse_reply(raw: bytes) -> Reply:
    """Reads a reply.

    Raises:
        MalformedReply: It is not JSON, or lacks something.
    """
    try:
        return check(parse_json(raw), Reply, "reply")
    except (JSONFault, UserError) as error:
        raise MalformedReply(quoted(str(error))) from None


def completions(reply: Reply, request: ChatRequest, *, logprobs: bool, with_ids: bool) -> tuple[Completion, ...]:
    """The samples of a reply, in their order.

    Args:
        reply: The reply.
        request: What was asked.
        logprobs: Whether each token must have its log-probability.
        with_ids: Whether token ids were asked for.

    Raises:
        MalformedReply: Samples are missing or cut off by the server.
        UserError: The server does not know what was asked for.
    """
    choices = sorted(reply.choices, key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(request.n)):
        raise MalformedReply(f"{request.n} samples asked for, found those numbered {shown([choice.index for choice in choices])}")
    if with_ids and (reply.prompt_token_ids is None or any(choice.token_ids is None for choice in choices)):
        raise UserError("the server gives no token ids, so nobody can check that it sees the prompt that training sees; use a recent vLLM")
    return tuple(_completion(choice, request.seed + choice.index, logprobs) for choice in choices)


def _completion(choice: _Choice, seed: int, logprobs: bool) -> Completion:
    if choice.finish_reason not in ("stop", "length"):
        raise MalformedReply(f"sample {choice.index} ended by {shown(repr(choice.finish_reason))}")
    tokens, scores = tuple(choice.token_ids or ()), None
    if logprobs:
        if choice.logprobs is None or choice.logprobs.content is None:
            raise UserError("the server gives no log-probabilities; leave --logprobs out, or use a server that has them")
        scores = tuple(token.logprob for token in choice.logprobs.content)
        if choice.token_ids is not None and len(scores) != len(tokens):
            raise MalformedReply(f"sample {choice.index} has {len(tokens)} tokens but {len(scores)} log-probabilities")
    return Completion(choice.message.text, tokens, scores, "stop" if choice.finish_reason == "stop" else "length", seed)
