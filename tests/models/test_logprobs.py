"""A vocabulary that devices cannot share evenly, as InternVL3's of 151,674 words: the numbers of one device, and each has its part."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mede2_jax.models.logprobs import token_scores
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.parallel.rules import named_sharding, use_mesh

ROWS, TOKENS, WIDTH, WORDS = 4, 24, 16, 1487 + 6


class Model:
    def __init__(self, hidden, table):
        self.hidden, self.table = hidden, table

    def hidden_states(self, batch):
        return self.hidden

    def vocabulary(self):
        return self.table


def inputs(words=WORDS):
    rng = np.random.default_rng(words)
    hidden, table = (rng.normal(size=shape).astype(np.float32) for shape in ((ROWS, TOKENS, WIDTH), (words, WIDTH)))
    index = np.broadcast_to(np.arange(TOKENS), (ROWS, TOKENS)).astype(np.int32)
    targets = rng.integers(0, words, (ROWS, TOKENS)).astype(np.int32)
    targets[:, :3] = words - 1  # the last row before the padding
    response = np.where(np.arange(TOKENS) < TOKENS - 2, 0, -1) * np.ones((ROWS, 1), int)
    return hidden, table, {"scored_index": index, "scored_target": targets, "scored_response": response.astype(np.int32)}


def objective(mesh, train):
    def loss(hidden, table, batch):
        with use_mesh(mesh):
            scores = token_scores(Model(hidden, table), batch, train_vocabulary=train, chunk=8)
        return jnp.sum(scores.logprob * jnp.arange(TOKENS) / TOKENS), scores

    return jax.value_and_grad(loss, argnums=(0, 1) if train else 0, has_aux=True)


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("sizes", [(1, 1, 8), (1, 2, 4), (2, 2, 2), (1, 8, 1)], ids=lambda sizes: "x".join(map(str, sizes)))
def test_scores_and_gradients_are_those_of_one_device(sizes, train):
    mesh, (hidden, table, batch) = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])), inputs()
    layouts = named_sharding(("rows", None, None), hidden.shape, mesh), named_sharding(("vocab", "embed"), table.shape, mesh)
    placed = jax.device_put(hidden, layouts[0]), jax.device_put(table, layouts[1])
    (value, scores), gradients = jax.jit(objective(mesh, train))(*placed, batch)
    logits = np.einsum("btd,vd->btv", np.float64(hidden), np.float64(table))
    expected = np.take_along_axis(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), batch["scored_target"][..., None], -1)[..., 0]
    real = batch["scored_response"] >= 0
    np.testing.assert_allclose(scores.logprob, np.where(real, expected, 0), atol=2e-5)
    np.testing.assert_array_equal(scores.best, real & (logits.argmax(-1) == batch["scored_target"]))
    (one, _), of_one = jax.jit(objective(None, train))(hidden, table, batch)
    assert float(value) == pytest.approx(float(one), rel=1e-5)
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(of_one), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("train", [False, True], ids=["frozen", "trained"])
def test_no_device_makes_all_logits(train):
    mesh, (hidden, table, batch) = make_mesh(MeshConfig(tensor=8)), inputs()
    program = jax.jit(objective(mesh, train)).lower(hidden, table, batch).compile().as_text()
    widths = {int(found) for found in re.findall(r"f32\[\d+,\d+,(\d+)\]", program)}
    assert -(-WORDS // 8) in widths and not [width for width in widths if width >= WORDS]
