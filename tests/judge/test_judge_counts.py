"""What a run draws from its seed, and what it counts where rules cannot tell or a signal comes at the worst moment."""

import json

import pytest
from judging import Engine, manifest, read, reply, with_engine

from mede2_jax.judge.__main__ import main
from mede2_jax.outputs.file import OutputFile
from mede2_jax.reasoning.answers import grade


@pytest.fixture
def gemini(sample):
    return [f"--rollouts={sample / 'rollouts.jsonl'}", "--judge=gemini", "--limit=5"]


def test_another_seed_asks_with_other_seeds(gemini, tmp_path, monkeypatch):
    asked = {}
    for number, flags in enumerate((["--seed=0"], ["--seed=1"], ["--seed=0"])):
        engine = with_engine(monkeypatch, Engine(lambda request: reply()))
        main([*gemini, f"--out={tmp_path / f'{number}.jsonl'}", "--repeat=2", *flags])
        asked[number] = {request.id: request.seed for request in engine.requests}
    assert asked[0] == asked[2] and len(asked[0]) == 10
    assert len({*asked[0].values()} | {*asked[1].values()}) == 20, "no seed is used twice"


def test_a_judge_contradicts_rules_only_where_rules_told(sample, tmp_path, monkeypatch):
    """Of an answer that is not known, "wrong" is the judge's own word and contradicts nobody."""
    rollouts = [rollout for rollout in read(sample / "rollouts.jsonl") if rollout["metadata"]["made"] == "good"][:6]
    unknown = [{name: value for name, value in rollout.items() if name not in ("answer", "options")} for rollout in rollouts[:4]]
    path, out = tmp_path / "r.jsonl", tmp_path / "j.jsonl"
    path.write_text("".join(json.dumps(rollout) + "\n" for rollout in [*unknown, *rollouts[4:]]))
    with_engine(monkeypatch, Engine(lambda request: reply("correctness")))
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}", f"--image_root={sample}", "--unknown_answers=judge"])
    counts = manifest(out)["counts"]
    assert (counts["judgments"], counts["wrong"], counts["contradicted"], counts["positive"]) == (6, 4, 2, 2)


def test_a_signal_between_a_line_and_its_count(gemini, tmp_path, monkeypatch):
    out, append = tmp_path / "j.jsonl", OutputFile.append

    def interrupted(file, records):
        append(file, records)
        if len(read(out)) == 4:
            raise KeyboardInterrupt

    with_engine(monkeypatch, Engine(lambda request: reply()))
    monkeypatch.setattr(OutputFile, "append", interrupted)
    with pytest.raises(SystemExit):
        main([*gemini, f"--out={out}"])
    assert manifest(out)["counts"]["judgments"] == len(read(out)) == 4 and not manifest(out)["finished"]


def test_right_answers_that_are_letters_without_options_are_told_of(sample, tmp_path, monkeypatch, capsys):
    """The letters are read, and one line says what is missing."""
    rollouts = [rollout for rollout in read(sample / "rollouts.jsonl") if rollout.get("options") and rollout["metadata"]["made"] == "good"][
        :4
    ]
    path, out = tmp_path / "r.jsonl", tmp_path / "j.jsonl"
    bare = [{**rollout, "options": None} for rollout in rollouts[:3]]
    path.write_text("".join(json.dumps(rollout) + "\n" for rollout in [*bare, rollouts[3]]))
    with_engine(monkeypatch, Engine(lambda request: reply()))
    main([f"--rollouts={path}", "--judge=gemini", f"--out={out}", f"--image_root={sample}"])
    questions = {rollout["parents"][0] for rollout in rollouts}
    letters = {rollout["parents"][0] for rollout in rollouts[:3]}
    said = [line for line in capsys.readouterr().out.splitlines() if "one letter without 'options'" in line]
    assert len(said) == 1 and said[0].startswith(f"the right answers of {len(letters)} of {len(questions)} questions are one letter")
    assert len(read(out)) == sum(bool(rollout["options"]) for rollout in rollouts[3:]) + sum(
        grade(rollout["response"], rollout["answer"]) == "correct" for rollout in bare
    )
