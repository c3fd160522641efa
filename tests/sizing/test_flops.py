"""Counted operations, against the products that JAX's own trace of the step holds."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mede2_jax.data.loader import make_loader
from mede2_jax.models.logprobs import token_scores
from mede2_jax.models.lora import join_params, split_params
from mede2_jax.sizing.chips import peak_tflops
from mede2_jax.sizing.flops import Contents, contents, count_flops
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.inputs import open_inputs
from mede2_jax.train.model_spec import random_params

CHUNK = 64


def products(jaxpr, times=1):
    """2·m·k·n of every product in a jaxpr, scans counted by their length; what loops by data (attention) is left out."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += times * 2 * math.prod(out) * math.prod(left[axis] for axis in contract)
        if equation.primitive.name == "while":
            continue
        inner = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        for value in equation.params.values():
            for sub in value if isinstance(value, tuple) else (value,):
                if isinstance(sub, jax.extend.core.ClosedJaxpr):
                    total += products(sub.jaxpr, inner)
                elif isinstance(sub, jax.extend.core.Jaxpr):
                    total += products(sub, inner)
    return total


def opened(model, sample, stage, parts):
    data = {"path": sample / ("demonstrations.jsonl" if stage == "sft" else "preferences.jsonl"), "row_tokens": 2048}
    options = {"stage": stage, "data": data, "parts": parts, "compute_dtype": "float32", "rows_per_step": 1, "remat": "none"}
    return open_inputs(TrainConfig.model_validate(options), model, devices=jax.devices()[:1])


def a_batch(setup):
    with make_loader(setup.train, setup.shape, rows_per_step=1, shuffle=False) as loader:
        return next(loader)


def padded(batch):
    """What a batch would hold if nothing of it were padding, and no key were seen."""
    tokens, patches = batch["tokens"].size, batch["patches"].shape[2]
    return Contents(
        tokens=tokens,
        keys_seen=0,
        scored=-(-batch["scored_index"].size // CHUNK) * CHUNK,
        image_tokens=patches // 4,
        patches=patches,
        window_keys=0,
        image_keys=0,
        examples=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("sft", {"language": "lora"}),
        ("dpo", {"language": "lora"}),
        ("dpo", {"language": "full"}),
        ("dpo", {"language": "lora", "projector": "full"}),
        ("dpo", {"language": "frozen", "vision": "lora"}),
    ],
    ids=str,
)
def test_operations_are_those_of_the_trace(tiny_model, sample, stage, parts):
    setup = opened(tiny_model, sample, stage, parts)
    batch = a_batch(setup)
    micro = {name: jnp.asarray(value[0]) for name, value in batch.items()}
    trainable, frozen = split_params(random_params(setup.spec, setup.mesh, 0), setup.spec.parts)
    totals = setup.loss.totals(micro)

    def loss(trained):
        model = setup.spec.model(join_params(frozen, trained))
        return setup.loss(token_scores(model, micro, train_vocabulary=setup.spec.trains_vocabulary, chunk=CHUNK), micro, totals)[0]

    traced = products(jax.make_jaxpr(jax.grad(loss))(trainable).jaxpr)
    counted = count_flops(setup.spec, setup.sizes, padded(batch), remat="none")
    expected = counted.total + counted.recomputation["head"]  # a trained head computes its logits twice
    if setup.spec.parts["vision"] != "frozen":  # nothing flows to the pixels
        vision = setup.sizes.vision
        expected -= 2 * vision.patch_dim * vision.hidden_size * batch["patches"].shape[2]
    assert traced == pytest.approx(expected, rel=0.002)


def test_lora_costs_about_4n_and_full_6n(tiny_model, sample):
    """Of a token of text, the head apart."""
    held = Contents(tokens=1000, keys_seen=0, scored=0, image_tokens=0, patches=0, window_keys=0, image_keys=0, examples=1)
    setups = {mode: opened(tiny_model, sample, "sft", {"language": mode}) for mode in ("lora", "full")}
    kernels = [leaf for path, leaf in setups["full"].spec.abstract.items() if path.startswith("language/") and path.endswith("/kernel")]
    size = sum(math.prod(leaf.shape) for leaf in kernels)
    full = count_flops(setups["full"].spec, setups["full"].sizes, held, remat="none")
    assert full.total == 6 * size * 1000
    lora = count_flops(setups["lora"].spec, setups["lora"].sizes, held, remat="none")
    adapters = sum(math.prod(leaf.shape) for path, leaf in setups["lora"].spec.abstract.items() if "/lora_" in path)
    assert lora.total == 4 * size * 1000 + 6 * adapters * 1000
    assert sum(lora.recomputation.values()) == 0
    again = count_flops(setups["lora"].spec, setups["lora"].sizes, held, remat="full").recomputation["language"]
    assert again == 2 * (size + adapters) * 1000


def test_attention_counts_what_is_seen(tiny_model, sample):
    setup = opened(tiny_model, sample, "dpo", {"language": "lora"})
    held = contents(a_batch(setup))
    without = dataclasses.replace(held, keys_seen=0, window_keys=0, image_keys=0)
    sizes = setup.sizes
    flops, less = (count_flops(setup.spec, sizes, x, remat="none") for x in (held, without))
    heads = sizes.language.num_layers * sizes.language.num_heads * sizes.language.head_dim
    assert flops.model["language"] - less.model["language"] == 3 * 4 * heads * held.keys_seen
    whole = len(sizes.vision.fullatt_block_indexes)
    seen = (sizes.vision.depth - whole) * held.window_keys + whole * held.image_keys
    assert flops.model["vision"] - less.model["vision"] == 4 * sizes.vision.hidden_size * seen


def test_contents_leave_padding_out(tiny_model, sample):
    setup = opened(tiny_model, sample, "dpo", {"language": "lora"})
    batch = a_batch(setup)
    held = contents(batch)
    examples = [setup.train.example(number)[0] for number in setup.train.rows[0]]
    assert held.examples == len(examples)
    assert held.tokens == sum(example.token_count for example in examples) < batch["tokens"].size
    assert held.patches == sum(setup.train.entries[number].patches for number in setup.train.rows[0]) == 4 * held.image_tokens
    assert held.scored == int((batch["scored_response"] >= 0).sum()) < batch["scored_response"].size
    lengths = [segment.key_end - segment.key_start for example in examples for segment in example.segments]
    assert held.keys_seen == sum(int(np.sum(length)) for length in lengths)


def test_peaks_by_device_name():
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989.4
    assert peak_tflops("TPU v5 lite") == 197.0
    assert peak_tflops("TPU v5p") == 459.0
    assert peak_tflops("TPU v6 lite") == 918.0
    assert peak_tflops("cpu") is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        *(("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 NVL", 835.0), ("NVIDIA H200 NVL", 835.0), ("NVIDIA H200", 989.4)),
        *(("NVIDIA A100-SXM4-40GB", 312.0), ("NVIDIA A100 80GB PCIe", 312.0), ("NVIDIA GH200 480GB", 989.4)),
        *((f"NVIDIA {name}", None) for name in ("H100 80GB HBM3 MIG 1g.10gb", "H200 MIG 1g.18gb", "H800", "H20", "A10", "GB200", "H100")),
    ],
)
def test_a_slower_card_of_the_same_name_has_its_own_peak(name, peak):
    """By a part of its name it would count as an SXM card, and its MFU would read a fifth to a quarter too low."""
    assert peak_tflops(name) == peak


def test_attention_of_heads_that_do_not_divide_is_counted_on_each_device(tiny_model, sample):
    """4 heads of language: two of three devices do alike what one would do, forward, backward, and again where layers are recomputed."""
    setup = opened(tiny_model, sample, "sft", {"language": "lora"})
    held = Contents(1000, 10**6, 500, 0, 0, 0, 0, 10)
    for remat, runs in (("none", 3.5), ("full", 4.5)):
        one, even, odd = (count_flops(setup.spec, setup.sizes, held, remat=remat, tensor=size) for size in (1, 2, 3))
        language = setup.sizes.language
        attention = 4 * language.num_layers * language.num_heads * language.head_dim * held.keys_seen
        assert even == one and not any(one.repeated.values()) and one.done == one.total + sum(one.recomputation.values())
        assert odd.repeated["language"] == 2 * runs * attention and odd.done == one.done + odd.repeated["language"]
        assert (odd.model, odd.recomputation) == (one.model, one.recomputation)
