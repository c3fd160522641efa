"""The client of OpenAI-compatible servers, against a real one on loopback that fails in every way it can."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
from chat_server import ChatServer, Drop, byte_prompt, response_text
from PIL import Image
from served import SAMPLING, VLLM, ask, at, check, engine, expected_prompt, request, status
from waiting import HANG

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling
from mede2_jax.engines.vllm.client import VLLMExtras
from mede2_jax.engines.wire.openai_request import chat_messages


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_request_that_breaks_the_server_is_given_up_while_others_are_answered():
    def faults(number, body):
        time.sleep(0.2)
        return status(500, "assertion") if "case 0" in body["messages"][0]["content"] else None

    with ChatServer(faults=faults) as server:
        replies = ask(map(request, range(60)), server, concurrency=4)
    failures = [reply for reply in replies if isinstance(reply, ChatFailure)]
    assert [(failure.request.id, failure.reason) for failure in failures] == [("q0", "failed 4 times, last: 500 assertion")]
    assert len(replies) == 60


@pytest.mark.slow
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
