"""The client of OpenAI-compatible servers, against a real one on loopback that fails in every way it can."""

import itertools
import json
import os
import signal
import threading
import time

import numpy as np
import pytest
from chat_server import ChatServer, Drop, byte_prompt, response_text
from loopback import Handler
from PIL import Image
from waiting import HANG

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling, TokenRules
from mede2_jax.engines.vllm.client import OpenAIChat, VLLMExtras
from mede2_jax.engines.vllm.pool import ServerConfig
from mede2_jax.engines.wire.http import base_urls
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


def drop(number):
    raise Drop


def test_every_request_is_answered_once():
    with ChatServer() as server:
        check(ask(map(request, range(30)), server), 30)


def test_what_is_sent_leaves_nothing_to_the_servers_defaults():
    with ChatServer() as server:
        ask([request(1, n=3)], server, sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=50, stop=("END",)), logprobs=True)
    assert server.requests == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "case 1"}],
            "n": 3,
            "seed": 1000,
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 50,
            "stop": ["END"],
            "logprobs": True,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logit_bias": {"7": -100.0, "9": -100.0},
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [0, 3],
            "skip_special_tokens": False,
            "return_token_ids": True,
            "watermarking": False,
        }
    ]


def test_a_plain_server_is_sent_nothing_of_vllms():
    with ChatServer() as server:
        (reply,) = ask([request(1)], server, vllm=None)
    assert set(server.requests[0]) == {"model", "messages", "n", "seed", "temperature", "top_p", "max_tokens"}
    assert reply.completions[0].text == response_text(expected_prompt(request(1)), 1000)


def test_logprobs_belong_to_tokens():
    with ChatServer() as server:
        (reply,) = ask([request(1)], server, logprobs=True)
    for completion in reply.completions:
        assert len(completion.logprobs) == len(completion.token_ids)
        assert all(-1 < value < 0 for value in completion.logprobs)


def images_request():
    rng = np.random.default_rng(0)
    pictures = tuple(Image.fromarray(rng.integers(0, 256, (9 + k, 14, 3), np.uint8)) for k in range(2))
    pictures[1].info.update(icc_profile=b"no profile", transparency=(1, 2, 3), exif=b"none", gamma=0.1)
    parts = (TextPart(text="See"), ImagePart(), TextPart(text="and"), ImagePart(), TextPart(text="?"))
    return ChatRequest("q", (Message(role="user", content=parts),), pictures, 1, 0)


def test_images_are_in_their_places_and_lose_nothing():
    import chat_server

    asked = images_request()
    with ChatServer() as server:
        ask([asked], server)
    (message,) = server.requests[0]["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "text", "image_url", "text"]
    for part, ours in zip(message["content"][1::2], asked.images, strict=True):
        theirs = chat_server.picture(part)
        theirs.load()
        assert theirs.mode == "RGB" and not theirs.has_transparency_data and not set(theirs.info) & {"icc_profile", "exif", "gamma"}
        np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))


@pytest.mark.parametrize(
    ("system_prompt", "roles", "options"),
    [("default", ["user"], None), ("none", ["user"], {"default_system_prompt": False}), ("Be exact.", ["system", "user"], None)],
)
def test_system_prompt(system_prompt, roles, options):
    extras = VLLMExtras(VLLM.rules, lambda asked: byte_prompt(chat_messages(asked, system_prompt), options or {}))
    with ChatServer() as server:
        ask([request(1)], server, system_prompt=system_prompt, vllm=extras)
    (sent,) = server.requests
    assert [message["role"] for message in sent["messages"]] == roles and sent.get("chat_template_kwargs") == options
    own = ChatRequest("q", (Message(role="system", content="Mine"), Message(role="user", content="x")), (), 1, 0)
    assert chat_messages(own, system_prompt)[0]["content"] == "Mine"


@pytest.mark.parametrize(
    "fault",
    [
        status(500, "boom"),
        status(502),
        (502, {"Content-Type": "text/html"}, b"<html>bad gateway</html>"),
        status(408),
        status(429, Retry_After="0.2"),
        status(503),
        drop,
        (200, {}, b'{"choices": ['),
        (200, {}, b"[]"),
        (200, {}, json.dumps({"choices": [], "usage": {"prompt_tokens": 1}}).encode()),
        (200, {"Content-Length": "100000"}, b'{"choices"'),
    ],
    ids=["500", "502", "html", "408", "429", "503", "dropped", "cut JSON", "no object", "no samples", "cut off"],
)
def test_what_may_pass_is_tried_again(fault):
    if isinstance(fault, tuple) and "Content-Length" in fault[1]:
        fault = lambda number, cut=fault: cut  # noqa: E731
    with ChatServer(faults=at({1, 2, 7}, fault)) as server:
        check(ask(map(request, range(12)), server, timeout=6.0), 12)
    assert len(server.requests) == 15


def test_samples_that_the_server_broke_off_are_asked_for_again():
    count = itertools.count()

    def aborted(reply):
        if next(count) < 2:
            reply["choices"][1]["finish_reason"] = "abort"
        return reply

    with ChatServer(change=aborted) as server:
        check(ask(map(request, range(4)), server), 4)
    assert len(server.requests) == 6


def test_retry_after_is_honoured():
    moments = []

    def faults(number, body):
        moments.append(time.monotonic())
        return status(429, Retry_After="1.5") if number == 0 else None

    with ChatServer(faults=faults) as server:
        check(ask(map(request, range(3)), server, concurrency=2), 3)
    assert moments[1] - moments[0] >= 1.5


def test_a_slow_answer_is_asked_for_again():
    slow = lambda number: time.sleep(HANG)  # noqa: E731
    with ChatServer(faults=at({1}, slow)) as server:
        check(ask(map(request, range(4)), server, timeout=6.0), 4)
    assert len(server.requests) == 5


def test_a_server_that_never_answers_ends_the_run_when_patience_does():
    stuck = threading.Event()

    def hang(number, body):
        stuck.wait()

    with ChatServer(faults=hang) as server, pytest.raises(UserError, match=r"no server has answered for 2 s \(.*no answer within 1 s"):
        try:
            ask(map(request, range(8)), server, timeout=1.0, patience=2.0)
        finally:
            stuck.set()


def test_what_was_answered_is_given_out_before_a_fault_of_the_requests():
    def requests():
        yield from map(request, range(4))
        time.sleep(1.0)
        raise UserError("an image has vanished")

    with ChatServer() as server, engine(server) as chat:
        replies = []
        with pytest.raises(UserError, match="vanished"):
            for reply in chat.answer(requests()):
                replies.append(reply)
    check(replies, 4)


def test_a_request_that_cannot_be_answered_fails_alone():
    def faults(number, body):
        return status(400, "prompt is\ntoo long") if "case 3" in body["messages"][0]["content"] else None

    with ChatServer(faults=faults) as server:
        replies = ask(map(request, range(6)), server)
    (failure,) = [reply for reply in replies if isinstance(reply, ChatFailure)]
    assert (failure.request.id, failure.reason) == ("q3", "400 prompt is too long")
    assert len(replies) == 6 and len(server.requests) == 6, "400 is not asked again"


def test_a_request_that_breaks_the_server_is_given_up_while_others_are_answered():
    def faults(number, body):
        time.sleep(0.2)
        return status(500, "assertion") if "case 0" in body["messages"][0]["content"] else None

    with ChatServer(faults=faults) as server:
        replies = ask(map(request, range(60)), server, concurrency=4)
    failures = [reply for reply in replies if isinstance(reply, ChatFailure)]
    assert [(failure.request.id, failure.reason) for failure in failures] == [("q0", "failed 4 times, last: 500 assertion")]
    assert len(replies) == 60


def test_a_request_that_breaks_the_server_is_given_up_at_the_end_of_patience():
    with ChatServer(faults=at(range(100), status(500, "assertion"))) as server:
        (failure,) = ask([request(0)], server, patience=8.0)
    assert isinstance(failure, ChatFailure) and "500 assertion" in failure.reason


@pytest.mark.parametrize(("code", "expected"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "is --base_url right")])
def test_what_no_request_can_get_ends_with_one_error(code, expected):
    with ChatServer(faults=at({2}, status(code, "no model"))) as server, engine(server, concurrency=2) as chat:
        got = []
        with pytest.raises(UserError, match=f"{code} no model.*{expected}"):
            got.extend(chat.answer(map(request, range(9))))


def test_a_prompt_that_leaves_too_little_room_fails_alone():
    """vLLM would lower max_tokens without a word."""
    with ChatServer(max_model_len=SAMPLING.max_tokens + 6) as server:
        replies = {reply.request.id: reply for reply in ask(map(request, (9, 10)), server)}
    assert isinstance(replies["q9"], ChatReply)
    assert replies["q10"].reason == "the prompt's 7 tokens and max_tokens=400 exceed the servers' 406"
    assert len(server.requests) == 1


def test_concurrency_is_kept_and_used():
    with ChatServer(seconds=0.1) as server:
        check(ask((request(number, 8) for number in range(40)), server, concurrency=32), 40, n=8)
        assert server.peak == 32
    with ChatServer(seconds=0.02) as server:
        check(ask((request(number, 8) for number in range(5)), server, concurrency=3), 5, n=8)
        assert server.peak == 8, "more samples than fit have a server for themselves"


def test_requests_are_taken_as_there_is_room():
    taken = []

    def requests():
        for number in range(200):
            taken.append(number)
            yield request(number)

    with ChatServer() as server, engine(server, concurrency=8) as chat:
        for done, _ in enumerate(chat.answer(requests())):
            assert len(taken) <= done + 1 + 8


def test_two_servers_share_the_work_and_the_faster_does_more():
    with ChatServer(seconds=0.02) as fast, ChatServer(seconds=0.2) as slow:
        check(ask(map(request, range(120)), fast, slow, concurrency=8), 120)
        assert len(fast.requests) > 2 * len(slow.requests) > 20


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


@pytest.mark.parametrize("text", ["case <image> 1 of 2", "<image>", "a<image><image>b", "\n<image>\n", "see <image"])
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


def test_an_interrupt_ends_what_is_under_way():
    with ChatServer(seconds=HANG) as server, pytest.raises(KeyboardInterrupt), engine(server) as chat:
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        next(chat.answer(map(request, range(50))))
    assert not [thread for thread in threading.enumerate() if thread.name == "openai-chat"]
