"""Whole runs in processes of their own: what they log, write and refuse."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from trainer_process import ROOT, metrics, outcome, train, training_metrics

from mede2_jax.config import UserError, read_yaml
from mede2_jax.train import run as trainer
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.step import Steps
from mede2_jax.weights.params import ParamReader

SMALL = ["--data.row_tokens=1024", "--rows_per_step=2", "--log_every=1", "--compute_dtype=float32", "--param_dtype=float32"]


def few(sample, to, name, count):
    """The first records of a sample file; image paths still start from the sample's folder."""
    lines = (sample / name).read_text().splitlines()[:count]
    to.write_text("\n".join(lines) + "\n")
    return to


@pytest.fixture(scope="module")
def finished(sample, tiny_model, tmp_path_factory):
    """SFT of the tiny model, then DPO of what it ended in."""
    folder = tmp_path_factory.mktemp("runs")
    demonstrations = few(sample, folder / "demonstrations.jsonl", "demonstrations.jsonl", 16)
    pairs = few(sample, folder / "pairs.jsonl", "preferences.jsonl", 14)
    common = [*SMALL, "--optimizer.learning_rate=0.003", "--eval_every=4", "--checkpoint.every=3", f"--data.image_root={sample}"]
    sft = [*common, "--stage=sft", f"--model={tiny_model}", f"--data.path={demonstrations}", f"--output={folder / 'sft'}", "--epochs=4"]
    dpo = [
        *common,
        "--stage=dpo",
        f"--model={folder / 'sft' / 'model'}",
        f"--data.path={pairs}",
        f"--output={folder / 'dpo'}",
        "--epochs=3",
    ]
    dpo += ["--data.eval_fraction=0.2"]
    outputs = {}
    for name, arguments in (("sft", sft), ("dpo", dpo)):
        status, outputs[name] = train(arguments)
        assert status == 0, outputs[name]
    return folder, outputs, dpo


@pytest.mark.slow
def test_sft_learns(finished):
    folder, output, _ = finished
    losses = [record["loss"] for record in training_metrics(folder / "sft")]
    assert losses[-1] < losses[0] - 0.1
    accuracies = [record["accuracy"] for record in training_metrics(folder / "sft")]
    assert 0 <= accuracies[0] < accuracies[-1] <= 1
    assert "curves" in output["sft"] and (folder / "sft" / "curves.png").stat().st_size > 5000


def test_dpo_starts_at_log_two_from_the_merged_sft_model(finished):
    """With the untuned base as the reference the first loss would not be log 2: M₁ is far from it by now."""
    folder, output, _ = finished
    first, last = training_metrics(folder / "dpo")[0], training_metrics(folder / "dpo")[-1]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["loss"] < first["loss"] and last["margin"] > 0.05
    assert "run summary" in output["dpo"] and "margin" in output["dpo"] and "curves.png" in output["dpo"]
    parents = json.loads((folder / "dpo" / "model" / "model.json").read_text())["parents"]
    assert parents == [json.loads((folder / "sft" / "model" / "model.json").read_text())["digest"]]


def test_the_merged_models_differ_from_what_they_came_from_in_the_language_only(finished, tiny_model):
    folder, _, _ = finished
    before, after = ParamReader(tiny_model / "params"), ParamReader(folder / "sft" / "model" / "params")
    assert before.infos == after.infos
    for path in before.infos:
        same = np.array_equal(before.read(path), after.read(path))
        assert same == (not (path.startswith("language/layers") and path.endswith("_proj/kernel"))), path


def test_every_step_function_compiled_once_over_mixed_lengths(finished):
    folder, _, _ = finished
    for run in ("sft", "dpo"):
        records = training_metrics(folder / run)
        assert {record["compilations"] for record in records} == {1}
    assert len({record["padding"] for record in training_metrics(folder / "dpo")}) > 1, "the steps must differ in length"


def test_metrics_hold_what_is_promised(finished):
    folder, _, _ = finished
    promised = {"loss", "reward_chosen", "reward_rejected", "margin", "accuracy", "logprob_chosen", "logprob_rejected", "grad_norm"}
    promised |= {"learning_rate", "tokens_per_second", "padding", "step", "epoch"}
    records = training_metrics(folder / "dpo")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert all(promised <= record.keys() for record in records)
    evals = [record for record in metrics(folder / "dpo") if "eval_loss" in record]
    assert evals and all({"eval_loss", "eval_margin", "eval_accuracy"} <= record.keys() for record in evals)
    assert list((folder / "dpo" / "tensorboard").glob("events*"))
    saved = TrainConfig.model_validate(read_yaml(TrainConfig, folder / "dpo" / "config.yaml"))
    assert saved.stage == "dpo" and saved.optimizer.learning_rate == 0.003


def test_checkpoints_keep_the_last_and_the_best(finished):
    folder, _, _ = finished
    kept = {int(path.name) for path in (folder / "dpo" / "checkpoints").iterdir() if path.name.isdigit()}
    last = training_metrics(folder / "dpo")[-1]["step"]
    assert last in kept and 2 <= len(kept) <= 3


def test_the_model_directory_opens_for_the_next_stage(finished, tiny_model):
    folder, _, _ = finished
    names = {path.name for path in (folder / "dpo" / "model").iterdir()}
    assert {"params", "config.json", "model.json", "tokenizer.json", "preprocessor_config.json"} <= names
    assert (folder / "dpo" / "model" / "config.json").read_bytes() == (tiny_model / "config.json").read_bytes()


@pytest.mark.slow
def test_a_run_is_not_touched_without_being_told(finished):
    folder, _, arguments = finished
    before = outcome(folder / "dpo")
    status, output = train(arguments)
    assert status == 2 and "already exists; use --overwrite" in output
    assert output.strip().count("\n") == 0
    assert outcome(folder / "dpo") == before


@pytest.mark.slow
def test_resuming_a_finished_run_has_nothing_to_do(finished):
    """A scheduler that starts a job again until it ends well gets its 0; under another config it is still refused."""
    folder, _, arguments = finished
    before = outcome(folder / "dpo")
    status, output = train([*arguments, "--resume"])
    assert status == 0 and "is finished" in output and str(folder / "dpo" / "model") in output
    status, output = train([*arguments, "--resume", "--dpo.beta=0.3"])
    assert status == 2 and "dpo.beta: 0.1 then, 0.3 now" in output
    assert outcome(folder / "dpo") == before


@pytest.mark.slow
def test_overwrite_does_not_delete_what_the_run_reads(finished):
    folder, _, _ = finished
    before = outcome(folder / "sft")
    arguments = [
        f"--model={folder / 'sft' / 'model'}",
        f"--data.path={folder / 'pairs.jsonl'}",
        f"--output={folder / 'sft'}",
        "--overwrite",
    ]
    status, output = train(arguments)
    assert status == 2 and "would delete model=" in output
    assert outcome(folder / "sft") == before


@pytest.mark.slow
def test_resume_from_another_model_in_the_same_place_is_refused(finished, tiny_model, tmp_path):
    folder, _, _ = finished
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    arguments = [
        *SMALL,
        "--stage=sft",
        f"--model={model}",
        f"--data.path={folder / 'demonstrations.jsonl'}",
        f"--output={run}",
        "--epochs=1",
    ]
    status, output = train([*arguments, "--checkpoint.every=1"])
    assert status == 0, output
    shutil.rmtree(run / "model")
    shutil.rmtree(model)
    shutil.copytree(folder / "sft" / "model", model)
    status, output = train([*arguments, "--checkpoint.every=1", "--resume"])
    assert status == 2 and "holds another model" in output
    assert not (run / "model").exists()


@pytest.mark.slow
def test_a_narrower_param_dtype_is_refused(tmp_path, sample, tiny_model):
    """The frozen parts would not come out as they went in."""
    arguments = [f"--model={tiny_model}", f"--data.path={sample / 'preferences.jsonl'}", f"--output={tmp_path / 'run'}"]
    status, output = train([*arguments, "--param_dtype=bfloat16"])
    assert status == 2 and "--dtype=bfloat16" in output and "would round" in output


@pytest.mark.slow
def test_overwrite_spares_what_is_not_a_run(tmp_path, sample, tiny_model):
    (tmp_path / "thesis.txt").write_text("precious")
    arguments = [f"--model={tiny_model}", f"--data.path={sample / 'preferences.jsonl'}", f"--output={tmp_path}", "--overwrite"]
    status, output = train(arguments)
    assert status == 2 and "not a run directory" in output
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.slow
def test_not_a_number_stops_the_run_and_names_the_step(tmp_path, sample, tiny_model):
    pairs = few(sample, tmp_path / "pairs.jsonl", "preferences.jsonl", 8)
    arguments = [*SMALL, f"--model={tiny_model}", f"--data.path={pairs}", f"--data.image_root={sample}", f"--output={tmp_path / 'run'}"]
    arguments += ["--epochs=6", "--checkpoint.every=1", "--optimizer.learning_rate=1e30", "--optimizer.warmup_ratio=0"]
    status, output = train(arguments)
    assert status == 2
    assert re.search(r"error: step 1: \w+ is (nan|inf); no checkpoint had been saved yet", output), output
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "checkpoints" / "1").exists(), "the state after step 1 is broken, although step 1's loss was not"


@pytest.mark.slow
def test_not_a_number_keeps_the_last_good_checkpoint(tmp_path, sample, tiny_model, monkeypatch):
    """The update of step 3 is broken on purpose: its own loss is fine, but the state it leaves must not be saved."""

    class Broken(Steps):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            sound = self.train

            def train(state, batch):
                state, metrics = sound(state, batch)
                if int(state.step) == 3:
                    state = dataclasses.replace(state, trainable=jax.tree.map(lambda x: x * jnp.nan, state.trainable))
                return state, metrics

            self.train = train

    monkeypatch.setattr(trainer, "Steps", Broken)
    pairs = few(sample, tmp_path / "pairs.jsonl", "preferences.jsonl", 14)
    values = {"data": {"path": pairs, "image_root": sample, "row_tokens": 1024, "packing": False}, "output": tmp_path / "run"}
    # An epoch is two steps: max_steps, when given, decides alone how long a run is.
    values |= {"rows_per_step": 8, "epochs": 1, "max_steps": 5, "checkpoint": {"every": 1}, "compute_dtype": "float32"}
    with pytest.raises(UserError, match=r"step 3: \w+ is nan; the checkpoint of step 2 is kept"):
        trainer.run(TrainConfig.model_validate(values), tiny_model, Console(quiet=True))
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--model=nowhere"], "nowhere"),
        (["--data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["--optimizer.learning_rat=1e-4"], "--optimizer.learning_rate"),
        (["--mesh.data=3"], "mesh data=3"),
        (["--rows_per_step=0"], "rows_per_step"),
        (["--parts.language=frozen"], "nothing to train"),
        (["--lora.targets=q_porj"], "choose from"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--data.row_tokens=64"], "no examples left"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(extra, expected, tmp_path, sample, tiny_model):
    given = {argument.split("=")[0] for argument in extra}
    defaults = {"--model": tiny_model, "--data.path": sample / "preferences.jsonl", "--output": tmp_path / "run"}
    arguments = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    status, output = train([*arguments, *extra])
    assert status == 2, output
    assert output.startswith("error: ") and output.count("\n") == 1, output
    assert expected in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_reference_of_another_model_is_refused(finished, tiny_model, tmp_path):
    folder, _, arguments = finished
    run = tmp_path / "run"
    run.mkdir()
    (run / "reference.safetensors").write_bytes((folder / "dpo" / "reference.safetensors").read_bytes())
    changed = [a for a in arguments if not a.startswith(("--model", "--output"))] + [f"--model={tiny_model}", f"--output={run}"]
    (run / "manifest.json").write_bytes((folder / "dpo" / "manifest.json").read_bytes())
    (run / "config.yaml").write_text((folder / "dpo" / "config.yaml").read_text().replace(str(folder / "sft" / "model"), str(tiny_model)))
    status, output = train([*changed, "--resume"])
    assert status == 2 and "holds another model" in output


def test_embedded_default_is_a_valid_config():
    from mede2_jax.train.config import embedded_defaults

    for stage in ("sft", "dpo"):
        assert TrainConfig.model_validate(embedded_defaults(stage)).stage == stage
    assert (ROOT / "data" / "sample").is_dir()
