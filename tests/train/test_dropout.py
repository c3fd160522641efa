"""Adapters drop out afresh at every step and in every micro-batch, and again the same after a resume."""

import dataclasses

import jax
import numpy as np
import pytest
from training import make_config, moved_params, one_device_inputs

from mede2_jax.data.loader import make_loader
from mede2_jax.models.lora import with_dropout_keys
from mede2_jax.train.checkpoint import Checkpoints, shapes_of
from mede2_jax.train.config import CheckpointConfig
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import all_params, init_state
from mede2_jax.train.step import Steps


@pytest.fixture(scope="module")
def run(sample, tiny_model):
    """(steps of a run that learns nothing, the state before its first, one row as a step of one micro-batch, its loss without dropout)."""
    config = make_config(sample / "demonstrations.jsonl", sample, stage="sft", lora={"dropout": 0.5}, data={"row_tokens": 512})
    setup = one_device_inputs(config, tiny_model)
    optimizer = make_optimizer(config.optimizer, 0.0, 10)  # a rate of 0: what changes from step to step is dropout alone
    steps = Steps(setup.spec, setup.loss, optimizer, setup.mesh, chunk=64)
    state = init_state(setup.spec, moved_params(setup, tiny_model), optimizer, setup.mesh, seed=0)
    with make_loader(setup.train, setup.shape, rows_per_step=1, shuffle=False) as loader:
        row = next(loader)
    sums, totals = steps.eval(all_params(state), steps.place({name: value[0] for name, value in row.items()}, micro=False))
    return steps, jax.device_get(state), row, float(steps.loss.report(sums, totals)["loss"])


def losses(run, state, batch, count):
    """Of the same batch, `count` times; and the state after them."""
    steps, out = run[0], []
    for _ in range(count):
        state, metrics = steps.train(state, steps.place(batch, micro=True))
        out.append(float(metrics["loss"]))
    return out, state


@pytest.mark.slow
def test_every_step_has_masks_of_its_own(run):
    _, state, row, undropped = run
    seen, _ = losses(run, state, row, 4)
    assert len({*seen, undropped}) == 5, "each differs, also from what no dropout gives"


@pytest.mark.slow
def test_every_micro_batch_has_masks_of_its_own(run):
    """The same row twice: the mean of two equal losses would be the first."""
    _, state, row, _ = run
    once, _ = losses(run, state, row, 1)
    twice, _ = losses(run, state, {name: np.concatenate([value, value]) for name, value in row.items()}, 1)
    assert abs(twice[0] - once[0]) > 1e-4


@pytest.mark.slow
def test_another_seed_has_other_masks(run):
    _, state, row, _ = run
    other = dataclasses.replace(state, rng=np.asarray(jax.random.key_data(jax.random.key(1))))
    assert losses(run, state, row, 1)[0] != losses(run, other, row, 1)[0]


@pytest.mark.slow
def test_a_resumed_run_has_the_masks_of_an_unbroken_one(run, tmp_path):
    _, state, row, _ = run
    unbroken, _ = losses(run, state, row, 4)
    _, halfway = losses(run, state, row, 2)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(halfway, {}, {}, None)
    checkpoints.wait()
    saved, _ = checkpoints.restore(checkpoints.latest, shapes_of(halfway))
    checkpoints.close()
    again, _ = losses(run, dataclasses.replace(halfway, **saved), row, 2)
    assert again == unbroken[2:]


def test_every_adapter_and_layer_has_a_key_of_its_own():
    params = {name: {"lora_a": np.zeros((3, 4, 2)), "lora_b": np.zeros((3, 2, 4))} for name in ("q_proj", "v_proj")}
    keyed = with_dropout_keys(params, jax.random.key(0))
    keys = [tuple(key) for name in ("q_proj", "v_proj") for key in np.asarray(keyed[name]["dropout_key"])]
    assert len(set(keys)) == 6
