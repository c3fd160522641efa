"""From benchmarks' files to judged scores in one command: choices left out, five diagnoses, one judge and one budget for all."""

import json
import sys
from pathlib import Path

import pytest
from evaluating import flags, lines, result
from gemini_server import KEY

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.evaluate.__main__ import main
from mede2_jax.score.__main__ import main as score

sys.path.append(str(Path(__file__).parents[1] / "score"))
import judge_servers as judges


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("GEMINI_API_KEY", KEY)


def test_choices_left_out_and_answers_judged(data, tiny_model, server, tmp_path, capsys):
    out, tasks = tmp_path / "out", ["medqa", "mmmu_health"]
    with judges.OpenAIJudge(lambda text, turns: judges.said(judges.data_of(text)["question"] == "Case 1?")) as judge:
        asks = judges.flags(judge, tmp_path / "c.sqlite")
        run = flags(tasks, data, tiny_model, out, server, "--prompt=mede2_open", "--n=4", "--temperature=0.7", *asks)
        main(run)
        prompts = {row["id"]: row["prompt"] for row in lines(out / "questions.jsonl")}
        assert sorted(prompts) == [
            *(f"medqa/mede2_open/medqa-{n}" for n in range(3)),
            *(f"mmmu_health/mede2_open/validation_Pharmacy_{n}" for n in (1, 3)),
        ], "the options of number 2 are images"
        assert prompts["medqa/mede2_open/medqa-1"][1]["content"] == "Case 1?"
        left_out = result(out, "mmmu_health", "mede2_open")
        assert left_out["left_out"] == ["validation_Pharmacy_2"] and left_out["overall"]["items"] == 2 and left_out["partial"] is None
        assert "1 item left out, whose options are images and cannot be taken away: validation_Pharmacy_2" in capsys.readouterr().out
        found, verdicts = result(out, "medqa", "mede2_open"), lines(out / "medqa" / "mede2_open" / "verdicts.jsonl")
        right = [one for one in verdicts if one["correct"]]
        assert right and {one["id"] for one in right} == {"medqa-1"} and {one["step"] for one in right} == {"judge"}
        assert found["judge"]["model"] == "judge-m" and found["judge"]["correct"] == len(right)
        asked, sampled = len(judge.asked), len(server.requests)
        main(run)
        assert (len(judge.asked), len(server.requests)) == (asked, sampled), "all is there"
        hand = ["--task=medqa", f"--data={data['medqa']}", f"--responses={out / 'rollouts.jsonl'}", f"--out={tmp_path / 'hand'}"]
        score([*hand, *asks])
        assert (tmp_path / "hand" / "verdicts.jsonl").read_text() == (out / "medqa" / "mede2_open" / "verdicts.jsonl").read_text()
        assert len(judge.asked) == asked, "the cache has them"
    summary = json.loads((out / "evaluation.json").read_text())
    assert [one["prompt"] for one in summary["scores"]] == ["mede2_open"] * 2


def test_a_table_of_which_nothing_can_be_judged_stops_no_other(data, tiny_model, server, tmp_path):
    """Of the first task no judgment can be read, of the second the judge refuses every request; the third is judged."""
    tasks, out = ["medqa", "medxpertqa_text", "medbullets_op4"], tmp_path / "out"
    refused = (400, {}, b'{"error": {"message": "too long"}}')

    def fault(number, body):
        return refused if judges.data_of(body["messages"][0]["content"])["question"].startswith("A patient") else None

    def say(text, turns):
        return judges.said(True) if "line end" in judges.data_of(text)["question"] else "Yes."

    with judges.OpenAIJudge(say, faults=fault) as judge:
        asks = judges.flags(judge, tmp_path / "c.sqlite", "--judge.attempts=1", "--judge.concurrency=1")
        main(flags(tasks, data, tiny_model, out, server, "--prompt=mede2_open", "--n=4", "--temperature=0.7", *asks))
    first, second, third = (result(out, task, "mede2_open") for task in tasks)
    assert first["judge"]["failed"] == first["judge"]["responses"] > 0 and second["judge"]["failed"] == second["judge"]["responses"] > 0
    assert third["judge"]["failed"] == 0 < third["judge"]["correct"]
    assert len(json.loads((out / "evaluation.json").read_text())["scores"]) == 3


def test_five_diagnoses_by_the_owners_judge(data, tiny_model, server, tmp_path, capsys):
    tasks = ["diagnosisarena_open", "medqa"]
    run = flags(tasks, data, tiny_model, tmp_path / "out", server, "--mode=official", "--prompt=official", "--max_tokens=200")
    with pytest.raises(UserError, match="diagnosisarena_open: its owner has replies scored by a judge"):
        main(run)
    assert not server.requests, "before anything is sampled"
    with judges.OpenAIJudge(lambda text, turns: "1. x: \\boxed{1}; 2. y: \\boxed{2}") as judge:
        main([*run, *judges.flags(judge, tmp_path / "c.sqlite")])
        replies = [row["response"] for row in lines(tmp_path / "out" / "rollouts.jsonl") if row["source"] == "diagnosisarena_open"]
        written = {reply for reply in replies if reply.strip()}
        assert len(judge.asked) == len(written) > 0 and all(any(f"\n{reply}\n" in text for reply in written) for text in judge.asked)
    found = result(tmp_path / "out", "diagnosisarena_open", "official")
    assert (found["overall"]["correct"], found["overall"]["top5"]["correct"]) == (0, sum(bool(reply.strip()) for reply in replies))
    assert result(tmp_path / "out", "medqa", "ao")["judge"] == {"not_asked": "in mode official the owner's rule alone decides"}
    assert "top 5" in capsys.readouterr().out


def test_one_budget_for_all_scores(data, tiny_model, server, tmp_path, capsys):
    """Enough for the first task's answers, and not for one more: what is set aside for a request is some 0.0228 dollars."""
    long = judges.said(False, "so " * 300)
    with judges.GeminiJudge(lambda text, turns: long) as judge:
        asks = ["--prompt=mede2_open", *judges.flags(judge, "none", "--judge.concurrency=1", "--judge.max_tokens=2000")]
        main(flags(["medqa"], data, tiny_model, tmp_path / "one", server, *asks))
        count, each = len(judge.asked), judge.billed / len(judge.asked)
        assert count > 0 and each > 0.003
        run = flags(["medqa", "medxpertqa_text"], data, tiny_model, tmp_path / "out", server, *asks)
        budget = 0.0228 + (count - 0.5) * each
        with pytest.raises(SystemExit) as raised:
            run_command(main, [*run, f"--judge.max_cost={budget}"])
        error = capsys.readouterr().err
        assert raised.value.code == 2 and error.count("\n") == 1 and "raise --judge.max_cost" in error
        assert f"of --judge.max_cost={budget:g} the scores before have left {budget - count * each:.4f}" in error
        assert len(judge.asked) == 2 * count and result(tmp_path / "out", "medqa", "mede2_open")["judge"]["responses"] == count
        assert not list((tmp_path / "out" / "medxpertqa_text").rglob("*.json*"))
        sampled = len(server.requests)
        main(run)
        assert len(server.requests) == sampled and len(judge.asked) > 2 * count
