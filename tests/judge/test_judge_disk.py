"""A disk that runs full under the judgments: what is under way is paid for, so it is finished and kept."""

import contextlib
import json
import sqlite3
import sys
import time

import pytest
from gemini_server import KEY, GeminiServer
from judging import manifest, read, reply

from mede2_jax.command import run_command
from mede2_jax.judge.__main__ import main

ROOM = 24_000
"""Bytes that are left on the disk, for judgments of about a kilobyte."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    # Longer replies than the disk has blocks for many of.
    said = reply()[:-1] + ', "Note": "' + "so " * 300 + '"}'
    with GeminiServer(say=lambda body, texts, images: said, seconds=0.2) as server:
        yield server


def fill(disk):
    """Leaves about ROOM bytes on it."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes((1 << 20) - ROOM - 8192))
    return ballast


def ended(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(main, arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    return said


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 4, 16])
def test_a_full_disk_under_out_loses_no_answer(server, sample, tmp_path, small_disk, capsys, concurrency):
    cache, out, ballast = tmp_path / "cache.sqlite", small_disk / "j.jsonl", fill(small_disk)
    arguments = [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", f"--out={out}", f"--base_url={server.url}"]
    arguments += [f"--cache={cache}", f"--concurrency={concurrency}", "--limit=60"]
    said, there = ended(arguments, capsys), len(read(out))
    assert said.startswith(f"error: No space left on device: {small_disk}/") and 0 < there < 60
    assert f"; {there} judgments are in {out}, the same command goes on; what was answered besides is in the cache {cache}" in said
    assert not list(small_disk.glob(".*.partial")), "nothing half written is left"
    paid = len(server.bodies)
    assert sum(server.delivered.values()) == paid, "the API has billed these"
    with sqlite3.connect(cache) as file:
        assert file.execute("SELECT count(*) FROM outcomes").fetchone()[0] == paid >= there
    ballast.unlink()
    run_command(main, arguments)
    assert len(read(out)) == 60 and manifest(out)["finished"]
    assert len(server.bodies) == 60 and set(server.delivered.values()) == {1}, "nothing is paid for twice"


def test_a_disk_that_is_full_from_the_start_costs_nothing(server, sample, tmp_path, small_disk, capsys):
    with contextlib.suppress(OSError):
        (small_disk / "ballast").write_bytes(bytes(2 << 20))
    out = small_disk / "j.jsonl"
    arguments = [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", f"--out={out}", f"--base_url={server.url}"]
    said = ended([*arguments, f"--cache={tmp_path / 'c'}"], capsys)
    assert said.startswith(f"error: No space left on device: {small_disk}/") and not server.bodies
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast"]


@pytest.mark.slow
def test_who_waits_for_what_is_under_way_is_told(server, sample, tmp_path, small_disk, capsys):
    fill(small_disk)

    def slow(number, body):
        until = time.monotonic() + 120
        while number == 40 and "under way" not in sys.stdout.getvalue() and time.monotonic() < until:  # as capsys has it until now
            time.sleep(0.05)

    server.faults = slow
    arguments = [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", f"--out={small_disk / 'j.jsonl'}"]
    with pytest.raises(SystemExit):
        run_command(main, [*arguments, f"--base_url={server.url}", f"--cache={tmp_path / 'c'}", "--concurrency=41"])
    captured = capsys.readouterr()
    assert "1 request under way: finished first, since they are paid for" in captured.out
    assert json.loads((small_disk / "j.jsonl").read_text().splitlines()[0])["judge"]["engine"] == "gemini"
