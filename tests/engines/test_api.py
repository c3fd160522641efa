"""Paid APIs as an engine: nothing is paid for twice, and a fault loses nothing that was paid."""

import dataclasses
import json
import os
import signal
import threading
import time

import pytest
from chat_server import ChatServer
from gemini_server import GeminiServer, blocked, error
from paying import SCHEMA, ask, engine, request, texts, words
from PIL import Image
from waiting import HANG

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.config import APIConfig

# What is not asked again.


def test_a_second_run_pays_for_nothing(tmp_path):
    with GeminiServer() as server:
        first, paid = ask(server, map(request, range(20)), cache=tmp_path / "c.sqlite")
        second, free = ask(server, map(request, range(25)), cache=tmp_path / "c.sqlite")
    assert texts(second)[:20] == texts(first)
    assert (paid.paid, paid.cached, free.paid, free.cached) == (20, 0, 5, 20)
    assert set(server.delivered.values()) == {1} and len(server.bodies) == 25
    assert [reply.usage.cached for reply in second] == [True] * 20 + [False] * 5
    assert all(reply.usage.cost == 0.0 and reply.usage.response_tokens > 0 for reply in second[:20])
    assert free.cost == pytest.approx(sum(reply.usage.cost for reply in second)) and free.cost > 0
    # The same replies, but for what they cost now.
    assert [dataclasses.replace(a.usage, cost=0.0, cached=True, cached_cost=a.usage.cost) for a in first] == [a.usage for a in second[:20]]


def test_the_same_request_at_the_same_time_is_asked_once():
    same = [dataclasses.replace(request(1), id=f"q{number}") for number in range(12)]
    with GeminiServer(seconds=0.2) as server:
        replies, usage = ask(server, same)
    assert len(server.bodies) == 1 and len({reply.completions[0].text for reply in replies}) == 1
    assert (usage.answered, usage.paid, usage.cached) == (12, 1, 11)
    assert sorted(reply.usage.cached for reply in replies) == [False] + [True] * 11


def test_without_a_file_nothing_is_asked_twice_in_a_run_either():
    with GeminiServer() as server, engine(server) as chat:
        first, second = (texts(chat.answer([request(1)])) for _ in range(2))
    assert first == second and len(server.bodies) == 1


def test_samples_are_requests_of_their_own(tmp_path):
    """So judging once more, with k + 1 repeats, pays for one."""
    with GeminiServer() as server:
        (one,), _ = ask(server, [request(1, n=2)], cache=tmp_path / "c.sqlite")
        (two,), usage = ask(server, [request(1, n=3)], cache=tmp_path / "c.sqlite")
    assert [completion.seed for completion in two.completions] == [1, 2, 3]
    assert len(set(texts([two])[0])) == 3 and texts([two])[0][:2] == texts([one])[0]
    assert (usage.paid, usage.cached) == (1, 2) and not two.usage.cached
    assert two.prompt_tokens == 2 and two.usage.prompt_tokens == 6


@pytest.mark.parametrize(
    "options", [{"sampling": Sampling(temperature=0.5)}, {"sampling": Sampling(max_tokens=5000)}, {"thinking": 64}, {"block": False}]
)
def test_other_options_are_other_requests(tmp_path, options):
    with GeminiServer() as server:
        ask(server, [request(1)], cache=tmp_path / "c.sqlite")
        ask(server, [request(1)], cache=tmp_path / "c.sqlite", **options)
    assert len(server.bodies) == 2


def test_another_model_has_answers_of_its_own(tmp_path):
    """Also behind the same address, and at another address under the same name."""
    with GeminiServer() as server, GeminiServer() as other:
        ask(server, [request(1)], cache=tmp_path / "c.sqlite")
        ask(other, [request(1)], cache=tmp_path / "c.sqlite")
        server.model = "gemini-2.5-flash"
        (answered,), _ = ask(server, [request(1)], cache=tmp_path / "c.sqlite")
        assert answered.usage.model == "gemini-2.5-flash"
        ask(server, [request(1)], cache=tmp_path / "c.sqlite")
    assert (len(server.bodies), len(other.bodies)) == (2, 1)


def test_a_block_is_an_outcome_and_kept_too(tmp_path):
    with GeminiServer(faults=lambda number, body: blocked(body)) as server:
        for _ in range(2):
            (failed,), _ = ask(server, [request(1)], cache=tmp_path / "c.sqlite")
            assert failed.reason == "the prompt was blocked: SAFETY (dangerous_content)"
    assert len(server.bodies) == 1


def test_what_nobody_answered_is_asked_again_in_the_next_run(tmp_path):
    with GeminiServer(faults=lambda number, body: error(400, "INVALID_ARGUMENT", "no") if number == 0 else None) as server:
        (failed,), usage = ask(server, [request(1)], cache=tmp_path / "c.sqlite")
        (answered,), _ = ask(server, [request(1)], cache=tmp_path / "c.sqlite")
    assert (type(failed), usage.failed, usage.paid, type(answered)) == (ChatFailure, 1, 0, ChatReply)


def test_one_sample_without_an_answer_leaves_the_request_without_one(tmp_path):
    def faults(number, body):
        return blocked(body) if body["generationConfig"]["seed"] == 2 else None

    with GeminiServer(faults=faults) as server:
        (failed,), usage = ask(server, [request(1, n=3)])
    assert isinstance(failed, ChatFailure) and (usage.failed, usage.answered, usage.paid) == (1, 0, 3)
    assert ask(server, [request(1, n=0)])[0][0].reason == "n=0; ask for at least 1 sample"


# How it ends.


def test_a_fault_of_the_requests_loses_nothing_that_is_under_way():
    def requests():
        yield from map(request, range(3))
        raise UserError("no more")

    replies = []
    with GeminiServer(seconds=0.3) as server, engine(server) as chat, pytest.raises(UserError, match="no more"):
        replies.extend(chat.answer(requests()))
    assert len(replies) == 3


def test_a_cache_that_fails_ends_the_run_but_gives_out_what_was_paid(tmp_path, monkeypatch):
    put = Cache.put

    def full(self, *arguments, **options):
        if full.count == 5:
            raise UserError("the disk is full")
        full.count += 1
        return put(self, *arguments, **options)

    full.count = 0
    monkeypatch.setattr(Cache, "put", full)
    replies = []
    with GeminiServer(seconds=0.01) as server:
        chat = engine(server, cache=tmp_path / "c", concurrency=2)
        with chat, pytest.raises(UserError, match="the disk is full"):
            replies.extend(chat.answer(map(request, range(50))))
    assert len(replies) == len(server.bodies) == sum(server.delivered.values()) and 6 <= len(replies) <= 9


def test_a_disk_that_runs_full_is_one_line_and_the_same_command_goes_on(small_disk):
    path, replies = small_disk / "c.sqlite", []
    (small_disk / "ballast").write_bytes(bytes(400_000))
    with GeminiServer(say=words(10_000)) as server:
        chat = engine(server, Sampling(max_tokens=20_000), cache=path, concurrency=2)
        with chat, pytest.raises(UserError, match=r"cannot be used: .*; (make room on its disk|give another place)") as error:
            replies.extend(chat.answer(map(request, range(40))))
        assert "\n" not in str(error.value) and len(replies) == len(server.bodies) < 40  # what was paid is given out
        (small_disk / "ballast").unlink()
        with Cache(path) as cache:
            kept = cache._file.execute("SELECT count(*) FROM outcomes").fetchone()[0]
        assert len(replies) - 4 <= kept <= len(replies)  # the first that does not fit may be a claim, before anything is paid for it
        _, usage = ask(server, map(request, range(kept + 1)), sampling=Sampling(max_tokens=20_000), cache=path)
    assert usage.cached >= kept - 4 and usage.answered == kept + 1


def test_an_interrupt_ends_what_is_under_way_and_keeps_what_came(tmp_path):
    def faults(number, body):
        return time.sleep(HANG) if number >= 5 else None

    with GeminiServer(faults=faults) as server, pytest.raises(KeyboardInterrupt), engine(server, cache=tmp_path / "c") as chat:
        for number, _ in enumerate(chat.answer(map(request, range(50))), 1):
            if number == 5:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert not [thread for thread in threading.enumerate() if thread.name == "api"]
    with Cache(tmp_path / "c") as cache:
        assert cache._file.execute("SELECT count(*) FROM outcomes").fetchone()[0] == 5


def test_a_damaged_cache_is_seen_before_anything_is_asked(tmp_path):
    (tmp_path / "c").write_text("x" * 5000)
    with GeminiServer() as server, pytest.raises(UserError, match="it is damaged or no such file"):
        ask(server, [request(1)], cache=tmp_path / "c")
    assert not server.bodies


def test_who_goes_away_leaves_the_engine_usable():
    with GeminiServer(seconds=0.05) as server, engine(server) as chat:
        for reply in chat.answer(map(request, range(50))):
            assert isinstance(reply, ChatReply)
            break
        assert len(list(chat.answer(map(request, range(20))))) == 20
    assert set(server.delivered.values()) == {1}


def test_concurrency_is_kept_and_used():
    with GeminiServer(seconds=0.1) as server:
        ask(server, map(request, range(40)), concurrency=5)
    assert server.peak == 5


def test_requests_are_taken_as_there_is_room():
    taken = []
    with GeminiServer(seconds=0.05) as server, engine(server, concurrency=2) as chat:
        for given, _ in enumerate(chat.answer(taken.append(number) or request(number) for number in range(30))):
            assert len(taken) <= given + 5


def test_engines_in_several_threads_share_a_cache_and_pay_once(tmp_path):
    with GeminiServer(seconds=0.01) as server:
        done = []
        threads = [
            threading.Thread(target=lambda: done.append(ask(server, map(request, range(30)), cache=tmp_path / "c"))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({json.dumps(texts(replies)) for replies, _ in done}) == 1 and len(done) == 3
    assert len(server.bodies) == 30 and sum(usage.paid for _, usage in done) == 30


# The OpenAI protocol.


def test_openai_with_an_image_and_a_schema():
    messages = (Message(role="system", content="You judge."), Message(role="user", content=(ImagePart(), TextPart(text="case"))))
    asked = ChatRequest("q1", messages, (Image.new("RGB", (4, 4), (9, 0, 0)),), 1, 3, SCHEMA)
    with ChatServer() as server:
        (reply,), usage = ask(server, [asked], sampling=Sampling(temperature=0.0, max_tokens=77))
    (body,) = server.requests
    system, user = body.pop("messages")
    assert system == {"role": "system", "content": "You judge."}
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,") and user["content"][1]["text"] == "case"
    shape = {"type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA, "strict": False}}
    assert body == {
        **{"model": "tiny", "n": 1, "seed": 3, "temperature": 0.0, "top_p": 1.0, "max_tokens": 77},
        "response_format": shape,
    }
    assert reply.completions[0].text and reply.completions[0].token_ids == ()
    assert (usage.paid, usage.prompt_tokens) == (1, reply.prompt_tokens) and reply.usage.response_tokens > 0
    assert reply.usage.model == "tiny"


def test_openai_is_cached_and_asked_again_like_any_other(tmp_path):
    def faults(number, body):
        if number < 3:
            return [(429, {"Retry-After": "0.1"}, b"{}"), (500, {}, b"oops"), (200, {}, b'{"choices": [')][number]
        return None

    with ChatServer(faults=faults) as server:
        first, usage = ask(server, map(request, range(1, 11)), cache=tmp_path / "c", concurrency=1)
        second, _ = ask(server, map(request, range(1, 11)), cache=tmp_path / "c")
    answered = [reply for reply in first if isinstance(reply, ChatReply)]
    assert texts(answered) == texts([reply for reply in second if isinstance(reply, ChatReply)]) and len(answered) >= 8
    assert usage.broken == 1 and len(first) == len(second) == 10


def change(**fields):
    def changed(reply):
        message = {"role": "assistant", "content": fields.pop("content", "x"), "refusal": fields.pop("refusal", None)}
        reply["choices"][0] |= {"message": message, "finish_reason": "stop"} | fields
        return reply

    return changed


@pytest.mark.parametrize(
    ("changed", "reason", "asked"),
    [
        (change(finish_reason="content_filter"), "the response was blocked: content_filter", 1),
        (change(refusal="I cannot\nhelp", content=None), "the model refused: I cannot help", 1),
        (change(finish_reason="length", content=""), "max_tokens were used up before the answer began; raise max_tokens", 1),
        (lambda reply: reply | {"choices": []}, "failed 4 times, last: the reply has no choices", 4),
        (lambda reply: change(content="")(reply), "failed 4 times, last: the reply has no text (it ended by 'stop')", 4),
        (lambda reply: change(finish_reason="abort")(reply), "failed 4 times, last: it ended by 'abort'", 4),
    ],
)
def test_openai_without_an_answer(changed, reason, asked):
    with ChatServer(change=changed) as server:
        (failed,), usage = ask(server, [request(1)])
    assert (failed.reason, len(server.requests), usage.paid) == (reason, asked, asked)


def test_an_account_without_money_is_one_line():
    fault = json.dumps({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}).encode()
    with ChatServer(faults=lambda number, body: (429, {}, fault)) as server, pytest.raises(UserError, match="the account of the key"):
        ask(server, map(request, range(9)))
    assert len(server.requests) <= 9, "none is asked for again"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model": "a b"}, "model"),
        ({"model": "../x"}, "model"),
        ({"max_cost": -1}, "max_cost"),
        ({"max_cost": "inf"}, "max_cost"),
        ({"api": "openai", "thinking": 5}, "thinking and block are Gemini's"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_bad_options(values, expected):
    with pytest.raises(ValueError, match=expected):
        APIConfig(**{"api": "gemini", "model": "gemini-2.5-pro"} | values)
