"""An API of the OpenAI chat protocol, asked for one sample at a time: GPT-4o, or another model behind vLLM."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT
from mede2_jax.engines.chat import ChatRequest, Sampling
from mede2_jax.engines.paid.outcome import Outcome, no_answer
from mede2_jax.engines.wire.attempts import Failed, MalformedReply, Refused
from mede2_jax.engines.wire.http import api_key, base_urls, quoted
from mede2_jax.engines.wire.openai_client import open_client, send
from mede2_jax.engines.wire.openai_fields import OF_THE_ANSWER, describe, refused_field, without
from mede2_jax.engines.wire.openai_reply import Reply, parse_reply
from mede2_jax.engines.wire.openai_request import request_body
from mede2_jax.foreign import shown

URL = "https://api.openai.com/v1"
FIX = "check the model's name, base_url, and the account of the key in OPENAI_API_KEY"
ENDED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "done")
"""How servers say that a reply is whole; some say nothing. (Who asked for an object sees whether it is.)"""
CUT = ("length", "max_tokens", "max_output_tokens", "max_length")


class OpenAIAPI:
    """A `Backend` of the OpenAI chat protocol.

    Args:
        model: As the API calls it.
        base_url: Another server than OpenAI's.
        timeout: Seconds that one attempt may take.
        sampling: The same for all requests.
        notify: Gets a line when the API does not take something of a request.

    Raises:
        UserError: The URL is none, or OpenAI itself is asked without a key.
    """

    def __init__(self, model: str, base_url: str | None, timeout: float, sampling: Sampling, notify: Callable[[str], None]) -> None:
        self.url = base_urls([base_url or URL])[0]
        self.key = api_key("OPENAI_API_KEY")
        if not self.key and self.url == URL:
            raise UserError("no API key: set OPENAI_API_KEY in the environment, or give the base_url of a server that needs none")
        self._model, self._timeout, self._sampling, self._notify = model, timeout, sampling, notify
        self._not_taken: tuple[str, ...] = ()
        """Fields that the API has refused, and answers without."""
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
        fields = self._not_taken
        while True:
            try:
                raw = await send(self._client, self.url, without(body, fields), self._timeout, FIX)
                break
            except Refused as refusal:
                field = refused_field(without(body, fields), refusal)
                if field is None:
                    raise
                fields = (*fields, field)
        self._learn(body, fields)
        try:
            outcome = read_reply(parse_reply(raw))
        except MalformedReply as fault:
            raise Failed(f"the reply is not as it should be: {fault}", may_cost=True) from None
        return outcome.model_copy(update={"without": tuple(name for name in OF_THE_ANSWER if name in fields and name in body)})

    def _learn(self, body: dict[str, Any], fields: tuple[str, ...]) -> None:
        """An answer came without these: the next requests are sent so from the start."""
        if new := tuple(field for field in fields if field not in self._not_taken):
            self._not_taken += new
            self._notify(describe(self.url, body, new))


def read_reply(reply: Reply) -> Outcome:
    """What a reply to a request for one sample says."""
    usage = reply.usage
    counts: dict[str, Any] = {
        "prompt_tokens": usage and usage.prompt_tokens,
        "response_tokens": usage and usage.completion_tokens,
        "model": reply.model or "",
    }
    if not reply.choices:
        return no_answer("the reply has no choices", is_final=False, **counts)
    choice = reply.choices[0]
    text, end = choice.message.text, choice.finish_reason
    if choice.message.refusal:
        return no_answer(f"the model refused: {quoted(choice.message.refusal)}", is_final=True, end="refused", **counts)
    if end == "content_filter":
        return no_answer("the response was blocked: content_filter", is_final=True, end="refused", **counts)
    is_cut = (end or "").lower() in CUT
    if is_cut and not text:
        said = "max_tokens were used up before the answer began; raise max_tokens"
        return no_answer(said, is_final=True, end="cut", **counts)
    if not text or not (is_cut or (end or "").lower() in ENDED):
        ended = f"it ended by {shown(repr(end))}"
        return no_answer(f"the reply has no text ({ended})" if not text else ended, is_final=False, **counts)
    return Outcome(text=text, thought=choice.message.thought, finish_reason="length" if is_cut else "stop", **counts)
