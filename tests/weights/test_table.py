"""The weight table, on names and shapes alone: every tensor and every layer of every parameter exactly once."""

import json
from pathlib import Path

import numpy as np
import pytest
from random_checkpoint import entries_of, released_config, tiny_config

from mede2_jax.config import UserError
from mede2_jax.families import family_of
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights.table import FlattenPatches, Identity, Resolved, Rule, Table, Transpose, expected, resolve

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "models"
PARAMETERS = {"3b": 3_754_622_976, "7b": 8_292_166_656}
TENSORS = {"3b": 12 * 36 + 2 + 390, "7b": 729, "32b": 12 * 64 + 3 + 390, "72b": 12 * 80 + 3 + 390}
"""Twelve tensors a decoder layer, embedding and norm (and head), and 390 of vision: twelve a block, six others."""


def resolved(config: dict, shapes: dict[str, tuple[int, ...]]) -> Resolved:
    family = family_of(config)
    model = family.config_from_hf(config)
    return resolve(family.weight_rules(model), family.abstract_params(model, np.float32), shapes)


def shapes_of(config: dict, layout: str = "hub") -> dict[str, tuple[int, ...]]:
    return {entry.hf: entry.hf_shape for entry in entries_of(config, layout)}


@pytest.mark.parametrize("layout", ["hub", "new"])
@pytest.mark.parametrize("size", ["3b", "7b", "32b", "72b"])
def test_released_sizes_map_exactly_once(size, layout):
    config = released_config(size)
    shapes = shapes_of(config, layout)
    found = resolved(config, shapes)
    assert found.layout.name == layout and not found.ignored
    assert len(shapes) == len(found.entries) == TENSORS[size]
    family = family_of(config)
    leaves = flatten(family.abstract_params(family.config_from_hf(config), np.float32))
    places = {(entry.path, entry.layer) for entry in found.entries}
    assert len(places) == len(found.entries)
    in_flax = sum(int(np.prod(leaf.shape)) for leaf in leaves.values())
    in_hf = sum(int(np.prod(shape)) for shape in shapes.values())
    assert in_flax == in_hf == PARAMETERS.get(size, in_hf)


@pytest.mark.parametrize("file", ["qwen2.5-vl-3b.config.json", "qwen2.5-vl-7b/config.json"])
def test_real_configs_equal_the_numbers_above(file):
    path = SHARED / file
    if not path.exists():
        pytest.skip(f"{path} is not there")
    assert shapes_of(json.loads(path.read_text())) == shapes_of(released_config("3b" if "3b" in file else "7b"))


def test_7b_names_equal_the_released_index():
    path = SHARED / "qwen2.5-vl-7b" / "model.safetensors.index.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    index = json.loads(path.read_text())
    shapes = shapes_of(released_config("7b"))
    assert set(shapes) == set(index["weight_map"]) and len(shapes) == 729
    assert sum(int(np.prod(shape)) for shape in shapes.values()) * 2 == index["metadata"]["total_size"] == 2 * 8_292_166_656


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.weight": None}, ["1 missing: model.norm.weight"]),
        ({"model.norm.weight": None, "model.norm.weigth": (48,)}, ["1 missing", "nearest", "model.norm.weigth", "1 unexpected"]),
        ({"model.layers.2.input_layernorm.weight": (48,)}, ["1 unexpected: model.layers.2.input_layernorm.weight"]),
        ({"model.layers.1.mlp.up_proj.weight": (48, 80)}, ["1 of the wrong shape", "[48, 80], transposed", "[80, 48]"]),
        ({"visual.patch_embed.proj.weight": (32, 3, 2, 14, 15)}, ["[32, 3, 2, 14, 15]", "[32, 3, 2, 14, 14]"]),
        ({"lm_head.weight": (101, 48)}, ["lm_head.weight is [101, 48]", "[100, 48]"]),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    config = tiny_config()
    shapes = {name: shape for name, shape in (shapes_of(config) | change).items() if shape is not None}
    with pytest.raises(UserError) as error:
        resolved(config, shapes)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_only_listed_tensors_are_ignored():
    config = tiny_config(tied=True)
    extra = {"model.lm_head.weight": (100, 48), "model.language_model.layers.1.self_attn.rotary_emb.inv_freq": (4,)}
    shapes = shapes_of(config, "new")
    found = resolved(config, shapes | {"lm_head.weight": (100, 48), "model.language_model.layers.1.self_attn.rotary_emb.inv_freq": (4,)})
    assert dict(found.ignored) == {
        "lm_head.weight": "model.language_model.embed_tokens.weight",
        "model.language_model.layers.1.self_attn.rotary_emb.inv_freq": None,
    }
    with pytest.raises(UserError, match=r"1 unexpected: model\.lm_head\.weight"):
        resolved(config, shapes | extra)


def test_tied_config_refuses_a_missing_embedding_and_untied_a_missing_head():
    config = tiny_config()
    with pytest.raises(UserError, match=r"1 missing: lm_head\.weight"):
        resolved(config, shapes_of(tiny_config(tied=True)))


def test_a_parameter_without_a_rule_or_with_two_is_refused():
    leaf = np.zeros((2, 3))
    rule = Rule("a.weight", "a/kernel", Transpose())
    for rules, tree in [((rule,), {"a": {"kernel": leaf, "bias": leaf}}), ((rule, rule), {"a": {"kernel": leaf}}), ((rule,), {"b": leaf})]:
        table = Table(rules, family_of(tiny_config()).weight_rules(family_of(tiny_config()).config_from_hf(tiny_config())).layouts)
        with pytest.raises(UserError, match="disagree about"):
            expected(table, tree, table.layouts[0])


@pytest.mark.parametrize(("op", "shape"), [(Identity(), (5,)), (Transpose(), (4, 6)), (FlattenPatches((3, 2, 7, 5)), (11, 3, 2, 7, 5))])
def test_operations_invert(op, shape):
    tensor = np.arange(np.prod(shape)).reshape(shape)
    flax = op.to_flax(tensor)
    assert op.hf_shape(flax.shape) == shape
    np.testing.assert_array_equal(op.to_hf(flax), tensor)


def test_flattened_patches_compute_the_convolution():
    random = np.random.default_rng(0)
    kernel, patch = random.standard_normal((4, 3, 2, 5, 5)), random.standard_normal((3, 2, 5, 5))
    expected_output = np.einsum("octhw,cthw->o", kernel, patch)
    np.testing.assert_allclose(patch.reshape(-1) @ FlattenPatches((3, 2, 5, 5)).to_flax(kernel), expected_output, atol=1e-12)


def test_flatten_and_unflatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree
