import jax
import pytest
from jax.sharding import PartitionSpec

from mede2_jax.config import UserError
from mede2_jax.parallel.mesh import describe_whole_heads, make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.parallel.rules import partition_spec


def test_one_axis_takes_what_remains():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": 2, "fsdp": 2, "tensor": 1}, {"data": -1, "fsdp": -1}, {"data": 0}, {"tensor": 16}])
def test_a_mesh_that_does_not_match_names_the_numbers(sizes):
    with pytest.raises(UserError, match="mesh data="):
        make_mesh(MeshConfig(**sizes))


def test_axes_that_do_not_divide_are_left_out():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4), jax.devices())
    assert partition_spec(("layers", "embed", "heads"), (3, 64, 64), mesh) == PartitionSpec(None, "fsdp", "tensor")
    assert partition_spec(("layers", "embed", "heads"), (3, 63, 62), mesh) == PartitionSpec(None, None, None)
    assert partition_spec(("rows", None), (4, 7), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))) == PartitionSpec(("data", "fsdp"), None)


def test_axis_names_must_fit_the_shape():
    with pytest.raises(ValueError, match="2 axis names"):
        partition_spec(("embed", "heads"), (3,), make_mesh(MeshConfig()))


def test_heads_that_a_tensor_axis_does_not_divide_are_told_of():
    assert describe_whole_heads({"language": 28, "vision": 16}, {"tensor": 4}) is None
    line = describe_whole_heads({"language": 28, "vision": 16}, {"tensor": 8})
    assert line.startswith(
        "mesh.tensor=8 does not divide the 28 heads of language: each of its devices computes attention for all of them;"
    )
    assert "the 40 heads of language and the 25 heads of vision:" in describe_whole_heads({"language": 40, "vision": 25}, {"tensor": 16})
