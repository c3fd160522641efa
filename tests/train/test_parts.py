"""Frozen parts stay as they are and cost no optimizer state; every part can train, also without an image in the data."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from rich.console import Console
from training import make_config, one_device_inputs, short_pairs

from mede2_jax.config import UserError
from mede2_jax.data.loader import make_loader
from mede2_jax.families import model_config
from mede2_jax.models.lora import LoRAConfig, base_path
from mede2_jax.train.inputs import show_inputs
from mede2_jax.train.model_spec import init_params, make_model_spec
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import all_params, init_state
from mede2_jax.train.step import Steps


@pytest.fixture(params=["qwen2_5_vl", "internvl3"])
def model(request, tiny_model, tiny_internvl):
    """Of either family."""
    return {"qwen2_5_vl": tiny_model, "internvl3": tiny_internvl}[request.param]


def trained(setup, model, count=2, learning_rate=1e-2):
    """(parameters before, state after a few steps, losses)."""
    optimizer = make_optimizer(setup.config.optimizer, learning_rate, 10)
    steps = Steps(setup.spec, setup.loss, optimizer, setup.mesh, chunk=64)
    state = init_state(setup.spec, init_params(setup.spec, model, setup.mesh, 0), optimizer, setup.mesh, seed=0)
    before = jax.device_get(all_params(state))
    losses = []
    with make_loader(setup.train, setup.shape, rows_per_step=setup.config.rows_per_step, epochs=count) as loader:
        for _, batch in zip(range(count), loader, strict=False):
            state, metrics = steps.train(state, steps.place(batch, micro=True))
            losses.append(float(metrics["loss"]))
    return before, state, losses


def changed_paths(before, state):
    after = flatten_dict(jax.device_get(all_params(state)), sep="/")
    return {path for path, leaf in flatten_dict(before, sep="/").items() if not np.array_equal(leaf, after[path])}


def moment_sizes(state):
    """Elements in the optimizer's state, without its counters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.optimizer_state) if leaf.ndim)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [
        {"vision": "frozen", "projector": "frozen", "language": "full"},
        {"vision": "full", "projector": "frozen", "language": "frozen"},
        {"vision": "frozen", "projector": "full", "language": "lora"},
        {"vision": "lora", "projector": "lora", "language": "frozen"},
    ],
    ids=lambda parts: "-".join(parts.values()),
)
def test_frozen_parts_keep_their_bits_and_have_no_optimizer_state(parts, sample, model, tmp_path):
    pairs = short_pairs(sample, tmp_path / "pairs.jsonl", count=3)
    setup = one_device_inputs(make_config(pairs, sample, parts=parts), model)
    before, state, losses = trained(setup, model)
    assert np.isfinite(losses).all()
    changed = changed_paths(before, state)
    assert {path.split("/")[0] for path in changed} == {part for part, mode in parts.items() if mode != "frozen"}
    for path in changed:
        mode = parts[path.split("/")[0]]
        assert mode == "full" or path.endswith(("lora_a", "lora_b")), f"{path} is a base weight under LoRA"
    trainable = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    assert moment_sizes(state) == 2 * trainable, "two moments for each trained number, nothing for frozen ones"


@pytest.mark.slow
@pytest.mark.parametrize("vision", ["lora", "full"])
def test_a_text_only_batch_trains_with_vision_unfrozen(vision, sample, model):
    parts = {"vision": vision, "projector": vision, "language": "lora"}
    setup = one_device_inputs(make_config(sample / "demonstrations.jsonl", sample, stage="sft", parts=parts, rows_per_step=2), model)
    assert setup.shape.patches == 0
    before, state, losses = trained(setup, model)
    assert np.isfinite(losses).all() and losses[1] != losses[0]
    assert {path.split("/")[0] for path in changed_paths(before, state)} == {"language"}, "no image, no gradient, no change"


def test_trained_parameters_are_float32_and_frozen_ones_as_asked(sample, tiny_model):
    family, sizes = model_config(tiny_model)
    parts = {"vision": "frozen", "projector": "full", "language": "lora"}
    dtype = jnp.bfloat16
    policy = make_model_spec(family, sizes, parts=parts, lora=LoRAConfig(), compute_dtype=dtype, param_dtype=dtype, remat="none")
    dtypes = {path: leaf.dtype.name for path, leaf in policy.abstract.items()}
    assert {dtypes[path] for path in dtypes if path.startswith("projector") or "lora_" in path} == {"float32"}
    assert {dtypes[path] for path in dtypes if path.startswith("vision") or "/base/" in path} == {"bfloat16"}
    assert base_path("a/base/kernel") == "a/kernel"


@pytest.mark.slow
def test_learning_rates_by_part(sample, tiny_model, tmp_path):
    """Ten times the rate moves a part ten times as far in Adam's first step."""
    pairs = short_pairs(sample, tmp_path / "pairs.jsonl", count=3)
    full = {"vision": "frozen", "projector": "full", "language": "full"}
    moved = {}
    for rate in (1e-2, 1e-3):
        config = make_config(pairs, sample, parts=full, optimizer={"projector_learning_rate": rate, "warmup_ratio": 0.0})
        before, state, _ = trained(one_device_inputs(config, tiny_model), tiny_model, count=1, learning_rate=1e-2)
        after = jax.device_get(all_params(state))
        moved[rate] = {
            part: np.median(np.abs(flatten_dict(after[part], sep="/")[name] - flatten_dict(before[part], sep="/")[name]))
            for part, name in (("projector", "up/kernel"), ("language", "layers/mlp/up_proj/kernel"))
        }
    assert moved[1e-2]["projector"] == pytest.approx(10 * moved[1e-3]["projector"], rel=0.02)
    assert moved[1e-2]["language"] == pytest.approx(moved[1e-3]["language"], rel=1e-3)


def test_a_lora_part_that_no_target_names_is_refused(sample, tiny_model, tmp_path):
    """It would stay frozen without a word: Qwen's vision tower has no q_proj."""
    pairs = short_pairs(sample, tmp_path / "pairs.jsonl", count=3)
    parts = {"vision": "lora", "projector": "frozen", "language": "lora"}
    with pytest.raises(UserError, match=r"\['q_proj', 'v_proj'\] name no linear layer of parts.vision=lora; add some of \[.*'qkv'"):
        one_device_inputs(make_config(pairs, sample, parts=parts, lora={"targets": ["q_proj", "v_proj"]}), tiny_model)
    one_device_inputs(make_config(pairs, sample, parts=parts, lora={"targets": ["q_proj", "qkv"]}), tiny_model)


def test_rows_that_cannot_fill_a_step_are_said(sample, tiny_model, tmp_path):
    pairs = short_pairs(sample, tmp_path / "pairs.jsonl", count=3)
    setup = one_device_inputs(make_config(pairs, sample, rows_per_step=8), tiny_model)
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    show_inputs(setup, console)
    text = console.export_text()
    assert re.search(r"\d rows? cannot fill a step of 8", text) and "(the fullest; data.row_tokens=2048)" in text
