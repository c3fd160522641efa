"""From a score back to its benchmark and replies, the model, its run, that run's data, and the stage before."""

import json
import shutil

import pytest

from mede2_jax.command import run_command
from mede2_jax.config import UserError
from mede2_jax.origins.history import DEEPEST, walk
from mede2_jax.origins.source import Source, facts
from mede2_jax.outputs.manifest import file_digest, manifest_path, write_manifest
from mede2_jax.score.__main__ import main as score
from mede2_jax.trace.__main__ import main
from mede2_jax.trace.scores import of_score, tree

ITEMS = 4


def write_records(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def make_run(folder, model, parents, tiny_model, data, **config):
    """A run directory as training leaves it, as far as histories look at it."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "model").mkdir()
    info = json.loads((tiny_model / "model.json").read_text())
    info |= {"digest": f"sha256:{folder.name}", "parents": parents}
    (folder / "model" / "model.json").write_text(json.dumps(info))
    said = {
        "version": "0.1.0",
        "folder": str(folder.parent),
        "config": {"stage": folder.name, "optimizer": {"learning_rate": 1e-6}, "lora": {"rank": 8}, **config},
        "model": str(model),
        "digests": parents,
        "data": {"train": {"path": str(data), "file_digest": file_digest(data), "examples": 45, "rows": 9, "skipped": {"too long": 2}}},
    }
    (folder / "manifest.json").write_text(json.dumps(said))
    return info["digest"]


@pytest.fixture
def chain(history, sample, tiny_model):
    """Stage I on demonstrations, its rollouts, judgments and pairs, stage II, and a score of its replies to a benchmark."""
    base = json.loads((tiny_model / "model.json").read_text())["digest"]
    demonstrations = history / "demonstrations.jsonl"
    shutil.copy(sample / "demonstrations.jsonl", demonstrations)
    first = make_run(history / "sft", tiny_model, [base], tiny_model, demonstrations)
    said = json.loads(manifest_path(history / "rollouts.jsonl").read_text())
    said["model"] |= {"path": str(history / "sft" / "model"), "digest": first}
    write_manifest(history / "rollouts.jsonl", said)
    second = make_run(history / "dpo", history / "sft" / "model", [first], tiny_model, history / "pairs.jsonl", dpo={"beta": 0.1})
    questions, replies = [], []
    for number in range(ITEMS):
        options = {letter: f"drug {letter}{number}" for letter in "ABCD"}
        questions.append(
            {"question": f"Case {number}?", "options": options, "answer": options["A"], "answer_idx": "A", "meta_info": "step1"}
        )
        name = f"medqa/mede2/medqa-{number}"
        reply = f"<think> … </think> <answer> {'A' if number else 'B'} </answer>"
        replies.append({"id": f"{name}#0", "parents": [name], "sample": 0, "response": reply, "finish_reason": "stop", "model": second})
        replies[-1] |= {"source": "medqa", "metadata": {"prompt": "mede2", "item": f"medqa-{number}"}}
    data = write_records(history / "phrases_no_exclude_test.jsonl", questions)
    rollouts = write_records(history / "scores" / "rollouts.jsonl", replies)
    model = {"path": str(history / "dpo" / "model"), "family": "qwen2_5_vl", "digest": second}
    evaluated = {"command": "python -m mede2_jax.evaluate", "config": {"engine": "flax", "n": 1}, "model": model, "finished": True}
    evaluated |= {"benchmarks": {"medqa": {}}, "questions": {"path": str(data), "digest": "of the benchmark"}}
    write_manifest(rollouts, evaluated)
    rescore(history)
    return history


def rescore(folder):
    files = [f"--data={folder / 'phrases_no_exclude_test.jsonl'}", f"--responses={folder / 'scores' / 'rollouts.jsonl'}"]
    score(["--task=medqa", *files, f"--out={folder / 'scores' / 'medqa' / 'mede2'}"])
    return json.loads((folder / "scores" / "medqa" / "mede2" / "score.json").read_text())


def found(folder):
    return of_score(folder / "scores" / "medqa" / "mede2")


def shape(source):
    return (source.name, [shape(one) for one in source.made_of])


def test_a_score_leads_to_all_that_it_is_made_of(chain):
    source = found(chain)
    stage_one = ("run", [("the model before", []), ("training data", [])])
    sampled = ("rollouts", [("questions", []), ("model", [])])  # stage I's again, as above
    assert shape(source) == (
        "score",
        [
            ("benchmark", []),
            (
                "rollouts",
                [
                    (
                        "model",
                        [("run", [("the model before", [stage_one]), ("training data", [("judgments", [sampled]), ("rollouts", [])])])],
                    )
                ],
            ),
        ],
    )
    faults = {one.name: one.fault for one in walk(source) if one.fault not in ("", "as above")}
    assert faults == {}
    paths = [one.path for one in walk(source)]
    for name in ("demonstrations.jsonl", "judgments.jsonl", "questions.jsonl", "pairs.jsonl", "dpo", "sft"):
        assert chain / name in paths, name


def test_what_is_shown(chain, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    capsys.readouterr()
    main([f"--score={chain / 'scores' / 'medqa' / 'mede2'}"])
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "task medqa, asked as mede2, read as mede2",
        "accuracy 75.00, 3 of 4",
        "digest sha256:dpo",
        "made from sha256:sft",
        "stage=dpo, optimizer.learning_rate=1e-06, lora.rank=8, dpo.beta=0.1",
        "train data 45 examples, 2 left out",
        str(chain / "demonstrations.jsonl"),
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("name", "of", "fault"),
    [
        ("demonstrations.jsonl", "training data", "changed since"),
        ("judgments.jsonl", "judgments", "changed since"),
        ("pairs.jsonl", "training data", "changed since"),
        ("scores/rollouts.jsonl", "rollouts", "changed since"),
        ("phrases_no_exclude_test.jsonl", "benchmark", "changed since"),
    ],
)
def test_what_has_changed_since_is_said(chain, name, of, fault):
    with (chain / name).open("a", encoding="utf-8") as stream:
        stream.write("\n")
    assert [(one.name, one.path) for one in walk(found(chain)) if one.fault.startswith(fault)] == [(of, chain / name)]


def test_what_is_gone_or_another_is_said(chain):
    info = chain / "sft" / "model" / "model.json"
    info.write_text(info.read_text().replace("sha256:sft", "sha256:other"))
    shutil.rmtree(chain / "dpo" / "checkpoints")  # no run any more, but the model is still there
    faults = {one.name: one.fault for one in walk(found(chain)) if one.fault}
    assert faults == {} and "run" not in {one.name for one in walk(found(chain))}
    (chain / "dpo" / "checkpoints").mkdir()
    assert "another model now: sha256:other" in {one.fault for one in walk(found(chain))}
    shutil.rmtree(chain / "dpo" / "model")
    assert [one.fault for one in walk(found(chain)) if one.name == "model"] == ["not there any more"]


def test_a_strange_run_around_a_model_is_not_its_own(chain):
    file = chain / "dpo" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"digests": ["sha256:elsewhere"]}))
    assert "run" not in {one.name for one in walk(found(chain))}


def test_two_that_name_one_file_by_two_digests_are_told_of(chain):
    said = json.loads(manifest_path(chain / "judgments.jsonl").read_text())
    said["rollouts"]["digest"] = "0" * 64
    write_manifest(chain / "judgments.jsonl", said)
    faults = [one.fault for one in walk(found(chain)) if one.name == "rollouts"]
    assert sorted(faults) == ["", "as above, but it had another digest then", "changed since: the file has another digest now"]


def test_a_circle_ends(chain):
    said = json.loads(manifest_path(chain / "rollouts.jsonl").read_text())
    write_manifest(chain / "rollouts.jsonl", said | {"judgments": {"path": str(chain / "judgments.jsonl")}})
    assert len(list(walk(found(chain)))) < 40
    for number in range(2 * DEEPEST):
        path = write_records(chain / f"r{number}.jsonl", [{"id": "x"}])
        write_manifest(path, {"rollouts": {"path": str(chain / f"r{number + 1}.jsonl")}})
    write_manifest(chain / "rollouts.jsonl", said | {"judgments": {"path": str(chain / "r0.jsonl")}})
    assert f"more than {DEEPEST} steps back" in {one.fault for one in walk(found(chain))}


ODD = [5, True, None, "abc", [5], {"a": 1}, {"path": 5}, {"path": "\x1b[2J[/x]"}, {"path": "x" * 5000}, {"path": ""}]


@pytest.mark.slow
@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:16])
def test_manifests_may_say_anything_and_nothing_of_it_is_obeyed(chain, capsys, monkeypatch, value):
    monkeypatch.setenv("COLUMNS", "200")
    files = [manifest_path(chain / name) for name in ("pairs.jsonl", "scores/rollouts.jsonl")] + [chain / "dpo" / "manifest.json"]
    for file in files:
        text = file.read_text()
        for name in json.loads(text):
            if name == "leakage":
                continue
            file.write_text(json.dumps(json.loads(text) | {name: value}))
            main([f"--score={chain / 'scores' / 'medqa' / 'mede2'}"])
            assert "\x1b[2J" not in capsys.readouterr().out
        file.write_text(text)


CERTIFICATE = {"benchmark": "medqa", "digest": "sha256:0", "thresholds": {"ngram": 13}, "matches": []}


def certify(chain, file, *matches, **more):
    said = json.loads(manifest_path(chain / file).read_text()) if manifest_path(chain / file).exists() else {}
    checked = [CERTIFICATE | {"matches": [{"id": name, "record": "q", "by": "text", "similarity": 0.9} for name in matches]} | more]
    write_manifest(chain / file, said | {"leakage": {"checked": checked}})


def test_a_score_says_what_was_found_of_its_items_in_the_training_data(chain, capsys):
    assert rescore(chain)["leakage"] is None
    certify(chain, "demonstrations.jsonl", "medqa-0", "medqa-3", "elsewhere")
    capsys.readouterr()
    result = rescore(chain)
    leaked = result["leakage"]
    assert leaked["touched"] == ["medqa-0", "medqa-3"] and (result["overall"]["correct"], result["overall"]["items"]) == (3, 4)
    assert (leaked["without_touched"]["correct"], leaked["without_touched"]["items"]) == (2, 2)
    (check,) = leaked["checked"]
    assert check["data"] == str(chain / "demonstrations.jsonl") and check["thresholds"] == {"ngram": 13} and not check["same_files"]
    text = " ".join(capsys.readouterr().out.split())
    assert "2 items found in them; without these 100.00 on 2 (checked with another copy of its files)" in text


def test_checks_of_several_data_are_joined_and_those_of_other_benchmarks_left_out(chain, capsys):
    certify(chain, "pairs.jsonl", "medqa-1", benchmark="another", digest=rescore(chain)["data"]["digest"])
    certify(chain, "demonstrations.jsonl", "medqa-2", benchmark="mmmu")
    leaked = rescore(chain)["leakage"]
    assert leaked["touched"] == ["medqa-1"] and [check["same_files"] for check in leaked["checked"]] == [True]
    certify(chain, "demonstrations.jsonl")
    assert len(rescore(chain)["leakage"]["checked"]) == 2
    certify(chain, "pairs.jsonl", *(f"medqa-{number}" for number in range(ITEMS)))
    capsys.readouterr()
    assert rescore(chain)["leakage"]["without_touched"] is None and "no other is left" in " ".join(capsys.readouterr().out.split())


def refused(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_wrong_input_is_one_line(chain, capsys):
    folder = chain / "scores" / "medqa" / "mede2"
    assert "holds several scores: give one of them, as --score=" in refused([f"--score={chain / 'scores'}"], capsys)
    assert "cannot read" in refused([f"--score={chain / 'none'}"], capsys)
    assert "not both" in refused(["q1", f"--score={folder}"], capsys)
    (folder / "score.json").write_text('{"task": 5}')
    assert "task: Input should be a valid string" in refused([f"--score={folder}"], capsys)


def test_a_damaged_certificate_is_not_taken_for_none(chain):
    said = json.loads(manifest_path(chain / "pairs.jsonl").read_text())
    write_manifest(chain / "pairs.jsonl", said | {"leakage": {"checked": [{"benchmark": "medqa"}]}})
    with pytest.raises(UserError, match=r"pairs.jsonl: its manifest's leakage: checked.0.digest: Field required"):
        rescore(chain)


def test_the_history_of_a_score_that_was_moved(chain, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("moved") / "here"
    shutil.move(chain / "scores", elsewhere)
    source = of_score(elsewhere / "medqa" / "mede2")
    assert source.made_of[1].path == elsewhere / "rollouts.jsonl" and source.made_of[1].fault == ""
    assert tree(source) is not None


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("rollouts", {"engine": "gemini", "api_model": "gemini-2.5-pro", "n": 1}, "engine=gemini, api_model=gemini-2.5-pro, n=1"),
        ("rollouts", {"engine": "vllm", "api_model": None, "n": 8}, "engine=vllm, n=8"),
        ("run", {"stage": "sft", "epochs": 2, "max_steps": None, "dpo": {"beta": 0.1}}, "stage=sft, epochs=2"),
        ("run", {"stage": "dpo", "epochs": 1, "dpo": {"beta": 0.1}}, "stage=dpo, epochs=1, dpo.beta=0.1"),
    ],
)
def test_only_options_that_had_an_effect_are_named(name, config, said):
    assert dict(facts(Source(name, None, {"config": config}))) == {"made with": said}
