"""Log-probabilities of chosen tokens, without ever storing the logits of all of them.

SFT and DPO, training and the reference pass, all call `token_logprobs`. The vocabulary projection runs over chunks of the
scored tokens, so that no array has both the scored-token axis and the vocabulary axis in full.
Axes: B rows, T tokens, S scored tokens, D model, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mede2_jax.parallel.rules import axis_size, constrain

CHUNK = 256
NEVER = -1e30
"""A logit of what is no word."""


class Model(Protocol):
    """What a model family offers to training."""

    def hidden_states(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[B, T, D], after the final norm."""

    def vocabulary(self) -> jax.Array:
        """[V, D]."""


class TokenScores(NamedTuple):
    """What the model says of the scored tokens."""

    logprob: Float[Array, "B S"]
    """log p(scored_target | what the hidden state at scored_index has seen), in float32; 0 for padding."""
    best: Bool[Array, "B S"]
    """Whether no token is more probable; carries no gradient. False for padding."""


def token_logprobs(model: Model, batch: Mapping[str, jax.Array], *, train_vocabulary: bool, chunk: int = CHUNK) -> Float[Array, "B S"]:
    """The log-probabilities of `token_scores`."""
    return token_scores(model, batch, train_vocabulary=train_vocabulary, chunk=chunk).logprob


def token_scores(model: Model, batch: Mapping[str, jax.Array], *, train_vocabulary: bool, chunk: int = CHUNK) -> TokenScores:
    """Log-probability of every scored token, and whether it is the most probable one.

    Args:
        model: The model.
        batch: Fields as described in `mede2_jax.data.rows`.
        train_vocabulary: Whether gradients with respect to the vocabulary projection are wanted. When not, the backward
            pass costs no product with the vocabulary at all.
        chunk: Scored tokens a row whose logits exist at a time.
    """
    hidden = jnp.take_along_axis(model.hidden_states(batch), batch["scored_index"][..., None], axis=1)
    # Gathered over fsdp once, before the loop over chunks, and in the narrower dtype; split over the vocabulary by tensor.
    narrow = constrain(padded(model.vocabulary().astype(hidden.dtype)), ("vocab", "embed"))
    vocabulary = constrain(narrow, ("vocab", None))
    scores = chunked_scores(
        hidden, vocabulary, batch["scored_target"], chunk=chunk, train_vocabulary=train_vocabulary, words=len(model.vocabulary())
    )
    real = batch["scored_response"] >= 0
    return TokenScores(jnp.where(real, scores.logprob, 0.0), real & scores.best)


def padded(vocabulary: Float[Array, "V D"]) -> Float[Array, "W D"]:
    """With as many rows more as make it divisible over devices: left whole, every device would make all of the logits."""
    missing = -len(vocabulary) % axis_size("vocab")
    return jnp.pad(vocabulary, ((0, missing), (0, 0))) if missing else vocabulary


def never_padding(logits: Float[Array, "*B W"], words: int) -> Float[Array, "*B W"]:
    """Logits of which those after the first `words` are of no word."""
    if words == logits.shape[-1]:
        return logits
    return jnp.where(lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < words, logits, NEVER)


def response_sums(values: Float[Array, "B S"], scored_response: Int[Array, "B S"], responses: int) -> Float[Array, "B R"]:
    """Sums over the tokens of each response; padding (−1) belongs to none."""
    member = scored_response[..., None] == jnp.arange(responses)
    return jnp.sum(jnp.where(member, values[..., None], 0.0), axis=1)


def chunked_scores(
    hidden: Float[Array, "B S D"],
    vocabulary: Float[Array, "V D"],
    targets: Int[Array, "B S"],
    *,
    chunk: int = CHUNK,
    train_vocabulary: bool = True,
    words: int | None = None,
) -> TokenScores:
    """log softmax(hidden · vocabularyᵀ)[target], with a float32 log-sum-exp, and whether it is the largest.

    Of the vocabulary's rows, the first `words` count (none given: all); those after them are there to divide it evenly.

    With a frozen vocabulary the gradient with respect to `hidden`, up to the incoming factor of each token, is computed
    in the forward pass while the chunk's logits exist: two products with the vocabulary in all instead of three.
    """
    rows, scored = targets.shape
    chunk = min(chunk, scored)
    padding = -scored % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, padding)))
    hidden_chunks = hidden.reshape(rows, -1, chunk, hidden.shape[-1]).transpose(1, 0, 2, 3)
    target_chunks = targets.reshape(rows, -1, chunk).transpose(1, 0, 2)
    function = _with_vocabulary_gradient if train_vocabulary else _frozen_vocabulary
    scores = function(len(vocabulary) if words is None else words, hidden_chunks, vocabulary, target_chunks)
    return TokenScores(*(part.transpose(1, 0, 2).reshape(rows, -1)[:, :scored] for part in scores))


def _logits(words: int, hidden: jax.Array, vocabulary: jax.Array) -> jax.Array:
    """[B, s, V] of one chunk; no token is one of the rows after `words`."""
    logits = jnp.einsum("bsd,vd->bsv", hidden, vocabulary, preferred_element_type=jnp.float32)
    return never_padding(constrain(logits, ("rows", "tokens", "vocab")), words)


def _chunk_scores(words: int, hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, jax.Array, jax.Array]:
    """Scores of one chunk [B, s], its logits [B, s, V] and log-normaliser [B, s]."""
    logits = _logits(words, hidden, vocabulary)
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)
    return TokenScores(target - normaliser, target >= jnp.max(logits, axis=-1)), logits, normaliser


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # A comparison, not a gather: it fuses, and stays local when the vocabulary is split over devices.
    return lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]


def _logit_gradient(logits: jax.Array, normaliser: jax.Array, targets: jax.Array) -> jax.Array:
    """d log p(target) / d logits = 1[v = target] − softmax."""
    return jnp.where(_is_target(logits, targets), 1.0, 0.0) - jnp.exp(logits - normaliser[..., None])


def _project_back(d_logits: jax.Array, vocabulary: jax.Array) -> jax.Array:
    return jnp.einsum("bsv,vd->bsd", d_logits.astype(vocabulary.dtype), vocabulary, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _frozen_vocabulary(words: int, hidden: Float[Array, "C B s D"], vocabulary: Float[Array, "V D"], targets: Int[Array, "C B s"]) -> Any:
    return lax.map(lambda xs: _chunk_scores(words, xs[0], vocabulary, xs[1])[0], (hidden, targets))


def _frozen_forward(words: int, hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, jax.Array]:
    def one(xs: tuple[jax.Array, jax.Array]) -> tuple[TokenScores, jax.Array]:
        scores, logits, normaliser = _chunk_scores(words, xs[0], vocabulary, xs[1])
        return scores, _project_back(_logit_gradient(logits, normaliser, xs[1]), vocabulary).astype(hidden.dtype)

    return lax.map(one, (hidden, targets))


def _frozen_backward(words: int, unit_gradient: jax.Array, d_scores: TokenScores) -> tuple[jax.Array, None, None]:
    return (unit_gradient * d_scores.logprob[..., None]).astype(unit_gradient.dtype), None, None


_frozen_vocabulary.defvjp(_frozen_forward, _frozen_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_vocabulary_gradient(
    words: int, hidden: Float[Array, "C B s D"], vocabulary: Float[Array, "V D"], targets: Int[Array, "C B s"]
) -> Any:
    return lax.map(lambda xs: _chunk_scores(words, xs[0], vocabulary, xs[1])[0], (hidden, targets))


def _trained_forward(words: int, hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, tuple[jax.Array, ...]]:
    def one(xs: tuple[jax.Array, jax.Array]) -> tuple[TokenScores, jax.Array]:
        scores, _, normaliser = _chunk_scores(words, xs[0], vocabulary, xs[1])
        return scores, normaliser

    scores, normaliser = lax.map(one, (hidden, targets))
    return scores, (hidden, vocabulary, targets, normaliser)


def _trained_backward(words: int, residuals: tuple[jax.Array, ...], d_scores: TokenScores) -> tuple[jax.Array, jax.Array, None]:
    hidden, vocabulary, targets, normaliser = residuals

    def one(d_vocabulary: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        h, target, log_z, d = xs
        d_logits = (_logit_gradient(_logits(words, h, vocabulary), log_z, target) * d[..., None]).astype(h.dtype)
        d_vocabulary += jnp.einsum("bsv,bsd->vd", d_logits, h, preferred_element_type=jnp.float32)
        return constrain(d_vocabulary, ("vocab", "embed")), _project_back(d_logits, vocabulary).astype(h.dtype)

    # Split over "embed" as well, so that summing over the rows of other devices is a reduce-scatter.
    start = constrain(jnp.zeros(vocabulary.shape, jnp.float32), ("vocab", "embed"))
    d_vocabulary, d_hidden = lax.scan(one, start, (hidden, targets, normaliser, d_scores.logprob))
    return d_hidden, d_vocabulary.astype(vocabulary.dtype), None


_with_vocabulary_gradient.defvjp(_trained_forward, _trained_backward)
