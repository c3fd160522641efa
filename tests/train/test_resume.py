"""Killed anywhere and resumed, a run ends in the bits of one that was never touched."""

import dataclasses
import os
import random
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from trainer_process import metrics, outcome, start, train, training_metrics
from training import make_config, moved_params, one_device_inputs
from waiting import finished, until

from mede2_jax.train import run as run_module
from mede2_jax.train.batches import open_loader
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.run import _references
from mede2_jax.train.state import init_state
from mede2_jax.train.step import Steps
from mede2_jax.train.stop import StopRequest

KILLS = 5


@pytest.fixture(scope="module")
def arguments(sample, tiny_model):
    """Some 28 short steps with dropout, accumulation, evaluation and a save every other step."""
    return [
        f"--model={tiny_model}",
        f"--data.path={sample / 'preferences.jsonl'}",
        "--data.row_tokens=640",
        "--data.eval_fraction=0.1",
        "--rows_per_step=1",
        "--accumulation=2",
        "--epochs=2",
        "--eval_every=7",
        "--checkpoint.every=2",
        "--checkpoint.keep_last=2",
        "--lora.dropout=0.1",
        "--optimizer.learning_rate=0.003",
        "--compute_dtype=float32",
        "--param_dtype=float32",
        "--log_every=1",
    ]


@pytest.fixture(scope="module")
def unbroken(arguments, tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    status, output = train([*arguments, f"--output={run}"])
    assert status == 0, output
    return run


def lines(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(unbroken, arguments, tmp_path):
    run, moments = tmp_path / "run", random.Random()
    seed = moments.randrange(10**6)
    moments.seed(seed)
    died_at = []
    for _ in range(KILLS):
        process = start([*arguments, f"--output={run}", "--resume"])
        # At the latest a few steps after it got going, at the earliest while it starts or saves.
        target, delay = lines(run) + moments.randrange(0, 7), moments.uniform(0, 1.0)
        until(lambda target=target: lines(run) >= target, process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        died_at.append(lines(run))
    status, output = train([*arguments, f"--output={run}", "--resume"])
    assert status == 0, f"seed {seed}, killed at lines {died_at}: {output}"
    assert "resumed from the checkpoint of step" in output
    assert outcome(run) == outcome(unbroken), f"seed {seed}, killed at lines {died_at}"
    steps = [record["step"] for record in training_metrics(unbroken)]
    assert len(steps) > 20
    assert [record["step"] for record in training_metrics(run)] == steps, "no step is logged twice or lost"
    for ours, theirs in zip(training_metrics(run), training_metrics(unbroken), strict=True):
        assert (ours["loss"], ours["grad_norm"]) == (theirs["loss"], theirs["grad_norm"])


@pytest.mark.slow
def test_sigterm_saves_and_exits_cleanly(unbroken, arguments, tmp_path):
    run = tmp_path / "run"
    process = start([*arguments, f"--output={run}", "--checkpoint.every=1000"])
    while process.poll() is None and lines(run) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, _ = finished(process)
    assert process.returncode == 0, output
    assert "state saved; go on with the same command and --resume" in output
    last = metrics(run)[-1]["step"]
    assert (run / "checkpoints" / str(last)).is_dir()
    assert not (run / "model").exists()
    status, output = train([*arguments, f"--output={run}", "--resume", "--checkpoint.every=1000"])
    assert status == 0 and f"resumed from the checkpoint of step {last}" in output
    assert outcome(run) == outcome(unbroken)


@pytest.mark.slow
def test_an_evaluation_that_a_signal_broke_off_is_made_up_for(sample, tiny_model, tmp_path, monkeypatch):
    """Stopped in each of its evaluations, the last among them, a run logs, keeps and exports what an unbroken one does."""
    console = Console(quiet=True)
    options = {
        "data": {"row_tokens": 640, "eval_fraction": 0.2},
        "rows_per_step": 8,
        "max_steps": 4,
        "eval_every": 2,
        "export": "best",
        "checkpoint": {"every": 100, "keep_last": 1, "keep_best": 1},
        "optimizer": {"learning_rate": 0.003},
    }

    def go(output, resume=False):
        config = make_config(sample / "preferences.jsonl", sample, stage="dpo", output=output, resume=resume, **options)
        run_module.run(config, tiny_model, console)

    go(tmp_path / "unbroken")
    begun, complete = [], run_module.eval_batches

    def broken_off(*arguments):
        for number, batch in enumerate(complete(*arguments)):
            if not number:
                begun.append(None)
                if len(begun) % 2:
                    os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(run_module, "eval_batches", broken_off)
    for attempt in range(3):
        go(tmp_path / "broken", resume=attempt > 0)
        assert (tmp_path / "broken" / "model").exists() == (attempt == 2), "a run that owes its last evaluation is not finished"
    ours, theirs = metrics(tmp_path / "broken"), metrics(tmp_path / "unbroken")
    assert [(record["step"], record.get("eval_loss")) for record in ours] == [
        (record["step"], record.get("eval_loss")) for record in theirs
    ]
    assert sum("eval_loss" in record for record in ours) == 2
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "unbroken")
    best = [
        run_module.Checkpoints(tmp_path / run / "checkpoints", make_config("", sample).checkpoint).best for run in ("broken", "unbroken")
    ]
    assert best[0] == best[1] and best[0] is not None


@pytest.fixture(scope="module")
def five_steps(sample, tiny_model, tmp_path_factory):
    """Five checkpoints of a run, and all that `_loop` takes to begin at one of them."""
    output = tmp_path_factory.mktemp("five") / "run"
    options = {"data": {"row_tokens": 512}, "max_steps": 9, "checkpoint": {"keep_last": 9}, "tracking": {"tensorboard": False}}
    config = make_config(sample / "demonstrations.jsonl", sample, stage="sft", output=output, resume=True, **options)
    inputs = one_device_inputs(config, tiny_model)
    optimizer = make_optimizer(config.optimizer, 1e-4, 9)
    steps = Steps(inputs.spec, inputs.loss, optimizer, inputs.mesh, config.logprob_chunk)
    state = init_state(inputs.spec, moved_params(inputs, tiny_model), optimizer, inputs.mesh, seed=0)
    output.mkdir()
    checkpoints = run_module.Checkpoints(output / "checkpoints", config.checkpoint)
    with open_loader(inputs, steps, inputs.train, None, epochs=1, accumulation=1, shuffle=True) as loader:
        for step in range(1, 6):
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), loader.get_state() | {"step": step}, {}, None)
            checkpoints.wait()
    checkpoints.close()
    return inputs, steps, state


@pytest.mark.parametrize("first", [1, 2, 3, 4, 5, None])
def test_all_processes_begin_at_the_checkpoint_that_the_first_one_finds(first, five_steps, monkeypatch):
    """A listing of a shared disk may be older, or newer, in another process than in the first."""
    monkeypatch.setattr(run_module.distributed, "agreed", lambda make: first)
    loop = run_module._loop(*five_steps, {}, Console(quiet=True))
    assert int(loop.state.step) == (first or 0) and loop.loader.get_state()["step"] == (first or 0)
    loop.loader.close()
    loop.checkpoints.close()


@pytest.mark.slow
def test_a_reference_pass_goes_on_where_it_was_stopped(sample, tiny_model, tmp_path, monkeypatch):
    """Stopped after every batch, it computes each row once, and ends in the numbers of a pass that was never stopped."""
    config = make_config(
        sample / "preferences.jsonl", sample, stage="dpo", output=tmp_path / "run", data={"row_tokens": 1024, "eval_fraction": 0.2}
    )
    setup = one_device_inputs(config, tiny_model)
    config.output.mkdir()
    steps = Steps(setup.spec, setup.loss, make_optimizer(config.optimizer, 1e-4, 1), setup.mesh, config.logprob_chunk)
    params, console, computed = moved_params(setup, tiny_model), Console(quiet=True), []
    reference = steps.reference

    def counted(params, batch):
        computed.append(sorted({int(pair) for pair in np.asarray(batch["response_pair"]).ravel() if pair >= 0}))
        return reference(params, batch)

    unbroken = _references(setup, steps, params, console)
    (config.output / "reference.safetensors").unlink()
    monkeypatch.setattr(steps, "reference", counted)

    class StoppedByABatch(StopRequest):
        requested = property(lambda self: bool(computed), lambda self, value: computed.clear())

    rows = len(setup.train.rows) + len(setup.held_out.rows)
    assert rows > 5
    with monkeypatch.context() as stopped:
        stopped.setattr(run_module, "StopRequest", StoppedByABatch)
        for _ in range(rows):
            assert _references(setup, steps, params, console) is None, "also when it was the last batch"
    computed.clear()
    tables = _references(setup, steps, params, console)
    assert not computed, "every attempt but this one did a batch"
    for name in ("train", "eval"):
        np.testing.assert_array_equal(tables[name], unbroken[name])
        assert np.isfinite(tables[name]).all()


@pytest.mark.slow
def test_sigterm_in_the_reference_pass_saves_what_it_has(arguments, tmp_path):
    run = tmp_path / "run"
    process = start([*arguments, f"--output={run}"])
    for line in process.stdout:
        if "reference log-probabilities" in line:
            break
    process.send_signal(signal.SIGTERM)
    output, _ = finished(process)
    assert process.returncode == 0, output
    assert "stopped before the first step" in output
    assert (run / "reference.safetensors").exists()


@pytest.mark.slow
def test_a_changed_config_on_resume_shows_the_difference(unbroken, arguments, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "manifest.json"):
        (run / name).write_text((unbroken / name).read_text())
    changed = [argument for argument in arguments if not argument.startswith("--lora.dropout")]
    status, output = train([*changed, f"--output={run}", "--resume", "--dpo.beta=0.2", "--log_every=5"])
    assert status == 2 and output.count("\n") == 1
    assert "dpo.beta: 0.1 then, 0.2 now" in output and "lora.dropout: 0.1 then, 0.0 now" in output
    assert "log_every" not in output, "what does not change the numbers may differ"
