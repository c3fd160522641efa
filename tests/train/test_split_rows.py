"""Training on rows that are split over devices: losses, gradients and steps of whole rows."""

import pytest
from test_equivalence import FULL, LORA, TOLERANCE, take_steps
from training import largest_gap, make_config, one_device_inputs, short_pairs

from mede2_jax.train.inputs import open_inputs


@pytest.fixture(scope="module")
def pairs(sample, tmp_path_factory):
    return short_pairs(sample, tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "parts", "rows", "mesh"),
    [
        ("qwen2_5_vl", FULL, 1, {"fsdp": 1, "sequence": 8}),
        ("qwen2_5_vl", LORA, 2, {"fsdp": 2, "sequence": 2, "tensor": 2}),
        ("internvl3", LORA, 1, {"fsdp": 1, "sequence": 8}),
    ],
)
def test_split_rows_equal_whole_ones(family, parts, rows, mesh, pairs, sample, tiny_model, tiny_internvl):
    """Images included, and the vocabulary trained."""
    model = {"qwen2_5_vl": tiny_model, "internvl3": tiny_internvl}[family]
    config = make_config(pairs, sample, rows_per_step=rows, parts=parts)
    one = take_steps(one_device_inputs(config, model), model, count=2)
    split = open_inputs(config.model_copy(update={"mesh": type(config.mesh)(**mesh)}), model)
    assert split.mesh.size == 8 and split.shape.tokens % mesh["sequence"] == 0
    many = take_steps(split, model, count=2)
    assert one[0] == pytest.approx(many[0], abs=TOLERANCE)
    assert largest_gap(one[1], many[1]) <= TOLERANCE
