"""Judged answers once more: what was judged is not asked again, after budgets, kills and other prompts."""

import json
import signal
import subprocess
import sys
import time

import pytest
from judge_servers import GeminiJudge, OpenAIJudge, by_answer, data_of, flags, read, said
from judged import ITEMS, other_words, result
from task_files import write_jsonl

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.reasoning.prompts import JUDGE_SAME_ANSWER
from mede2_jax.score.__main__ import main


def test_a_budget_ends_it_in_one_line_and_keeps_what_was_judged(command, tmp_path, capsys):
    with GeminiJudge(by_answer({"the C0 substance"})) as server:
        at = flags(server, tmp_path / "c.sqlite", "--judge.concurrency=1", "--judge.max_tokens=2000")
        with pytest.raises(SystemExit) as raised:
            run_command(main, command(other_words(), *at, "--judge.max_cost=0.0235"))
        captured = capsys.readouterr()
        assert raised.value.code == 2 and captured.err.count("\n") == 1 and "max_cost=0.0235 US dollars is reached" in captured.err
        kept = len(read(tmp_path / "out" / "judged_answers.jsonl"))
        assert 0 < kept < ITEMS and f"{kept} judgments are in " in captured.err and "the same command goes on" in captured.err
        assert "raise --judge.max_cost to go on" in captured.err
        assert server.billed <= 0.0235 and not (tmp_path / "out" / "score.json").exists()
        main(command(other_words(), *at))
        assert len(server.asked) == ITEMS
    found, _ = result(tmp_path)
    assert found["judge"]["cost"]["judgments"] == pytest.approx(server.billed, abs=2e-6) and found["overall"]["correct"] == 1


def test_what_was_judged_once_is_not_asked_again(command, tmp_path):
    with OpenAIJudge(by_answer({"the C0 substance"})) as server:
        at = flags(server, tmp_path / "c.sqlite")
        main(command(other_words(), *at))
        first = result(tmp_path)
        main(command(other_words(), *at, out="other"))
        assert len(server.asked) == ITEMS and result(tmp_path, "other")[1] == first[1], "the cache has them"
        for change in (["--judge.model=judge-x"], ["--judge.temperature=0.5"], ["--judge.seed=1"]):
            before = len(server.asked)
            main(command(other_words(), *at, *change))
            assert len(server.asked) == before + ITEMS
        before = len(server.asked)
        main(command(["drug C0", "drug C1, surely", *other_words()[2:]], *at))
        assert [data_of(text)["answer"] for text in server.asked[before:]] == ["drug C1, surely"], "only what is another answer"
    main(command(other_words(), *at))
    assert result(tmp_path) == first, "without a server"
    assert len(read(tmp_path / "out" / "judged_answers.jsonl")) == 4 * ITEMS + 1, "other judges' judgments stay"


def test_another_version_of_the_prompt_asks_again(command, tmp_path, monkeypatch):
    import dataclasses

    from mede2_jax.scoring import judging

    with OpenAIJudge(by_answer(())) as server:
        at = flags(server, tmp_path / "c.sqlite")
        main(command(other_words(), *at))
        other = dataclasses.replace(JUDGE_SAME_ANSWER, version=2)
        monkeypatch.setattr("mede2_jax.score.judge_job.SAME_ANSWER", dataclasses.replace(judging.SAME_ANSWER, prompt=other))
        main(command(other_words(), *at, "--judge.cache=none"))
        assert len(server.asked) == 2 * ITEMS
    assert {one["judge"]["prompt"] for one in read(tmp_path / "out" / "judged_answers.jsonl")} == {
        "judge-same-answer/1",
        "judge-same-answer/2",
    }


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again_nothing_is_paid_twice(data, tmp_path):
    count = 24
    rows = [
        {"id": f"medqa-{n}", "response": [f"<answer> the C{n} substance, {k} </answer>" for k in range(count // ITEMS)]}
        for n in range(ITEMS)
    ]
    file, out = write_jsonl(tmp_path / "r.jsonl", rows), tmp_path / "out"
    with GeminiJudge(lambda text, turns: said("0" in data_of(text)["answer"]), seconds=0.05) as server:
        line = ["--task=medqa", f"--data={data}", f"--responses={file}", f"--out={out}", "--prompt=mede2_open"]
        line += flags(server, tmp_path / "c.sqlite", "--judge.concurrency=2")
        for stop in (4, 12):
            process = subprocess.Popen([sys.executable, "-m", "mede2_jax.score", *line], stdout=subprocess.DEVNULL)
            while sum(server.delivered.values()) < stop and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with (out / "judged_answers.jsonl").open("ab") as torn:
            torn.write(b'{"id":"torn')
        main(line)
        # Two at a time are under way when it is killed: their answers came to nobody.
        assert count <= len(server.bodies) <= count + 4
        stored = {one["id"] for one in read(out / "judged_answers.jsonl")}
        assert len(stored) == count == len(read(out / "judged_answers.jsonl"))
        before = len(server.bodies)
        main(line)
        assert len(server.bodies) == before
    assert json.loads((out / "score.json").read_text())["judge"]["judgments"] == count


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda text: text + '{"id": "x"}\n', "judged_answers.jsonl:9: item: Field required"),
        (lambda text: text + text.splitlines()[0] + "\n", "is there twice; take one out"),
        (lambda text: text + "[]\n", "a record must be a JSON object"),
    ],
)
def test_a_damaged_file_of_judgments_names_the_line(command, tmp_path, spoil, expected):
    with OpenAIJudge(by_answer(())) as server:
        line = command(other_words(), *flags(server, tmp_path / "c.sqlite"))
        main(line)
        file = tmp_path / "out" / "judged_answers.jsonl"
        file.write_text(spoil(file.read_text()))
        with pytest.raises(UserError, match=expected):
            main(line)
