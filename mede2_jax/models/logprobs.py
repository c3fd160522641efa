"""Log-probabilities of chosen tokens, without ever storing the logits of all of them.

SFT and DPO, training and the reference pass, all call `token_logprobs`. The vocabulary projection runs over chunks of the
scored tokens, so that no array has both the scored-token axis and the vocabulary axis in full.
Axes: B rows, T tokens, S scored tokens, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mede2_jax.parallel.rules import constrain

CHUNK = 256


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
    narrow = constrain(model.vocabulary().astype(hidden.dtype), ("vocab", "embed"))
    vocabulary = constrain(narrow, ("vocab", None))
    scores = chunked_scores(hidden, vocabulary, batch["scored_target"], chunk=chunk, train_vocabulary=train_vocabulary)
    real = batch["scored_response"] >= 0
    return TokenScores(jnp.where(real, scores.logprob, 0.0), real & scores.best)


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
) -> TokenScores:
    """log softmax(hidden · vocabularyᵀ)[target], with a float32 log-sum-exp, and whether it is the largest.

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
    scores = function(hidden_chunks, vocabulary, target_chunks)
    return TokenScores(*(part.transpose(1, 0, 2).reshape(rows, -1)[:, :scored] for part in scores))


def _chunk_scores(hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, jax.Array, jax.Array]:
    """Scores of one chunk [B, s], its logits [B, s, V] and log-normaliser [B, s]."""
    logits = jnp.einsum("bsd,vd->bsv", hidden, vocabulary, preferred_element_type=jnp.float32)
    logits = constrain(logits, ("rows", None, "vocab"))
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


@jax.custom_vjp
def _frozen_vocabulary(hidden: Float[Array, "C B s D"], vocabulary: Float[Array, "V D"], targets: Int[Array, "C B s"]) -> Any:
    return lax.map(lambda xs: _chunk_scores(xs[0], vocabulary, xs[1])[0], (hidden, targets))


def _frozen_forward(hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, jax.Array]:
    def one(xs: tuple[jax.Array, jax.Array]) -> tuple[TokenScores, jax.Array]:
        scores, logits, normaliser = _chunk_scores(xs[0], vocabulary, xs[1])
        return scores, _project_back(_logit_gradient(logits, normaliser, xs[1]), vocabulary).astype(hidden.dtype)

    return lax.map(one, (hidden, targets))


def _frozen_backward(unit_gradient: jax.Array, d_scores: TokenScores) -> tuple[jax.Array, None, None]:
    return (unit_gradient * d_scores.logprob[..., None]).astype(unit_gradient.dtype), None, None


_frozen_vocabulary.defvjp(_frozen_forward, _frozen_backward)


@jax.custom_vjp
def _with_vocabulary_gradient(hidden: Float[Array, "C B s D"], vocabulary: Float[Array, "V D"], targets: Int[Array, "C B s"]) -> Any:
    return lax.map(lambda xs: _chunk_scores(xs[0], vocabulary, xs[1])[0], (hidden, targets))


def _trained_forward(hidden: jax.Array, vocabulary: jax.Array, targets: jax.Array) -> tuple[TokenScores, tuple[jax.Array, ...]]:
    def one(xs: tuple[jax.Array, jax.Array]) -> tuple[TokenScores, jax.Array]:
        scores, _, normaliser = _chunk_scores(xs[0], vocabulary, xs[1])
        return scores, normaliser

    scores, normaliser = lax.map(one, (hidden, targets))
    return scores, (hidden, vocabulary, targets, normaliser)


def _trained_backward(residuals: tuple[jax.Array, ...], d_scores: TokenScores) -> tuple[jax.Array, jax.Array, None]:
    hidden, vocabulary, targets, normaliser = residuals

    def one(d_vocabulary: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        h, target, log_z, d = xs
        logits = constrain(jnp.einsum("bsd,vd->bsv", h, vocabulary, preferred_element_type=jnp.float32), ("rows", None, "vocab"))
        d_logits = (_logit_gradient(logits, log_z, target) * d[..., None]).astype(h.dtype)
        d_vocabulary += jnp.einsum("bsv,bsd->vd", d_logits, h, preferred_element_type=jnp.float32)
        return constrain(d_vocabulary, ("vocab", "embed")), _project_back(d_logits, vocabulary).astype(h.dtype)

    # Split over "embed" as well, so that summing over the rows of other devices is a reduce-scatter.
    start = constrain(jnp.zeros(vocabulary.shape, jnp.float32), ("vocab", "embed"))
    d_vocabulary, d_hidden = lax.scan(one, start, (hidden, targets, normaliser, d_scores.logprob))
    return d_hidden, d_vocabulary.astype(vocabulary.dtype), None


_with_vocabulary_gradient.defvjp(_trained_forward, _trained_backward)
