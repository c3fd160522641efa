"""Our InternVL3 against transformers' in PyTorch: logits, gradients, and module by module to locate a fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from internvl3_reference import (
    KINDS,
    config_with,
    cut,
    make_batch,
    make_example,
    numpy_gradients,
    numpy_state,
    original_config,
    original_tensors,
    our_graph,
    our_params,
    torch_inputs,
    torch_model,
)
from torch_reference import largest_gap, logits

from mede2_jax.model_configs.internvl3 import config_from_hf
from mede2_jax.models.internvl3 import bicubic_matrix, pixel_shuffle, resized_positions
from mede2_jax.models.logprobs import token_logprobs
from mede2_jax.models.qwen2 import rotary_angles

TOLERANCE = 1e-4
TEXT = [17]
ONE_TILE = [5, (1,), 9]
TILED = [4, (7,), 8]
"""Six tiles and their thumbnail."""
IMAGES = [4, (1,), 3, (5,), 2, (3,), 8]
PATTERNS = {
    **{
        f"{kind}, {name}": (config_with(kind), parts)
        for kind in KINDS
        for name, parts in {"text": TEXT, "one tile": ONE_TILE, "tiles": TILED, "images": IMAGES}.items()
    },
    "tied": (config_with(tie_word_embeddings=True), ONE_TILE),
    "default rope": (config_with(text={"rope_scaling": None}), ONE_TILE),
    "one kv head": (config_with(text={"num_key_value_heads": 1}), ONE_TILE),
    "no biases on q, k, v": (config_with(vision={"attention_bias": False}), ONE_TILE),
    "qk norm and biases": (config_with("6b", vision={"attention_bias": True}), ONE_TILE),
    "another epsilon": (config_with("6b", vision={"layer_norm_eps": 0.01}), ONE_TILE),
    "no pixel shuffle": (config_with(downsample_ratio=1.0), [5, (4,), 9]),
    "4 × 4 patches a token": (config_with(downsample_ratio=0.25), [5, (4,), 9]),
}


def example_of(raw, parts, seed=0, side=56):
    config = config_from_hf(raw)
    return make_example(np.random.default_rng(seed), parts, side=side, per_tile=(config.grid // config.merge) ** 2)


def reference_logits(model, example):
    with torch.no_grad():
        return model(**torch_inputs(example)).logits[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_logits(name):
    raw, parts = PATTERNS[name]
    model, example = torch_model(raw), example_of(raw, parts)
    theirs = reference_logits(model, example)
    ours = logits(our_graph(raw), our_params(raw, numpy_state(model)), make_batch(raw, [[example]]))[0]
    assert np.abs(theirs).max() > 0.5, "too small to tell a difference"
    assert largest_gap(ours, theirs) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_logits_padded_and_packed(kind):
    raw = config_with(kind)
    model = torch_model(raw)
    graph, params = our_graph(raw), our_params(raw, numpy_state(model))
    examples = [example_of(raw, parts, seed) for seed, parts in enumerate((ONE_TILE, TEXT, IMAGES, [3, (1,), (2,), 5]))]
    length = sum(len(e.tokens) for e in examples[:3]) + 13
    batch = make_batch(raw, [examples[:3], examples[3:]], tokens=length, tiles=14)
    ours = np.asarray(logits(graph, params, batch))
    assert np.isfinite(ours).all(), "padding must stay finite"
    at = 0
    for example in examples[:3]:
        assert largest_gap(ours[0, at : at + len(example.tokens)], reference_logits(model, example)) <= TOLERANCE
        at += len(example.tokens)
    assert largest_gap(ours[1, : len(examples[3].tokens)], reference_logits(model, examples[3])) <= TOLERANCE


@pytest.mark.slow
def test_what_is_in_a_padding_tile_changes_nothing():
    raw = config_with()
    graph, params = our_graph(raw), our_params(raw, numpy_state(torch_model(raw)))
    batch = make_batch(raw, [[example_of(raw, IMAGES)]], tiles=12)
    dirty = {**batch, "patches": batch["patches"].at[:, 9 * 16 :].set(7.0)}
    assert largest_gap(logits(graph, params, batch), logits(graph, params, dirty)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "remat"),
    [(name, "none") for name in ("300m, images", "6b, images", "300m, text", "tied", "qk norm and biases")]
    + [(f"{kind}, tiles", remat) for kind in KINDS for remat in ("full", "dots", "dots_no_batch", "offload")],
)
def test_gradients(name, remat):
    raw, parts = PATTERNS[name]
    model, example = torch_model(raw), example_of(raw, parts, seed=2)
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
        if "text" not in name and "bias" not in path:
            assert float(np.abs(theirs[path]).max()) > 1e-4, f"{path}: too small to tell a difference"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_original_format_is_the_same_model(kind):
    raw = config_with(kind)
    tensors = numpy_state(torch_model(raw))
    other = original_config(raw)
    ours, theirs = our_params(raw, tensors), our_params(other, original_tensors(tensors), "hub")
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert max(jax.tree.leaves(jax.tree.map(largest_gap, ours, theirs))) == 0
    example = example_of(raw, IMAGES)
    one, two = (logits(our_graph(c), p, make_batch(c, [[example]])) for c, p in ((raw, ours), (other, theirs)))
    assert largest_gap(one, two) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("table", "tile"), [(56, 28), (28, 56), (56, 84), (84, 56)])
def test_tiles_of_another_size_than_the_position_embedding(table, tile):
    """transformers interpolates for whatever size the pixels have; the original's config says it."""
    raw = config_with(vision={"image_size": [table, table]})
    model, example = torch_model(raw), make_example(np.random.default_rng(0), IMAGES, side=tile, per_tile=(tile // 28) ** 2)
    ours = original_config(raw) | {"force_image_size": tile}
    params = our_params(ours, original_tensors(numpy_state(model)), "hub")
    assert largest_gap(logits(our_graph(ours), params, make_batch(ours, [[example]]))[0], reference_logits(model, example)) <= TOLERANCE


@pytest.mark.parametrize(("old", "new"), [(32, 16), (32, 24), (16, 32), (32, 37), (4, 3), (2, 5), (32, 32)])
def test_bicubic_interpolation(old, new):
    table = np.random.default_rng(0).standard_normal((1, 1 + old * old, 3)).astype(np.float32)
    patches = torch.tensor(table[:, 1:].reshape(1, old, old, 3)).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(patches, size=(new, new), mode="bicubic", align_corners=False)
    ours = np.asarray(resized_positions(jnp.asarray(table), new))
    assert largest_gap(ours[0, 1:], theirs[0].permute(1, 2, 0).reshape(-1, 3).numpy()) <= 1e-5
    assert largest_gap(ours[0, 0], table[0, 0]) == 0
    np.testing.assert_allclose(bicubic_matrix(old, new).sum(1), 1, atol=1e-6)


@pytest.fixture(scope="module", params=KINDS)
def setting(request):
    raw = config_with(request.param)
    model = torch_model(raw)
    example = example_of(raw, IMAGES, seed=4)
    return raw, model, our_params(raw, numpy_state(model)), example, make_batch(raw, [[example]])


class TestModules:
    """Each module on its own input, so that a fault shows where it is."""

    def test_embeddings(self, setting):
        raw, model, params, example, _ = setting
        tiles = np.concatenate(example.images)
        with torch.no_grad():
            theirs = model.model.vision_tower.embeddings(torch.tensor(tiles)).numpy()
        ours = nnx.merge(our_graph(raw), params).vision.embed(jnp.asarray(cut(tiles).reshape(len(tiles), 16, -1)))
        assert largest_gap(ours, theirs) <= TOLERANCE

    @pytest.mark.parametrize("layer", [0, 2])
    def test_vision_block(self, setting, layer):
        raw, model, params, _, _ = setting
        x = np.random.default_rng(5).standard_normal((3, 17, raw["vision_config"]["hidden_size"])).astype(np.float32)
        with torch.no_grad():
            theirs = model.model.vision_tower.encoder.layer[layer](torch.tensor(x))
        graph, stacked = nnx.split(nnx.merge(our_graph(raw), params).vision.blocks)
        one = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], stacked))
        ours = one(jnp.asarray(x), jnp.zeros((3, 17), jnp.int32), jnp.full((3, 17), 17, jnp.int32))
        assert largest_gap(ours, theirs.numpy()) <= TOLERANCE

    def test_vision_tower(self, setting):
        raw, model, params, example, _ = setting
        tiles = np.concatenate(example.images)
        with torch.no_grad():
            theirs = model.model.vision_tower(torch.tensor(tiles)).last_hidden_state[:, 1:].numpy()
        vision = nnx.merge(our_graph(raw), params).vision
        ours = vision(jnp.asarray(cut(tiles).reshape(len(tiles), 16, -1)), jnp.ones(len(tiles), bool))
        assert largest_gap(ours, theirs) <= TOLERANCE

    @pytest.mark.parametrize("merge", [1, 2, 4])
    def test_pixel_shuffle(self, setting, merge):
        _, model, _, _, _ = setting
        x = np.random.default_rng(6).standard_normal((3, 64, 8)).astype(np.float32)
        theirs = model.model.pixel_shuffle(torch.tensor(x.reshape(3, 8, 8, 8)), scale_factor=1 / merge)
        assert largest_gap(pixel_shuffle(jnp.asarray(x), merge), theirs.numpy().reshape(3, 64 // merge**2, -1)) == 0

    def test_projector(self, setting):
        raw, model, params, _, _ = setting
        x = np.random.default_rng(7).standard_normal((3, 4, 4 * raw["vision_config"]["hidden_size"])).astype(np.float32)
        with torch.no_grad():
            theirs = model.model.multi_modal_projector(torch.tensor(x)).numpy()
        assert largest_gap(nnx.merge(our_graph(raw), params).projector(jnp.asarray(x)), theirs) <= TOLERANCE

    def test_image_embeddings(self, setting):
        raw, model, params, example, batch = setting
        with torch.no_grad():
            theirs = model.model.get_image_features(torch_inputs(example)["pixel_values"]).pooler_output
        ours = np.asarray(nnx.merge(our_graph(raw), params).image_embeddings(batch))[0]
        where = np.asarray(batch["image_index"])[0]
        assert largest_gap(ours[where[where >= 0]], theirs.numpy().reshape(-1, 64)) <= TOLERANCE

    def test_text_rotary_angles(self, setting):
        raw, model, _, _, batch = setting
        positions = torch.tensor(np.asarray(batch["positions"]).astype(np.int64))
        cos, _ = model.model.language_model.rotary_emb(torch.zeros(1), positions)
        angles = rotary_angles(config_from_hf(raw).language, batch["positions"])
        assert largest_gap(jnp.cos(angles), cos.numpy()[..., : angles.shape[-1]]) <= 1e-5


def test_rows_past_the_scaled_positions_are_refused():
    """transformers would scale the rotary embedding by the longest sequence of the batch; packed rows have no such thing."""
    raw = config_with(text={"max_position_embeddings": 64})
    graph, params = our_graph(raw), our_params(raw, numpy_state(torch_model(raw)))
    assert np.isfinite(logits(graph, params, make_batch(raw, [[example_of(raw, [64])]]))).all()
    with pytest.raises(ValueError, match="rows of 65 tokens: past 64 positions"):
        logits(graph, params, make_batch(raw, [[example_of(raw, [65])]]))


def test_patches_that_are_not_whole_tiles_are_refused():
    raw = config_with()
    graph, params = our_graph(raw), our_params(raw, numpy_state(torch_model(raw)))
    batch = make_batch(raw, [[example_of(raw, ONE_TILE)]])
    with pytest.raises(ValueError, match="15 patches a row are not whole tiles of 16"):
        logits(graph, params, batch | {"patches": batch["patches"][:, :15]})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_compute_stays_near_float32(kind):
    raw = config_with(kind)
    example = example_of(raw, ONE_TILE, seed=6)
    params, batch = our_params(raw, numpy_state(torch_model(raw))), make_batch(raw, [[example]])
    exact = logits(our_graph(raw), params, batch)
    rounded = logits(our_graph(raw, compute_dtype=jnp.bfloat16), params, batch)
    assert largest_gap(rounded.astype(jnp.float32), exact) < 0.05 * float(jnp.abs(exact).max())
