"""Decoding with keys and values kept: a prompt is computed once for all samples of its question, then token by token.

A question has a slot. Its samples share the prompt's keys, and each has those of its own response. While a call decodes, the
large caches are only read: what is new lies in a small recent part, and is put into the cache once, at the end of the call.
Axes: G slots, n samples of a slot, P prompt tokens, T response tokens, C steps of a call, L layers, N heads, K kv-heads,
H head dimension, D model, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from mede2_jax.models.attention import BLOCK, MASKED, attention, split_evenly
from mede2_jax.models.layers import place_images
from mede2_jax.models.logprobs import never_padding, padded
from mede2_jax.models.qwen2 import HIDDEN, KeyValues, Qwen2
from mede2_jax.models.sampling import TokenChoice, choose_tokens
from mede2_jax.parallel import rules
from mede2_jax.parallel.rules import Axes, constrain

PROMPT_AXES: Axes = (None, "rows", "kv_heads", None, None)
RESPONSE_AXES: Axes = (None, "rows", None, "kv_heads", None, None)
Softmax = tuple[jax.Array, jax.Array, jax.Array]
"""An online softmax: weighted values [G, …, M, H], the largest score and the sum of weights [G, …, M], all float32."""


class Model(Protocol):
    """What a model family offers to decoding."""

    language: Qwen2
    compute_dtype: Any

    def image_embeddings(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[B, I, D], an embedding for each image token."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What is kept of every slot between calls."""

    prompt_keys: Float[Array, "L G K P H"]
    prompt_values: Float[Array, "L G K P H"]
    prompt_hidden: Float[Array, "G D"]
    """At the prompt's last token, which predicts the first of a response."""
    response_keys: Float[Array, "L G n K T H"]
    response_values: Float[Array, "L G n K T H"]
    hidden: Float[Array, "G n D"]
    """At each sample's last token, which predicts its next."""


CACHE_AXES: tuple[Axes, ...] = (PROMPT_AXES, PROMPT_AXES, ("rows", None), RESPONSE_AXES, RESPONSE_AXES, HIDDEN)
"""Logical axes of a cache's fields."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Sizes of a cache."""

    slots: int
    samples: int
    prompt: int
    """P, a multiple of the blocks in which prompts are read (or one block)."""
    response: int
    """T; the same for responses."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where every slot is when a call begins; made by the host."""

    prompt_length: Int[Array, " G"]
    """0 for a slot without a question."""
    response_position: Int[Array, " G"]
    """Rotary position of the first token of a response."""
    response_length: Int[Array, " G"]
    """Tokens that the slot's samples have; a multiple of the steps of a call."""
    active: Bool[Array, "G n"]
    """Samples that go on."""
    keys: UInt32[Array, "G n 2"]
    """Random key of each sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """What a decoding call does; fixed when it is compiled."""

    choice: TokenChoice
    steps: int
    """C, the most tokens that a call adds to a response."""
    max_tokens: int
    """A response of this length is at its end."""
    stop: tuple[int, ...]
    """Tokens that end a response."""


def empty_cache(model: Model, shape: CacheShape) -> Cache:
    """A cache of zeros; no slot has a question."""
    config, dtype = model.language.config, model.compute_dtype
    heads = split_evenly(jnp.zeros((config.num_kv_heads, 0)), config.num_heads).shape[0]
    prompt = (config.num_layers, shape.slots, heads, shape.prompt, config.head_dim)
    response = (config.num_layers, shape.slots, shape.samples, heads, shape.response, config.head_dim)
    sizes = (prompt, prompt, (shape.slots, config.hidden_size), response, response, (shape.slots, shape.samples, config.hidden_size))
    return Cache(*(jnp.zeros(size, dtype) for size in sizes))


def prefill(model: Model, cache: Cache, batch: Mapping[str, jax.Array], images: Float[Array, "B I D"], place: Int[Array, " B"]) -> Cache:
    """Puts prompts into slots.

    Args:
        model: The model.
        cache: Where; of its slots, each row has its share (the slots of one device where rows are split over devices).
        batch: The text fields of `mede2_jax.data.rows` [B, T], a prompt a row, and `length` [B].
        images: `image_embeddings`.
        place: The slot of each row, counted within its share; −1 for a row that is padding.
    """
    language = model.language
    embeddings = place_images(language.embed(batch["tokens"]).astype(model.compute_dtype), images, batch["image_index"])

    def attend(_: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attention(q, k, v, batch["key_start"], batch["key_end"])

    hidden, kept = language.with_keys(embeddings, batch["positions"], attend)
    keys, values = (split_evenly(x, language.config.num_heads).swapaxes(2, 3) for x in kept)
    last = jnp.take_along_axis(hidden, jnp.maximum(batch["length"] - 1, 0)[:, None, None], axis=1)[:, 0]
    return dataclasses.replace(
        cache,
        prompt_keys=_put(cache.prompt_keys, keys, place, PROMPT_AXES),
        prompt_values=_put(cache.prompt_values, values, place, PROMPT_AXES),
        prompt_hidden=_put(cache.prompt_hidden, last, place, ("rows", None)),
    )


def decode(
    model: Model, cache: Cache, progress: Progress, banned: Bool[Array, " V"], how: Decoding
) -> tuple[Cache, Int[Array, "G n C"], Float[Array, "G n C"]]:
    """Adds up to C tokens to every active sample, and stops early when none is active any more.

    Returns:
        The cache, the tokens, and their log-probabilities under the model as it is. A sample's tokens count up to the one
        that ends it.
    """
    language, slots, samples = model.language, *progress.active.shape
    # Gathered over fsdp once, before the loop over steps; split over the vocabulary by tensor.
    words = len(banned)
    vocabulary = constrain(padded(language.vocabulary().astype(model.compute_dtype)), ("vocab", None))
    banned = jnp.pad(banned, (0, len(vocabulary) - words), constant_values=True)
    keys, stop = progress.keys.reshape(-1, 2), jnp.array(how.stop, jnp.int32)

    def goes_on(state: tuple[Any, ...]) -> jax.Array:
        return (state[0] < how.steps) & jnp.any(state[1])

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        done, active, hidden, recent, tokens, logprobs = state
        index = progress.response_length + done
        # The vocabulary first: so it is the larger side of the product that is cut into pieces, which is faster on CPUs.
        logits = jnp.einsum("vd,gnd->vgn", vocabulary, hidden, preferred_element_type=jnp.float32).transpose(1, 2, 0)
        logits = never_padding(constrain(logits, ("rows", None, "vocab")), words)
        numbers = jnp.repeat(index, samples)
        token, logprob = choose_tokens(logits.reshape(slots * samples, -1), keys, numbers, banned, how.choice)
        token, logprob = token.reshape(slots, samples), logprob.reshape(slots, samples)
        active &= ~jnp.any(token[..., None] == stop, axis=-1) & (index[:, None] + 1 < how.max_tokens)
        position = (progress.response_position + index)[:, None]
        hidden, new = _next_hidden(model, cache, progress, token, position, recent, done)
        recent = jax.tree.map(lambda part, x: lax.dynamic_update_slice_in_dim(part, x[..., None, :], done, axis=4), recent, new)
        return done + 1, active, hidden, recent, _put_step(tokens, token, done), _put_step(logprobs, logprob, done)

    hidden = jnp.where((progress.response_length == 0)[:, None, None], cache.prompt_hidden[:, None], cache.hidden)
    empty = constrain(jnp.zeros((*cache.response_keys.shape[:4], how.steps, cache.response_keys.shape[5]), hidden.dtype), RESPONSE_AXES)
    shape = (slots, samples, how.steps)
    start = (jnp.int32(0), progress.active, hidden, (empty, empty), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))
    _, _, hidden, recent, tokens, logprobs = lax.while_loop(goes_on, step, start)
    keys_, values_ = (
        _append(old, new, progress.response_length) for old, new in zip((cache.response_keys, cache.response_values), recent, strict=True)
    )
    return dataclasses.replace(cache, response_keys=keys_, response_values=values_, hidden=hidden), tokens, logprobs


def _next_hidden(
    model: Model,
    cache: Cache,
    progress: Progress,
    token: Int[Array, "G n"],
    position: Int[Array, "G 1"],
    recent: KeyValues,
    done: jax.Array,
) -> tuple[Float[Array, "G n D"], KeyValues]:
    """Hidden states at `token`, and its keys and values [L, G, n, K, H]."""
    language = model.language
    if language.config.mrope_section is not None:  # text has one position on all axes
        position = jnp.broadcast_to(position[:, None], (len(position), len(language.config.mrope_section), 1))
    kept_axes = ((PROMPT_AXES,) * 2, (RESPONSE_AXES,) * 4)
    kept = (cache.prompt_keys, cache.prompt_values, cache.response_keys, cache.response_values, *recent)
    lengths = (progress.prompt_length, progress.response_length)

    def attend(layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k, v = (split_evenly(x, q.shape[2]) for x in (k, v))
        own: tuple[Axes, ...] = (("rows", None, "heads", None), *(("rows", None, "kv_heads", None),) * 2)
        axes = (*own, *kept_axes[0], *kept_axes[1], ("rows",), ("rows",), (), ())
        return rules.per_shard(_cached_attention, (q, k, v, *kept, *lengths, layer, done), axes, own[0])

    hidden, (keys, values) = language.with_keys(language.embed(token).astype(model.compute_dtype), position, attend)
    return hidden, (split_evenly(keys, language.config.num_heads), split_evenly(values, language.config.num_heads))


def _cached_attention(
    q: Float[Array, "G n N H"],
    k: Float[Array, "G n K H"],
    v: Float[Array, "G n K H"],
    prompt_keys: Float[Array, "L G K P H"],
    prompt_values: Float[Array, "L G K P H"],
    response_keys: Float[Array, "L G n K T H"],
    response_values: Float[Array, "L G n K T H"],
    recent_keys: Float[Array, "L G n K C H"],
    recent_values: Float[Array, "L G n K C H"],
    prompt_length: Int[Array, " G"],
    response_length: Int[Array, " G"],
    layer: Int[Array, ""],
    done: Int[Array, ""],
) -> Float[Array, "G n N H"]:
    """Each sample's new token attends to itself, to its prompt and to its own response.

    An online softmax as in `attention`, over blocks up to the longest prompt and the longest response there are: what the
    caches have room for costs nothing until it is used.
    """
    queries = q.reshape(*k.shape[:3], -1, k.shape[3])  # [G, n, K, M, H]: M = N/K queries of a key head
    top = jnp.einsum("gnkmh,gnkh->gnkm", queries, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    carry = (jnp.broadcast_to(v[:, :, :, None].astype(jnp.float32), queries.shape), top, jnp.ones_like(top))
    # A prompt's keys are the same for all samples: their queries are so many rows of one product.
    shared = jax.tree.map(_samples_to_rows, carry)
    shared = _see_cache(shared, _samples_to_rows(queries), prompt_keys, prompt_values, prompt_length, layer)
    carry = jax.tree.map(functools.partial(_rows_to_samples, samples=q.shape[1]), shared)
    carry = _see_cache(carry, queries, response_keys, response_values, response_length, layer)
    newest = jnp.broadcast_to(jnp.arange(recent_keys.shape[-2]) < done, (len(q), recent_keys.shape[-2]))
    total, _, weight_sum = _see(carry, queries, recent_keys[layer], recent_values[layer], newest)
    return (total / weight_sum[..., None]).reshape(q.shape).astype(q.dtype)


def _see_cache(
    carry: Softmax,
    queries: Float[Array, "G *K M H"],
    keys: Float[Array, "L G *K S H"],
    values: Float[Array, "L G *K S H"],
    length: Int[Array, " G"],
    layer: jax.Array,
) -> Softmax:
    """Adds a layer's first `length` keys and values of each slot, block after block."""
    block = read_block(keys.shape[-2])
    size = (1, *keys.shape[1:-2], block, keys.shape[-1])

    def one(j: jax.Array, carry: Softmax) -> Softmax:
        at: list[Any] = [layer, *[0] * (keys.ndim - 3), j * block, 0]
        visible = j * block + jnp.arange(block) < length[:, None]
        return _see(carry, queries, lax.dynamic_slice(keys, at, size)[0], lax.dynamic_slice(values, at, size)[0], visible)

    return lax.fori_loop(0, -(-jnp.max(length) // block), one, carry)


def _see(
    carry: Softmax,
    queries: Float[Array, "G *K M H"],
    keys: Float[Array, "G *K S H"],
    values: Float[Array, "G *K S H"],
    visible: Bool[Array, "G S"],
) -> Softmax:
    """Adds keys and values to a softmax."""
    total, top, weight_sum = carry
    scores = jnp.einsum("...mh,...sh->...ms", queries, keys, preferred_element_type=jnp.float32)
    visible = visible.reshape(len(visible), *[1] * (scores.ndim - 2), -1)
    scores = jnp.where(visible, scores * queries.shape[-1] ** -0.5, MASKED)
    new_top = jnp.maximum(top, scores.max(-1))
    weights = jnp.where(visible, jnp.exp(scores - new_top[..., None]), 0.0)
    shrink = jnp.exp(top - new_top)
    update = jnp.einsum("...ms,...sh->...mh", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return total * shrink[..., None] + update, new_top, weight_sum * shrink + weights.sum(-1)


def _samples_to_rows(x: Float[Array, "G n K M ..."]) -> Float[Array, "G K n*M ..."]:
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _rows_to_samples(x: Float[Array, "G K n*M ..."], samples: int) -> Float[Array, "G n K M ..."]:
    return x.reshape(*x.shape[:2], samples, -1, *x.shape[3:]).swapaxes(1, 2)


def read_block(length: int) -> int:
    """How many keys of a cache of this length are read at a time."""
    return min(length, BLOCK)


def _put(cache: jax.Array, new: jax.Array, place: jax.Array, axes: Axes) -> jax.Array:
    """Row b of `new` into slot place[b] of its share of the slots; the rest of a longer slot stays."""
    at = axes.index("rows")

    def local(cache: jax.Array, new: jax.Array, place: jax.Array) -> jax.Array:
        start = [jnp.maximum(place[0], 0) if axis == at else 0 for axis in range(cache.ndim)]
        old = lax.dynamic_slice(cache, start, new.shape)
        return lax.dynamic_update_slice(cache, jnp.where(place[0] >= 0, new.astype(cache.dtype), old), start)

    return rules.per_shard(local, (cache, new, place), (axes, axes, ("rows",)), axes)


def _append(cache: Float[Array, "L G n K T H"], new: Float[Array, "L G n K C H"], length: Int[Array, " G"]) -> jax.Array:
    """Puts what a call has added behind what each slot had."""

    def local(cache: jax.Array, new: jax.Array, length: jax.Array) -> jax.Array:
        def one(slot: jax.Array, cache: jax.Array) -> jax.Array:
            start = (0, slot, 0, 0, length[slot], 0)
            return lax.dynamic_update_slice(cache, lax.dynamic_slice_in_dim(new, slot, 1, axis=1), start)

        return lax.fori_loop(0, cache.shape[1], one, cache)

    return rules.per_shard(local, (cache, new, length), (RESPONSE_AXES, RESPONSE_AXES, ("rows",)), RESPONSE_AXES)


def _put_step(steps: jax.Array, new: jax.Array, done: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(steps, new[..., None], done, axis=2)
