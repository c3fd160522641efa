"""Our Qwen2.5-VL against transformers' in PyTorch: logits, gradients, and module by module to locate a fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from torch_reference import (
    config_with,
    largest_gap,
    logits,
    make_batch,
    make_example,
    numpy_gradients,
    numpy_state,
    our_graph,
    our_params,
    torch_inputs,
    torch_model,
)

from mede2_jax.model_configs.qwen2_5_vl import config_from_hf
from mede2_jax.models.logprobs import token_logprobs, token_scores
from mede2_jax.models.qwen2 import rotary_angles
from mede2_jax.models.qwen2_5_vl import vision_angles

TOLERANCE = 1e-4
TEXT = [17]
ONE_IMAGE = [5, (8, 12), 9]
THREE_IMAGES = [4, (6, 14), 3, (18, 10), 2, (4, 22), 8]
"""Grids that are not square and no multiple of the 8×8-patch window: partial windows right, below and in the corner."""
PATTERNS = {
    "text": (config_with(), TEXT),
    "text, tied": (config_with(tie_word_embeddings=True), TEXT),
    "one image": (config_with(), ONE_IMAGE),
    "three images": (config_with(), THREE_IMAGES),
    "three images, tied": (config_with(tie_word_embeddings=True), THREE_IMAGES),
    "windows of 4 patches": (config_with(vision={"window_size": 56}), THREE_IMAGES),
    "all blocks full": (config_with(vision={"fullatt_block_indexes": [0, 1, 2]}), THREE_IMAGES),
    "no block full": (config_with(vision={"fullatt_block_indexes": []}), THREE_IMAGES),
    "full first and last": (config_with(vision={"fullatt_block_indexes": [0, 2], "window_size": 84}), THREE_IMAGES),
    "one kv head": (config_with(num_key_value_heads=1), ONE_IMAGE),
    "as many kv heads as heads": (config_with(num_key_value_heads=4), ONE_IMAGE),
    "7 heads a kv head": (
        config_with(hidden_size=112, num_attention_heads=7, num_key_value_heads=1, vision={"out_hidden_size": 112}),
        ONE_IMAGE,
    ),
    "16-wide vision heads": (config_with(vision={"num_heads": 3}), ONE_IMAGE),
}


def reference_logits(model, example):
    with torch.no_grad():
        return model(**torch_inputs(example)).logits[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_logits(name):
    raw, parts = PATTERNS[name]
    model, example = torch_model(raw), make_example(np.random.default_rng(0), parts)
    theirs = reference_logits(model, example)
    ours = logits(our_graph(raw), our_params(raw, numpy_state(model)), make_batch(raw, [[example]]))[0]
    assert np.abs(theirs).max() > 0.5, "too small to tell a difference"
    assert largest_gap(ours, theirs) <= TOLERANCE


@pytest.mark.slow
def test_logits_padded_and_packed():
    raw, rng = config_with(), np.random.default_rng(1)
    model = torch_model(raw)
    graph, params = our_graph(raw), our_params(raw, numpy_state(model))
    examples = [make_example(rng, parts) for parts in (ONE_IMAGE, TEXT, THREE_IMAGES, [3, (4, 4), (4, 6), 5])]
    length = sum(len(e.tokens) for e in examples[:3]) + 13
    batch = make_batch(raw, [examples[:3], examples[3:]], tokens=length, patches=1024)
    ours = np.asarray(logits(graph, params, batch))
    assert np.isfinite(ours).all(), "padding must stay finite"
    at = 0
    for example in examples[:3]:
        assert largest_gap(ours[0, at : at + len(example.tokens)], reference_logits(model, example)) <= TOLERANCE
        at += len(example.tokens)
    assert largest_gap(ours[1, : len(examples[3].tokens)], reference_logits(model, examples[3])) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "remat"),
    [(name, "none") for name in ("three images", "three images, tied", "windows of 4 patches", "7 heads a kv head")]
    + [("three images", remat) for remat in ("full", "dots", "dots_no_batch", "offload")],
)
def test_gradients(name, remat):
    raw, parts = PATTERNS[name]
    model, example = torch_model(raw), make_example(np.random.default_rng(2), parts)
    batch, graph, params = make_batch(raw, [[example]]), our_graph(raw, remat=remat), our_params(raw, numpy_state(model))

    out = model(**torch_inputs(example)).logits[0]
    loss = torch.nn.functional.cross_entropy(out[:-1], torch.tensor(example.tokens[1:].astype(np.int64)))
    loss.backward()

    def our_loss(tree):
        logprobs = token_logprobs(nnx.merge(graph, tree), batch, train_vocabulary=True, chunk=16)
        return -logprobs.sum() / (len(example.tokens) - 1)

    value, gradients = jax.jit(jax.value_and_grad(our_loss))(params)
    assert abs(float(value) - loss.item()) <= TOLERANCE
    theirs = flatten_dict(our_params(raw, numpy_gradients(model)), sep="/")
    for path, ours in flatten_dict(gradients, sep="/").items():
        assert largest_gap(ours, theirs[path]) <= TOLERANCE, path
    assert max(float(jnp.abs(g).max()) for g in theirs.values()) > 1e-3


@pytest.mark.parametrize("train_vocabulary", [True, False])
def test_the_first_choice_is_known_where_logits_are_not(train_vocabulary):
    """Every other target is the most probable token, the others are not; padding never counts."""
    raw, example = config_with(), make_example(np.random.default_rng(4), [30])
    batch, graph, params = make_batch(raw, [[example]], tokens=50), our_graph(raw), our_params(raw, numpy_state(torch_model(raw)))
    first = np.asarray(logits(graph, params, batch)[0].argmax(-1))[np.asarray(batch["scored_index"][0])]
    wanted = np.arange(len(first)) % 2 == 0
    batch = {**batch, "scored_target": jnp.asarray(np.where(wanted, first, (first + 1) % raw["vocab_size"])[None], jnp.int32)}
    best = token_scores(nnx.merge(graph, params), batch, train_vocabulary=train_vocabulary, chunk=16).best
    np.testing.assert_array_equal(best[0], wanted & np.asarray(batch["scored_response"][0] >= 0))


@pytest.mark.slow
@pytest.mark.parametrize("train_vocabulary", [True, False])
@pytest.mark.parametrize("chunk", [8, 16, 64])
def test_token_logprobs_and_their_gradients(train_vocabulary, chunk):
    raw, example = config_with(), make_example(np.random.default_rng(3), [41])
    model = torch_model(raw)
    batch, graph, params = make_batch(raw, [[example]], tokens=50), our_graph(raw), our_params(raw, numpy_state(model))
    weights = jnp.cos(jnp.arange(50.0)) / 50

    def chunked(tree):
        out = token_logprobs(nnx.merge(graph, tree), batch, train_vocabulary=train_vocabulary, chunk=chunk)
        return (out * weights).sum(), out

    def whole(tree):
        everything = jax.nn.log_softmax(logits(graph, tree, batch)[0])
        out = everything[batch["scored_index"][0], batch["scored_target"][0]] * (batch["scored_response"][0] >= 0)
        return (out * weights).sum(), out[None]

    (_, ours), our_gradients = jax.value_and_grad(chunked, has_aux=True)(params)
    (_, theirs), their_gradients = jax.value_and_grad(whole, has_aux=True)(params)
    assert largest_gap(ours, theirs) <= 1e-5
    gaps = jax.tree.map(largest_gap, our_gradients, their_gradients)
    head = gaps["language"].pop("head")["embedding"]
    assert max(jax.tree.leaves(gaps)) <= 1e-5
    assert (head <= 1e-5) == train_vocabulary, "a frozen vocabulary has no gradient, a trained one the right one"


@pytest.fixture(scope="module")
def setting():
    raw = config_with()
    model = torch_model(raw)
    example = make_example(np.random.default_rng(4), THREE_IMAGES)
    return raw, model, our_params(raw, numpy_state(model)), example, make_batch(raw, [[example]])


class TestModules:
    """Each module on its own input, so that a fault shows where it is."""

    def test_text_rotary_angles(self, setting):
        raw, model, _, _, batch = setting
        positions = torch.tensor(np.asarray(batch["positions"]).transpose(1, 0, 2).astype(np.int64))
        cos, _ = model.model.language_model.rotary_emb(torch.zeros(1), positions)
        angles = rotary_angles(config_from_hf(raw).language, batch["positions"])
        half = angles.shape[-1]
        ours, theirs = np.asarray(jnp.cos(angles)), cos.numpy()
        if theirs.ndim == 4:  # one table an axis: pick each section's
            sections = np.repeat(np.arange(3), raw["rope_scaling"]["mrope_section"])
            theirs = np.take_along_axis(theirs[..., :half], sections[None, None, None], axis=0)[0]
        assert largest_gap(ours, theirs[..., :half]) <= 1e-5

    def test_vision_rotary_angles(self, setting):
        raw, _, _, _, batch = setting
        config = config_from_hf(raw).vision
        angles = np.asarray(vision_angles(config, batch["patch_positions"]))
        head_dim = config.hidden_size // config.num_heads
        frequencies = 1.0 / 10000.0 ** (np.arange(0, head_dim // 2, 2) / (head_dim // 2))
        positions = np.asarray(batch["patch_positions"])
        expected = np.concatenate([positions[..., :1] * frequencies, positions[..., 1:] * frequencies], axis=-1)
        assert largest_gap(angles, expected) <= 1e-5

    def test_image_embeddings(self, setting):
        raw, model, params, example, batch = setting
        inputs = torch_inputs(example)
        with torch.no_grad():
            theirs = model.model.visual(inputs["pixel_values"], inputs["image_grid_thw"])
        theirs = getattr(theirs, "pooler_output", theirs)
        theirs = theirs if isinstance(theirs, torch.Tensor) else torch.cat(list(theirs))
        ours = np.asarray(nnx.merge(our_graph(raw), params).image_embeddings(batch))[0]
        where = np.asarray(batch["image_index"])[0]
        assert largest_gap(ours[where[where >= 0]], theirs.numpy()) <= TOLERANCE

    @pytest.mark.parametrize("layer", [0, 2])
    def test_decoder_layer(self, setting, layer):
        raw, model, params, _, batch = setting
        x = np.random.default_rng(5).standard_normal((1, batch["tokens"].shape[1], 64)).astype(np.float32)
        language = model.model.language_model
        positions = torch.tensor(np.asarray(batch["positions"]).transpose(1, 0, 2).astype(np.int64))
        causal = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        with torch.no_grad():
            embeddings = language.rotary_emb(torch.tensor(x), positions)
            theirs = language.layers[layer](torch.tensor(x), attention_mask=causal, position_embeddings=embeddings)
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        graph, stacked = nnx.split(nnx.merge(our_graph(raw), params).language.layers)
        one = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], stacked))
        angles = rotary_angles(config_from_hf(raw).language, batch["positions"])
        ours = one(jnp.asarray(x), angles, batch["key_start"], batch["key_end"])
        assert largest_gap(ours, theirs.numpy().reshape(ours.shape)) <= TOLERANCE


@pytest.mark.slow
def test_bfloat16_compute_stays_near_float32():
    raw, example = config_with(), make_example(np.random.default_rng(6), ONE_IMAGE)
    params, batch = our_params(raw, numpy_state(torch_model(raw))), make_batch(raw, [[example]])
    exact = logits(our_graph(raw), params, batch)
    rounded = logits(our_graph(raw, compute_dtype=jnp.bfloat16), params, batch)
    assert rounded.dtype == jnp.float32 or rounded.dtype == jnp.bfloat16
    assert largest_gap(rounded.astype(jnp.float32), exact) < 0.05 * float(jnp.abs(exact).max())
