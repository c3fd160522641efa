"""What was paid for is kept: by digest, across processes and ends, and nothing else is touched."""

import dataclasses
import hashlib
import sqlite3
import subprocess
import sys
import threading

import pytest
from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.records import ImagePart, Message, TextPart
from mede2_jax.engines.chat import ChatRequest
from mede2_jax.engines.paid.cache import Cache, request_digest
from mede2_jax.engines.paid.outcome import Outcome

OUTCOME = Outcome(text="yes", prompt_tokens=3, response_tokens=1, model="m-001")


def picture(red):
    return Image.new("RGB", (4, 4), (red, 0, 0))


def request(**changes):
    messages = (Message(role="system", content="judge"), Message(role="user", content=(ImagePart(), TextPart(text="case"))))
    return dataclasses.replace(ChatRequest("q", messages, (picture(9),), 1, 5, {"type": "object"}), **changes)


def put(cache, digest, outcome=OUTCOME):
    return cache.put(digest, outcome, api="gemini", model="m", cost=0.5)


def test_what_was_stored_is_found_again(tmp_path):
    path = tmp_path / "new folder" / "cache.sqlite"
    with Cache(path) as cache:
        assert cache.get("a") is None
        assert put(cache, "a") == OUTCOME
    with Cache(path) as cache:
        assert (cache.get("a"), cache.get("b")) == (OUTCOME, None)


def test_the_first_of_two_outcomes_stays(tmp_path):
    with Cache(tmp_path / "c") as one, Cache(tmp_path / "c") as other:
        put(one, "a")
        assert put(other, "a", Outcome(text="no")) == OUTCOME


def test_several_make_a_new_file_at_a_time(tmp_path):
    faults = []

    def use(path):
        try:
            with Cache(path) as cache:
                cache.get("0")
        except UserError as fault:
            faults.append(fault)

    for number in range(40):
        threads = [threading.Thread(target=use, args=(tmp_path / f"{number}.sqlite",)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults


def test_without_a_file_it_lasts_as_long_as_the_run():
    with Cache(None) as cache:
        put(cache, "a")
        assert cache.get("a") == OUTCOME


OPTIONS = {"api": "gemini", "url": "http://a", "model": "m", "sampling": {"temperature": 0.0}}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 6},
        {"schema": None},
        {"schema": {"type": "array"}},
        {"images": (picture(10),)},
        {"images": (Image.new("RGB", (2, 8), (9, 0, 0)),)},
        {"messages": (Message(role="user", content=(ImagePart(), TextPart(text="case"))),)},
        {"messages": (Message(role="system", content="judge"), Message(role="user", content=(TextPart(text="case"), ImagePart())))},
    ],
)
def test_whatever_an_answer_depends_on_changes_the_digest(changes):
    assert request_digest(request(**changes), OPTIONS) != request_digest(request(), OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_digest(name):
    assert request_digest(request(), OPTIONS | {name: "other"}) != request_digest(request(), OPTIONS)


@pytest.mark.parametrize("changes", [{"id": "other"}, {"n": 3}, {"images": (picture(9).convert("RGBA"),)}])
def test_what_does_not_reach_the_api_leaves_the_digest(changes):
    assert request_digest(request(**changes), OPTIONS) == request_digest(request(), OPTIONS)


def test_a_digest_is_the_same_in_every_process():
    """A later version that made others would pay for everything again."""
    plain = ChatRequest("q", (Message(role="user", content="é"),), (), 1, 5, None)
    parts = '"messages":[{"content":[{"text":"é"}],"role":"user"}],"options":{"model":"m"},"schema":null,"seed":5,"version":1'
    assert request_digest(plain, {"model": "m"}) == hashlib.sha256(f"{{{parts}}}".encode()).hexdigest()


WRITER = """
import sys
from pathlib import Path
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.outcome import Outcome
with Cache(Path(sys.argv[1])) as cache:
    for number in range(40):
        cache.put(f"{sys.argv[2]}-{number}", Outcome(text="x"), api="gemini", model="m", cost=None)
        cache.put(f"both-{number}", Outcome(text=sys.argv[2]), api="gemini", model="m", cost=None)
"""


def test_several_processes_make_and_fill_one_file(tmp_path):
    path = tmp_path / "cache.sqlite"
    processes = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abcd"]
    assert [process.wait() for process in processes] == [0] * 4
    with Cache(path) as cache:
        assert all(cache.get(f"{name}-{number}") for name in [*"abcd", "both"] for number in range(40))


def foreign(path):
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE mine (x)")
    file.close()


def newer(path):
    with Cache(path):
        pass
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 2")
    file.close()


def damaged(path):
    with Cache(path) as cache:
        for number in range(200):
            put(cache, f"row {number}")
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.write_text("no database, but long enough to be taken for one\n" * 50), "it is damaged or no such file"),
        (foreign, "is another program's; give another file with --cache=FILE.sqlite"),
        (newer, "is of version 2, not 1"),
        (damaged, "it is damaged or no such file"),
        (lambda path: path.mkdir(), "give another place with --cache=FILE.sqlite"),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(tmp_path, make, expected):
    path = tmp_path / "cache.sqlite"
    make(path)
    with pytest.raises(UserError, match=expected) as error, Cache(path) as cache:
        cache.get("row 7")
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_another_programs_file_is_left_as_it_was(tmp_path):
    foreign(tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(UserError), Cache(tmp_path / "c"):
        pass
    assert (tmp_path / "c").read_bytes() == before


FULL = """
import resource, signal, sys
from pathlib import Path
from mede2_jax.config import UserError
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.outcome import Outcome
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Cache(Path(sys.argv[1])) as cache:
    cache.put("a", Outcome(text="x"), api="gemini", model="m", cost=None)
    resource.setrlimit(resource.RLIMIT_FSIZE, (80000, resource.RLIM_INFINITY))
    try:
        for number in range(10):
            cache.put(f"b{number}", Outcome(text="x" * 30000), api="gemini", model="m", cost=None)
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    path = tmp_path / "cache.sqlite"
    said = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith(f"the cache {str(path)!r} cannot be used: ") and said.stdout.count("\n") == 1
    with Cache(path) as cache:
        assert cache.get("a") == Outcome(text="x")
        assert cache.get("b0") is not None


def test_a_real_full_disk_says_so(tmp_path):
    """SQLite's own limit stands for the disk's."""
    with Cache(tmp_path / "c") as cache:
        cache._file.execute("PRAGMA max_page_count = 4")
        with pytest.raises(UserError, match="disk is full; make room on its disk, and start the same command again"):
            put(cache, "a", Outcome(text="x" * 100_000))
        assert put(cache, "b") == OUTCOME


def test_what_is_stored_is_on_the_disk_before_it_is_used(tmp_path):
    """An answer that was paid for outlives a power cut: SQLite waits for the disk (2 is FULL), in a new file and in one that was there."""
    for _ in range(2):
        with Cache(tmp_path / "cache.sqlite") as cache:
            put(cache, "a")
            in_force = {name: cache._file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")}
        assert in_force == {"synchronous": 2, "journal_mode": "wal"}
