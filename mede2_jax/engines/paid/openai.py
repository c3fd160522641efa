"""An API of the OpenAI chat protocol, asked for one sample at a time: GPT-4o, or another model behind vLLM."""

from __future__ import annotations

import contextlib
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.outcome import Outcome, no_answer
from mede2_jax.engines.wire.attempts import Failed, MalformedReply
from mede2_jax.engines.wire.http import api_key, base_urls, quoted
from mede2_jax.engines.wire.openai_client import open_client, send
from mede2_jax.engines.wire.openai_reply import Reply, parse_reply
from mede2_jax.engines.wire.openai_request import request_body
from mede2_jax.foreign import shown

URL = "https://api.openai.com/v1"


class OpenAIAPI:
    """A `Backend` of the OpenAI chat protocol.

    Args:
        model: As the API calls it.
        base_url: Another server than OpenAI's.
        timeout: Seconds that one attempt may take.
        sampling: The same for all requests.

    Raises:
        UserError: The URL is none, or OpenAI itself is asked without a key.
    """

    def __init__(self, model: str, base_url: str | None, timeout: float, sampling: Sampling) -> None:
        self.url = base_urls([base_url or URL])[0]
        self.key = api_key("OPENAI_API_KEY")
        if not self.key and self.url == URL:
            raise UserError("no API key: set OPENAI_API_KEY in the environment, or give the base_url of a server that needs none")
        self._model, self._timeout, self._sampling = model, timeout, sampling
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Makes the client, in the event loop that it is used in."""
        self._client = await self._stack.enter_async_context(open_client(self.url, self._timeout))

    async def close(self) -> None:
        """Closes its connections, if it was opened."""
        await self._stack.aclose()

    def prepare(self, request: ChatRequest) -> dict[str, Any]:
        """The request's body, made once for all attempts."""
        body = request_body(request, self._sampling, system_prompt=DEFAULT_SYSTEM_PROMPT, logprobs=False, rules=None)
        return {"model": self._model, **body}

    async def ask(self, body: dict[str, Any]) -> Outcome:
        """One attempt.

        Raises:
            Refused: Trying again would not help.
            Failed: It may.
            UserError: No request can be answered.
        """
        fix = "check the model's name, base_url, and the account of the key in OPENAI_API_KEY"
        raw = await send(self._client, self.url, body, self._timeout, fix)
        try:
            return read_reply(parse_reply(raw))
        except MalformedReply as fault:
            raise Failed(f"the reply is not as it should be: {fault}", may_cost=True) from None


def read_reply(reply: Reply) -> Outcome:
    """What a reply to a request for one sample says."""
    counts: dict[str, Any] = {
        "prompt_tokens": reply.usage.prompt_tokens,
        "response_tokens": reply.usage.completion_tokens,
        "model": reply.model or "",
    }
    if not reply.choices:
        return no_answer("the reply has no choices", is_final=False, **counts)
    choice = reply.choices[0]
    text, end = choice.message.text, choice.finish_reason
    if choice.message.refusal:
        return no_answer(f"the model refused: {quoted(choice.message.refusal)}", is_final=True, **counts)
    if end == "content_filter":
        return no_answer("the response was blocked: content_filter", is_final=True, **counts)
    if end == "length" and not text:
        return no_answer("max_tokens were used up before the answer began; raise max_tokens", is_final=True, **counts)
    if end not in ("stop", "length") or not text:
        ended = f"it ended by {shown(repr(end))}"
        return no_answer(f"the reply has no text ({ended})" if not text else ended, is_final=False, **counts)
    return Outcome(text=text, finish_reason="stop" if end == "stop" else "length", **counts)
