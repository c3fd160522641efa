"""The command run again: budgets, early ends, kills, and what may and may not change between two runs."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from judging import Engine, assert_adds_up, honest, manifest, read, reply, with_engine, write
from waiting import finished

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatFailure
from mede2_jax.judge.__main__ import main
from mede2_jax.outputs.file import OutputFile

ROOT = Path(__file__).resolve().parents[2]


class Budget(UserError):
    """Stands for the engine's own error: it comes after replies that were paid for."""


def test_an_engine_that_ends_the_run_leaves_what_was_judged(gemini, rollouts, tmp_path, monkeypatch, capsys):
    out, good, asked = tmp_path / "j.jsonl", honest(rollouts), []

    def say(request):
        asked.append(request)
        if len(asked) > 6:
            raise Budget("max_cost=0.01 is reached")
        return good(request)

    with_engine(monkeypatch, Engine(say))
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*gemini, f"--out={out}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error == f"error: max_cost=0.01 is reached; 6 judgments are in {out}, the same command goes on\n"
    written = manifest(out)
    assert not written["finished"] and written["counts"]["judgments"] == 6 and written["dropped"]["not judged yet"] == 10
    assert_adds_up(written)
    engine = with_engine(monkeypatch, Engine(good))
    main([*gemini, f"--out={out}"])
    assert len(engine.requests) == 10 and len(read(out)) == 16 and manifest(out)["finished"]


def test_an_engine_that_never_begins_leaves_nothing(gemini, tmp_path, monkeypatch):
    def say(request):
        raise UserError("no key")

    with_engine(monkeypatch, Engine(say))
    with pytest.raises(UserError, match=r"^no key$"):
        main([*gemini, f"--out={tmp_path / 'j.jsonl'}"])
    assert not list(tmp_path.iterdir())


def test_everything_is_there_already(offline, tmp_path, capsys):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}"])
    before = out.read_bytes()
    main([*offline, f"--out={out}"])
    assert "has all 336 judgments; nothing to do" in capsys.readouterr().out and out.read_bytes() == before


def test_a_smaller_limit_still_adds_up(gemini, rollouts, tmp_path, monkeypatch):
    out, good = tmp_path / "j.jsonl", honest(rollouts)
    fails = lambda request: ChatFailure(request, "blocked") if "#3" in request.id else good(request)  # noqa: E731
    with_engine(monkeypatch, Engine(fails))
    for limit, repeat in [(16, 1), (5, 1), (1, 2), (9, 2), (20, 2)]:
        main([*gemini[:2], f"--out={out}", f"--limit={limit}", f"--repeat={repeat}"])
        written = manifest(out)
        assert written["finished"] and written["counts"]["judgments"] == len(read(out))
        assert_adds_up(written)
    assert written["counts"]["wanted"] == 40 and {failure["rollout"][-2:] for failure in written["failed"]} == {"#3"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError("the budget is spent")])
def test_attempts_are_known_however_the_runs_between_ended(gemini, rollouts, tmp_path, monkeypatch, error):
    """What a judge has answered before is not asked for again, though a run was ended before it came to it."""
    out, good, seen = tmp_path / "j.jsonl", honest(rollouts), set()

    def malformed(request):
        if "#3" in request.id:
            assert request.seed not in seen
            seen.add(request.seed)
            return "Never"
        return good(request)

    with_engine(monkeypatch, Engine(malformed))
    main([*gemini, f"--out={out}", "--attempts=2"])
    before = manifest(out)["failed"]
    assert [failure["attempts"] for failure in before] == [2, 2] and len(seen) == 4

    def stopped(request):
        assert manifest(out)["failed"] == before, "as a kill would leave it"
        raise error

    with_engine(monkeypatch, Engine(stopped))
    with pytest.raises((SystemExit, UserError)):
        main([*gemini, f"--out={out}", "--attempts=2"])
    assert manifest(out)["failed"] == before and not manifest(out)["finished"]
    with_engine(monkeypatch, Engine(malformed))
    main([*gemini, f"--out={out}", "--attempts=2"])
    assert [failure["attempts"] for failure in manifest(out)["failed"]] == [4, 4] and len(seen) == 8


def test_attempts_before_a_failure_of_another_kind_are_known(gemini, rollouts, tmp_path, monkeypatch):
    out, good = tmp_path / "j.jsonl", honest(rollouts)

    def say(request):
        if "#3" not in request.id:
            return good(request)
        return "Never" if len(request.messages) == 1 else ChatFailure(request, "blocked")

    with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}"])
    assert [failure["attempts"] for failure in manifest(out)["failed"]] == [1, 1]


def test_an_early_end_reads_no_judgment_again(gemini, rollouts, tmp_path, monkeypatch):
    out, good, parsed = tmp_path / "j.jsonl", honest(rollouts), []
    with_engine(monkeypatch, Engine(good))
    main([*gemini, f"--out={out}", "--limit=8"])
    parse = OutputFile._parse
    monkeypatch.setattr(OutputFile, "_parse", lambda *arguments: parsed.append(1) or parse(*arguments))

    def stopped(request):
        if len(parsed) == 8 and out.read_bytes().count(b"\n") >= 11:
            raise KeyboardInterrupt
        return good(request)

    with_engine(monkeypatch, Engine(stopped))
    with pytest.raises(SystemExit) as stop:
        main([*gemini, f"--out={out}"])
    assert stop.value.code == 130 and len(parsed) == 8, "at the start, and never after"
    assert manifest(out)["counts"]["judgments"] == len(read(out)) == 11
    assert_adds_up(manifest(out))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"failed": 3}, "failed: .*got 3"),
        ({"failed": [3]}, "failed.0: "),
        ({"failed": [{"reason": "x", "repeat": 0}]}, "failed: rollout: "),
        ({"failed": [{"rollout": "x", "reason": "x", "repeat": 0, "usage": {"cost": "much"}}]}, "failed: usage.cost: "),
        ({"seconds": "long"}, "seconds: .*got 'long'"),
        ({"judge": "me"}, "judge: .*got 'me'"),
        ({"config": None}, "config: "),
    ],
)
def test_a_damaged_manifest_is_one_line(offline, tmp_path, capsys, change, expected):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}", "--limit=3"])
    before = out.read_bytes()
    (tmp_path / "j.jsonl.manifest.json").write_text(json.dumps(manifest(out) | change))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, [*offline, f"--out={out}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "damaged" in error
    with pytest.raises(UserError, match=expected):
        raise UserError(error)
    assert out.read_bytes() == before


def test_rollouts_may_grow(offline, rollouts, tmp_path):
    out = tmp_path / "j.jsonl"
    path = write(tmp_path / "r.jsonl", [rollout for rollout in rollouts if rollout["sample"] < 3])
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    few = read(out)
    write(path, rollouts)
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    assert read(out)[: len(few)] == few and len(read(out)) == 336


def start(arguments):
    command = [sys.executable, "-m", "mede2_jax.judge", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def grown(path, rollouts, times):
    """The same responses many times over, under other ids."""
    records = [
        rollout | {"id": f"{copy}-{rollout['id']}", "parents": [f"{copy}-{rollout['parents'][0]}"]}
        for copy in range(times)
        for rollout in rollouts
    ]
    return write(path, records)


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_in_the_same_judgments(rollouts, tmp_path):
    path, out, whole, rng, kills = grown(tmp_path / "r.jsonl", rollouts, 8), tmp_path / "j.jsonl", tmp_path / "w.jsonl", random.Random(0), 0
    main([f"--rollouts={path}", "--judge=offline", f"--out={whole}"])
    for _ in range(4):
        before = out.stat().st_size if out.exists() else 0
        process = start([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
        while process.poll() is None and not (out.exists() and out.stat().st_size > before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills == 4 and 0 < len(out.read_bytes().splitlines()) < 8 * 336
    with out.open("ab") as file:  # as a kill in the middle of a line would leave it
        file.write(b'{"id":"torn')
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    assert sorted(out.read_text("utf-8").splitlines()) == sorted(whole.read_text("utf-8").splitlines())
    assert manifest(out)["counts"] == manifest(whole)["counts"]
    assert_adds_up(manifest(out))


@pytest.mark.slow
def test_a_signal_is_one_line_and_keeps_what_came(rollouts, tmp_path):
    path, out = grown(tmp_path / "r.jsonl", rollouts, 8), tmp_path / "j.jsonl"
    process = start([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, error = finished(process)
    there = len(read(out))
    assert process.returncode == 143 and error == f"error: terminated; {there:,} judgments are in {out}, the same command goes on\n"
    assert manifest(out)["counts"]["judgments"] == there and not manifest(out)["finished"]
    assert_adds_up(manifest(out))


def test_two_runs_cannot_write_one_file(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"

    def say(request):
        with pytest.raises(UserError, match=r"another process is writing .*j.jsonl; wait for it"):
            main([*gemini, f"--out={out}"])
        return reply()

    with_engine(monkeypatch, Engine(say))
    main([*gemini, f"--out={out}", "--limit=2"])
    assert len(read(out)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--judge=openai", "--model=gpt-4o"], "judge: gemini then, openai now; model: none then, gpt-4o now"),
        (["--model=gemini-2.5-flash"], "model: none then, gemini-2.5-flash now"),
        (["--prompt=reasons"], "prompt: paper then, reasons now"),
        (["--temperature=0", "--seed=2"], "seed: 0 then, 2 now; temperature: 1.0 then, 0.0 now"),
        (["--unknown_answers=judge"], "unknown_answers: leave_out then, judge now"),
        (["--no-block"], "block: True then, False now"),
    ],
)
def test_another_judge_on_the_same_file_is_refused_and_the_difference_shown(gemini, rollouts, tmp_path, monkeypatch, flags, expected):
    out = tmp_path / "j.jsonl"
    with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}"])
    before = out.read_bytes()
    with pytest.raises(UserError) as error:
        main([*[flag for flag in gemini if flag.split("=")[0] not in {given.split("=")[0] for given in flags}], f"--out={out}", *flags])
    assert f"{out} was begun otherwise ({expected})" in str(error.value) and out.read_bytes() == before


def test_another_version_of_the_prompt_is_refused(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"
    with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}"])
    path = out.with_name(out.name + ".manifest.json")
    path.write_text(path.read_text().replace("judge-paper/1", "judge-paper/0"))
    with pytest.raises(UserError, match=r"judge.prompt: judge-paper/0 then, judge-paper/1 now"):
        main([*gemini, f"--out={out}"])


def test_options_that_change_no_judgment_may_change(gemini, rollouts, tmp_path, monkeypatch):
    out = tmp_path / "j.jsonl"
    engine = with_engine(monkeypatch, Engine(honest(rollouts)))
    main([*gemini, f"--out={out}", "--limit=3"])
    more = ["--limit=9", "--concurrency=3", "--timeout=9", "--max_cost=5", "--attempts=5", "--cache=none", "--base_url=http://127.0.0.1:9"]
    main([*gemini[:2], f"--out={out}", *more])
    assert len(engine.requests) == 9 and len(read(out)) == 9


def test_judgments_of_other_responses_are_refused(offline, rollouts, tmp_path):
    out = tmp_path / "j.jsonl"
    path = write(tmp_path / "r.jsonl", rollouts)
    main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
    before = out.read_bytes()
    for change, expected in [
        ({"response": rollouts[1]["response"]}, "j.jsonl:1: a judgment of another response than 'sample-case-pneumothorax-1#0' is now"),
        ({"answer": "(B)", "options": None, "response": "<answer> (B) </answer>"}, "j.jsonl:1: a judgment of another response"),
        ({"id": "x"}, "j.jsonl:1: a judgment of 'sample-case-pneumothorax-1#0', which is not among the responses to be judged"),
    ]:
        write(path, [rollouts[0] | change, *rollouts[1:]])
        with pytest.raises(UserError, match=expected):
            main([f"--rollouts={path}", "--judge=offline", f"--out={out}"])
        assert out.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda lines: [lines[0], "{broken", *lines[1:]], ":2: not valid JSON"),
        (lambda lines: [*lines, lines[4]], ":337: judgment 0 of .* is there twice"),
        (lambda lines: [lines[0].replace('"met":true', '"met":"perhaps"', 1)], ":1: field 'correctness.met' must be true or false"),
        (lambda lines: [lines[0].replace('"repeat":0', '"repaet":0')], ":1: (field 'repeat' is missing|unknown field 'repaet')"),
        (lambda lines: ["[1]"], ":1: a record must be a JSON object"),
    ],
)
def test_a_damaged_file_names_the_line_and_is_not_touched(offline, tmp_path, spoil, expected):
    out = tmp_path / "j.jsonl"
    main([*offline, f"--out={out}"])
    spoilt = "".join(line + "\n" for line in spoil(out.read_text("utf-8").splitlines()))
    out.write_text(spoilt, "utf-8")
    with pytest.raises(UserError, match=f"j.jsonl{expected}"):
        main([*offline, f"--out={out}"])
    assert out.read_text("utf-8") == spoilt
