"""Which token comes next: temperature, nucleus and banned tokens, from random numbers that belong to a sample and not to a batch.

Axes: R rows (one sample each), V vocabulary.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 128
"""Tokens of one block of the vocabulary; a token is drawn in two stages, its block and then itself."""
KEY_IMPL = "threefry2x32"
"""Named here, so that JAX's default generator, which can be changed, does not decide what a seed gives."""
ONE_BITS = 0x3F800000
"""float32 1.0 as an integer; among floats that are not negative, integers have the same order."""


@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """How tokens are chosen; fixed when a function is compiled."""

    temperature: float
    """0 is greedy."""
    top_p: float


def choose_tokens(
    logits: Float[Array, "R V"],
    keys: UInt32[Array, "R 2"],
    index: Int[Array, " R"],
    banned: Bool[Array, " V"],
    choice: TokenChoice,
) -> tuple[Int[Array, " R"], Float[Array, " R"]]:
    """The next token of each row, and its log-probability under the logits as they are.

    What a row gets follows from its logits, its key and its token's number only.

    Args:
        logits: float32.
        keys: Of each row's sample, see `seed_key`.
        index: The number of the token in its response.
        banned: What may not be chosen.
        choice: Temperature and nucleus.
    """
    allowed = jnp.where(banned, -jnp.inf, logits)
    if choice.temperature == 0:
        tokens = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
    else:
        top = jnp.max(allowed, axis=-1, keepdims=True)
        weights = jnp.exp((allowed - top) / choice.temperature)
        if choice.top_p < 1:
            weights = nucleus(weights, choice.top_p)
        tokens = draw(weights, uniforms(keys, index))
    # A comparison, not a gather: it fuses, and stays local when the vocabulary is split over devices.
    chosen = lax.broadcasted_iota(jnp.int32, logits.shape, 1) == tokens[:, None]
    logprobs = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    return tokens, logprobs


def seed_key(seed: int) -> tuple[int, int]:
    """The two words of a seed's key, as JAX makes them of a 64-bit seed."""
    return seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF


def uniforms(keys: UInt32[Array, "R 2"], index: Int[Array, " R"]) -> Float[Array, "R 2"]:
    """Two numbers in [0, 1) for each row's token."""

    def one(key: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key, impl=KEY_IMPL), number), (2,))

    return jax.vmap(one)(keys, index)


def draw(weights: Float[Array, "R V"], uniform: Float[Array, "R 2"]) -> Int[Array, " R"]:
    """A token with probability proportional to its weight, by the inverse of the distribution function.

    In two stages, since a running float32 sum over a whole vocabulary would round small probabilities away.
    """
    blocks = jnp.pad(weights, ((0, 0), (0, -weights.shape[1] % BLOCK))).reshape(len(weights), -1, BLOCK)
    block = _inverse(jnp.sum(blocks, axis=-1), uniform[:, 0])
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _inverse(within, uniform[:, 1])


def nucleus(weights: Float[Array, "R V"], top_p: float) -> Float[Array, "R V"]:
    """The fewest weights, largest first, whose sum reaches `top_p` of the whole; others become 0 (Holtzman et al. 2020).

    Of equal weights at the edge, the first tokens stay. No sorting: the smallest weight that stays is found bit by bit, as the
    largest number whose equals and betters reach the wanted sum.

    Args:
        weights: Not negative, at most 1.
        top_p: Below 1.
    """
    wanted = top_p * jnp.sum(weights, axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        least = lax.bitcast_convert_type(middle, jnp.float32)[:, None]
        reached = jnp.sum(jnp.where(weights >= least, weights, 0.0), axis=-1) >= wanted
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    rows = jnp.zeros(len(weights), jnp.int32)
    bits, _ = lax.fori_loop(0, 31, halve, (rows, rows + ONE_BITS + 1))
    edge = lax.bitcast_convert_type(bits, jnp.float32)[:, None]
    above, equal = weights > edge, weights == edge
    missing = wanted - jnp.sum(jnp.where(above, weights, 0.0), axis=-1)
    needed = jnp.maximum(jnp.ceil(missing / edge[:, 0]), 1)
    # Ties are rare, and numbering tokens costs more than all else here.
    tied = jnp.any(jnp.sum(equal, axis=-1) > needed)
    kept = lax.cond(tied, lambda: equal & (jnp.cumsum(equal, axis=-1) <= needed[:, None]), lambda: equal)
    return jnp.where(above | kept, weights, 0.0)


def _inverse(weights: Float[Array, "R M"], uniform: Float[Array, " R"]) -> Int[Array, " R"]:
    """The number of the weight in which a running sum passes `uniform` times the whole."""
    sums = jnp.cumsum(weights, axis=-1)
    passed = jnp.sum(sums <= uniform[:, None] * sums[:, -1:], axis=-1)
    # Where rounding makes the product the whole, the last weight that is not 0.
    last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    return jnp.minimum(passed, last).astype(jnp.int32)
