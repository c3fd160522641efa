"""Frozen parameters held as an array a layer: the same losses, gradients, checkpoints and exports as stacked."""

import signal

import jax
import numpy as np
import pytest
from trainer_process import start, train, training_metrics
from training import laid_out, largest_gap, make_config, moved_params, one_device_inputs, short_pairs
from waiting import finished, until

from mede2_jax.models.apart import is_apart
from mede2_jax.models.lora import is_trainable
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import abstract_state, init_state, train_state_shardings
from mede2_jax.train.step import Steps
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.params import ParamReader

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    return short_pairs(sample, tmp_path_factory.mktemp("pairs") / "pairs.jsonl", count=3)


def stacks(params):
    return {path: leaf for path, leaf in flatten(params).items() if is_apart(leaf)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "stage", "parts", "remat"),
    [
        ("qwen2_5_vl", "dpo", {"vision": "lora", "projector": "lora", "language": "lora"}, "none"),
        ("qwen2_5_vl", "sft", {"vision": "frozen", "projector": "frozen", "language": "lora"}, "dots_no_batch"),
        ("internvl3", "dpo", {"vision": "full", "projector": "full", "language": "frozen"}, "full"),
        ("internvl3", "sft", {"vision": "lora", "projector": "frozen", "language": "lora"}, "none"),
    ],
)
def test_losses_and_gradients_are_those_of_stacked_layers(family, stage, parts, remat, pairs, sample, tiny_model, tiny_internvl):
    model = {"qwen2_5_vl": tiny_model, "internvl3": tiny_internvl}[family]
    path = pairs if stage == "dpo" else sample / "demonstrations.jsonl"
    results = []
    for layers in ("stacked", "apart"):
        result, setup = laid_out(path, sample, model, stage=stage, parts=parts, remat=remat, frozen_layers=layers)
        held = stacks(setup.spec.held(unflatten(dict(setup.spec.abstract))))
        frozen = {part for part, mode in parts.items() if mode != "full" and part != "projector"}
        assert {path.split("/")[0] for path in held} == (frozen if layers == "apart" else set())
        assert not any(is_trainable(path, parts) for path in held), "what is trained stays stacked"
        results.append(result)
    (stacked, _, stacked_gradients), (apart, _, apart_gradients) = results
    assert abs(stacked - apart) <= TOLERANCE and largest_gap(stacked_gradients, apart_gradients) <= TOLERANCE
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(stacked_gradients)) > 1e-4


@pytest.mark.slow
def test_what_is_held_apart_lies_where_the_stack_would(pairs, sample, tiny_model):
    """On a mesh: shapes, shardings and arrays agree, layer by layer."""
    config = make_config(pairs, sample, frozen_layers="apart", rows_per_step=4, mesh={"data": 1, "fsdp": 4, "tensor": 2})
    setup = open_inputs(config, tiny_model)
    optimizer = make_optimizer(setup.config.optimizer, 1e-3, 10)
    state = init_state(setup.spec, moved_params(setup, tiny_model), optimizer, setup.mesh, seed=0)
    shapes, places = abstract_state(setup.spec, optimizer), train_state_shardings(setup.spec, optimizer, setup.mesh)
    assert stacks(state.frozen)
    jax.tree.map(lambda leaf, shape, place: check_leaf(leaf, shape, place), state.frozen, shapes.frozen, places.frozen)
    assert any(not place.is_fully_replicated for place in jax.tree.leaves(places.frozen))
    Steps(setup.spec, setup.loss, optimizer, setup.mesh, chunk=64)  # its shardings take the same tree


def check_leaf(leaf, shape, place):
    assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype) and leaf.sharding.is_equivalent_to(place, leaf.ndim)


@pytest.mark.slow
def test_a_run_that_changes_between_them_ends_in_the_same_model(pairs, sample, tiny_model, tmp_path):
    """Begun stacked, stopped, and gone on apart, against stacks throughout; reference pass, evaluation, checkpoints and export included."""
    common = [
        "--stage=dpo", f"--model={tiny_model}", f"--data.path={pairs}", f"--data.eval_path={pairs}", f"--data.image_root={sample}",
        "--data.row_tokens=1024", "--rows_per_step=1", "--compute_dtype=float32", "--max_steps=12",
        "--eval_every=6", "--log_every=1", "--export_dtype=float32", "--optimizer.learning_rate=1e-3", "--optimizer.eps=1e-3",
    ]  # fmt: skip
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    status, said = train([*common, f"--output={whole}", "--frozen_layers=stacked"])
    assert status == 0, said
    process = start([*common, f"--output={changed}", "--frozen_layers=stacked"])
    until(lambda: (changed / "metrics.jsonl").exists() and len(training_metrics(changed)) >= 3, process)
    process.send_signal(signal.SIGTERM)
    said, _ = finished(process)
    assert process.returncode == 0 and len(training_metrics(changed)) < 12, said
    status, said = train([*common, f"--output={changed}", "--frozen_layers=apart", "--resume"])
    assert status == 0 and "resumed from the checkpoint" in said, said
    losses = [[record["loss"] for record in training_metrics(run)] for run in (whole, changed)]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE) and len(losses[0]) == 12
    assert_same_models(whole, changed)


def assert_same_models(*runs):
    one, other = (ParamReader(run / "model" / "params") for run in runs)
    assert one.infos.keys() == other.infos.keys()
    for path in one.infos:
        np.testing.assert_allclose(one.read(path), other.read(path), atol=TOLERANCE, err_msg=path)


def test_auto_is_stacked_but_on_one_gpu(pairs, sample, tiny_model):
    setup = one_device_inputs(make_config(pairs, sample), tiny_model)
    assert TrainConfig().frozen_layers == "auto" and not setup.spec.apart
