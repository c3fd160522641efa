"""InternVL3 on eight devices: the same log-probabilities and gradients as on one, for heads that divide and heads that do not."""

import jax
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from internvl3_reference import config_with, make_batch, make_example, numpy_state, our_graph, our_params, torch_model

from mede2_jax.models.logprobs import token_logprobs
from mede2_jax.parallel import rules
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig


def run(raw, graph, axes, params, batch, mesh):
    """Log-probabilities, and the gradient of their mean by every parameter."""
    flat = flatten_dict(params, sep="/")
    placed = {path: jax.device_put(leaf, rules.named_sharding(axes[path], leaf.shape, mesh)) for path, leaf in flat.items()}
    rows = {
        name: jax.device_put(leaf, rules.named_sharding(("rows", *[None] * (leaf.ndim - 1)), leaf.shape, mesh))
        for name, leaf in batch.items()
    }

    def loss(params, batch):
        with rules.use_mesh(mesh):
            logprobs = token_logprobs(nnx.merge(graph, params), batch, train_vocabulary=True, chunk=16)
            return -logprobs.mean(), logprobs

    (_, logprobs), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(unflatten_dict(placed, sep="/"), rows)
    return jax.device_get((logprobs, gradients))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sizes"), [("300m", (2, 2, 2)), ("6b", (2, 2, 2)), ("6b", (1, 1, 8))])
def test_eight_devices_equal_one(kind, sizes):
    raw = config_with(kind)
    params = our_params(raw, numpy_state(torch_model(raw)))
    graph = our_graph(raw, remat="full")
    variables = nnx.split(nnx.eval_shape(lambda: nnx.merge(graph, params)))[1]
    axes = {"/".join(map(str, path)): variable.axes for path, variable in nnx.to_flat_state(variables)}
    rng = np.random.default_rng(0)
    rows = [[make_example(rng, parts)] for parts in ([4, (3,), 7], [5, (1,), 2, (4,), 6], [11], [(1,), 9])]
    batch = make_batch(raw, rows, tiles=6)
    one = run(raw, graph, axes, params, batch, make_mesh(MeshConfig(), jax.devices()[:1]))
    eight = run(raw, graph, axes, params, batch, make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])))
    gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, eight)
    assert max(jax.tree.leaves(gaps)) <= 1e-5, gaps
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(one))


def test_the_encoders_projections_are_split_over_the_tensor_axis():
    raw = config_with()
    graph = our_graph(raw)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    model = nnx.eval_shape(lambda: nnx.merge(graph, our_params(raw, numpy_state(torch_model(raw)))))
    spec = {
        name: rules.partition_spec(linear.kernel.axes, linear.kernel.shape, mesh)
        for name, linear in (
            ("q", model.vision.blocks.attention.q_proj),
            ("out", model.vision.blocks.attention.projection_layer),
            ("fc1", model.vision.blocks.mlp.fc1),
            ("linear_2", model.projector.linear_2),
        )
    }
    column, row = (None, "fsdp", "tensor"), (None, "tensor", "fsdp")
    assert {name: tuple(found) for name, found in spec.items()} == {
        "q": column,
        "out": row,
        "fc1": column,
        "linear_2": ("tensor", "fsdp"),
    }
