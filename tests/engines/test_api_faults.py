"""A thousand requests under every fault at once, and under SIGKILL: each is accounted for, none is lost, none is paid for twice."""

import email.utils
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from gemini_server import Drip, Drop, GeminiServer, blocked, digest, empty, error

from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid.engine import open_api
from mede2_jax.engines.wire.attempts import Failed

COUNT = 1000


SCHEMA = {"type": "object", "properties": {"consistent": {"type": "boolean"}, "score": {"type": "integer"}}}
OPTIONS = {
    **{"api": "gemini", "model": "gemini-2.5-pro", "concurrency": 24, "timeout": 6.0, "patience": 30.0},
    **{"first_rest": 0.02, "longest_rest": 0.1},
}


def request(number):
    return ChatRequest(f"q{number}", (Message(role="user", content=f"case {number}"),), (), 1, number, SCHEMA)


def engine(url, cache, notify=lambda line: None):
    return open_api(APIConfig(**OPTIONS, base_url=url, cache=cache), Sampling(), notify)


def given_up(chat):
    """How often the client stopped waiting, by case, from now on: a busy machine may make an answer late that nobody meant to be."""
    counts, ask = Counter(), chat.backend.ask

    async def watched(prepared):
        try:
            return await ask(prepared)
        except Failed as fault:
            if str(fault).startswith("no answer within"):
                counts[int(prepared["contents"][0].parts[0].text.removeprefix("case "))] += 1
            raise

    chat.backend.ask = watched
    return counts


def case(body):
    return int(body["contents"][0]["parts"][0]["text"].removeprefix("case "))


def drop(body):
    raise Drop


def cut(body):
    raise Drop(b'{"candidates": [{"content": {"parts": [{"text": "{\\"consistent\\": tr')


def drip(body):
    raise Drip(0.3)


def dated(body):
    return error(503, "UNAVAILABLE", "overloaded", Retry_After=email.utils.formatdate(time.time() + 1, usegmt=True))


KINDS = {
    "429": lambda body: error(429, "RESOURCE_EXHAUSTED", "quota"),
    "429, seconds": lambda body: error(429, "RESOURCE_EXHAUSTED", "quota", Retry_After="0.3"),
    "503, a date": dated,
    "500": lambda body: error(500, "INTERNAL", "oops"),
    "dropped": drop,
    "cut": cut,
    "malformed": lambda body: (200, {}, b'{"candidates": [{"content"'),
    "not JSON": lambda body: (200, {"Content-Type": "text/html"}, b"<html>\xff</html>"),
    "empty": empty,
    "blocked": blocked,
    "dripping": drip,
    "slow": lambda body: time.sleep(OPTIONS["timeout"] + 0.2),  # the answer comes, but nobody waits any more
}
BLOCKED, EMPTY, SLOW = (set(range(first, COUNT, 100)) for first in (77, 99, 5))


class Faults:
    """Something goes wrong with three of ten attempts; BLOCKED cases are always blocked, EMPTY ones always empty, SLOW ones slow once."""

    def __init__(self):
        self.rng, self.met, self.slow, self.lock = random.Random(7), Counter(), set(SLOW), threading.Lock()

    def __call__(self, number, body):
        with self.lock:
            kind = self.kind(case(body))
            self.met[kind] += 1
        return KINDS[kind](body) if kind else None

    def kind(self, case):
        if case in BLOCKED or case in EMPTY:
            return "blocked" if case in BLOCKED else "empty"
        if case in self.slow:
            self.slow.remove(case)
            return "slow"
        kind = self.rng.choice([kind for kind in KINDS if kind not in ("blocked", "slow")]) if self.rng.random() < 0.3 else ""
        # To be left alone for a while stops everybody: a few of these are enough.
        return "429" if kind in ("429, seconds", "503, a date") and self.met[kind] >= 3 else kind


@pytest.mark.slow
def test_a_thousand_requests_under_every_fault(tmp_path):
    faults = Faults()
    with GeminiServer(faults=faults) as server:
        with engine(server.url, tmp_path / "c") as chat:
            late = given_up(chat)
            replies = list(chat.answer(map(request, range(COUNT))))
            usage = chat.usage
        asked = len(server.bodies)
        delivered = {case(body): server.delivered[digest(body)] for body in server.bodies}
        # Once more with the same file: only what had no answer is asked again.
        with engine(server.url, tmp_path / "c") as chat:
            again = list(chat.answer(map(request, range(COUNT))))
        asked_again = {case(body) for body in server.bodies[asked:]}
    assert all(faults.met[kind] >= 3 for kind in KINDS), faults.met

    # Every one is accounted for.
    numbers = [int(reply.request.id[1:]) for reply in replies]
    assert sorted(numbers) == list(range(COUNT))
    answered = {number: reply.completions[0].text for number, reply in zip(numbers, replies, strict=True) if isinstance(reply, ChatReply)}
    failed = {number: reply.reason for number, reply in zip(numbers, replies, strict=True) if isinstance(reply, ChatFailure)}
    assert (usage.answered, usage.failed) == (len(answered), len(failed))
    # What has no answer has its reason.
    assert {number for number, reason in failed.items() if reason == "the prompt was blocked: SAFETY (dangerous_content)"} == BLOCKED
    without_candidates = {number for number, reason in failed.items() if reason == "failed 4 times, last: the reply has no candidates"}
    assert without_candidates >= EMPTY - set(late)
    unlucky = failed.keys() - BLOCKED - EMPTY
    assert all(failed[number].startswith("failed 4 times, last: ") for number in unlucky) and len(unlucky) <= 15
    # None is lost, nor cut.
    assert all(set(json.loads(text)) == {"consistent", "score"} for text in answered.values())
    # What is paid for is paid for once and is kept, but for what comes after the client has given it up: it cannot know.
    assert set(late) >= SLOW
    assert {number for number, count in delivered.items() if count != (number in answered)} <= set(late)
    assert all(count <= (number in answered) + late[number] for number, count in delivered.items())
    assert usage.broken >= faults.met["dropped"] // 2 and usage.broken >= len(SLOW)
    # A second run gives the same answers, and asks only for what had none.
    assert {
        int(reply.request.id[1:]): reply.completions[0].text for reply in again if isinstance(reply, ChatReply)
    }.items() >= answered.items()
    assert len(again) == COUNT and asked_again == EMPTY | unlucky


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_api_faults import COUNT, engine, request
with engine(sys.argv[1], Path(sys.argv[2])) as chat:
    for reply in chat.answer(map(request, range(COUNT))):
        print(reply.request.id, flush=True)
"""


def stored(path):
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
            return file.execute("SELECT count(*) FROM outcomes").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_anywhere_and_run_again(tmp_path, seed):
    rng, path, handed_out = random.Random(seed), tmp_path / "c", set()
    tests = os.path.dirname(__file__)
    kills = 3
    with GeminiServer(seconds=0.01) as server:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(tests), *sys.path])}
        for run in range(kills + 1):
            before, asked = stored(path), len(server.bodies)
            command = [sys.executable, "-c", RUN, server.url, str(path), tests]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            if run < kills:
                goal = len(server.bodies) + rng.randint(30, 250)
                while len(server.bodies) < goal and process.poll() is None:
                    time.sleep(rng.uniform(0.001, 0.02))
                process.send_signal(signal.SIGKILL)
            handed_out |= set(process.stdout.read().split())
            assert process.wait() == (-signal.SIGKILL if run < kills else 0)
            time.sleep(0.1)  # what the server was about to send
            # What was handed out had been stored.
            assert stored(path) >= len(handed_out)
            # A run asks for nothing that was stored when it began.
            assert len(server.bodies) - asked <= COUNT - before
        asked = [case(body) for body in server.bodies]
    assert handed_out == {f"q{number}" for number in range(COUNT)} and stored(path) == COUNT
    # Only what was under way when a run was killed, whose reply nobody has seen, is asked for a second time.
    assert set(asked) == set(range(COUNT)) and len(asked) - COUNT <= kills * OPTIONS["concurrency"]
    assert sum(server.delivered.values()) - COUNT <= kills * OPTIONS["concurrency"]


SHARED = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mede2_jax.engines.chat import ChatReply
from test_api_faults import COUNT, engine, given_up, request
with engine(sys.argv[1], Path(sys.argv[2])) as chat:
    late = given_up(chat)
    for reply in chat.answer(map(request, range(COUNT))):
        text = reply.completions[0].text if isinstance(reply, ChatReply) else None
        print(json.dumps([int(reply.request.id[1:]), text]), flush=True)
print(json.dumps(["late", late]))
"""


@pytest.mark.slow
def test_two_processes_share_a_thousand_requests_under_every_fault(tmp_path):
    """On one cache: each accounts for all of them, both have the same answers, and none is paid for twice."""
    faults, tests = Faults(), os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(tests), *sys.path])}
    with GeminiServer(faults=faults) as server:
        command = [sys.executable, "-c", SHARED, server.url, str(tmp_path / "c"), tests]
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [dict(map(json.loads, process.communicate()[0].splitlines())) for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        delivered = {case(body): server.delivered[digest(body)] for body in server.bodies}
    assert all(faults.met[kind] >= 3 for kind in KINDS), faults.met
    late = sum((Counter({int(number): count for number, count in one.pop("late").items()}) for one in said), Counter())
    assert [sorted(one) for one in said] == [list(range(COUNT))] * 2, "every one is accounted for, in both"
    answered = [{number: text for number, text in one.items() if text is not None} for one in said]
    both = answered[0].keys() & answered[1].keys()
    assert all(answered[0][number] == answered[1][number] for number in both) and len(both) > 0.95 * COUNT
    assert not (answered[0].keys() | answered[1].keys()) & (BLOCKED | EMPTY)
    assert all(count <= 1 + late[number] for number, count in delivered.items()), "but for what comes after it was given up"
