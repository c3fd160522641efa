"""What kind of end a reply without an answer is: refused, cut before it began, or failed; today, and from the cache tomorrow."""

import json

import pytest
from chat_server import ChatServer
from gemini_server import GeminiServer, blocked, error
from paying import ask, engine, request

from mede2_jax.engines.chat import ChatFailure
from mede2_jax.engines.paid.cost import Totals


@pytest.fixture(autouse=True)
def openai_key(keys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")


def ends(server, cache):
    found = []
    for _ in range(2):
        (reply,), _ = ask(server, [request(0)], cache=cache)
        assert isinstance(reply, ChatFailure)
        found.append(reply.end)
    return found


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ({"finishReason": "SAFETY"}, "refused"),
        ({"finishReason": "PROHIBITED_CONTENT"}, "refused"),
        ({"finishReason": "RECITATION"}, "refused"),
        ({"finishReason": "MAX_TOKENS"}, "cut"),
        ({"finishReason": "OTHER"}, "failed"),
        ({"finishReason": "STOP"}, "failed"),
    ],
)
def test_gemini(tmp_path, candidate, expected):
    with GeminiServer() as server:
        server.faults = lambda number, body: server.reply(body, content={}, **candidate)
        assert ends(server, tmp_path / "cache.sqlite") == [expected] * 2
        if expected != "failed":
            assert len(server.bodies) == 1, "the second time from the cache"


def test_gemini_blocks_a_prompt_or_cannot_take_it(tmp_path):
    with GeminiServer(faults=lambda number, body: blocked(body)) as server:
        assert ends(server, tmp_path / "a.sqlite") == ["refused"] * 2
    with GeminiServer(faults=lambda number, body: error(400, "INVALID_ARGUMENT", "too many images")) as server:
        assert ends(server, tmp_path / "b.sqlite") == ["failed"] * 2


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": None, "refusal": "I cannot."}, "stop", "refused"),
        ({"content": ""}, "content_filter", "refused"),
        ({"content": "half of"}, "content_filter", "refused"),
        ({"content": ""}, "length", "cut"),
        ({"content": ""}, "stop", "failed"),
    ],
)
def test_openai(tmp_path, message, finish, expected):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    reply = json.dumps({"model": "tiny", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
    with ChatServer(faults=lambda number, body: (200, {}, reply)) as server:
        assert ends(server, tmp_path / "cache.sqlite") == [expected] * 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [("content_filter", "refused"), ("content_policy_violation", "refused"), ("invalid_prompt", "refused"), ("too_long", "failed")],
)
def test_an_error_may_be_a_refusal(tmp_path, code, expected):
    body = json.dumps({"error": {"message": "no", "code": code}}).encode()
    with ChatServer(faults=lambda number, _: (400, {}, body)) as server:
        assert ends(server, tmp_path / "cache.sqlite") == [expected] * 2


def test_engines_of_one_run_share_a_budget(tmp_path):
    """The prices of gemini-2.5-pro: a reply of at most 400 tokens is held at 0.004 dollars and some for its prompt."""
    totals = Totals()
    with GeminiServer(say=lambda body, texts, images: "so " * 300) as server:
        for number in range(2):
            with engine(server, max_cost=0.009, totals=totals) as chat:
                (reply,) = chat.answer([request(number)])
                assert reply.completions[0].text and chat.usage is totals and chat.spent == pytest.approx(server.billed)
        with (
            engine(server, max_cost=0.009, totals=totals) as chat,
            pytest.raises(ValueError, match=r"max_cost=0.009 US dollars is reached"),
        ):
            list(chat.answer([request(2)]))
        assert len(server.bodies) == 2
