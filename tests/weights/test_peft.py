"""Adapters both ways against peft on the transformers model: names, values and the updates they make."""

import json
import os

import numpy as np
import peft
import pytest
import torch
from random_checkpoint import tiny_config, write_companions
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from mede2_jax.config import UserError
from mede2_jax.convert import ConvertConfig, run
from mede2_jax.families import family_of
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import CONFIG, TENSORS, Adapter, export_adapter, import_adapter
from mede2_jax.weights.table import expected

FAMILY = family_of(tiny_config())
MODEL = FAMILY.config_from_hf(tiny_config())
TABLE, ABSTRACT = FAMILY.weight_rules(MODEL), FAMILY.abstract_params(MODEL, np.float32)
RANK = 3
LANGUAGE = ["language/layers/attention/q_proj", "language/layers/attention/o_proj", "language/layers/mlp/down_proj"]
EVERYWHERE = [*LANGUAGE, "vision/blocks/attention/qkv", "vision/blocks/mlp/gate_proj", "projector/up"]


def torch_model() -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**(tiny_config() | {"torch_dtype": "float32"})))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def leaf(path):
    node = ABSTRACT
    for part in path.split("/"):
        node = node[part]
    return node


def random_adapter(paths, **options) -> Adapter:
    random, pairs = np.random.default_rng(0), {}
    for path in paths:
        *stack, d_in, d_out = leaf(f"{path}/kernel").shape
        shapes = (*stack, d_in, RANK), (*stack, RANK, d_out)
        pairs[path] = tuple(random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Adapter(pairs, **({"rank": RANK, "alpha": 8.0} | options))


def torch_adapter(directory, **options):
    """An adapter that peft made, with a B that is not zero."""
    model = peft.get_peft_model(torch_model(), peft.LoraConfig(r=RANK, **({"lora_alpha": 8} | options)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(directory)
    return model


def kernels_of(model):
    """Copies of a torch model's weights in our orientation, by (path, layer)."""
    state = model.state_dict()
    return {
        (entry.path, entry.layer): entry.op.to_flax(state[entry.hf].float().numpy().copy())
        for entry in expected(TABLE, ABSTRACT, TABLE.layout("new"))
    }


def assert_merged(adapter, plain, merged):
    """`merged` differs from `plain` by the adapter's update, and nowhere else."""
    for (path, layer), kernel in plain.items():
        ours = adapter.merged(kernel, path, layer, np.dtype(np.float32))
        np.testing.assert_allclose(ours, merged[path, layer], atol=2e-5, rtol=0, err_msg=f"{path} {layer}")
        assert np.array_equal(ours, kernel) is (path.removesuffix("/kernel") not in adapter.pairs or not path.endswith("/kernel")), path


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("paths", [LANGUAGE, EVERYWHERE])
def test_peft_loads_what_is_exported(tmp_path, paths, rslora):
    adapter = random_adapter(paths, rslora=rslora, alpha=5.5, dropout=0.1, base="some/model")
    export_adapter(tmp_path / "adapter", adapter, TABLE, ABSTRACT)
    base = torch_model()
    plain = kernels_of(base)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    config = model.peft_config["default"]
    found = (config.r, config.lora_alpha, config.use_rslora, config.lora_dropout, config.base_model_name_or_path)
    assert found == (RANK, 5.5, rslora, 0.1, "some/model")
    layers = sum(leaf(f"{path}/kernel").shape[0] if len(leaf(f"{path}/kernel").shape) == 3 else 1 for path in paths)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == layers
    assert_merged(adapter, plain, kernels_of(model.merge_and_unload()))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", ["qkv", "attn.proj", "up_proj", "mlp.0"]])
def test_what_peft_made_is_imported(tmp_path, targets):
    if targets == "all-linear":
        targets = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|qkv|proj|merger\.mlp\.[02])"
        targets = targets.replace("|proj|", r"|attn\.proj|")
    plain = kernels_of(torch_model())
    model = torch_adapter(tmp_path / "adapter", target_modules=targets, use_rslora=True)
    adapter = import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)
    assert (adapter.rank, adapter.alpha, adapter.rslora) == (RANK, 8.0, True)
    assert adapter.scale == pytest.approx(8 / 3**0.5)
    assert_merged(adapter, plain, kernels_of(model.merge_and_unload()))


def test_a_model_directory_is_not_named_as_the_base(tmp_path):
    """Neither transformers nor PEFT could load it; null is what PEFT itself writes for a model without a name."""
    (tmp_path / "m0").mkdir()
    (tmp_path / "m0" / "model.json").write_text("{}")
    for base in (str(tmp_path / "m0"), ""):
        export_adapter(tmp_path / "adapter", random_adapter(LANGUAGE, base=base), TABLE, ABSTRACT, overwrite=True)
        assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] is None
        model = peft.PeftModel.from_pretrained(torch_model(), tmp_path / "adapter")
        assert model.peft_config["default"].base_model_name_or_path is None
    assert import_adapter(tmp_path / "adapter", TABLE, ABSTRACT).base == ""


def test_files_have_the_usual_mode(tmp_path):
    before = os.umask(0o027)
    try:
        export_adapter(tmp_path / "adapter", random_adapter(LANGUAGE), TABLE, ABSTRACT)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").iterdir()} == {CONFIG: 0o640, TENSORS: 0o640}


def test_there_and_back(tmp_path):
    adapter = random_adapter(EVERYWHERE, rslora=True, dropout=0.25, base="b")
    export_adapter(tmp_path / "adapter", adapter, TABLE, ABSTRACT)
    found = import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)
    assert (found.rank, found.alpha, found.rslora, found.dropout, found.base) == (RANK, 8.0, True, 0.25, "b")
    assert set(found.pairs) == set(adapter.pairs)
    for path, pair in adapter.pairs.items():
        for ours, theirs in zip(pair, found.pairs[path], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_an_adapter_of_what_is_no_number_is_refused(tmp_path, number, matrix):
    export_adapter(tmp_path / "adapter", random_adapter(LANGUAGE), TABLE, ABSTRACT)
    file = tmp_path / "adapter" / TENSORS
    stored = load_file(file)
    name = next(name for name in stored if matrix in name)
    stored[name][-1, -1] = number
    save_file(stored, file)
    with pytest.raises(UserError, match=f"{matrix}.weight' holds infinity or what is no number; the adapter is damaged"):
        import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)


@pytest.mark.parametrize("layout", ["hub", "new"])
def test_both_name_layouts_are_read(tmp_path, layout):
    adapter = random_adapter(EVERYWHERE)
    export_adapter(tmp_path / "adapter", adapter, TABLE, ABSTRACT)
    file = tmp_path / "adapter" / TENSORS
    stored = load_file(file)
    assert "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_A.weight" in stored
    assert "base_model.model.model.visual.merger.mlp.0.lora_B.weight" in stored
    if layout == "hub":
        names = {
            name: name.replace("model.model.language_model.", "model.model.").replace("model.model.visual.", "model.visual.")
            for name in stored
        }
        save_file({names[name]: tensor for name, tensor in stored.items()}, file)
    found = import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)
    np.testing.assert_array_equal(found.pairs["projector/up"][0], adapter.pairs["projector/up"][0])
    assert set(found.pairs) == set(EVERYWHERE)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("init_lora_weights", "pissa"),
        ("peft_type", "LOHA"),
        ("r", 0),
    ],
)
def test_unsupported_features_are_named(tmp_path, option, value):
    export_adapter(tmp_path / "adapter", random_adapter(LANGUAGE), TABLE, ABSTRACT)
    file = tmp_path / "adapter" / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | {option: value}))
    with pytest.raises(UserError, match=option if option != "r" else "r=0"):
        import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)


@pytest.mark.parametrize("change", ["half a pair", "a layer", "unknown", "embedding", "rank", "nothing", "no file"])
def test_tensors_that_do_not_fit_are_named(tmp_path, change):
    export_adapter(tmp_path / "adapter", random_adapter(LANGUAGE), TABLE, ABSTRACT)
    file = tmp_path / "adapter" / TENSORS
    stored = load_file(file)
    q_proj = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_{}.weight"
    extra = {"unknown": "base_model.model.model.language_model.layers.7.self_attn.q_proj.lora_A.weight"}
    extra["embedding"] = "base_model.model.model.language_model.embed_tokens.lora_embedding_A"
    if change == "half a pair":
        del stored[q_proj.format("B")]
    elif change == "a layer":
        del stored[q_proj.format("A")], stored[q_proj.format("B")]
    elif change in extra:
        stored[extra[change]] = torch.zeros(3, 4)
    elif change == "rank":
        stored[q_proj.format("A")] = torch.zeros(RANK + 1, 48)
    elif change == "nothing":
        stored = {}
    save_file(stored, file)
    if change == "no file":
        file.unlink()
    words = {
        "half a pair": q_proj.format("B"),
        "a layer": "in 1 of 2 layers",
        "rank": r"\[4, 48\]",
        "nothing": "no tensors",
        "no file": TENSORS,
    }
    with pytest.raises(UserError, match=words.get(change) or extra[change]):
        import_adapter(tmp_path / "adapter", TABLE, ABSTRACT)


def test_only_linear_layers_can_be_exported(tmp_path):
    for path in ("vision/patch_embed", "language/embed", "language/layers/attention/none"):
        adapter = Adapter({path: (np.zeros((4, RANK)), np.zeros((RANK, 4)))}, RANK, 8.0)
        with pytest.raises(UserError, match="is not a linear layer"):
            export_adapter(tmp_path / "adapter", adapter, TABLE, ABSTRACT)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_converter_merges_in_either_direction(tmp_path, dtype):
    """Merged on import and merged on export give what peft's own merge gives, rounded once."""
    torch_model().save_pretrained(tmp_path / "hf")
    write_companions(tmp_path / "hf")
    model = torch_adapter(tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    merged = kernels_of(model.merge_and_unload())

    def convert(source, to, **options):
        return run(ConvertConfig.model_validate({"from": tmp_path / source, "to": tmp_path / to, **options}), console())

    def digest(name):
        return read_info(tmp_path / name).digest

    assert convert("hf", "merged", adapter=tmp_path / "adapter", dtype=dtype).digest == digest("merged")
    reader = ParamReader(tmp_path / "merged" / "params")
    tolerance = 2e-5 if dtype == "float32" else 2**-8
    for (path, layer), kernel in merged.items():
        found = reader.read(path, layer=layer).astype(np.float32)
        np.testing.assert_allclose(found, kernel, atol=2e-5, rtol=tolerance if dtype == "bfloat16" else 0, err_msg=path)
    parents = json.loads((tmp_path / "merged" / "model.json").read_text())["parents"]
    assert len(parents) == 1 and parents[0].startswith("sha256:")
    convert("merged", "one")
    convert("hf", "plain")
    assert convert("plain", "two", adapter=tmp_path / "adapter", dtype=dtype).digest is None, "it is not what was read"
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert set(one) == set(two) and all(torch.equal(one[name], two[name]) for name in one)


def console():
    from rich.console import Console

    return Console(quiet=True)
