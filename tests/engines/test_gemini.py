"""Gemini by Google's own client, against a server of its wire format: what is sent, and what every kind of reply becomes."""

import email.utils
import io
import json
import sys
import time

import numpy as np
import pytest
from gemini_server import KEY, Drip, Drop, GeminiServer, blocked, data, empty, error, key_fault
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.engine import open_api
from mede2_jax.engines.paid.gemini_reply import read_reply
from mede2_jax.engines.wire.attempts import MalformedReply, ServersGone

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 1, "maximum": 5}}, "required": ["score"]}
QUICK = {"first_rest": 0.02, "longest_rest": 0.05, "patience": 10.0}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def request(number=1, **changes):
    values = {"messages": (Message(role="user", content=f"case {number}"),), "images": (), "n": 1, "seed": number} | changes
    return ChatRequest(f"q{number}", **values)


def engine(server, sampling=None, notify=lambda line: None, **options):
    config = APIConfig(**{"api": "gemini", "model": "gemini-2.5-pro", "base_url": getattr(server, "url", server), **QUICK, **options})
    return open_api(config, sampling or Sampling(), notify)


def ask(server, requests, **options):
    with engine(server, **options) as chat:
        return sorted(chat.answer(requests), key=lambda reply: int(reply.request.id[1:]))


def once(fault):
    """A fault that the first request meets."""
    return lambda number, body: fault(body) if number == 0 else None


def given(value):
    return lambda body: value


def drop(part=b""):
    def fault(body):
        raise Drop(part)

    return fault


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


def candidate(reason, text="a", **fields):
    parts = [] if text is None else [{"text": text}]
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": reason, **fields}]}


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


@pytest.mark.parametrize(
    "fault",
    [
        given(error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted")),
        given(error(500, "INTERNAL", "An internal error has occurred")),
        given(error(503, "UNAVAILABLE", "The model is overloaded")),
        given(error(504, "DEADLINE_EXCEEDED", "Deadline expired")),
        given((502, {"Content-Type": "text/html"}, b"<html>bad gateway \xff</html>")),
        given((200, {}, b"")),
        given((200, {}, b'{"candidates": [{"content": {"par')),
        given((200, {}, b"{}")),
        given((200, {"Content-Encoding": "gzip"}, b"no gzip")),
        given((204, {"Content-Length": "0"}, b"")),
        given((500, {}, b'{"error": {"details": 3, "message": [], "status": {}}}')),
        given((429, {}, b'{"error": {"details": [3, {"retryDelay": null}, {"reason": [], "retryDelay": "soon"}]}}')),
        given((429, {"Retry-After": "soon"}, b"[]")),
        empty,
        given(candidate("STOP", None)),
        drop(),
        drop(b'{"candidates": [{"content": {"parts": [{"text": "a'),
    ],
)
def test_what_may_pass_is_asked_again_and_no_oftener(fault):
    with GeminiServer(faults=once(fault)) as server:
        replies = ask(server, [request(1), request(2)], concurrency=1)
    assert [type(reply) for reply in replies] == [ChatReply, ChatReply], replies
    assert len(server.bodies) == 3  # so the client's own retries are off
    assert set(server.delivered.values()) == {1}


def drip(seconds):
    def fault(body):
        raise Drip(seconds)

    return fault


def test_an_answer_may_come_in_pieces():
    with GeminiServer(faults=once(drip(0.5))) as server:
        (reply,) = ask(server, [request()], timeout=20.0)
    assert isinstance(reply, ChatReply) and len(server.bodies) == 1


@pytest.mark.parametrize("fault", [lambda body: time.sleep(12.0), drip(12.0)])
def test_an_answer_that_takes_too_long_is_asked_for_again(fault):
    with GeminiServer(faults=once(fault)) as server, engine(server, timeout=6.0) as chat:
        replies = list(chat.answer([request(1), request(2)]))
    assert len(server.bodies) == 3 and all(isinstance(reply, ChatReply) for reply in replies)
    assert chat.usage.broken == 1  # it may be on the bill


def retry_info(body):
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "0.7s"}
    return error(429, "RESOURCE_EXHAUSTED", "quota", details=[{"@type": "type.googleapis.com/google.rpc.Help"}, detail])


def dated(body):
    return error(503, "UNAVAILABLE", "overloaded", Retry_After=email.utils.formatdate(time.time() + 2.0, usegmt=True))


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (given(error(429, "RESOURCE_EXHAUSTED", "quota", Retry_After="0.7")), 0.7),
        (given(error(500, "INTERNAL", "quota", Retry_After="0.7")), 0.7),
        (retry_info, 0.7),
        (dated, 1.0),  # whole seconds: two, less what is over
    ],
)
def test_the_api_is_left_alone_as_long_as_it_asks(fault, seconds):
    times = []

    def faults(number, body):
        times.append(time.monotonic())
        return fault(body) if number == 0 else None

    with GeminiServer(faults=faults) as server:
        ask(server, map(request, range(4)), concurrency=1)
    assert len(times) == 5
    assert seconds <= times[1] - times[0]


def test_more_time_than_there_is_ends_the_run_at_once():
    quota = error(429, "RESOURCE_EXHAUSTED", "You exceeded your daily quota", Retry_After="3600")
    line = r"asks to wait 3600 s, longer than patience \(429 You exceeded your daily quota\); what was"
    with GeminiServer(faults=lambda number, body: quota) as server, engine(server) as chat, pytest.raises(ServersGone, match=line):
        list(chat.answer(map(request, range(20))))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (blocked, "the prompt was blocked: SAFETY (dangerous_content)"),
        (given(candidate("RECITATION", None)), "the response was blocked: RECITATION"),
        (given(error(400, "INVALID_ARGUMENT", "schema too deep")), "400 schema too deep"),
        (given(error(413, "INVALID_ARGUMENT", "too large")), "413 too large"),
    ],
)
def test_what_cannot_be_answered_fails_alone_and_at_once(fault, reason):
    with GeminiServer(faults=once(fault)) as server:
        failed, answered = ask(server, [request(1), request(2)], concurrency=1)
    assert (failed.reason, type(answered), len(server.bodies)) == (reason, ChatReply, 2)


def test_a_reply_that_stays_empty_is_given_up():
    with GeminiServer(faults=lambda number, body: empty(body)) as server, engine(server) as chat:
        (failed,) = chat.answer([request()])
    assert failed.reason == "failed 4 times, last: the reply has no candidates"
    assert len(server.bodies) == chat.usage.paid == 4 and chat.spent == pytest.approx(4 * 2 * 1.25 / 1e6)  # prompts are on the bill


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (key_fault(), "answers 400 API key not valid. Please pass a valid API key.; check the model's name, base_url, and the key"),
        (error(403, "PERMISSION_DENIED", "not for you"), "answers 403 not for you"),
        (error(404, "NOT_FOUND", "models/x is not found"), "answers 404 models/x is not found; check the model's name"),
        (error(400, "FAILED_PRECONDITION", "User location is not supported"), "answers 400 User location is not supported"),
    ],
)
def test_what_no_request_can_get_is_one_line(fault, expected):
    with GeminiServer(faults=lambda number, body: fault) as server, pytest.raises(UserError) as found:
        ask(server, map(request, range(50)), concurrency=4)
    assert expected in str(found.value) and "\n" not in str(found.value)
    assert len(server.bodies) <= 8


def test_an_unknown_model_and_a_wrong_key():
    with GeminiServer() as server:
        with pytest.raises(UserError, match=r"404 .*gemini-9.* is not found"):
            ask(server, [request()], model="gemini-9")
        server.key = "another"
        with pytest.raises(UserError, match="400 API key not valid"):
            ask(server, [request()])


def test_no_key_is_one_line(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY")
    with pytest.raises(UserError, match=r"no API key: set GEMINI_API_KEY \(or GOOGLE_API_KEY\) in the environment"):
        engine("http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    engine("http://127.0.0.1:9")


def test_no_client_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(UserError, match=r"Gemini's client is not installed .*: pip install -e '.\[judge\]'"):
        engine("http://127.0.0.1:9")


def test_nobody_there_ends_when_patience_does():
    lines = []
    with GeminiServer() as server:
        url = server.url
    with (
        engine(url, notify=lines.append, patience=2.5) as chat,
        pytest.raises(ServersGone, match=r"has answered nothing for 2 s.*cannot be reached"),
    ):
        list(chat.answer(map(request, range(5))))
    assert len(lines) == 1 and "trying again, for up to 2 s if nothing is answered" in lines[0]


def test_a_server_that_comes_back_goes_on():
    lines = []
    with GeminiServer(faults=lambda number, body: error(500, "INTERNAL", "down") if time.monotonic() < until else None) as server:
        until = time.monotonic() + 5.0
        replies = ask(server, map(request, range(30)), notify=lines.append, patience=30.0)
    assert all(isinstance(reply, ChatReply) for reply in replies) and len(replies) == 30  # none was given up meanwhile
    assert len(lines) == 2 and lines[1].endswith("answers again")


def test_a_request_that_always_fails_is_given_up_while_others_are_answered():
    def faults(number, body):
        return error(500, "INTERNAL", "a bug") if "case 7" in str(body) else None

    with GeminiServer(faults=faults, seconds=0.01) as server:
        replies = ask(server, map(request, range(60)), concurrency=2)
    assert [reply.request.id for reply in replies if isinstance(reply, ChatFailure)] == ["q7"]
    assert replies[7].reason == "failed 4 times, last: 500 a bug"


def test_a_request_that_always_fails_alone_is_given_up_when_patience_ends():
    with GeminiServer(faults=lambda number, body: error(500, "INTERNAL", "a bug")) as server:
        (failed,) = ask(server, [request()], patience=1.0)
    assert failed.reason.startswith("failed ") and failed.reason.endswith("last: 500 a bug")
