"""Tokens are drawn as the distribution says: chi-square tests at fixed seeds, and the nucleus against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from mede2_jax.models.sampling import TokenChoice, choose_tokens, draw, nucleus, seed_key, uniforms

DRAWS = 4000
CHANCE = 1e-3
"""A test of a right sampler fails this often; seeds are fixed, so it fails always or never."""


def keys_of(seeds):
    return jnp.array([seed_key(int(seed)) for seed in seeds], jnp.uint32)


def draw_many(logits, choice, seed=0, banned=()):
    """One token for each of DRAWS seeds, from the same logits."""
    keys, index = keys_of(range(seed, seed + DRAWS)), jnp.zeros(DRAWS, jnp.int32)
    forbidden = jnp.isin(jnp.arange(len(logits)), jnp.array(banned, jnp.int32))
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    tokens, logprobs = choose_tokens(rows, keys, index, forbidden, choice)
    return np.asarray(tokens), np.asarray(logprobs)


def p_value(tokens, probabilities):
    """Of the chi-square test; tokens expected fewer than 5 times are counted together."""
    counts, expected = np.bincount(tokens, minlength=len(probabilities)), probabilities * len(tokens)
    rare = expected < 5
    if rare.any():
        counts, expected = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    assert not counts[expected == 0].any(), "a token of probability 0 was drawn"
    counts, expected = counts[expected > 0], expected[expected > 0]
    return chisquare(counts, expected * counts.sum() / expected.sum()).pvalue


def softmax(logits, temperature=1.0):
    scaled = np.asarray(logits, np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def sorted_nucleus(probabilities, top_p):
    """The definition, by sorting: tokens, most probable first and the first of equals first, until they reach top_p."""
    order = np.argsort(-probabilities, kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), top_p * probabilities.sum(), side="left")) + 1
    kept = np.zeros(len(probabilities), bool)
    kept[order[:count]] = True
    return kept


@pytest.fixture(scope="module")
def logits():
    """Over five blocks of the vocabulary, the last of them not whole."""
    return np.random.default_rng(0).normal(0, 2, 600).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_tokens_follow_the_softmax(logits, temperature):
    tokens, _ = draw_many(logits, TokenChoice(temperature, 1.0))
    assert p_value(tokens, softmax(logits, temperature)) > CHANCE
    for wrong in (0.75 * temperature, 1.33 * temperature):
        assert p_value(tokens, softmax(logits, wrong)) < 1e-6, "the test must tell a wrong temperature"


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.9), (0.8, 0.7)])
def test_tokens_follow_the_softmax_of_the_nucleus(logits, temperature, top_p):
    probabilities = softmax(logits, temperature)
    kept = sorted_nucleus(probabilities, top_p)
    tokens, _ = draw_many(logits, TokenChoice(temperature, top_p))
    assert kept[tokens].all() and 5 < kept.sum() < 300
    assert p_value(tokens, np.where(kept, probabilities, 0) / probabilities[kept].sum()) > CHANCE


def test_a_token_index_has_numbers_of_its_own(logits):
    keys = keys_of(np.full(DRAWS, 7))
    tokens = draw(jnp.broadcast_to(jnp.exp(logits), (DRAWS, len(logits))), uniforms(keys, jnp.arange(DRAWS)))
    assert p_value(np.asarray(tokens), softmax(logits)) > CHANCE


def test_banned_tokens_leave_the_rest_as_it_was(logits):
    banned = np.argsort(-logits)[:3]
    probabilities = softmax(logits)
    probabilities[banned] = 0
    tokens, logprobs = draw_many(logits, TokenChoice(1.0, 1.0), banned=banned)
    assert p_value(tokens, probabilities / probabilities.sum()) > CHANCE
    np.testing.assert_allclose(logprobs, np.log(softmax(logits))[tokens], atol=1e-5, err_msg="of the raw model, bans aside")


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_sorting(top_p):
    rng = np.random.default_rng(1)
    # Whole 64ths sum without rounding, and are full of ties.
    tied = rng.integers(0, 64, (40, 300)).astype(np.float32) / 64
    smooth = np.exp(-rng.exponential(3, (40, 300))).astype(np.float32)
    for weights in (tied, smooth):
        kept = np.asarray(nucleus(jnp.asarray(weights), top_p)) > 0
        wanted = np.stack([sorted_nucleus(row.astype(np.float64), top_p) for row in weights])
        assert (kept.sum(-1) == wanted.sum(-1)).all()
        np.testing.assert_array_equal(kept, wanted)


def test_one_certain_token_is_the_nucleus():
    weights = jnp.zeros((1, 200)).at[0, 131].set(1.0)
    np.testing.assert_array_equal(nucleus(weights, 0.5), weights)


@pytest.mark.slow
@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))])
def test_no_number_draws_a_token_of_weight_zero(uniform):
    rng = np.random.default_rng(2)
    weights = np.where(rng.random((200, 500)) < 0.02, rng.random((200, 500)), 0).astype(np.float32)
    weights[:, 250] += 1e-30
    tokens = np.asarray(draw(jnp.asarray(weights), jnp.full((200, 2), uniform, jnp.float32)))
    assert (weights[np.arange(200), tokens] > 0).all()


def test_greedy_takes_the_best_that_is_allowed(logits):
    best = np.argsort(-logits)
    tokens, logprobs = draw_many(logits, TokenChoice(0.0, 1.0), banned=best[:1])
    assert (tokens == best[1]).all()
    np.testing.assert_allclose(logprobs, np.log(softmax(logits))[best[1]], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5, 2**63 - 1])
def test_a_seed_is_the_key_jax_makes_of_it(seed):
    with jax.enable_x64(True):
        wanted = jax.random.key_data(jax.random.key(np.uint64(seed), impl="threefry2x32"))
    np.testing.assert_array_equal(np.array(seed_key(seed), np.uint32), wanted)
