"""Gemini by Google's own client, against a server of its wire format: what is sent, and what every kind of reply becomes."""

import io
import json

import numpy as np
import pytest
from gemini_requests import ask, candidate, engine, given, once, request
from gemini_server import KEY, GeminiServer, data
from PIL import Image

from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatReply, Sampling
from mede2_jax.engines.paid.gemini_reply import read_reply
from mede2_jax.engines.wire.attempts import MalformedReply

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}}, "required": ["score"]}


def test_a_whole_request():
    messages = (
        Message(role="system", content="You judge."),
        Message(role="user", content=(TextPart(text="first"), ImagePart(), TextPart(text="last"))),
        Message(role="assistant", content="{"),
        Message(role="user", content="go on"),
    )
    image = Image.effect_noise((7, 5), 80).convert("RGB")
    sampling = Sampling(temperature=0.25, top_p=0.9, max_tokens=321, stop=("END",))
    with GeminiServer() as server:
        (reply,) = ask(
            server,
            [request(messages=messages, images=(image,), seed=2**31 + 5, schema=SCHEMA)],
            sampling=sampling,
            thinking=128,
            block=False,
        )
    (body,) = server.bodies
    sent = body["contents"][0]["parts"].pop(1)
    assert body == {
        "systemInstruction": {"parts": [{"text": "You judge."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "first"}, {"text": "last"}]},
            {"role": "model", "parts": [{"text": "{"}]},
            {"role": "user", "parts": [{"text": "go on"}]},
        ],
        "generationConfig": {
            "temperature": 0.25,
            "topP": 0.9,
            "maxOutputTokens": 321,
            "stopSequences": ["END"],
            "seed": 5,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
            "thinkingConfig": {"thinkingBudget": 128},
        },
        "safetySettings": [
            {"category": f"HARM_CATEGORY_{harm}", "threshold": "BLOCK_NONE"}
            for harm in ("HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT")
        ],
    }
    assert sent["inlineData"]["mimeType"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data(sent)))), np.asarray(image))
    assert set(json.loads(reply.completions[0].text)) == {"score"}


def test_nothing_is_sent_that_was_not_asked_for():
    with GeminiServer() as server:
        ask(server, [request()])
    assert set(server.bodies[0]) == {"contents", "generationConfig"}
    assert set(server.bodies[0]["generationConfig"]) == {"temperature", "topP", "maxOutputTokens", "seed"}
    assert server.headers[0]["x-goog-api-key"] == KEY


def test_the_environment_leads_the_client_nowhere_else(monkeypatch):
    for name, value in {
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:9",
        "GOOGLE_GENAI_API_VERSION": "v9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    with GeminiServer() as server:
        (reply,) = ask(server, [request()])
    assert isinstance(reply, ChatReply) and len(server.bodies) == 1


def test_a_reply_says_what_it_took():
    with GeminiServer(say=lambda body, texts, images: "two words") as server:
        (reply,) = ask(server, [request(images=(Image.new("RGB", (4, 4)),), messages=(Message(role="user", content=(ImagePart(),)),))])
    usage = reply.usage
    assert (reply.prompt_tokens, usage.prompt_tokens, usage.response_tokens, usage.cached) == (258, 258, 2 + 7, False)
    assert usage.cost == pytest.approx((258 * 1.25 + 9 * 10.0) / 1e6)
    assert usage.model == "gemini-2.5-pro"
    (completion,) = reply.completions
    assert (completion.text, completion.token_ids, completion.logprobs, completion.seed) == ("two words", (), None, 1)
    assert completion.finish_reason == "stop"


def test_max_tokens():
    with GeminiServer(say=lambda body, texts, images: "one two three four") as server:
        cut, none = (ask(server, [request()], sampling=Sampling(max_tokens=limit))[0] for limit in (9, 7))
    assert (cut.completions[0].text, cut.completions[0].finish_reason) == ("one two", "length")
    assert none.reason == "max_tokens were used up by thinking before the answer began; raise max_tokens"


RATINGS = {
    "safetyRatings": [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH"}, {"category": "X", "probability": "LOW"}]
}
THOUGHT = {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}, {"text": "a"}, {"text": "b"}]}, "finishReason": "STOP"}]}


@pytest.mark.parametrize(
    ("reply", "text", "finish", "reason", "is_final"),
    [
        (candidate("STOP"), "a", "stop", "", True),
        (candidate("STOP", new_field=1, groundingMetadata={}), "a", "stop", "", True),
        (THOUGHT, "ab", "stop", "", True),
        (candidate("MAX_TOKENS"), "a", "length", "", True),
        (candidate("MAX_TOKENS", None), None, "stop", "max_tokens were used up", True),
        (candidate("STOP", None), None, "stop", "the reply has no text (STOP)", False),
        (candidate("STOP", ""), None, "stop", "the reply has no text (STOP)", False),
        ({"candidates": [{"finishReason": "STOP"}]}, None, "stop", "the reply has no text (STOP)", False),
        (candidate(None), None, "stop", "the response broke off: FINISH_REASON_UNSPECIFIED", False),
        (candidate("OTHER", None, finishMessage="no luck"), None, "stop", "the reply has no text (OTHER (no luck))", False),
        (candidate("NEWER_THAN_US"), None, "stop", "the response broke off: NEWER_THAN_US", False),
        (candidate("SAFETY", None, **RATINGS), None, "stop", "the response was blocked: SAFETY (dangerous_content)", True),
        (candidate("SAFETY"), None, "stop", "the response was blocked: SAFETY", True),
        (candidate("RECITATION", None), None, "stop", "the response was blocked: RECITATION", True),
        (candidate("PROHIBITED_CONTENT"), None, "stop", "the response was blocked: PROHIBITED_CONTENT", True),
        ({"promptFeedback": {"blockReason": "OTHER"}}, None, "stop", "the prompt was blocked: OTHER", True),
        ({"promptFeedback": {"blockReason": "SAFETY"} | RATINGS}, None, "stop", "the prompt was blocked: SAFETY (dangerous_content)", True),
        ({"candidates": [], "modelVersion": "m"}, None, "stop", "the reply has no candidates", False),
        ({"promptFeedback": {}, "usageMetadata": {"promptTokenCount": 3}}, None, "stop", "the reply has no candidates", False),
    ],
)
def test_what_replies_mean(reply, text, finish, reason, is_final):
    outcome = read_reply(json.dumps(reply))
    assert (outcome.text, outcome.finish_reason, outcome.is_final) == (text, finish, is_final)
    assert outcome.reason.startswith(reason) and bool(outcome.reason) == (text is None)


@pytest.mark.parametrize("count", [-5, True, "5", 10**400, [5], {"total": 5}, 1e300, None], ids=lambda count: ascii(count)[:9])
def test_a_count_that_is_none_is_not_known(count):
    usage = {"promptTokenCount": count, "candidatesTokenCount": count, "thoughtsTokenCount": 3}
    outcome = read_reply(json.dumps(candidate("STOP") | {"usageMetadata": usage}))
    assert (outcome.text, outcome.prompt_tokens, outcome.response_tokens) == ("a", None, None)


LOOSE = {
    "nulls": {"safetyRatings": None, "finishMessage": None, "content": {"parts": [{"text": "a", "thought": None}], "role": None}},
    "ratings with nulls": {"safetyRatings": [{"category": None, "probability": None, "blocked": None}]},
    "a message that is none": {"finishMessage": 3},
}


@pytest.mark.parametrize("name", LOOSE)
@pytest.mark.parametrize("around", [{}, {"modelVersion": None}, {"modelVersion": 3}, {"promptFeedback": None}, {"usageMetadata": []}])
def test_a_loose_envelope_is_read(name, around):
    reply = candidate("STOP") | around
    reply["candidates"][0] |= LOOSE[name]
    assert read_reply(json.dumps(reply)).text == "a"


@pytest.mark.parametrize("count", [-(10**9), 10**400, True, "many", []], ids=lambda count: ascii(count)[:9])
def test_an_odd_count_costs_nothing_back_and_ends_nothing(count):
    usage = {"usageMetadata": {"promptTokenCount": count, "candidatesTokenCount": count}}
    with GeminiServer(faults=once(given(candidate("STOP") | usage))) as server, engine(server, concurrency=1) as chat:
        replies = list(chat.answer([request(1), request(2)]))
    assert [type(reply) for reply in replies] == [ChatReply, ChatReply] and len(server.bodies) == 2
    assert all(reply.usage.cost >= 0 for reply in replies) and chat.usage.uncounted == 1 and chat.usage.at_most > 0


@pytest.mark.parametrize(
    "raw", ["", "{", "[]", "{}", "null", '"text"', '{"candidates": 3}', '{"candidates": [{"content": "x"}]}', '{"error": {}}']
)
def test_what_is_no_reply(raw):
    with pytest.raises(MalformedReply) as fault:
        read_reply(raw)
    assert "\n" not in str(fault.value)
