"""Servers that speak the OpenAI chat protocol: vLLM, one or several, and others without vLLM's extras.

Every server is kept at its number of sequences; what failed is sent again, elsewhere if it can be, and replies are handed over as they
come.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import openai

from mede2_jax.config import UserError
from mede2_jax.data.chat import DEFAULT_SYSTEM_PROMPT
from mede2_jax.engines.background import Background
from mede2_jax.engines.chat import CUT, ChatFailure, ChatReply, ChatRequest, Completion, Sampling, TokenRules, before_stop_text
from mede2_jax.engines.vllm.pool import Server, ServerConfig, ServerPool
from mede2_jax.engines.wire.attempts import ATTEMPTS, Failed, MalformedReply, Refused, ServersGone
from mede2_jax.engines.wire.http import CONNECT_SECONDS, api_key, base_urls, error_text, key_in_the_open
from mede2_jax.engines.wire.openai_client import open_client, send
from mede2_jax.engines.wire.openai_reply import completions, parse_reply
from mede2_jax.engines.wire.openai_request import request_body
from mede2_jax.foreign import one_line, parse_json, shown


@dataclasses.dataclass(frozen=True)
class VLLMExtras:
    """What vLLM understands beyond the protocol."""

    rules: TokenRules
    expected_prompt: Callable[[ChatRequest], Sequence[int]]
    """The token ids that training would see for a request; every reply is compared with it."""
    image: str | None = None
    """A text that the server puts an image for, so that no request may hold it."""
    text: Callable[[Sequence[int]], str] | None = None
    """The text of token ids; every response is compared with that of its own. None: nobody can compare them."""


class OpenAIChat:
    """A `ChatEngine` of one or more servers. The API key, where one is needed, is the environment's `OPENAI_API_KEY`.

    Args:
        urls: Base URLs, such as `http://127.0.0.1:8000/v1`; without a path, `/v1` is meant.
        sampling: The same for all requests.
        config: How the servers are used.
        system_prompt: As `ProcessorOptions.system_prompt`.
        logprobs: Whether log-probabilities are wanted.
        vllm: vLLM's extras; None for servers that need not know them: no token is banned, and nobody checks the prompt.
        notify: Gets a line when a server fails for a while, and when it is back.
        check: Called when a request has failed; raises UserError where there is no use in waiting for it.
        key: What the servers ask for, where it is not the environment's.

    Raises:
        UserError: A URL is none.
    """

    def __init__(
        self,
        urls: Sequence[str],
        sampling: Sampling,
        config: ServerConfig,
        *,
        system_prompt: str = DEFAULT_SYSTEM_PROMPT,
        logprobs: bool = False,
        vllm: VLLMExtras | None = None,
        notify: Callable[[str], None] = lambda line: None,
        check: Callable[[], None] | None = None,
        key: str | None = None,
    ) -> None:
        self.sampling, self.config, self.vllm = sampling, config, vllm
        self.system_prompt, self.logprobs, self.notify, self.check = system_prompt, logprobs, notify, check
        self._key = key
        self.servers = [Server(url) for url in base_urls(urls)]
        self._restored: set[str] = set()
        """URLs of servers whose texts were not those of their token ids."""

    def __enter__(self) -> Self:
        for server in self.servers:
            if self._key is None and (told := key_in_the_open(server.url, "OPENAI_API_KEY", api_key("OPENAI_API_KEY"))):
                self.notify(told)
        self._background = Background("openai-chat")
        try:
            self._background.run(self._open())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._background.stop(self._close)

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply | ChatFailure]:
        """As `ChatEngine.answer`."""
        # As much again as the servers work on is made ready, so that they never wait for us.
        return self._background.answer(requests, self._answer, 2 * self.config.concurrency * len(self.servers))

    async def _answer(self, request: ChatRequest) -> ChatReply | ChatFailure:
        mark = self.vllm.image if self.vllm else None
        if mark is not None and any(mark in message.text for message in request.messages):
            return ChatFailure(
                request, f"a text holds {mark!r}, for which vLLM puts an image of this model; take it out, or use --engine=flax"
            )
        body, prompt = await asyncio.to_thread(self._prepare, request)
        # vLLM would lower max_tokens without a word, and the response look as if it had been cut there.
        room = min((server.max_tokens for server in self.servers if server.max_tokens is not None), default=None)
        if prompt is not None and room is not None and len(prompt) + self.sampling.max_tokens > room:
            return ChatFailure(
                request, f"the prompt's {len(prompt)} tokens and max_tokens={self.sampling.max_tokens} exceed the servers' {room}"
            )
        attempts, answers_before, last = 0, 0, ""
        while True:
            try:
                server = await self._pool.acquire(request.n)
            except ServersGone:
                if attempts >= ATTEMPTS:  # it may have been this request all along
                    return ChatFailure(request, f"failed {attempts} times, last: {last}")
                raise
            try:
                reply = await self._ask(server, request, body, prompt)
                self._pool.succeeded(server)
                return reply
            except Refused as refusal:
                self._pool.succeeded(server)  # it is well; the request is not
                return ChatFailure(request, str(refusal))
            except Failed as failure:
                if self.check:
                    self.check()
                self._pool.failed(server, str(failure), is_down=failure.is_down, rest=failure.rest)
                answers_before = answers_before if attempts else self._pool.answers
                attempts, last = attempts + failure.counts, str(failure)
                # Others were answered meanwhile: the servers are well, so it is this request that makes them fail.
                if attempts >= ATTEMPTS and self._pool.answers > answers_before:
                    return ChatFailure(request, f"failed {attempts} times, last: {last}")
            finally:
                self._pool.release(server, request.n)

    async def _ask(self, server: Server, request: ChatRequest, body: dict[str, Any], prompt: Sequence[int] | None) -> ChatReply:
        """One attempt.

        Raises:
            Refused: Trying again would not help.
            Failed: It may.
            UserError: No request can be answered as it should be.
        """
        client = self._clients[server.url]
        raw = await send(client, server.url, {"model": server.model, **body}, self.config.timeout)
        try:
            reply = parse_reply(raw)
            samples = completions(reply, request, logprobs=self.logprobs, with_ids=self.vllm is not None)
            prompt_tokens = reply.prompt_tokens
        except MalformedReply as fault:
            raise Failed(f"the reply is not as it should be: {fault}") from None
        if prompt is not None:
            _check_prompt(server, request, prompt, reply.prompt_token_ids or [])
        aside = [choice.message.set_aside for choice in sorted(reply.choices, key=lambda choice: choice.index)]
        samples = tuple(self._checked(server, sample, where) for sample, where in zip(samples, aside, strict=True))
        return ChatReply(request, prompt_tokens, samples)

    def _checked(self, server: Server, sample: Completion, aside: str | None) -> Completion:
        """A sample whose text is that of its token ids.

        Args:
            server: Who gave it.
            sample: As it came.
            aside: Where else the reply had text.

        Raises:
            UserError: The server has taken a part of the response elsewhere.
        """
        own = None if self.vllm is None or self.vllm.text is None else _own_text(sample, self.vllm.text, self.sampling.stop)
        is_same = own is not None and sample.text.rstrip(CUT) == own
        if aside is not None and not is_same:
            raise UserError(
                f"{server.url} takes a part of the responses out of their text, into {shown(aside)}; "
                "start it without --reasoning-parser and --tool-call-parser"
            )
        if own is None:
            return sample
        if not is_same and server.url not in self._restored:
            self._restored.add(server.url)
            self.notify(f"{server.url} gives texts that are not those of their token ids; the text of the ids is taken")
        return dataclasses.replace(sample, text=own)

    def _prepare(self, request: ChatRequest) -> tuple[dict[str, Any], Sequence[int] | None]:
        """The body of a request, and the token ids of its prompt if they are to be compared."""
        rules = self.vllm.rules if self.vllm else None
        body = request_body(request, self.sampling, system_prompt=self.system_prompt, logprobs=self.logprobs, rules=rules)
        return body, self.vllm.expected_prompt(request) if self.vllm else None

    async def _open(self) -> None:
        config = self.config
        self._pool = ServerPool(self.servers, concurrency=config.concurrency, patience=config.patience, notify=self.notify)
        self._clients = {server.url: open_client(server.url, config.timeout, self._key) for server in self.servers}
        await asyncio.gather(*(self._meet(server) for server in self.servers))

    async def _meet(self, server: Server) -> None:
        """Asks a server for its models."""
        try:
            response = await self._clients[server.url].models.with_raw_response.list(timeout=CONNECT_SECONDS)
            models = {str(entry["id"]): entry for entry in parse_json(response.http_response.content)["data"]}
        except openai.APIStatusError as error:
            reason = f"answers {error.status_code} {error_text(error.response)}"
            raise UserError(f"the server at {server.url} {reason}; is --base_url right, and OPENAI_API_KEY?") from None
        except openai.APIConnectionError as error:
            reason = one_line(str(error.__cause__ or error)) or "time-out"
            raise UserError(f"no server answers at {server.url} ({reason}); start it, or correct --base_url") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"what answers at {server.url} does not speak the OpenAI protocol; correct --base_url") from None
        wanted, names = self.config.served_model, shown(", ".join(models), 200) or "none"
        if wanted is None and len(models) != 1:
            raise UserError(f"{server.url} serves {len(models)} models ({names}); choose one with --served_model=NAME")
        server.model = wanted or next(iter(models))
        if server.model not in models:
            raise UserError(f"{server.url} serves no model {server.model!r} (it has: {names}); correct --served_model")
        longest = models[server.model].get("max_model_len")
        server.max_tokens = longest if type(longest) is int else None
        if server.max_tokens is not None and server.max_tokens <= self.sampling.max_tokens:
            raise UserError(
                f"max_tokens={self.sampling.max_tokens} leaves no room for a prompt in the {longest} tokens of {server.url}; "
                "lower it, or start the server with a larger --max-model-len"
            )

    async def _close(self) -> None:
        for client in getattr(self, "_clients", {}).values():
            await client.close()


def _own_text(sample: Completion, text: Callable[[Sequence[int]], str], stop: Sequence[str]) -> str:
    """What the token ids of a sample say, up to the token or the stop text that ended it."""
    whole = text(sample.token_ids)
    if sample.finish_reason == "length" or not sample.token_ids:
        return whole
    cut = before_stop_text(whole, stop)
    return cut if cut != whole else text(sample.token_ids[:-1])


def _check_prompt(server: Server, request: ChatRequest, ours: Sequence[int], theirs: Sequence[int]) -> None:
    ours, theirs = [int(token) for token in ours], list(theirs)
    if ours == theirs:
        return
    shared = min(len(ours), len(theirs))
    at = next((place for place in range(shared) if ours[place] != theirs[place]), shared)
    raise UserError(
        f"{server.url} sees another prompt than training would: {request.id}: {len(theirs)} tokens there, {len(ours)} here, first "
        f"difference at token {at} ({theirs[at : at + 3]} there, {ours[at : at + 3]} here); "
        "serve this very model directory, with its chat template"
    )
