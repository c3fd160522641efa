"""Several processes with one cache pay once: who asks claims it, and a claim ends with its owner."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from gemini_server import GeminiServer, error
from paying import ask, request, texts
from waiting import finished, until

from mede2_jax.engines.paid import claims
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.claims import LEASE_SECONDS, is_alive, owner
from mede2_jax.engines.paid.outcome import Outcome

CONCURRENCY = 8


@pytest.fixture
def caches(tmp_path):
    with Cache(tmp_path / "c") as one, Cache(tmp_path / "c") as other:
        yield one, other


def claimed(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as file:
        return file.execute("SELECT digest, who, until FROM claims ORDER BY digest").fetchall()


def test_one_of_two_has_it_until_it_gives_it_back(caches):
    one, other = caches
    assert one.claim("a") and one.claim("a") and not other.claim("a") and other.claim("b")
    other.give_back("a")  # it is not its own to give
    assert not other.claim("a")
    one.give_back("a")
    assert other.claim("a") and not one.claim("a")


def test_closing_gives_all_back(tmp_path):
    with Cache(tmp_path / "c") as one:
        assert all(one.claim(name) for name in "abc")
        with Cache(tmp_path / "c") as other:
            assert other.claim("d")
        assert [row[0] for row in claimed(tmp_path / "c")] == ["a", "b", "c"]
    assert not claimed(tmp_path / "c")


def test_a_claim_that_is_not_renewed_is_nobodys_after_a_while(caches, monkeypatch):
    one, other = caches
    now = time.time()
    assert one.claim("a") and one.claim("b")
    monkeypatch.setattr(claims.time, "time", lambda: now + LEASE_SECONDS / 2)
    one.renew_claims()
    monkeypatch.setattr(claims.time, "time", lambda: now + LEASE_SECONDS * 1.2)
    assert not other.claim("a")
    monkeypatch.setattr(claims.time, "time", lambda: now + LEASE_SECONDS * 1.6)
    assert other.claim("a") and not one.claim("a") and one.claim("b")


def test_an_owner_is_told_from_another_of_the_same_number():
    place, number, started, token = owner().split()
    assert is_alive(owner()) and not is_alive(f"{place} {number} {int(started) + 1} {token}")
    assert not is_alive(f"{place} {2**22 + 7} {started} {token}")
    assert is_alive(f"elsewhere {number} 1 {token}") and is_alive("nonsense"), "what cannot be told is left to its time"


@pytest.mark.parametrize("is_waited_for", [False, True], ids=["a zombie", "gone"])
def test_a_process_that_has_ended_is_dead(is_waited_for):
    code = "from mede2_jax.engines.paid.claims import owner; print(owner(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    who = process.stdout.readline().strip()
    assert is_alive(who)
    process.kill()
    if is_waited_for:
        process.wait()
    until(lambda: not is_alive(who))
    process.wait()


def test_a_cache_of_before_there_were_claims_is_used_as_it_is(tmp_path):
    with Cache(tmp_path / "c") as cache:
        cache.put("a", Outcome(text="x"), api="gemini", model="m", cost=0.5)
    with sqlite3.connect(tmp_path / "c") as file:
        file.execute("DROP TABLE claims")
    file.close()
    with Cache(tmp_path / "c") as cache:
        assert cache.get("a") == Outcome(text="x") and cache.claim("b")


def test_without_a_file_there_is_nobody_else():
    with Cache(None) as cache:
        assert cache.claim("a")
        cache.renew_claims()
        cache.give_back("a")


# With real processes.

RUN = '''
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from paying import request
from mede2_jax.engines.chat import Sampling
from mede2_jax.engines.paid.config import APIConfig
from mede2_jax.engines.paid import claims
from mede2_jax.engines.paid.engine import open_api
claims.LEASE_SECONDS = 1e9  # what the dead have claimed is not to be waited for
def say(*words):
    """In one write: the notes come from another thread, and print() writes a line in parts where output is not buffered."""
    sys.stdout.write(" ".join(map(str, words)) + chr(10))
    sys.stdout.flush()
options = dict(api="gemini", model="gemini-2.5-pro", base_url=sys.argv[1], cache=Path(sys.argv[2]), concurrency=8)
with open_api(APIConfig(**options), Sampling(max_tokens=400), lambda line: say("note:", line)) as chat:
    for reply in chat.answer(map(request, range(int(sys.argv[3])))):
        say(reply.request.id, reply.completions[0].text)
    say("done", chat.usage.paid, chat.usage.cached)
'''


def start(server, path, count):
    tests = os.path.dirname(os.path.dirname(__file__))
    command = [sys.executable, "-c", RUN, server.url, str(path), str(count), os.path.dirname(__file__), tests]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_with_one_cache_pay_once_and_share_the_work(tmp_path):
    with GeminiServer(seconds=0.15) as server:
        processes = [start(server, tmp_path / "c", 60) for _ in range(2)]
        said = [finished(process)[0].splitlines() for process in processes]
        assert len(server.bodies) == 60 and set(server.delivered.values()) == {1}
    answers = [sorted(line for line in lines if line.startswith("q")) for lines in said]
    assert answers[0] == answers[1] and len(answers[0]) == 60
    paid = [int(lines[-1].split()[1]) for lines in said]
    assert sum(paid) == 60
    assert sum(line.startswith("note: another process asks for the same") for lines in said for line in lines) in (1, 2)
    assert not claimed(tmp_path / "c")


@pytest.mark.slow
def test_what_a_killed_process_had_claimed_is_asked_by_the_other(tmp_path):
    with GeminiServer(faults=lambda number, body: time.sleep(3.0) if number < CONCURRENCY else None) as server:
        killed = start(server, tmp_path / "c", 40)
        while len(server.bodies) < CONCURRENCY:
            time.sleep(0.01)
        assert len(claimed(tmp_path / "c")) == CONCURRENCY
        other = start(server, tmp_path / "c", 40)
        while sum(1 for _ in claimed(tmp_path / "c")) < CONCURRENCY + 1 and other.poll() is None and len(server.bodies) < 30:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        lines = finished(other)[0].splitlines()  # nobody waits for the dead, whose claims it would see until they have run out
        killed.wait()
        asked = Counter(body["contents"][0]["parts"][0]["text"] for body in server.bodies)
    assert sum(line.startswith("q") for line in lines) == 40 and len(asked) == 40
    # Only what the killed one had under way, whose answers nobody has seen, is asked for a second time.
    assert sum(asked.values()) - 40 <= CONCURRENCY
    assert not [row for row in claimed(tmp_path / "c") if is_alive(row[1])]


def test_what_one_process_cannot_get_is_asked_by_the_other(tmp_path):
    """It gives its claim back when it gives up."""

    def faults(number, body):
        return error(400, "INVALID_ARGUMENT", "no") if number == 0 else None

    with GeminiServer(faults=faults) as server, Cache(tmp_path / "c") as _:
        (failed,), _ = ask(server, [request(1)], cache=tmp_path / "c")
        assert failed.reason.startswith("400") and not claimed(tmp_path / "c")
        (answered,), _ = ask(server, [request(1)], cache=tmp_path / "c")
    assert texts([answered])[0][0] and len(server.bodies) == 2


@pytest.mark.slow
def test_claims_are_kept_while_an_answer_takes_longer_than_they_last(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr("mede2_jax.engines.paid.samples.RENEW_SECONDS", 0.1)
    with GeminiServer(seconds=4.0) as server, Cache(tmp_path / "c") as other:
        done = []
        thread = threading.Thread(target=lambda: done.append(ask(server, [request(1)], cache=tmp_path / "c")))
        thread.start()
        while not server.bodies:
            time.sleep(0.01)
        ((digest, _, _),) = claimed(tmp_path / "c")
        for _ in range(60):  # three seconds
            assert not other.claim(digest)
            time.sleep(0.05)
        thread.join()
    assert done and len(server.bodies) == 1
