"""What the compiler makes of the step: no array of scored tokens by vocabulary, and depth that costs no compile time."""

import json
import re
import time

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict
from jax.experimental.compilation_cache import compilation_cache

from mede2_jax.data.rows import BatchShape, empty_row
from mede2_jax.families import family_of
from mede2_jax.models.lora import LoRAConfig, split_params
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.train.losses import DPOConfig, DPOLoss
from mede2_jax.train.model_spec import make_model_spec
from mede2_jax.train.optimizer import OptimizerConfig, make_optimizer
from mede2_jax.train.state import TrainState
from mede2_jax.train.step import Steps

SHAPE = BatchShape(tokens=704, patches=256, scored=328, responses=6, patch_dim=1176)
"""Sizes that no dimension of the model has."""


def lowered_step(raw, language, rows=2, chunk=64, remat="full"):
    """The DPO step of a model that is never allocated, on one device."""
    family = family_of(raw)
    parts = {"vision": "frozen", "projector": "frozen", "language": language}
    policy = make_model_spec(
        family,
        family.config_from_hf(raw),
        parts=parts,
        lora=LoRAConfig(),
        compute_dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
        remat=remat,
    )
    optimizer = make_optimizer(OptimizerConfig(), 1e-4, 100)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    steps = Steps(policy, DPOLoss(DPOConfig()), optimizer, mesh, chunk)
    trainable, frozen = split_params(unflatten_dict(dict(policy.abstract), sep="/"), parts)
    scalar, key = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.uint32)
    state = TrainState(frozen, trainable, jax.eval_shape(optimizer.init, trainable), scalar, key)
    row = empty_row(SHAPE, 0)
    batch = {name: jax.ShapeDtypeStruct((1, rows, *value.shape), value.dtype) for name, value in row.items()}
    return steps.train.lower(state, batch)


@pytest.fixture(scope="module")
def raw(tiny_model):
    return json.loads((tiny_model / "config.json").read_text())


def shapes(compiled):
    """The dimensions of every array in a compiled program."""
    return {tuple(int(n) for n in dims.split(",")) for dims in re.findall(r"\[(\d+(?:,\d+)*)\]", compiled.as_text())}


@pytest.mark.slow
@pytest.mark.parametrize("language", ["lora", "full"])
def test_no_array_holds_all_scored_tokens_and_the_whole_vocabulary(raw, language):
    vocabulary, rows, chunk = raw["vocab_size"], 2, 64
    found = shapes(lowered_step(raw, language, rows=rows, chunk=chunk).compile())
    with_vocabulary = [dims for dims in found if vocabulary in dims]
    assert any(chunk in dims for dims in with_vocabulary), "the chunk's logits must be seen, or this test sees nothing"
    padded = -(-SHAPE.scored // chunk) * chunk
    forbidden = {SHAPE.scored, padded, rows * SHAPE.scored, rows * padded, SHAPE.tokens, rows * SHAPE.tokens}
    assert not [dims for dims in with_vocabulary if forbidden & set(dims)]
    largest = max(int(jnp.prod(jnp.array(dims))) for dims in with_vocabulary)
    assert largest <= max(rows * chunk * vocabulary, vocabulary * raw["hidden_size"])


@pytest.mark.slow
def test_no_array_is_tokens_by_tokens(raw):
    found = shapes(lowered_step(raw, "lora").compile())
    squares = [dims for dims in found if sum(size >= SHAPE.tokens for size in dims if size % SHAPE.tokens == 0) > 1]
    assert not squares


@pytest.fixture
def nothing_kept():
    """Without the session's compilation cache."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_kept")
def test_eighty_layers_compile_like_four(raw):
    """The program has the same size, and compiling takes at most 1.5 times as long (processor seconds, best of two)."""
    sizes, seconds = {}, {}
    for layers in (4, 80):
        config = {**raw, "num_hidden_layers": layers}
        for _ in range(2):
            jax.clear_caches()
            start = time.process_time()
            compiled = lowered_step(config, "lora").compile()
            seconds[layers] = min(seconds.get(layers, 1e9), time.process_time() - start)
        sizes[layers] = compiled.as_text().count(" = ")
    print(f"compile seconds: {seconds}, instructions: {sizes}")
    assert sizes[80] <= 1.05 * sizes[4]
    assert seconds[80] <= 1.5 * seconds[4]
