"""What a file's answers have cost, whenever and by whichever run they were paid for: the same sum in manifest, table and cache."""

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gemini_server import KEY, GeminiServer, blocked, empty
from judging import manifest, read, reply

from mede2_jax.judge.__main__ import main


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


@pytest.fixture
def flags(sample, tmp_path):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", f"--cache={tmp_path / 'cache.sqlite'}", "--first_rest=0.02"]


def say(body, texts, images):
    return reply()


def seed_of(body):
    return body["generationConfig"]["seed"]


def in_cache(tmp_path):
    with sqlite3.connect(tmp_path / "cache.sqlite") as file:
        return file.execute("SELECT total(cost), count(*) FROM outcomes").fetchone()


def costs(out):
    return manifest(out)["cost"]


def dollars(value):
    return pytest.approx(value, abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 17, 40])
def test_after_a_kill_the_sums_are_those_of_the_answers(flags, tmp_path, capsys, after):
    out = tmp_path / "j.jsonl"
    with GeminiServer(say=say, seconds=0.05) as server:
        flags = [*flags, f"--out={out}", f"--base_url={server.url}", "--limit=48", "--concurrency=8"]
        process = subprocess.Popen([sys.executable, "-m", "mede2_jax.judge", *flags], stdout=subprocess.DEVNULL)
        while sum(server.delivered.values()) < after:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stored, _ = in_cache(tmp_path) if Path(tmp_path / "cache.sqlite").exists() else (0, 0)
        main(flags)
    written, (cost, count) = manifest(out), in_cache(tmp_path)
    assert count == 48 == len(read(out)) and costs(out)["judgments"] == dollars(cost) and stored <= cost
    # What the cache cannot know was under way: its replies came to nobody.
    assert server.billed - 8 * cost / 48 * 1.2 <= cost <= server.billed
    assert sum(one["usage"]["cost"] + one["usage"].get("cached_cost", 0.0) for one in read(out)) == dollars(cost)
    assert written["cost"]["from_cache"] == dollars(sum(one["usage"].get("cached_cost", 0.0) for one in read(out)))
    assert f"${cost:,.4f}" in capsys.readouterr().out


def test_another_file_of_the_same_answers_has_their_cost(flags, tmp_path, capsys):
    with GeminiServer(say=say) as server:
        for name in ("one", "other"):
            main([*flags, f"--out={tmp_path / name}.jsonl", f"--base_url={server.url}", "--limit=9"])
        assert len(server.bodies) == 9
    one, other = costs(tmp_path / "one.jsonl"), costs(tmp_path / "other.jsonl")
    assert one == {"judgments": dollars(server.billed), "failed": 0, "from_cache": 0}
    assert other == {"judgments": dollars(server.billed), "failed": 0, "from_cache": dollars(server.billed)}
    assert f"${server.billed:,.4f}, of it ${server.billed:,.4f} from the cache" in capsys.readouterr().out


def test_replies_that_could_not_be_read_are_part_of_what_a_judgment_cost(flags, tmp_path):
    """Also those of the runs before, in which the judgment failed."""
    asked, out = [], tmp_path / "j.jsonl"

    def wavering(body, texts, images):
        asked.append(body)
        return reply() if len(asked) > 5 else "I do not know"

    with GeminiServer(say=wavering) as server:
        flags = [*flags, f"--out={out}", f"--base_url={server.url}", "--limit=1", "--attempts=2"]
        for _ in range(2):
            with pytest.raises(Exception, match="nothing could be judged"):
                main(flags)
        assert costs(out) == {"judgments": 0, "failed": dollars(server.billed), "from_cache": 0} and len(server.bodies) == 4
        main(flags)
        assert costs(out) == {"judgments": dollars(server.billed), "failed": 0, "from_cache": 0} and len(server.bodies) == 6
    (judgment,) = read(out)
    assert judgment["usage"]["calls"] == 6


def test_what_was_blocked_has_cost_what_it_did_once(flags, tmp_path):
    out = tmp_path / "j.jsonl"
    with GeminiServer(say=say, faults=lambda number, body: blocked(body) if number in (1, 3) else None) as server:
        flags = [*flags, f"--out={out}", f"--base_url={server.url}", "--limit=6", "--concurrency=1"]
        main(flags)
        first = costs(out)
        assert first["failed"] > 0 and first["judgments"] + first["failed"] == dollars(server.billed)
        for _ in range(2):
            main(flags)  # it is in the cache that they are blocked
            assert costs(out) == first
        assert len(server.bodies) == 6


def test_replies_without_a_word_are_on_the_bill_too(flags, tmp_path):
    out, seeds = tmp_path / "j.jsonl", []

    def faults(number, body):
        seeds.append(seed_of(body))
        return empty(body) if seeds[0] == seed_of(body) else None

    with GeminiServer(say=say, faults=faults) as server:
        main([*flags, f"--out={out}", f"--base_url={server.url}", "--limit=4", "--concurrency=1"])
    assert len(server.bodies) == 3 + 4 and len(manifest(out)["failed"]) == 1
    assert costs(out)["failed"] > 0 and costs(out)["judgments"] + costs(out)["failed"] == dollars(server.billed)


def test_a_cache_whose_costs_are_not_known_counts_nothing(flags, tmp_path):
    with GeminiServer(say=say) as server:
        main([*flags, f"--out={tmp_path / 'a.jsonl'}", f"--base_url={server.url}", "--limit=4"])
        with sqlite3.connect(tmp_path / "cache.sqlite") as file:
            file.execute("UPDATE outcomes SET cost = NULL")
        main([*flags, f"--out={tmp_path / 'b.jsonl'}", f"--base_url={server.url}", "--limit=4"])
    assert costs(tmp_path / "b.jsonl") == {"judgments": 0, "failed": 0, "from_cache": 0}
