"""Who reads which part of a stored model: each device about its share, whatever the mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from random_checkpoint import released_config
from test_internvl3_weights import released

from mede2_jax.families import family_of
from mede2_jax.models.lora import LoRAConfig
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.parallel.rules import named_sharding
from mede2_jax.train.model_spec import make_model_spec
from mede2_jax.weights.layout import elements_read, reading_layout, relaid
from mede2_jax.weights.model_directory import load_some_params
from mede2_jax.weights.params import ParamInfo, ParamReader, ParamWriter, chunk_shape

MESHES = {"fsdp": (1, 8, 1), "data": (8, 1, 1), "tensor": (1, 1, 8), "all": (2, 2, 2), "data x fsdp": (4, 2, 1)}


@pytest.fixture(params=MESHES.values(), ids=MESHES)
def mesh(request):
    data, fsdp, tensor = request.param
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


@pytest.mark.parametrize("config", [released_config("7b"), released_config("72b"), released("78b")], ids=["7b", "72b", "internvl3-78b"])
def test_eight_devices_read_a_model_once_between_them(config, mesh):
    """Shapes alone: nothing is allocated."""
    family = family_of(config)
    parts = dict.fromkeys(("vision", "projector", "language"), "frozen")
    how = {"compute_dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "remat": "full"}
    spec = make_model_spec(family, family.config_from_hf(config), parts=parts, lora=LoRAConfig(), **how)
    read = whole = 0
    for path, leaf in spec.abstract.items():
        chunk = chunk_shape(ParamInfo(leaf.shape, np.dtype(leaf.dtype)), spec.axes[path][0] == "layers")
        wanted = leaf.update(sharding=named_sharding(spec.axes[path], leaf.shape, mesh))
        read += elements_read(leaf.shape, chunk, reading_layout(wanted, chunk))
        whole += np.prod(leaf.shape, dtype=np.int64)
    assert whole <= read <= 1.1 * whole, read / whole


@pytest.mark.parametrize("spec", [(), ("data",), (None, "fsdp"), (("data", "fsdp"), "tensor"), (None, ("tensor", "fsdp", "data"))])
@pytest.mark.parametrize("chunk", [(16, 24), (4, 24), (5, 7), (16, 3), (1, 1)])
def test_elements_read_are_those_of_the_chunks_that_a_part_lies_in(spec, chunk):
    mesh, array = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), np.arange(16 * 24).reshape(16, 24)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    expected = 0
    for shard in jax.device_put(array, sharding).addressable_shards:
        own = set(np.asarray(shard.data).ravel().tolist())
        for row, column in itertools.product(range(0, 16, chunk[0]), range(0, 24, chunk[1])):
            piece = array[row : row + chunk[0], column : column + chunk[1]]
            expected += piece.size if own & set(piece.ravel().tolist()) else 0
    assert elements_read(array.shape, chunk, sharding) == expected


def test_what_is_read_alike_is_read_as_it_is_wanted():
    mesh = make_mesh(MeshConfig(fsdp=8))
    rows, columns = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in (("fsdp",), (None, "fsdp")))
    leaf = jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=rows)
    assert reading_layout(leaf, (2, 24)) is rows and reading_layout(leaf, (16, 24)) is rows
    assert reading_layout(leaf.update(sharding=columns), (2, 24)) is not columns
    assert reading_layout(leaf.update(shape=(15, 25), sharding=NamedSharding(mesh, PartitionSpec())), (1, 25)).spec == PartitionSpec()
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    assert reading_layout(leaf.update(sharding=one), (2, 24)) is one


def test_values_are_those_that_were_stored(mesh, tmp_path, monkeypatch):
    """Rows of 8 to a chunk, so that columns and copies are read as rows and given round."""
    monkeypatch.setattr("mede2_jax.weights.params.CHUNK_BYTES", 8 * 48 * 4)
    values = {
        "a/kernel": np.random.default_rng(0).normal(size=(3, 64, 48)).astype(np.float32),
        "b/scale": np.arange(48.0, dtype=np.float32),
    }
    with ParamWriter(tmp_path / "params") as writer:
        for path, value in values.items():
            writer.create(path, value.shape, value.dtype, stacked=value.ndim == 3)
            for layer in range(3) if value.ndim == 3 else [None]:
                writer.write(path, value if layer is None else value[layer], layer=layer)
    assert ParamReader(tmp_path / "params").chunks == {"a/kernel": (1, 8, 48), "b/scale": (48,)}
    for axes in ((None, "embed", "heads"), (None, "mlp", "embed"), (None, None, None)):
        shardings = {"a/kernel": named_sharding(axes, (3, 64, 48), mesh), "b/scale": named_sharding((None,), (48,), mesh)}
        wanted = {path: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=shardings[path]) for path, value in values.items()}
        tree = {"a": {"kernel": wanted["a/kernel"]}, "b": {"scale": wanted["b/scale"]}}
        found = load_some_params(tmp_path, tree)
        for path, array in (("a/kernel", found["a"]["kernel"]), ("b/scale", found["b"]["scale"])):
            assert array.sharding == shardings[path]
            np.testing.assert_array_equal(array, values[path])


def test_an_array_that_is_there_already_stays():
    mesh = make_mesh(MeshConfig(fsdp=8))
    array = jax.device_put(np.arange(16.0), NamedSharding(mesh, PartitionSpec("fsdp")))
    assert relaid(array, NamedSharding(mesh, PartitionSpec("fsdp"))) is array
