"""Requests to servers of OpenAI's chat protocol on loopback, and faults of such servers."""

import json

from chat_server import byte_prompt, response_text

from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatReply, ChatRequest, Sampling, TokenRules
from mede2_jax.engines.vllm.client import OpenAIChat, VLLMExtras
from mede2_jax.engines.vllm.pool import ServerConfig
from mede2_jax.engines.wire.openai_request import chat_messages

SAMPLING = Sampling(max_tokens=400)


def request(number, n=2):
    return ChatRequest(f"q{number}", (Message(role="user", content=f"case {number}"),), (), n, 1000 * number)


def expected_prompt(request):
    return byte_prompt(chat_messages(request, "default"), {})


VLLM = VLLMExtras(TokenRules((0, 3), (7, 9)), expected_prompt)


def engine(*servers, sampling=SAMPLING, vllm=VLLM, system_prompt="default", logprobs=False, notify=lambda line: None, **options):
    config = ServerConfig(**{"patience": 20.0, **options})
    urls = [getattr(server, "url", server) for server in servers]
    return OpenAIChat(urls, sampling, config, vllm=vllm, system_prompt=system_prompt, logprobs=logprobs, notify=notify)


def ask(requests, *servers, **options):
    with engine(*servers, **options) as chat:
        return list(chat.answer(requests))


def check(replies, count, n=2):
    """Each request is answered once, each sample by its own seed."""
    assert sorted(reply.request.id for reply in replies) == sorted(f"q{number}" for number in range(count))
    for reply in replies:
        assert isinstance(reply, ChatReply), reply
        prompt = expected_prompt(reply.request)
        assert reply.prompt_tokens == len(prompt)
        assert [completion.seed for completion in reply.completions] == [reply.request.seed + index for index in range(n)]
        for completion in reply.completions:
            text = response_text(prompt, completion.seed)[: SAMPLING.max_tokens]
            assert (completion.text, completion.logprobs) == (text, None)
            assert list(completion.token_ids[: len(text)]) == list(text.encode())


def at(moments, fault):
    """A fault that the requests with these numbers meet."""

    def faults(number, body):
        if number not in moments:
            return None
        return fault(number) if callable(fault) else fault

    return faults


def status(code, text="no", **headers):
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps({"error": {"message": text}}).encode()
