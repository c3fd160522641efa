"""Evaluations that are killed ten times, by how much was answered and never by the clock, and started again."""

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from chat_server import ChatServer
from chat_server import Drop as ChatDrop
from cheap_programs import one_device
from evaluating import flags, lines, result
from gemini_server import KEY, GeminiServer
from gemini_server import Drop as GeminiDrop
from killed_lives import Lives, whole_lines
from task_files import medqa, write_jsonl
from test_evaluate_api import asked, right, without_cost
from waiting import until

from mede2_jax.evaluate.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
KILLS = 10
TASKS = ["medqa", "mmxu", "medbullets_op5"]
FILES = ("rollouts.jsonl", "second_turns.jsonl")


def same_scores(out, whole):
    for task in TASKS:
        for prompt in ("mede2", "cot"):
            assert (out / task / prompt / "verdicts.jsonl").read_bytes() == (whole / task / prompt / "verdicts.jsonl").read_bytes()
            one, other = result(out, task, prompt), result(whole, task, prompt)
            for name in ("overall", "by", "at", "steps", "unparsed", "prompts", "data"):
                assert one[name] == other[name], (task, prompt, name)


HOW = ["--prompt=mede2,cot", "--n=2", "--temperature=1", "--concurrency=1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [20261129])
def test_a_paid_api_gives_no_answer_twice_through_ten_kills(data, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    rng = random.Random(seed)
    out, whole = tmp_path / "killed" / "out", tmp_path / "whole" / "out"
    lives = Lives([rng.randint(0, 8) for _ in range(KILLS)], GeminiDrop)
    with GeminiServer(say=right, faults=lives) as server:
        lives.run("evaluate", asked(TASKS, data, out, server, *HOW), [out / name for name in FILES])
    assert server.delivered.keys() and set(server.delivered.values()) == {1}, "an answer that came whole is never asked for again"
    # Three tasks of three items, two prompts, one of them in two turns, two samples of each.
    assert len(server.delivered) == 3 * 3 * 3 * 2 and len(server.bodies) == 54 + KILLS
    with GeminiServer(say=right) as again:
        main(asked(TASKS, data, whole, again, *HOW))
    same_scores(out, whole)
    for name in FILES:
        assert without_cost(out / name) == without_cost(whole / name)
    costs = [sum(json.loads((at / f"{name}.manifest.json").read_text())["cost"]["samples"] for name in FILES) for at in (out, whole)]
    assert costs[0] == pytest.approx(costs[1], abs=1e-5) and costs[0] == pytest.approx(server.billed, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7])
def test_a_server_is_asked_for_nothing_that_is_in_the_files_through_ten_kills(data, tiny_model, tokenise, tmp_path, seed):
    rng = random.Random(seed)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    lives = Lives([rng.randint(0, 5) for _ in range(KILLS)], ChatDrop)
    with ChatServer(tokenise=tokenise, faults=lives) as server:
        lives.run("evaluate", flags(TASKS, data, tiny_model, out, server, *HOW), [out / name for name in FILES])
        server.faults = None
        server.requests.clear()
        main(flags(TASKS, data, tiny_model, out, server, *HOW))
        assert not server.requests, "then all is there"
        main(flags(TASKS, data, tiny_model, whole, server, *HOW))
    samples = Counter()
    for life, bodies in enumerate(lives.asked):
        before = {seed for name, row in (lives.kept[life - 1] if life else ()) for seed in [(name, json.loads(row)["seed"])]}
        for body in map(json.loads, bodies):
            turn = FILES["assistant" in {one["role"] for one in body["messages"]}]
            wanted = {(turn, body["seed"] + index) for index in range(body["n"])}
            assert not wanted & before, "what a death has left in the files is not asked for again"
            samples.update(wanted)
    # In two turns, the first and the second have one seed; each kill may have taken what was under way, and what had not been written yet.
    assert len(samples) == 54 and samples.total() - 54 <= KILLS * 4
    for earlier, later in zip(lives.kept, lives.kept[1:], strict=False):
        assert earlier <= later, "no line is lost, and none is changed"
    same_scores(out, whole)
    for name in FILES:
        assert sorted(whole_lines(out / name)) == sorted(whole_lines(whole / name))


@pytest.mark.slow
def test_the_sampler_in_this_process_goes_on_after_kills(tiny_model, tmp_path):
    """Killed when so many replies are in the file, which come one by one: a life takes a few, and there are 60."""
    out, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(3)
    data = {"medqa": write_jsonl(tmp_path / "medqa.jsonl", [medqa(number) for number in range(60)])}
    how = ["--engine=flax", "--flax.dtype=float32", "--flax.slots=1", "--temperature=1"]
    environment = one_device()
    command, there = flags(["medqa"], data, tiny_model, out, None, *how), 0
    typed = [sys.executable, "-m", "mede2_jax.evaluate", *command]
    for _ in range(KILLS):
        wanted = there + rng.randint(1, 2)
        process = subprocess.Popen(typed, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        until(lambda wanted=wanted: len(whole_lines(out / FILES[0])) >= wanted, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        there = len(whole_lines(out / FILES[0]))
        assert there >= wanted
    kept = whole_lines(out / FILES[0])
    main(command)
    assert whole_lines(out / FILES[0])[: len(kept)] == kept and len(lines(out / FILES[0])) == 60
    main(flags(["medqa"], data, tiny_model, whole, None, *how))
    assert sorted(whole_lines(out / FILES[0])) == sorted(whole_lines(whole / FILES[0]))
    assert (out / "medqa" / "mede2" / "verdicts.jsonl").read_bytes() == (whole / "medqa" / "mede2" / "verdicts.jsonl").read_bytes()
