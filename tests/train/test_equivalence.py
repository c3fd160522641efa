"""The same loss and gradients however examples are laid into rows and rows onto devices."""

import jax
import numpy as np
import pytest
from training import laid_out, largest_gap, make_config, moved_params, one_device_inputs, reference_table, short_pairs

from mede2_jax.data.loader import make_loader
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.optimizer import make_optimizer
from mede2_jax.train.state import init_state
from mede2_jax.train.step import Steps

FULL = {"vision": "full", "projector": "full", "language": "full"}
LORA = {"vision": "lora", "projector": "lora", "language": "lora"}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    return short_pairs(sample, tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
def test_shared_prompt_rows_equal_separate_rows(pairs, sample, tiny_model, parts):
    (shared, _, shared_gradients), setup = laid_out(pairs, sample, tiny_model, parts=parts)
    (apart, _, apart_gradients), other = laid_out(pairs, sample, tiny_model, parts=parts, data={"shared_prompt": False})
    assert setup.train.statistics().token_fill != other.train.statistics().token_fill, "the layouts must differ"
    assert abs(shared - apart) <= TOLERANCE
    assert largest_gap(shared_gradients, apart_gradients) <= TOLERANCE
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(shared_gradients)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_packed_pairs_equal_unpacked(pairs, sample, tiny_model, loss):
    options = {"parts": FULL, "dpo": {"loss": loss, "sft_weight": 0.3}}
    (packed, _, packed_gradients), setup = laid_out(pairs, sample, tiny_model, **options)
    (apart, _, apart_gradients), other = laid_out(pairs, sample, tiny_model, **options, data={"packing": False})
    assert len(setup.train.rows) < len(other.train.rows)
    # Relative: the loss of ipo is over 100 here, where neighbours in float32 are 7.6e-6 apart.
    assert abs(packed - apart) <= TOLERANCE * max(1.0, abs(apart))
    assert largest_gap(packed_gradients, apart_gradients) <= TOLERANCE


@pytest.mark.slow
def test_packed_demonstrations_equal_unpacked(sample, tiny_model):
    path = sample / "demonstrations.jsonl"
    (packed, _, packed_gradients), setup = laid_out(path, sample, tiny_model, stage="sft", parts=FULL)
    (apart, _, apart_gradients), other = laid_out(path, sample, tiny_model, stage="sft", parts=FULL, data={"packing": False})
    assert len(setup.train.rows) < len(other.train.rows)
    assert abs(packed - apart) <= TOLERANCE
    assert largest_gap(packed_gradients, apart_gradients) <= TOLERANCE


@pytest.mark.slow
def test_accumulation_equals_one_large_batch(pairs, sample, tiny_model):
    """Four micro-batches of one row, or one of four rows: the same step."""
    results = []
    for rows, accumulation in ((4, 1), (1, 4)):
        config = make_config(pairs, sample, rows_per_step=rows, accumulation=accumulation, parts=LORA, data={"packing": False})
        results.append(take_steps(one_device_inputs(config, tiny_model), tiny_model, count=2))
    assert results[0][0] == pytest.approx(results[1][0], abs=TOLERANCE)
    assert largest_gap(results[0][1], results[1][1]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("parts", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("mesh", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 1, "tensor": 8}], ids=["2x2x2", "tensor8"])
def test_eight_devices_equal_one(pairs, sample, tiny_model, parts, mesh):
    """tensor 8 splits the 4 heads further than they go: what does not divide is replicated, and the numbers stay."""
    config = make_config(pairs, sample, rows_per_step=4, parts=parts, data={"packing": False})
    one = take_steps(one_device_inputs(config, tiny_model), tiny_model, count=3)
    sharded = open_inputs(config.model_copy(update={"mesh": type(config.mesh)(**mesh)}), tiny_model)
    assert sharded.mesh.size == 8
    eight = take_steps(sharded, tiny_model, count=3)
    assert one[0] == pytest.approx(eight[0], abs=TOLERANCE)
    assert largest_gap(one[1], eight[1]) <= TOLERANCE


def take_steps(setup, model, count):
    """Losses and gradient norms of some steps, and the trained parameters after them.

    A large epsilon keeps Adam's update smooth where a gradient is zero but for rounding.
    """
    config = setup.config
    optimizer = make_optimizer(config.optimizer.model_copy(update={"eps": 1e-3, "warmup_ratio": 0.0}), 1e-3, 10)
    steps = Steps(setup.spec, setup.loss, optimizer, setup.mesh, chunk=64)
    state = init_state(setup.spec, moved_params(setup, model), optimizer, setup.mesh, seed=0)
    loader = make_loader(
        setup.train,
        setup.shape,
        rows_per_step=config.rows_per_step,
        accumulation=config.accumulation,
        epochs=count,
        seed=0,
        reference=reference_table(len(setup.train)),
    )
    numbers = []
    with loader:
        for _, batch in zip(range(count), loader, strict=False):
            state, metrics = steps.train(state, steps.place(batch, micro=True))
            numbers += [float(metrics["loss"]), float(metrics["grad_norm"])]
    return numbers, jax.device_get(state.trainable)
