"""What the compiler makes of decoding: caches that are not copied, and depth and length that cost no compile time."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mede2_jax.families import family_of
from mede2_jax.models.decoding import CacheShape, Decoding, Progress, decode, empty_cache
from mede2_jax.models.sampling import TokenChoice

SLOTS, SAMPLES, STEPS = 3, 5, 7


@pytest.fixture(scope="module")
def raw(tiny_model):
    return json.loads((tiny_model / "config.json").read_text())


def compiled_decode(raw, shape):
    """Decoding of a model that is never allocated, and its cache's shapes."""
    family = family_of(raw)
    graph, params = nnx.split(nnx.eval_shape(lambda: family.build(family.config_from_hf(raw), rngs=nnx.Rngs(0))))
    how = Decoding(choice=TokenChoice(0.7, 0.9), steps=STEPS, max_tokens=shape.response, stop=(0,))
    cache = jax.eval_shape(lambda params: empty_cache(nnx.merge(graph, params), shape), params)
    numbers, wide = jax.ShapeDtypeStruct((SLOTS,), jnp.int32), (SLOTS, SAMPLES)
    progress = Progress(
        prompt_length=numbers,
        response_position=numbers,
        response_length=numbers,
        active=jax.ShapeDtypeStruct(wide, jnp.bool_),
        keys=jax.ShapeDtypeStruct((*wide, 2), jnp.uint32),
    )
    banned = jax.ShapeDtypeStruct((raw["vocab_size"],), jnp.bool_)

    def run(params, cache, progress, banned):
        return decode(nnx.merge(graph, params), cache, progress, banned, how)

    return jax.jit(run, donate_argnums=1).lower(params, cache, progress, banned).compile(), cache


@pytest.mark.slow
def test_a_cache_is_neither_copied_nor_rewritten(raw):
    shape = CacheShape(slots=SLOTS, samples=SAMPLES, prompt=8192, response=4096)
    compiled, cache = compiled_decode(raw, shape)
    sizes = {leaf.shape: leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)}
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)), "donated in full"
    assert memory.temp_size_in_bytes < min(sizes[cache.prompt_keys.shape], sizes[cache.response_keys.shape]) / 4
    whole = {",".join(map(str, leaf.shape)) for leaf in (cache.prompt_keys, cache.response_keys)}
    made = re.findall(r"= f32\[([\d,]+)\]\S* (\w[\w-]*)\(", compiled.as_text())
    makers = {operation for dims, operation in made if dims in whole}
    assert makers <= {"parameter", "get-tuple-element", "dynamic-update-slice", "fusion", "bitcast"}, makers
    assert "parameter" in makers, "the caches must be seen, or this test sees nothing"


@pytest.mark.slow
def test_deep_models_and_long_responses_have_the_program_of_short_ones(raw):
    short, _ = compiled_decode(raw, CacheShape(slots=SLOTS, samples=SAMPLES, prompt=512, response=512))
    deep = {**raw, "num_hidden_layers": 80}
    long, _ = compiled_decode(deep, CacheShape(slots=SLOTS, samples=SAMPLES, prompt=4096, response=4096))
    count, more = (program.as_text().count(" = ") for program in (short, long))
    assert more <= 1.05 * count


@pytest.mark.slow
def test_an_idle_call_does_nothing(raw):
    """With no active sample the loop does not begin; what is in the cache stays."""
    family = family_of(raw)
    model = family.build(family.config_from_hf(raw), rngs=nnx.Rngs(0))
    cache = jax.tree.map(jnp.ones_like, empty_cache(model, CacheShape(slots=2, samples=2, prompt=8, response=16)))
    zeros = jnp.zeros(2, jnp.int32)
    idle = Progress(
        prompt_length=zeros + 8,
        response_position=zeros + 8,
        response_length=zeros + 8,
        active=jnp.zeros((2, 2), bool),
        keys=jnp.zeros((2, 2, 2), jnp.uint32),
    )
    how = Decoding(choice=TokenChoice(1.0, 1.0), steps=8, max_tokens=16, stop=(0,))
    after, tokens, logprobs = decode(model, cache, idle, jnp.zeros(raw["vocab_size"], bool), how)
    assert not np.asarray(tokens).any() and not np.asarray(logprobs).any()
    np.testing.assert_array_equal(after.prompt_keys, cache.prompt_keys)
    np.testing.assert_array_equal(after.response_keys[..., :8, :], cache.response_keys[..., :8, :])
    np.testing.assert_array_equal(after.hidden, cache.hidden)
