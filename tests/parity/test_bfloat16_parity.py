"""In bfloat16, at positions past 4,000 and with the released models' head width and mRoPE sections: no further off than transformers.

The yardstick is transformers in float32 with the same (already rounded) weights.
"""

import copy
import functools

import internvl3_reference as internvl3
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as qwen2_5_vl
from flax import nnx
from transformers.models.internvl.modeling_internvl import InternVLVisionRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from mede2_jax.model_configs.qwen2_5_vl import config_from_hf
from mede2_jax.models.attention import attention
from mede2_jax.models.layers import LayerNorm, RMSNorm, rotate
from mede2_jax.models.logprobs import chunked_scores, token_logprobs
from mede2_jax.models.qwen2 import rotary_angles

START, END = 4_500, 7_500
"""Positions: bfloat16 cannot even count beyond 256, and an angle that is rounded to it is off by whole turns out there."""
WIDE = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2, "max_position_embeddings": 8192}
SCALE = 0.15
"""Of the matrices, so that activations stay of the size that a trained model's have."""


def setting(family):
    """(reference module, config, example with an image) at the real head width."""
    rng = np.random.default_rng(0)
    if family == "qwen2_5_vl":
        raw = qwen2_5_vl.config_with(
            **WIDE, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}, vision={"out_hidden_size": 256, "depth": 2}
        )
        return qwen2_5_vl, raw, qwen2_5_vl.make_example(rng, [9, (18, 26), 40])
    kind = family.removeprefix("internvl3 ")
    raw = internvl3.config_with(kind, text=WIDE, vision={"num_hidden_layers": 2})
    return internvl3, raw, internvl3.make_example(rng, [9, (7,), 40])


def calmer(model):
    """With smaller matrices: in the random ones of the other tests every rounding sets off an avalanche."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= SCALE
    return model


@functools.cache
def logprobs(family):
    """Of every token after the first: transformers' in float32 and in bfloat16, ours in both."""
    reference, raw, example = setting(family)
    exact = calmer(reference.torch_model(raw)).to(torch.bfloat16).float()
    batch = reference.make_batch(raw, [[example]])
    batch = {**batch, "positions": batch["positions"] + START}
    positions = torch.tensor(np.asarray(batch["positions"]).astype(np.int64))
    positions = positions.permute(1, 0, 2) if positions.ndim == 3 else positions
    theirs = []
    for model in (exact, copy.deepcopy(exact).to(torch.bfloat16)):
        inputs = reference.torch_inputs(example) | {"position_ids": positions}
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.no_grad():
            of_all = torch.log_softmax(model(**inputs).logits[0, :-1].float(), dim=-1)
        theirs.append(of_all.gather(1, torch.tensor(example.tokens[1:, None].astype(np.int64)))[:, 0].numpy())
    params = reference.our_params(raw, reference.numpy_state(exact))
    ours = []
    for dtype in (jnp.float32, jnp.bfloat16):
        graph = reference.our_graph(raw, compute_dtype=dtype)
        scored = jax.jit(lambda tree, graph=graph: token_logprobs(nnx.merge(graph, tree), batch, train_vocabulary=False))(params)
        ours.append(np.asarray(scored)[0, : len(example.tokens) - 1])
    return theirs, ours


def error(found, exact):
    return float(np.sqrt(np.mean((found - exact) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl3 300m", "internvl3 6b"])
def test_logprobs_of_a_model(family):
    (exact, their_half), (ours, our_half) = logprobs(family)
    assert error(ours, exact) <= 1e-4
    assert error(our_half, exact) <= 1.2 * error(their_half, exact)
    assert error(their_half, exact) > 10 * error(ours, exact), "too small to tell a difference"


def same_share(ours, theirs):
    """How many of the numbers are equal to the last bit; one that lies between two may be rounded either way."""
    assert ours.dtype == jnp.bfloat16 and theirs.dtype == torch.bfloat16
    return float(np.mean(np.asarray(ours.astype(jnp.float32)) == theirs.float().numpy()))


def both(array):
    return jnp.asarray(array, jnp.bfloat16), torch.tensor(array).to(torch.bfloat16)


@pytest.fixture(scope="module")
def angles():
    """[1, T, 64] of real heads and sections, with transformers' cos and sin in float32 [T, 128]."""
    _, raw, _ = setting("qwen2_5_vl")
    positions = np.random.default_rng(1).integers(START, END, (1, 3, 40))
    rotary = qwen2_5_vl.torch_model(raw).model.language_model.rotary_emb
    cos, sin = rotary(torch.zeros(1), torch.tensor(positions.transpose(1, 0, 2)))
    if cos.ndim == 4:  # one table an axis: pick each section's
        sections = np.tile(np.repeat(np.arange(3), raw["rope_scaling"]["mrope_section"]), 2)
        cos, sin = (torch.take_along_dim(t, torch.tensor(sections)[None, None, None], dim=0)[0] for t in (cos, sin))
    return rotary_angles(config_from_hf(raw).language, jnp.asarray(positions)), cos[0], sin[0]


def test_angles_far_out(angles):
    ours, cos, sin = angles
    for function, theirs in ((jnp.cos, cos), (jnp.sin, sin)):
        assert qwen2_5_vl.largest_gap(function(ours[0]), theirs[:, :64]) <= END * 2.0**-23, "one step of float32 that far out"


def test_rotary_embedding_is_rounded_once(angles):
    """As transformers does it in its vision tower; in its decoder it rounds three times."""
    ours, theirs = both(np.random.default_rng(2).standard_normal((1, 40, 2, 128)).astype(np.float32))
    turned, _ = apply_rotary_pos_emb_vision(theirs[0], theirs[0], angles[1], angles[2])
    same = jnp.asarray(torch.arctan2(angles[2], angles[1])[:, :64].numpy())[None]
    assert same_share(rotate(ours, same)[0], turned) > 0.99


@pytest.mark.parametrize(
    ("our_norm", "their_norm"),
    [(RMSNorm, Qwen2RMSNorm), (RMSNorm, InternVLVisionRMSNorm), (LayerNorm, torch.nn.LayerNorm)],
    ids=["decoder", "InternVL's queries and keys", "InternVL's small encoder"],
)
def test_norms(our_norm, their_norm):
    rng = np.random.default_rng(3)
    ours, theirs = both(5 * rng.standard_normal((64, 256)).astype(np.float32) + 1)
    our_scale, their_scale = both(1 + 0.2 * rng.standard_normal(256).astype(np.float32))
    norm, reference = our_norm(256, 1e-6, dtype=jnp.bfloat16), their_norm(256, eps=1e-6).to(torch.bfloat16)
    norm.scale = nnx.Param(our_scale)
    with torch.no_grad():
        reference.weight.copy_(their_scale)
        assert same_share(norm(ours), reference(theirs)) > 0.99


@pytest.mark.slow
def test_attention():
    """Values and gradients of causal attention in many blocks, no further from double precision than torch's own in bfloat16."""
    rng = np.random.default_rng(5)
    arrays = [size * rng.standard_normal((1, 300, 2, 128)).astype(np.float32) for size in (4.0, 1.0, 1.0, 1.0)]
    ours, halves = zip(*map(both, arrays), strict=True)
    index = jnp.arange(300)[None]
    out, pull = jax.vjp(lambda q, k, v: attention(q, k, v, 0 * index, index + 1, block=8), *ours[:3])
    found = [out, *pull(ours[3])]
    exact, theirs = ([], [])
    for results, dtype in ((exact, torch.float64), (theirs, torch.bfloat16)):
        q, k, v, d_out = (half.to(dtype).transpose(1, 2).detach().requires_grad_() for half in halves)
        result = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        result.backward(d_out)
        results += [x.transpose(1, 2).detach().double().numpy() for x in (result, q.grad, k.grad, v.grad)]
    for name, our, their, right in zip(("out", "dq", "dk", "dv"), found, theirs, exact, strict=True):
        assert error(np.asarray(our, np.float64), right) <= 1.2 * error(their, right), name


@pytest.mark.parametrize("train_vocabulary", [True, False])
def test_logits_are_float32(train_vocabulary):
    rng = np.random.default_rng(4)
    our_hidden, their_hidden = both(rng.standard_normal((1, 20, 256)).astype(np.float32))
    our_vocabulary, their_vocabulary = both(0.3 * rng.standard_normal((300, 256)).astype(np.float32))
    targets = rng.integers(0, 300, 20)
    exact = torch.log_softmax(their_hidden[0].double() @ their_vocabulary.double().T, dim=-1).numpy()[np.arange(20), targets]
    scores = chunked_scores(our_hidden, our_vocabulary, jnp.asarray(targets)[None], chunk=8, train_vocabulary=train_vocabulary)
    assert qwen2_5_vl.largest_gap(scores.logprob[0], exact) <= 1e-4
