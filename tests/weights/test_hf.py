"""Streaming safetensors: equal to the safetensors library both ways, and strict about everything else."""

import json
import os
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from mede2_jax.config import UserError
from mede2_jax.weights.hf import INDEX, CheckpointReader, CheckpointWriter, contiguous, row_blocks, rows_per_block

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "a": torch.randn(7, 5, dtype=torch.bfloat16),
        "b": torch.randn(3),
        "c": torch.randn(2, 3, 4, dtype=torch.float16),
        "d": torch.tensor(2.0),
    }


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def torch_bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write(directory, arrays, **options):
    directory.mkdir(exist_ok=True)
    with CheckpointWriter(directory, [(name, array.dtype, array.shape) for name, array in arrays.items()], **options) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def numpy_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"w{i}": random.standard_normal((5, 2 + i)).astype(dtype) for i, dtype in enumerate([BFLOAT16, np.float32, np.float16, BFLOAT16])
    }


def sharded(directory):
    write(directory, numpy_tensors(), max_shard_bytes=60)
    assert len(list(directory.glob("*.safetensors"))) == 4
    return directory


def test_reads_what_the_library_writes(tmp_path):
    tensors = random_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    with CheckpointReader(tmp_path) as reader:
        assert set(reader.tensors) == set(tensors)
        for name, tensor in tensors.items():
            assert reader.tensors[name].shape == tuple(tensor.shape)
            assert bits(reader.read(name)) == torch_bits(tensor)
        assert bits(reader.read("a", (2, 5))) == torch_bits(tensors["a"][2:5])


def test_the_library_reads_what_is_written(tmp_path):
    arrays = numpy_tensors()
    write(tmp_path, arrays)
    found = load_file(tmp_path / "model.safetensors")
    assert {name: torch_bits(tensor) for name, tensor in found.items()} == {name: bits(array) for name, array in arrays.items()}
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards_and_index(tmp_path):
    arrays = numpy_tensors()
    directory = sharded(tmp_path / "x")
    index = json.loads((directory / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in arrays.values())
    assert index["weight_map"]["w3"] == "model-00004-of-00004.safetensors"
    with CheckpointReader(directory) as reader:
        assert {name: bits(reader.read(name)) for name in reader.tensors} == {name: bits(array) for name, array in arrays.items()}


def test_blocks_and_transposes_are_written_as_the_whole(tmp_path):
    array = np.random.default_rng(0).standard_normal((600, 700)).astype(np.float32)
    with CheckpointWriter(tmp_path, [("t", array.dtype, (700, 600)), ("r", array.dtype, (600, 700))]) as writer:
        writer.write("t", array.T)
        for start, rows in row_blocks(array, limit=100 * 2800):
            assert len(rows) == 100
            writer.write("r", rows, start=start)
    with CheckpointReader(tmp_path) as reader:
        np.testing.assert_array_equal(reader.read("t"), array.T)
        np.testing.assert_array_equal(reader.read("r"), array)
    np.testing.assert_array_equal(contiguous(array.T), array.T)


def test_rows_are_spread_evenly():
    assert rows_per_block((10, 4), np.dtype(np.float32), 64) == 4 and rows_per_block((8, 4), np.dtype(np.float32), 6 * 16) == 4
    assert rows_per_block((3, 1000), np.dtype(np.float32), 64) == 1


def test_an_incomplete_write_is_caught(tmp_path):
    with pytest.raises(AssertionError, match="not written completely"), CheckpointWriter(tmp_path, [("a", BFLOAT16, (2,))]):
        pass


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_usual_mode(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path, numpy_tensors())
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_missing_shard_is_named(tmp_path):
    (sharded(tmp_path / "x") / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of 4 shards missing.*model-00002-of-00004\.safetensors"):
        CheckpointReader(tmp_path / "x")


@pytest.mark.parametrize("size", [4, 30, -1])
def test_a_truncated_shard_is_named(tmp_path, size):
    file = sharded(tmp_path / "x") / "model-00003-of-00004.safetensors"
    os.truncate(file, size if size > 0 else file.stat().st_size + size)
    with pytest.raises(UserError, match=r"model-00003-of-00004\.safetensors.*cut short"):
        CheckpointReader(tmp_path / "x")


def test_a_file_cut_after_opening_is_an_error(tmp_path):
    write(tmp_path, numpy_tensors())
    with CheckpointReader(tmp_path) as reader:
        os.truncate(tmp_path / "model.safetensors", reader.tensors["w1"].begin + 3)
        with pytest.raises(UserError, match="ends early"):
            reader.read("w1")


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "model.bin", 3])
def test_an_index_cannot_reach_outside(tmp_path, name):
    save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="is not the name of a"):
        CheckpointReader(directory)


def test_an_index_that_disagrees_is_refused(tmp_path):
    index = sharded(tmp_path / "x") / INDEX
    content = json.loads(index.read_text())
    content["weight_map"]["w9"] = content["weight_map"]["w1"]
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match="about 1 tensor, first 'w9': the index has it there, the file has not"):
        CheckpointReader(tmp_path / "x")
    del content["weight_map"]["w9"], content["weight_map"]["w2"]
    content["weight_map"]["w0"] = "model-00003-of-00004.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"disagrees with .* about 2 tensors"):
        CheckpointReader(tmp_path / "x")


def test_links_as_in_the_hubs_cache_are_followed(tmp_path):
    write(tmp_path, numpy_tensors())
    cache = tmp_path / "snapshot"
    cache.mkdir()
    (cache / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    with CheckpointReader(cache) as reader:
        assert len(reader.tensors) == 4


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}, "is I8; only BF16, F16, F32"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, r"of shape \[2\] spans 4 bytes"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "malformed"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "begins at byte"),
        ({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, "begins at byte"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "too long"),
        ({"a": {"shape": [1], "data_offsets": [0, 4]}}, "malformed"),
        ([1], "malformed"),
    ],
)
def test_malformed_headers_are_refused(tmp_path, header, words):
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UserError, match=words):
        CheckpointReader(tmp_path)


def test_no_weights_names_what_is_there(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("../blobs/gone")  # as a download that was broken off leaves it
    with pytest.raises(UserError, match=r"no model\.safetensors or model\.safetensors\.index\.json in '[^(]*$"):
        CheckpointReader(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"found pytorch_model\.bin; save it again as safetensors"):
        CheckpointReader(tmp_path)
    shutil.rmtree(tmp_path)
