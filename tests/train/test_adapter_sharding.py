"""What a device holds of the adapters of the largest model: shapes alone, no parameter is made."""

import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from mede2_jax.families import family_of
from mede2_jax.models.layers import SwiGLU
from mede2_jax.models.lora import LoRAConfig, LoRALinear
from mede2_jax.parallel.mesh import AXES
from mede2_jax.parallel.rules import constrain, named_sharding, use_mesh
from mede2_jax.train.model_spec import make_model_spec

sys.path.append(str(Path(__file__).parents[1] / "weights"))  # random_checkpoint


def spec_72b(rank):
    from random_checkpoint import released_config

    config = released_config("72b")
    family = family_of(config)
    parts = {"vision": "frozen", "projector": "frozen", "language": "lora"}
    how = {"compute_dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16, "remat": "full"}
    return make_model_spec(family, family.config_from_hf(config), parts=parts, lora=LoRAConfig(rank=rank), **how)


def held(spec, mesh):
    """Bytes of adapters on a device; their gradients and moments are split alike."""
    size = 0
    for path, leaf in spec.abstract.items():
        if path.endswith(("/lora_a", "/lora_b")):
            size += 4 * math.prod(named_sharding(spec.axes[path], leaf.shape, mesh).shard_shape(leaf.shape))
    return size


@pytest.mark.parametrize("rank", [8, 64])
@pytest.mark.parametrize(("fsdp", "tensor"), [(64, 1), (32, 2), (8, 8)])
def test_adapters_are_split_over_all_that_a_kernel_is(rank, fsdp, tensor):
    mesh, spec = AbstractMesh((1, fsdp, tensor), AXES), spec_72b(rank)
    whole = held(spec, AbstractMesh((1, 1, 1), AXES))
    sides = 2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 29568)  # q and o; k and v; gate, up and down
    assert whole == 4 * 80 * rank * sides
    assert held(spec, mesh) <= whole / fsdp * 1.01
    assert spec.excess(mesh) < 1.1


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "tensor"), [(2, 1), (2, 2), (8, 1)])
def test_devices_gather_adapters_and_exchange_no_activations(fsdp, tensor):
    """An adapter is narrow; what it adds is as wide as the layer, here one of 7B, with a row of 4,096 tokens a device."""
    mesh = Mesh(np.array(jax.devices()[: fsdp * tensor]).reshape(1, fsdp, tensor), AXES)

    def build():
        block = SwiGLU(3584, 18944, bias=False, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(block, name, LoRALinear(getattr(block, name), LoRAConfig(rank=8), rngs=nnx.Rngs(1)))
        return block

    graph, state = nnx.split(nnx.eval_shape(build))
    places = jax.tree.map(
        lambda leaf: named_sharding(leaf.axes, leaf.shape, mesh), state, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    x = jax.ShapeDtypeStruct((fsdp, 4096, 3584), jnp.bfloat16, sharding=named_sharding(("rows", None, None), (fsdp, 4096, 3584), mesh))

    def loss(state, x):
        with use_mesh(mesh):
            y = constrain(x + nnx.merge(graph, state)(x), ("rows", None, None))
        return jnp.sum(y.astype(jnp.float32) ** 2)

    program = jax.jit(jax.grad(loss), in_shardings=(places, x.sharding), out_shardings=places).lower(state, x).compile()
    exchanged = [line.strip()[:200] for line in program.as_text().splitlines() if re.search(r" all-to-all(-start)?\(", line)]
    assert not exchanged, exchanged
