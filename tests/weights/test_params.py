"""`params/`: what ParamWriter writes Orbax restores bit for bit, and the digest does not depend on who wrote it."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mede2_jax.config import UserError
from mede2_jax.tree import flatten, unflatten
from mede2_jax.weights import hf
from mede2_jax.weights.model_directory import save_params
from mede2_jax.weights.params import ParamInfo, ParamReader, ParamWriter, chunk_shape, digest_params

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"embed/embedding": (50, 8), "layers/norm/scale": (3, 8), "layers/q/kernel": (3, 8, 6), "norm/scale": (8,)}
    found = {path: random.standard_normal(shape).astype(BFLOAT16) for path, shape in shapes.items()}
    return found | {"layers/f/kernel": random.standard_normal((3, 5, 4)).astype(np.float32)}


def write(directory, values=None):
    with ParamWriter(directory) as writer:
        for path, array in (values or arrays()).items():
            stacked = path.startswith("layers/")
            writer.create(path, array.shape, array.dtype, stacked=stacked)
            if stacked:
                for layer, part in enumerate(array):
                    writer.write(path, np.asfortranarray(part), layer=layer)
            else:
                half = len(array) // 2
                writer.write(path, array[:half])
                writer.write(path, array[half:], start=half)
    return writer.digest


def restore(directory, values):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))

    def abstract(array):
        spec = jax.sharding.PartitionSpec(None, "x") if array.ndim == 3 and array.shape[1] % 2 == 0 else jax.sharding.PartitionSpec()
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=jax.sharding.NamedSharding(mesh, spec))

    with ocp.StandardCheckpointer() as checkpointer:
        return flatten(checkpointer.restore(directory, jax.tree.map(abstract, unflatten(values))))


def assert_same_bits(found, values):
    assert set(found) == set(values)
    for path, array in values.items():
        assert np.asarray(found[path]).dtype == array.dtype, path
        np.testing.assert_array_equal(np.asarray(found[path]).view(np.uint8), array.view(np.uint8), err_msg=path)


def test_orbax_restores_sharded_what_was_streamed(tmp_path):
    write(tmp_path / "params")
    assert_same_bits(restore(tmp_path / "params", arrays()), arrays())


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    """Blocks and chunks of 64 bytes: every array is then split, and layers too."""
    digest = write(tmp_path / "large")
    for function in (hf.row_blocks, hf.rows_per_block):
        monkeypatch.setattr(function, "__defaults__", (64,))
    monkeypatch.setattr("mede2_jax.weights.params.COMMIT_BYTES", 100)
    monkeypatch.setattr("mede2_jax.weights.params.CHUNK_BYTES", 64)
    assert chunk_shape(ParamInfo((3, 8, 6), BFLOAT16), stacked=True) == (1, 4, 6)
    values = arrays()
    with ParamWriter(tmp_path / "small") as writer:
        for path, array in values.items():
            writer.create(path, array.shape, array.dtype, stacked=path.startswith("layers/"))
            for layer in range(3) if path.startswith("layers/") else [None]:
                writer.write(path, array if layer is None else array[layer], layer=layer)
    assert writer.digest == digest == digest_params(tmp_path / "small")
    assert_same_bits(restore(tmp_path / "small", values), values)


def test_reader_reads_layers_and_rows(tmp_path):
    write(tmp_path / "params")
    reader, values = ParamReader(tmp_path / "params"), arrays()
    assert {path: (info.shape, info.dtype) for path, info in reader.infos.items()} == {p: (a.shape, a.dtype) for p, a in values.items()}
    kernel = values["layers/q/kernel"]
    for found, expected in [
        (reader.read("layers/q/kernel"), kernel),
        (reader.read("layers/q/kernel", layer=2), kernel[2]),
        (reader.read("layers/q/kernel", layer=1, rows=(2, 5)), kernel[1, 2:5]),
        (reader.read("embed/embedding", rows=(40, 50)), values["embed/embedding"][40:50]),
    ]:
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


def test_digest_is_of_the_content_alone(tmp_path):
    digest = write(tmp_path / "streamed")
    assert digest == digest_params(tmp_path / "streamed") and digest.startswith("sha256:") and len(digest) == 71
    save_params(tmp_path / "orbax", jax.tree.map(jnp.asarray, unflatten(arrays())))
    assert digest_params(tmp_path / "orbax") == digest
    assert_same_bits({path: ParamReader(tmp_path / "orbax").read(path) for path in arrays()}, arrays())


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_digest_changes_with_the_content(tmp_path, change):
    values = arrays()
    array = values.pop("norm/scale")
    name = "norm/scales" if change == "name" else "norm/scale"
    if change == "value":
        array = array.copy()
        array[7] = np.nextafter(array[7], array.dtype.type(9))
    elif change == "dtype":
        array = array.astype(np.float32)
    elif change == "shape":
        array = array.reshape(2, 4)
    assert write(tmp_path / "changed", values | {name: array}) != write(tmp_path / "plain")


def test_slices_must_come_in_order_and_completely(tmp_path):
    with pytest.raises(AssertionError, match="in order"), ParamWriter(tmp_path / "a") as writer:
        writer.create("layers/x", (2, 3), np.dtype(np.float32), stacked=True)
        writer.write("layers/x", np.zeros(3, np.float32), layer=1)
    with pytest.raises(AssertionError, match="not written completely"), ParamWriter(tmp_path / "b") as writer:
        writer.create("layers/x", (2, 3), np.dtype(np.float32), stacked=True)
        writer.write("layers/x", np.zeros(3, np.float32), layer=0)
    with pytest.raises(UserError, match="no complete parameters"):
        ParamReader(tmp_path / "b")


def test_orbax_saves_one_layer_to_a_chunk(tmp_path):
    """Otherwise reading layer by layer would decode the whole array for each."""
    save_params(tmp_path / "orbax", {"kernel": jnp.ones((6, 64, 32)), "bias": jnp.ones((6, 64)), "embedding": jnp.ones((1000, 8))})
    reader = ParamReader(tmp_path / "orbax")
    assert reader._arrays["kernel"].chunk_layout.read_chunk.shape == (1, 64, 32)
    assert reader._arrays["bias"].chunk_layout.read_chunk.shape == (6, 64)
    assert reader._arrays["embedding"].chunk_layout.read_chunk.shape == (1000, 8)
