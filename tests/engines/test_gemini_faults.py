"""Gemini's faults: what is asked again, what fails alone, and what ends the run."""

import email.utils
import sys
import time

import pytest
from gemini_requests import ask, candidate, engine, given, once, request
from gemini_server import KEY, Drip, Drop, GeminiServer, blocked, empty, error, key_fault

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatFailure, ChatReply
from mede2_jax.engines.wire.attempts import ServersGone


def drop(part=b""):
    def fault(body):
        raise Drop(part)

    return fault


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
