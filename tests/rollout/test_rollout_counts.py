"""What a run draws from its seed, and what it counts when a signal comes at the worst moment."""

import json

import pytest
from chat_server import ChatServer, model_tokenise

from mede2_jax.outputs.file import OutputFile
from mede2_jax.rollout.__main__ import main


@pytest.fixture(scope="module")
def tokenise(tiny_model):
    return model_tokenise(tiny_model)


@pytest.fixture(scope="module")
def base(tiny_model, sample):
    return [f"--model={tiny_model}", f"--questions={sample / 'questions.jsonl'}", "--max_tokens=32", "--limit=3", "--n=2"]


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_another_seed_samples_with_other_seeds(base, tokenise, tmp_path):
    runs = {}
    with ChatServer(tokenise=tokenise) as server:
        for number, seed in enumerate((0, 1, 0)):
            server.requests.clear()
            main([*base, f"--out={tmp_path / f'{number}.jsonl'}", f"--base_url={server.url}", f"--seed={seed}"])
            rollouts = sorted(read(tmp_path / f"{number}.jsonl"), key=lambda rollout: rollout["id"])
            assert {body["seed"] for body in server.requests} == {rollout["seed"] for rollout in rollouts if rollout["sample"] == 0}
            runs[number] = [(rollout["id"], rollout["seed"], rollout["response"]) for rollout in rollouts]
    assert runs[0] == runs[2] and len(runs[0]) == 6
    assert len({seed for run in (runs[0], runs[1]) for _, seed, _ in run}) == 12, "no seed is used twice"


def test_a_signal_between_a_line_and_its_count(base, tokenise, tmp_path, monkeypatch):
    out, append = tmp_path / "r.jsonl", OutputFile.append

    def interrupted(file, records):
        append(file, records)
        raise KeyboardInterrupt

    monkeypatch.setattr(OutputFile, "append", interrupted)
    with ChatServer(tokenise=tokenise) as server, pytest.raises(SystemExit):
        main([*base, f"--out={out}", f"--base_url={server.url}"])
    manifest = json.loads((tmp_path / "r.jsonl.manifest.json").read_text("utf-8"))
    assert manifest["counts"]["samples"] == len(read(out)) == 2 and not manifest["finished"]


def test_right_answers_that_are_letters_without_options_are_told_of(tiny_model, sample, tokenise, tmp_path, capsys):
    questions = [question for question in read(sample / "questions.jsonl") if question.get("options")][:3]
    del questions[0]["options"], questions[1]["options"]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in questions))
    with ChatServer(tokenise=tokenise) as server:
        flags = [f"--questions={path}", f"--out={tmp_path / 'r.jsonl'}", f"--base_url={server.url}", f"--data.image_root={sample}"]
        main([f"--model={tiny_model}", *flags, "--n=1", "--max_tokens=8"])
    said = [line for line in capsys.readouterr().out.splitlines() if "without 'options'" in line]
    assert len(said) == 1 and said[0].startswith("the right answers of 2 of 3 questions are one letter")
