"""Servers of OpenAI's chat protocol: several at a time, that go and come back, and what they say of themselves."""

import os
import signal
import threading
import time

import pytest
from chat_server import ChatServer
from loopback import Handler
from served import VLLM, ask, at, check, engine, expected_prompt, request, status
from waiting import HANG

from mede2_jax.config import UserError
from mede2_jax.data.records import Message, TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest
from mede2_jax.engines.vllm.client import VLLMExtras
from mede2_jax.engines.wire.http import base_urls


def test_two_servers_share_the_work_and_the_faster_does_more():
    with ChatServer(seconds=0.02) as fast, ChatServer(seconds=0.2) as slow:
        check(ask(map(request, range(120)), fast, slow, concurrency=8), 120)
        assert len(fast.requests) > 2 * len(slow.requests) > 20


@pytest.mark.slow
def test_a_server_that_dies_leaves_its_work_to_the_other():
    dying, lines = ChatServer(seconds=0.1), []
    with ChatServer(seconds=0.1) as staying, dying, engine(dying, staying, concurrency=8, notify=lines.append) as chat:
        replies = []
        for reply in chat.answer(map(request, range(300))):
            replies.append(reply)
            if len(replies) == 20:
                dying.__exit__()
        check(replies, 300)
    assert any(dying.url in line and "trying again" in line for line in lines), lines


@pytest.mark.slow
def test_a_server_that_is_started_again_finishes_the_work():
    first, lines, second = ChatServer(seconds=0.05), [], []
    first.__enter__()

    def restart():
        time.sleep(7)  # the third try, which is the first to be told of, comes 2 to 4.4 s after the first
        second.append(ChatServer(first.port, seconds=0.05).__enter__())

    with engine(first, concurrency=8, notify=lines.append) as chat:
        replies = []
        for reply in chat.answer(map(request, range(60))):
            replies.append(reply)
            if len(replies) == 20:
                first.__exit__()
                threading.Thread(target=restart).start()
    check(replies, 60)
    second[0].__exit__()
    assert [line.partition(" ")[2].split(";")[0].split(" (")[0] for line in lines] == ["cannot be reached", "answers again"]


def test_a_server_that_is_gone_ends_with_one_error_after_all_that_came():
    server, got = ChatServer(seconds=0.05), []
    server.__enter__()
    with (
        engine(server, concurrency=8, patience=3.0) as chat,
        pytest.raises(UserError, match=r"no server has answered for 3 s \(.*cannot be reached.*\); what was answered is kept") as error,
    ):
        for reply in chat.answer(map(request, range(60))):
            got.append(reply)
            if len(got) == 20:
                server.__exit__()
    assert "\n" not in str(error.value)
    assert 20 <= len(got) < 60 and len({reply.request.id for reply in got}) == len(got)


def test_a_prompt_that_training_would_not_see_ends_the_run():
    other = VLLMExtras(VLLM.rules, lambda asked: [*expected_prompt(asked)[:-1], 5, 6])
    with ChatServer() as server, pytest.raises(UserError, match=r"another prompt than training.*q0: 6 tokens there, 7 here.*at token 5"):
        ask([request(0)], server, vllm=other)


@pytest.mark.parametrize(
    "text",
    ["case <image> 1 of 2", "<image>", "a<image><image>b", "\n<image>\n", "图<image>像", "`<image>`", "see <image", "<Image>", "< image>"],
)
def test_a_text_that_vllm_puts_an_image_for_fails_alone(text):
    def asked(number):
        content = (TextPart(text="The report: "), TextPart(text=text)) if number == 1 else f"case {number}"
        return ChatRequest(f"q{number}", (Message(role="user", content=content),), (), 1, 7)

    marked = VLLMExtras(VLLM.rules, VLLM.expected_prompt, "<image>")
    fails = "<image>" in text
    with ChatServer() as server:
        replies = {reply.request.id: reply for reply in ask(map(asked, range(3)), server, vllm=marked)}
    assert {id for id, reply in replies.items() if isinstance(reply, ChatFailure)} == ({"q1"} if fails else set())
    if fails:
        assert "a text holds '<image>', for which vLLM puts an image" in replies["q1"].reason and "take it out" in replies["q1"].reason
    with ChatServer() as server:
        assert all(isinstance(reply, ChatReply) for reply in ask(map(asked, range(3)), server))


def test_a_server_without_what_is_needed_is_refused():
    def without_ids(reply):
        return {name: value for name, value in reply.items() if name != "prompt_token_ids"}

    def reasoned(reply):
        for choice in reply["choices"]:
            choice["message"]["reasoning"] = "hm"
        return reply

    with ChatServer(change=without_ids) as server, pytest.raises(UserError, match="gives no token ids"):
        ask([request(0)], server)
    with ChatServer(change=reasoned) as server, pytest.raises(UserError, match="without --reasoning-parser"):
        ask([request(0)], server)


def test_a_server_is_looked_at_before_it_is_used():
    with ChatServer(model="other", max_model_len=400) as server:
        with pytest.raises(UserError, match=r"serves no model 'mine' \(it has: other\)"):
            ask([], server, served_model="mine")
        with pytest.raises(UserError, match="max_tokens=400 leaves no room for a prompt in the 400 tokens"):
            ask([], server)
        url = server.url
    with pytest.raises(UserError, match=rf"no server answers at {url} \(.*\); start it, or correct --base_url"):
        ask([], url)
    with ChatServer() as server, pytest.raises(UserError, match="no server answers at"):
        ask([], server, url)


class Says(Handler):
    """Answers with the bytes that its server has."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.says)))
        self.end_headers()
        self.wfile.write(self.server.says)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (b"[" * 100_000, "does not speak the OpenAI protocol"),
        (b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "does not speak the OpenAI protocol"),
        (b'{"data": [{"id": "m", "max_model_len": ' + b"9" * 5000 + b"}]}", "does not speak the OpenAI protocol"),
        (b'{"data": [{"id": "m"}], "data": []}', "does not speak the OpenAI protocol"),
        (b'{"data": [{"id": "a\\u001b]0;x\\u0007"}, {"id": "b"}]}', r"serves 2 models \(a\\x1b\]0;x\\x07, b\)"),
        (b'{"data": [{"id": 5}, {"id": [6]}]}', r"serves 2 models \(5, \[6\]\)"),
        (b'{"data": []}', r"serves 0 models \(none\)"),
    ],
    ids=range(7),
)
def test_what_a_server_says_of_its_models_is_read_as_any_foreign_text(models, expected):
    with ChatServer() as server:
        server.http.RequestHandlerClass = Says
        server.http.says = models
        with pytest.raises(UserError, match=expected) as fault:
            ask([], server)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:8000", "is no URL of a server; write http://HOST:PORT/v1"),
        ("ftp://host/v1", "is no URL of a server"),
        ("http://", "is no URL of a server"),
        ("http://me:secret@host/v1", "OPENAI_API_KEY"),
    ],
)
def test_base_urls_that_are_none(url, expected):
    with pytest.raises(UserError, match=expected) as error:
        base_urls([url])
    assert "secret" not in str(error.value)


def test_base_urls_have_one_form():
    given = ["http://a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/", "https://b/openai/v1"]
    assert base_urls(given) == ["http://a:1/v1", "https://b/openai/v1"]


def test_the_key_comes_from_the_environment_and_is_told_to_nobody_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy is for other machines
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with ChatServer(faults=at({1}, status(401, "wrong key"))) as server, pytest.raises(UserError) as error:
        ask(map(request, range(2)), server)
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(error.value)


@pytest.mark.slow
def test_an_interrupt_ends_what_is_under_way():
    with ChatServer(seconds=HANG) as server, pytest.raises(KeyboardInterrupt), engine(server) as chat:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        next(chat.answer(map(request, range(50))))
    assert not [thread for thread in threading.enumerate() if thread.name == "openai-chat"]
