"""InternVL3's tables against transformers' own module and files, in both formats: every tensor once, bit-exact both ways."""

import json

import numpy as np
import pytest
import torch
from internvl3_reference import KINDS, config_with, numpy_state, original_config, original_tensors, torch_model
from random_checkpoint import write_companions
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from mede2_jax.config import UserError
from mede2_jax.convert import ConvertConfig, run
from mede2_jax.families import family_of
from mede2_jax.tree import flatten
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.table import Resolved, Rule, Table, Transpose, expected, resolve

SIZES = {
    # hidden, feed-forward, layers, heads, key/value heads
    "1b": (896, 4864, 24, 14, 2),
    "2b": (1536, 8960, 28, 12, 2),
    "8b": (3584, 18944, 28, 28, 4),
    "14b": (5120, 13824, 48, 40, 8),
    "38b": (5120, 27648, 64, 40, 8),
    "78b": (8192, 29568, 80, 64, 8),
}
LARGE = ("38b", "78b")
"""Those with InternViT-6B."""
PARAMETERS = {
    "1b": 938_193_024,
    "2b": 2_088_957_440,
    "8b": 7_944_373_760,
    "14b": 15_117_256_704,
    "38b": 38_388_164_992,
    "78b": 78_408_318_336,
}


def released(size):
    """The -hf config.json of a released size, in the numbers a weight table depends on."""
    hidden, feed, layers, heads, kv_heads = SIZES[size]
    text = dict(hidden_size=hidden, intermediate_size=feed, num_hidden_layers=layers, num_attention_heads=heads)
    text |= dict(num_key_value_heads=kv_heads, vocab_size=151674, max_position_embeddings=32768)
    small = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
    large = dict(hidden_size=3200, intermediate_size=12800, num_hidden_layers=45, num_attention_heads=25)
    vision = {"image_size": [448, 448], **(large if size in LARGE else small)}
    return config_with("6b" if size in LARGE else "300m", text=text, vision=vision, image_token_id=151667)


def table_of(config):
    family = family_of(config)
    model = family.config_from_hf(config)
    return family.weight_rules(model), family.abstract_params(model, np.float32)


def shapes_of(config, layout="hub"):
    table, abstract = table_of(config)
    return {entry.hf: entry.hf_shape for entry in expected(table, abstract, table.layout(layout))}


def resolved(config, shapes) -> Resolved:
    return resolve(*table_of(config), shapes)


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_released_sizes_have_the_tensors_of_transformers_module(size):
    config = released(size)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(InternVLConfig(**config))
    theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes_of(config, "new") == theirs
    assert count(theirs) == PARAMETERS[size]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["hub", "new", "original"])
def test_released_sizes_map_exactly_once(size, form):
    config = original_config(released(size)) if form == "original" else released(size)
    layout = "hub" if form == "original" else form
    shapes = shapes_of(config, layout)
    found = resolved(config, shapes)
    assert found.layout.name == layout and not found.ignored
    assert {entry.hf for entry in found.entries} == set(shapes)
    assert len({(entry.path, entry.layer) for entry in found.entries}) == len(found.entries)
    leaves = flatten(table_of(config)[1])
    assert count(shapes) == count({path: leaf.shape for path, leaf in leaves.items()}) == PARAMETERS[size]
    per_block, blocks = (15, 45) if size in LARGE else (18, 24)
    fused = {"original": 2 if size in LARGE else 4}.get(form, 0) * blocks
    assert len(shapes) == 12 * SIZES[size][2] + 3 + per_block * blocks - fused + 4 + 6


def test_the_originals_names_and_shapes():
    shapes = shapes_of(original_config(released("38b")))
    block = "vision_model.encoder.layers.44."
    assert {name.removeprefix(block): shape for name, shape in shapes.items() if name.startswith(block)} == {
        "attn.qkv.weight": (9600, 3200),
        "attn.q_norm.weight": (3200,),
        "attn.k_norm.weight": (3200,),
        "attn.proj.weight": (3200, 3200),
        "attn.proj.bias": (3200,),
        "mlp.fc1.weight": (12800, 3200),
        "mlp.fc1.bias": (12800,),
        "mlp.fc2.weight": (3200, 12800),
        "mlp.fc2.bias": (3200,),
        "norm1.weight": (3200,),
        "norm2.weight": (3200,),
        "ls1": (3200,),
        "ls2": (3200,),
    }
    assert shapes["vision_model.embeddings.position_embedding"] == (1, 1025, 3200)
    assert shapes["vision_model.embeddings.class_embedding"] == (1, 1, 3200)
    assert shapes["vision_model.embeddings.patch_embedding.weight"] == (3200, 3, 14, 14)
    assert {name: shapes[name] for name in ("mlp1.0.weight", "mlp1.1.weight", "mlp1.3.bias")} == {
        "mlp1.0.weight": (12800,),
        "mlp1.1.weight": (5120, 12800),
        "mlp1.3.bias": (5120,),
    }
    assert shapes["language_model.lm_head.weight"] == shapes["language_model.model.embed_tokens.weight"] == (151674, 5120)
    small = shapes_of(original_config(released("8b")))
    assert small["vision_model.encoder.layers.0.attn.qkv.bias"] == (3072,)
    assert small["vision_model.encoder.layers.23.norm2.bias"] == (1024,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_tensors_are_those_of_the_conversion_script(kind):
    raw = config_with(kind)
    theirs = original_tensors(numpy_state(torch_model(raw)))
    assert shapes_of(original_config(raw)) == {name: tensor.shape for name, tensor in theirs.items()}


def saved(directory, kind, dtype=torch.bfloat16, **changes):
    torch_model(config_with(kind, **changes)).to(dtype).save_pretrained(directory, max_shard_size="60KB")
    write_companions(directory)
    return directory


def saved_original(directory, kind, dtype=torch.bfloat16):
    """The same weights and model in the original format."""
    directory.mkdir()
    write_companions(directory)
    raw = config_with(kind)
    found = original_tensors(numpy_state(torch_model(raw)))
    save_file({name: torch.tensor(tensor).to(dtype) for name, tensor in found.items()}, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(original_config(raw) | {"torch_dtype": str(dtype).removeprefix("torch.")}))
    return directory


def tensors(directory):
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def convert(source, to, **options):
    return run(ConvertConfig.model_validate({"from": source, "to": to, **options}), Console(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hf_there_and_back_is_bit_exact(tmp_path, kind, tied):
    source = saved(tmp_path / "hf", kind, tie_word_embeddings=tied)
    assert "vision_tower.encoder.layer.0.attention.q_proj.weight" in tensors(source), "transformers writes the hub's names"
    outcome = convert(source, tmp_path / "model")
    assert outcome.tensors == len(tensors(source)) and outcome.nbytes == sum(t.nbytes for t in tensors(source).values())
    for layout in ("hub", "new"):
        convert(tmp_path / "model", tmp_path / layout, layout=layout, max_shard_gb=1e-4)
        assert len(list((tmp_path / layout).glob("*.safetensors"))) > 1
        loaded, info = InternVLForConditionalGeneration.from_pretrained(tmp_path / layout, dtype="auto", output_loading_info=True)
        assert not any(info.get(problem) for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same(dict(loaded.state_dict()), dict(torch_model(config_with(kind, tie_word_embeddings=tied)).bfloat16().state_dict()))
    assert_same(tensors(tmp_path / "hub"), tensors(source))
    assert (tmp_path / "hub" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert convert(tmp_path / "new", tmp_path / "again").digest == outcome.digest


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_original_there_and_back_is_bit_exact(tmp_path, kind):
    source = saved_original(tmp_path / "original", kind)
    outcome = convert(source, tmp_path / "model")
    assert outcome.tensors == len(tensors(source)) and outcome.nbytes == sum(t.nbytes for t in tensors(source).values())
    back = convert(tmp_path / "model", tmp_path / "back", max_shard_gb=1e-4)
    assert (back.tensors, back.parameters, back.nbytes) == (outcome.tensors, outcome.parameters, outcome.nbytes)
    assert_same(tensors(tmp_path / "back"), tensors(source))
    assert (tmp_path / "back" / "config.json").read_bytes() == (source / "config.json").read_bytes()
    # The same parameters as from the -hf form, to the bit.
    assert outcome.digest == convert(saved(tmp_path / "hf", kind), tmp_path / "from-hf").digest
    assert read_info(tmp_path / "model").family == "internvl3"
    with pytest.raises(UserError, match="unknown layout 'new'; this family has hub"):
        convert(tmp_path / "model", tmp_path / "new", layout="new")


def test_a_fused_tensor_is_cast_like_others(tmp_path):
    source = saved_original(tmp_path / "original", "300m")
    convert(source, tmp_path / "model", dtype="float32")
    convert(tmp_path / "model", tmp_path / "wide")
    assert_same(tensors(tmp_path / "wide"), {name: tensor.float() for name, tensor in tensors(source).items()})
    convert(tmp_path / "model", tmp_path / "narrow", dtype="bfloat16")
    assert_same(tensors(tmp_path / "narrow"), tensors(source))


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        ("hf", {"multi_modal_projector.linear_1.bias": None}, ["1 missing: multi_modal_projector.linear_1.bias"]),
        ("hf", {"vision_tower.encoder.layer.0.attention.q_norm.weight": (48,)}, ["1 unexpected", "q_norm"]),
        ("hf", {"vision_tower.layernorm.weight": (48,)}, ["1 unexpected: vision_tower.layernorm.weight"]),
        ("hf", {"vision_tower.embeddings.position_embeddings": (1, 26, 48)}, ["is [1, 26, 48]", "needs [1, 17, 48]"]),
        ("original", {"vision_model.encoder.layers.1.attn.qkv.weight": None}, ["1 missing: vision_model.encoder.layers.1.attn.qkv.weight"]),
        ("original", {"vision_model.encoder.layers.1.attn.qkv.weight": (96, 48)}, ["1 of the wrong shape", "[96, 48]", "[144, 48]"]),
        ("original", {"vision_model.encoder.layers.3.ls1": (48,)}, ["1 unexpected: vision_model.encoder.layers.3.ls1"]),
    ],
)
def test_what_does_not_fit_is_named(form, change, words):
    config = config_with() if form == "hf" else original_config(config_with())
    shapes = {name: shape for name, shape in (shapes_of(config) | change).items() if shape is not None}
    with pytest.raises(UserError) as error:
        resolved(config, shapes)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_the_other_format_is_refused():
    with pytest.raises(UserError, match=r"missing: vision_model.*unexpected: .*vision_tower"):
        resolved(original_config(config_with()), shapes_of(config_with()))


def test_a_tensor_claimed_twice_or_used_in_part_is_refused():
    leaf = np.zeros((2, 3))
    tree = {"a": {"kernel": leaf}, "b": {"kernel": leaf}}
    layouts = table_of(config_with())[0].layouts

    def table(*parts):
        rules = (Rule("qk.weight", f"{name}/kernel", Transpose(), part=part) for name, part in zip("ab", parts, strict=True))
        return Table(tuple(rules), layouts)

    for parts in [((0, 1), (0, 1)), ((0, 3), (1, 3)), ((0, 2), (0, 2))]:
        with pytest.raises(UserError, match=r"does not use qk\.weight exactly once"):
            expected(table(*parts), tree, layouts[0])
    entries = expected(table((1, 2), (0, 2)), tree, layouts[0])
    assert [(entry.path, entry.hf_shape, entry.rows) for entry in entries] == [("a/kernel", (6, 2), (3, 6)), ("b/kernel", (6, 2), (0, 3))]
