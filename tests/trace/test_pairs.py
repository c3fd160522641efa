"""From a pair back to everything it is made of, through the manifests; moved files, changed files, and what is not there any more."""

import json
import shutil

import pytest

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.outputs.manifest import manifest_path
from mede2_jax.trace.__main__ import main
from mede2_jax.trace.config import TraceConfig
from mede2_jax.trace.pairs import trace


def pairs(folder):
    return [json.loads(line) for name in ("pairs", "pairs.eval") for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def shown(capsys, *arguments):
    capsys.readouterr()
    main(arguments)
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_pair_has_its_whole_history(history):
    for name in ("pairs.jsonl", "pairs.eval.jsonl"):
        for line in (history / name).read_text("utf-8").splitlines():
            record = json.loads(line)
            found = trace(record["id"], TraceConfig(pairs=history / name))
            assert {side: rollout.response for side, rollout in found.rollouts.items()} == {side: record[side] for side in found.rollouts}
            judged = [judgment for judgments in found.judgments.values() for judgment in judgments]
            assert {judgment.rollout for judgment in judged} == {rollout.id for rollout in found.rollouts.values()}
            parents = {found.rollouts["chosen"].question_id, *(rollout.id for rollout in found.rollouts.values()), *(j.id for j in judged)}
            assert parents == {*record["parents"]}
            assert [(source.name, source.fault) for source in found.sources] == [
                (name, "") for name in ("pairs", "judgments", "rollouts", "questions", "model")
            ]


def test_what_is_shown(history, tiny_model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    record = pairs(history)[0]
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    text = shown(capsys, record["id"], f"--pairs={history / 'pairs.jsonl'}", "--limit=0")
    for part in (
        f"question {record['metadata']['question']}",
        f"chosen: rollout {record['metadata']['chosen']['rollout']}",
        f"rejected: rollout {record['metadata']['rejected']['rollout']}",
        f"judgment {record['metadata']['rejected']['judgments'][0]}",
        f"rejected fails {', '.join(record['metadata']['rejected_fails'])}",
        "no " + {"reflection": "does not check itself"}.get(record["metadata"]["rejected_fails"][-1], ""),
        f"digest: {digest}",
        "offline rules/1",
        "made with: engine=flax, n=8, temperature=1.0, seed=0",
        "jax 1.2.3",
        str(history / "questions.jsonl"),
    ):
        assert " ".join(part.split()) in text, part
    assert " ".join(record["chosen"].split()) in text and "characters more" not in text
    assert "characters more: --limit=0" in shown(capsys, record["id"], f"--pairs={history / 'pairs.jsonl'}", "--limit=100")


def test_nothing_is_cut_in_a_narrow_terminal(history, tiny_model, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    digest = json.loads((tiny_model / "model.json").read_text())["digest"]
    text = shown(capsys, pairs(history)[0]["id"], f"--pairs={history / 'pairs.jsonl'}", "--limit=0").replace(" ", "")
    assert digest in text and str(history / "judgments.jsonl") in text and "…" not in text


def test_the_judges_prompt_is_named(history, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    path = history / "judgments.jsonl"
    asked = {"engine": "gemini", "model": "gemini-2.5-pro", "prompt": "judge-paper/1"}
    lines = [json.loads(line) | {"judge": asked} for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    record = pairs(history)[0]
    text = shown(capsys, record["id"], f"--pairs={history / 'pairs.jsonl'}")
    assert "judge-paper/1 (paper, Appendix A)" in text and "gemini gemini-2.5-pro, prompt judge-paper/1" in text
    assert "changed since" in text, "the file is no longer what the pairs were made of"
    path.write_text(path.read_text("utf-8").replace("judge-paper/1", "judge-paper/7"), "utf-8")
    assert "judge-paper/7 (not in this version of mede2_jax)" in shown(capsys, record["id"], f"--pairs={history / 'pairs.jsonl'}")


def test_a_folder_that_was_moved_as_a_whole_is_still_traced(history, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved") / "here"
    shutil.move(history, elsewhere)
    record = pairs(elsewhere)[0]
    found = trace(record["id"], TraceConfig(pairs=elsewhere / "pairs.jsonl"))
    assert {source.name: source.fault for source in found.sources if source.fault} == {}
    assert found.sources[2].path == elsewhere / "rollouts.jsonl"


def test_files_can_be_given(history, tmp_path_factory):
    record, elsewhere = pairs(history)[0], tmp_path_factory.mktemp("given")
    for name in ("rollouts.jsonl", "judgments.jsonl"):
        shutil.move(history / name, elsewhere / f"other-{name}")
    config = TraceConfig(pairs=history / "pairs.jsonl")
    with pytest.raises(
        UserError, match=r"judgments '.*judgments.jsonl', of which .*pairs.jsonl was made, are not there; give --judgments=FILE"
    ):
        trace(record["id"], config)
    found = trace(
        record["id"],
        config.model_copy(update={name: elsewhere / f"other-{name}.jsonl" for name in ("rollouts", "judgments")}),
    )
    assert found.rollouts["chosen"].response == record["chosen"] and found.sources[2].fault == "no manifest beside it"


def test_a_model_that_is_gone_or_another_is_said(history):
    path = history / "rollouts.jsonl.manifest.json"
    said = json.loads(path.read_text())
    record = pairs(history)[0]
    for change, fault in [({"path": str(history / "none")}, "not there any more"), ({"digest": "sha256:0"}, "another model now")]:
        path.write_text(json.dumps(said | {"model": said["model"] | change}))
        found = trace(record["id"], TraceConfig(pairs=history / "pairs.jsonl"))
        assert found.sources[4].fault.startswith(fault)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{id}x", "--pairs={folder}/pairs.jsonl"], "no pair '.*x' in .*pairs.jsonl; did you mean '"),
        (["nothing", "--pairs={folder}/pairs.jsonl"], "no pair 'nothing' in .*; its first is 'sample-case-"),
        (["{id}", "--pairs={folder}/none.jsonl"], "cannot read data file"),
        (["{id}", "--pairs={folder}/pairs.jsonl", "--judgments={folder}/rollouts.jsonl"], "is not in .*rollouts.jsonl"),
        (["--pairs={folder}/pairs.jsonl"], "give one pair's id"),
        (["{id}", "{id}", "--pairs={folder}/pairs.jsonl"], "give one pair's id"),
        (["{id}", "--pair={folder}/pairs.jsonl"], "did you mean '--pairs'"),
        (
            ["sample-pair-pneumothorax-1", "--pairs={sample}/preferences.jsonl"],
            "has no manifest that names its judgments; give --judgments",
        ),
        (
            [
                "sample-pair-pneumothorax-1",
                "--pairs={sample}/preferences.jsonl",
                "--judgments={folder}/judgments.jsonl",
                "--rollouts={folder}/rollouts.jsonl",
            ],
            "does not say which rollouts and judgments it is made of",
        ),
    ],
)
def test_wrong_input_is_one_line(history, sample, capsys, arguments, expected):
    values = {"id": pairs(history)[0]["id"], "folder": history, "sample": sample}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, [argument.format(**values) for argument in arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    with pytest.raises(UserError, match=expected):
        raise UserError(error)


ODD = [5, True, None, "abc", [5], [[]], {"a": 1}, {"path": 5}, {"path": "\x1b[2J[/x]"}, {"path": "x" * 5000}]


@pytest.mark.slow
@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:16])
def test_a_manifest_may_say_anything_and_nothing_of_it_is_obeyed(history, capsys, value):
    record = pairs(history)[0]
    files = [history / f"{name}.jsonl" for name in ("pairs", "judgments", "rollouts")]
    for manifest in (manifest_path(file) for file in files):
        text = manifest.read_text()
        said = json.loads(text)
        model = said["model"] if isinstance(said.get("model"), dict) else {}
        changes = [{name: value} for name in said] + [{"model": model | {name: value}} for name in ("path", "family", "digest", "parents")]
        changes += [{"config": said["config"] | {"seed": value, "criteria": value}}, {"versions": {"jax": value}}]
        gone = {"model": {**model, "path": str(history / "none"), "parents": value}}
        for change in [*changes, gone]:
            manifest.write_text(json.dumps(said | change))
            try:
                main([record["id"], f"--pairs={files[0]}"])
            except UserError as error:
                assert "\n" not in str(error)
            assert "\x1b" not in capsys.readouterr().out
        manifest.write_text(text)
