"""A frozen base in 8 bits: the losses and gradients of the rounded weights, and a model that is made of the weights as they were."""

import json

import jax
import numpy as np
import pytest
from quantizing import by_torch
from trainer_process import train, training_metrics
from training import (
    largest_gap,
    loss_and_gradients,
    make_config,
    moved_params,
    one_device_inputs,
    reference_table,
    short_pairs,
    whole_batch,
)

from mede2_jax.families import model_config
from mede2_jax.models.apart import is_apart
from mede2_jax.models.quantized import SCALE, quantize
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.model_spec import random_params
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import import_adapter

TOLERANCE = 1e-5
LORA = {"vision": "frozen", "projector": "frozen", "language": "lora"}


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    return short_pairs(sample, tmp_path_factory.mktemp("pairs") / "pairs.jsonl", count=3)


def rounded(params, dtype):
    """Parameters whose kernels of the language model are what torch makes of them in 8 bits and back."""
    flat = flatten(params)
    for path in [path for path in flat if path.startswith("language/layers/") and path.endswith("/kernel")]:
        _, scales, _ = quantize(flat[path], dtype)  # compared with torch's in tests/models/test_quantized.py
        layers = [by_torch(layer, scale, dtype) * scale for layer, scale in zip(np.asarray(flat[path]), np.asarray(scales), strict=True)]
        flat[path] = jax.device_put(np.stack(layers), flat[path].sharding)
    return unflatten(flat)


def measured(config, model, **change):
    setup = one_device_inputs(config.model_copy(update=change), model)
    params = moved_params(setup, model)
    if not setup.spec.quantized:
        params = rounded(params, "int8")
    reference = reference_table(len(setup.train)) if config.stage == "dpo" else None
    return loss_and_gradients(setup, params, whole_batch(setup, reference)), setup


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "stage", "parts", "layers"),
    [
        ("qwen2_5_vl", "dpo", LORA, "stacked"),
        ("internvl3", "sft", {**LORA, "projector": "full"}, "apart"),
    ],
)
def test_losses_and_gradients_are_those_of_the_rounded_weights(family, stage, parts, layers, pairs, sample, tiny_model, tiny_internvl):
    model = {"qwen2_5_vl": tiny_model, "internvl3": tiny_internvl}[family]
    path = pairs if stage == "dpo" else sample / "demonstrations.jsonl"
    config = make_config(path, sample, stage=stage, parts=parts, frozen_layers=layers)
    (ours, _, our_gradients), setup = measured(config, model, frozen_dtype="int8")
    (theirs, _, their_gradients), _ = measured(config, model, frozen_layers="stacked")
    assert abs(ours - theirs) <= TOLERANCE and largest_gap(our_gradients, their_gradients) <= TOLERANCE
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(our_gradients)) > 1e-4
    held = flatten(setup.spec.held(unflatten(dict(setup.spec.abstract))))
    kernels = [leaf for path, leaf in held.items() if path in setup.spec.quantized]
    assert len(kernels) == 7 and all(is_apart(leaf) is (layers == "apart") for leaf in kernels)


def test_only_frozen_kernels_of_the_language_model_are_narrow(pairs, sample, tiny_model):
    setup = one_device_inputs(make_config(pairs, sample, parts={"vision": "lora", "projector": "full"}, frozen_dtype="int8"), tiny_model)
    abstract = setup.spec.abstract
    narrow = {path for path, leaf in abstract.items() if leaf.dtype == np.int8}
    assert (
        narrow
        == set(setup.spec.quantized)
        == {path for path in abstract if path.startswith("language/layers/") and path.endswith("/kernel")}
    )
    assert all(abstract[path.removesuffix("/kernel") + SCALE].dtype == np.float32 for path in narrow)
    plain = one_device_inputs(make_config(pairs, sample, parts={"vision": "lora", "projector": "full"}), tiny_model).spec.plain
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in setup.spec.plain.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in plain.items()
    }


@pytest.mark.slow
def test_on_a_mesh_each_device_holds_its_share(pairs, sample, tiny_model):
    config = make_config(pairs, sample, rows_per_step=4, frozen_dtype="int8", mesh={"data": 1, "fsdp": 4, "tensor": 2})
    setup = open_inputs(config, tiny_model)
    alone = one_device_inputs(make_config(pairs, sample, frozen_dtype="int8"), tiny_model)
    sharded, whole = flatten(moved_params(setup, tiny_model)), flatten(moved_params(alone, tiny_model))
    for path in setup.spec.quantized:
        scale = path.removesuffix("/kernel") + SCALE
        np.testing.assert_array_equal(np.asarray(sharded[path]), np.asarray(whole[path]), err_msg=path)
        np.testing.assert_array_equal(np.asarray(sharded[scale]), np.asarray(whole[scale]), err_msg=path)
        assert not sharded[path].sharding.is_fully_replicated
    made = flatten(random_params(setup.spec, setup.mesh, 0))
    assert {path: (leaf.shape, leaf.dtype, leaf.sharding.spec) for path, leaf in made.items()} == {
        path: (leaf.shape, leaf.dtype, leaf.sharding.spec) for path, leaf in sharded.items()
    }


def flags(stage, path, sample, model, *more):
    return [
        f"--stage={stage}", f"--model={model}", f"--data.path={path}", f"--data.image_root={sample}", "--data.row_tokens=1024",
        "--rows_per_step=1", "--log_every=1", "--max_steps=8", "--compute_dtype=float32", "--optimizer.learning_rate=1e-3", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_run_learns_as_with_the_weights_themselves(stage, pairs, sample, tiny_model, tmp_path):
    """Losses within 1% of theirs, and a model whose frozen weights are those that it started from."""
    path = pairs if stage == "dpo" else sample / "demonstrations.jsonl"
    parts = ["--parts.projector=full"] if stage == "dpo" else []  # demonstrations have no images
    losses = {}
    for name, more in (("stored", parts), ("int8", [*parts, "--frozen_dtype=int8", "--export_dtype=float32"])):
        status, said = train(flags(stage, path, sample, tiny_model, f"--output={tmp_path / name}", *more))
        assert status == 0, said
        losses[name] = np.array([record["loss"] for record in training_metrics(tmp_path / name)])
    assert len(losses["int8"]) == 8 and losses["int8"][-1] < losses["int8"][0]
    assert np.abs(losses["int8"] / losses["stored"] - 1).max() < 0.01
    words = " ".join(said.split())
    assert "frozen kernels in int8: 0." in words and "it is made of the weights in" in words and "% off" in words
    assert_made_of_stored_weights(tmp_path / "int8", tiny_model, full=stage == "dpo")
    # What the run was told of the base stays so.
    status, said = train(flags(stage, path, sample, tiny_model, f"--output={tmp_path / 'int8'}", "--resume"))
    assert status == 2 and "frozen_dtype" in said and said.count("\n") == 1


def assert_made_of_stored_weights(run, model, full):
    before, after = ParamReader(model / "params"), ParamReader(run / "model" / "params")
    assert before.infos.keys() == after.infos.keys()
    family, sizes = model_config(model)
    if (run / "adapter").exists():
        adapter = import_adapter(run / "adapter", family.weight_rules(sizes), family.abstract_params(sizes))
        updates = {f"{path}/kernel": adapter.scale * (a @ b) for path, (a, b) in adapter.pairs.items()}
        assert len(updates) == 7 and not full
        for path in before.infos:
            expected = before.read(path).astype(np.float32) + updates.get(path, 0)
            np.testing.assert_allclose(after.read(path), expected, atol=1e-6, err_msg=path)
        assert max(np.abs(update).max() for update in updates.values()) > 1e-4
    else:
        assert full
        changed = {path for path in before.infos if not np.array_equal(before.read(path).astype(np.float32), after.read(path))}
        assert {path.split("/")[0] for path in changed} == {"projector", "language"}
        assert all(np.abs(after.read(path) - before.read(path)).max() < 0.05 for path in changed)
    info = json.loads((run / "model" / "model.json").read_text())
    assert info["dtype"] == "float32" and info["parents"]


def test_kernels_that_are_trained_cannot_be_narrow(pairs, sample):
    with pytest.raises(
        ValueError, match=r"frozen_dtype=int8 holds frozen kernels in 8 bits, and parts.language=full trains them; use lora"
    ):
        make_config(pairs, sample, parts={"language": "full"}, frozen_dtype="int8")
