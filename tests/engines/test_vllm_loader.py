"""What vLLM's loader reads and refuses, without vLLM; tests/parity has it inside vLLM."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from mede2_jax import convert, tiny
from mede2_jax.config import UserError
from mede2_jax.engines.vllm.loader import stored_tensors, unreached
from mede2_jax.families import model_config
from mede2_jax.tree import unflatten
from mede2_jax.weights.hf import CheckpointReader, CheckpointWriter
from mede2_jax.weights.model_info import PARAMS
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.table import expected
from mede2_jax.weights.transfer import whole_tensors

WITHOUT_JAX = """
import sys
for name in ("jax", "flax", "orbax", "grain", "torch", "vllm", "transformers"):
    sys.modules[name] = None  # importing it fails
from pathlib import Path
from mede2_jax.engines.vllm.loader import stored_tensors
print(sum(array.size for _, array in stored_tensors(Path(sys.argv[1]), lambda array: array)))
"""


@pytest.fixture(scope="module", params=[("qwen2_5_vl", None), ("internvl3", "hf"), ("internvl3", "original")], ids=str)
def model(request, tmp_path_factory):
    return tiny.model_directory(tmp_path_factory.mktemp("model") / "model", *request.param)


def as_it_is(array):
    return array


def run_convert(source, to, **options):
    convert.run(convert.ConvertConfig.model_validate({"from": source, "to": to, **options}), Console(quiet=True))
    return to


def assert_tensors_of(found, checkpoint):
    with CheckpointReader(checkpoint) as reader:
        assert set(found) == set(reader.tensors)
        for name, array in found.items():
            stored = reader.read(name)
            assert array.dtype == stored.dtype
            np.testing.assert_array_equal(array, stored, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tensors_are_those_of_the_exported_checkpoint(model, dtype, tmp_path):
    exported = run_convert(model, tmp_path / "exported", dtype=dtype)
    stored = run_convert(exported, tmp_path / "stored")
    assert_tensors_of(dict(stored_tensors(stored, as_it_is)), exported)


def test_a_tied_head_is_left_to_vllm(tmp_path):
    """The embedding comes once, and vLLM ties it as config.json says."""
    checkpoint, tied = tmp_path / "checkpoint", tmp_path / "tied"
    tiny.main([f"--to={checkpoint}"])
    shutil.copytree(checkpoint, tied, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": True}
    (tied / "config.json").write_text(json.dumps(config))
    with CheckpointReader(checkpoint) as reader:
        kept = [(name, info.dtype, info.shape) for name, info in reader.tensors.items() if name != "lm_head.weight"]
        with CheckpointWriter(tied, kept) as writer:
            for name, _, _ in kept:
                writer.write(name, reader.read(name))
    found = dict(stored_tensors(run_convert(tied, tmp_path / "model"), as_it_is))
    assert "lm_head.weight" not in found
    assert_tensors_of(found, tied)


@pytest.mark.parametrize("ahead", [0, 10**5, 10**9])
def test_reading_ahead_is_bounded_and_changes_nothing(model, ahead, monkeypatch):
    family, config = model_config(model)
    reader, table = ParamReader(model / PARAMS), family.weight_rules(config)
    entries = expected(table, unflatten(reader.infos), table.layouts[0])
    plain = dict(whole_tensors(reader, entries, as_it_is, workers=1, ahead_bytes=0))
    begun, taken, most = 0, 0, 0
    read = reader.read

    def counting(path, **where):
        nonlocal begun, most
        array = read(path, **where)
        begun += array.nbytes
        most = max(most, begun - taken)
        return array

    monkeypatch.setattr(reader, "read", counting)
    for name, array in whole_tensors(reader, entries, as_it_is, workers=4, ahead_bytes=ahead):
        np.testing.assert_array_equal(array, plain.pop(name))
        taken += array.nbytes
    assert not plain
    # What was taken is counted only when the next is asked for.
    largest = max(info.nbytes // (info.shape[0] if len(info.shape) == 3 else 1) for info in reader.infos.values())
    assert most <= max(ahead, largest) + 2 * largest


@pytest.mark.slow
def test_no_jax_and_no_torch(model):
    ran = subprocess.run([sys.executable, "-c", WITHOUT_JAX, str(model)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == sum(int(np.prod(info.shape)) for info in ParamReader(model / PARAMS).infos.values())


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "copy")


def test_a_newer_format_is_refused(copy):
    info = json.loads((copy / "model.json").read_text()) | {"format_version": 2}
    (copy / "model.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"model.json: format_version: .*got 2"):
        list(stored_tensors(copy, as_it_is))


def test_a_checkpoint_is_no_model_directory(tmp_path):
    tiny.main([f"--to={tmp_path / 'hf'}"])
    with pytest.raises(UserError, match="not a model directory"):
        list(stored_tensors(tmp_path / "hf", as_it_is))


def test_damaged_parameters_are_refused(copy):
    for file in (copy / PARAMS).rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cannot read .*damaged") as caught:
        list(stored_tensors(copy, as_it_is))
    assert "\n" not in str(caught.value)


def test_parameters_of_another_model_are_refused(copy, tiny_internvl):
    shutil.rmtree(copy / PARAMS)
    shutil.copytree(tiny_internvl / PARAMS, copy / PARAMS)
    with pytest.raises(UserError, match="the weight table and the model disagree"):
        list(stored_tensors(copy, as_it_is))


def test_which_modules_of_an_adapter_have_no_effect():
    modules, packed = {"a.qkv_proj", "a.o_proj"}, {"a.qkv_proj": ["a.q_proj", "a.k_proj", "a.v_proj"], "b.qkv_proj": ["b.q_proj"]}
    assert unreached({"a.q_proj", "a.v_proj", "a.o_proj"}, modules, packed) == []
    # Fused modules take their parts, under their own names only; what no module is made of is reached by nothing.
    assert unreached({"a.qkv_proj", "a.q_proj", "b.q_proj", "x.o_proj"}, modules, packed) == ["a.qkv_proj", "b.q_proj", "x.o_proj"]
    assert unreached(set(), modules, packed) == []
