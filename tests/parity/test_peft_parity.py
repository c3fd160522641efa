"""Adapters both ways against PEFT on the transformers model: the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.traverse_util import unflatten_dict
from peft import LoraConfig, PeftModel, get_peft_model
from torch_reference import config_with, make_batch, make_example, numpy_state, our_params, torch_inputs, torch_model
from transformers import Qwen2_5_VLForConditionalGeneration

from mede2_jax.families import family_of
from mede2_jax.models.lora import LoRAConfig, join_params, put_adapters, split_params, take_adapters
from mede2_jax.train.model_spec import make_model_spec
from mede2_jax.weights.peft import Adapter, export_adapter, import_adapter

LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
EVERYTHING = LANGUAGE + r"|model\.visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)|model\.visual\.merger\.mlp\.(0|2)"
TARGETS = {
    "language": (LANGUAGE, {"vision": "frozen", "projector": "frozen", "language": "lora"}),
    "everything": (EVERYTHING, {"vision": "lora", "projector": "lora", "language": "lora"}),
}


@pytest.fixture(scope="module")
def raw():
    return config_with()


def adapted_policy(raw, parts, lora):
    family = family_of(raw)
    sizes = family.config_from_hf(raw)
    policy = make_model_spec(family, sizes, parts=parts, lora=lora, compute_dtype=jnp.float32, param_dtype=jnp.float32, remat="none")
    return policy, family.weight_rules(sizes), family.abstract_params(sizes)


def with_adapters(policy, base, pairs):
    """Base parameters and adapters as the policy's tree."""
    plain = {path: leaf for path, leaf in flat(base).items()}
    tree = {}
    for path, leaf in policy.abstract.items():
        if path.endswith(("/lora_a", "/lora_b")):
            tree[path] = jnp.zeros(leaf.shape)
        else:
            tree[path] = plain[path.replace("/base/", "/")]
    return put_adapters(unflatten_dict(tree, sep="/"), pairs)


def flat(tree):
    from flax.traverse_util import flatten_dict

    return flatten_dict(tree, sep="/")


def our_logits(policy, params, batch):
    model = policy.model(params)
    return np.asarray(model.hidden_states(batch) @ model.vocabulary().T)[0]


@pytest.mark.slow
@pytest.mark.parametrize("which", TARGETS)
@pytest.mark.parametrize("rslora", [False, True], ids=["plain", "rank-stabilised"])
def test_an_adapter_made_by_peft_loads_here(which, rslora, raw, tmp_path):
    targets, parts = TARGETS[which]
    model = torch_model(raw)
    base = our_params(raw, numpy_state(model))
    peft_model = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, use_rslora=rslora, target_modules=targets)).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    peft_model.save_pretrained(tmp_path / "adapter")
    example = make_example(np.random.default_rng(0), [4, (6, 10), 7])
    with torch.no_grad():
        theirs = peft_model(**torch_inputs(example)).logits[0].numpy()

    policy, table, abstract = adapted_policy(raw, parts, LoRAConfig(rank=3, alpha=7, rslora=rslora))
    adapter = import_adapter(tmp_path / "adapter", table, abstract)
    assert adapter.scale == pytest.approx(policy.lora.scale)
    ours = our_logits(policy, with_adapters(policy, base, adapter.pairs), make_batch(raw, [[example]]))
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("which", TARGETS)
def test_an_exported_adapter_loads_in_peft(which, raw, tmp_path):
    _, parts = TARGETS[which]
    model = torch_model(raw)
    base = our_params(raw, numpy_state(model))
    policy, table, abstract = adapted_policy(raw, parts, LoRAConfig(rank=4, alpha=6))
    rng = np.random.default_rng(1)
    pairs = {
        path.removesuffix("/lora_a"): (
            rng.normal(0, 0.2, leaf.shape).astype(np.float32),
            rng.normal(0, 0.2, policy.abstract[path[:-1] + "b"].shape).astype(np.float32),
        )
        for path, leaf in policy.abstract.items()
        if path.endswith("/lora_a")
    }
    export_adapter(tmp_path / "adapter", Adapter(pairs, 4, 6.0), table, abstract)

    example = make_example(np.random.default_rng(2), [4, (6, 10), 7])
    params = with_adapters(policy, base, pairs)
    ours = our_logits(policy, params, make_batch(raw, [[example]]))
    with torch.no_grad():
        before = model(**torch_inputs(example)).logits[0].numpy()
        loaded = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        theirs = loaded(**torch_inputs(example)).logits[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-4
    assert np.abs(theirs - before).max() > 0.1, "the adapter must matter"
    active = {name for name, _ in loaded.named_modules() if name.endswith("lora_A.default")}
    assert len(active) == sum(leaf.shape[0] if leaf.ndim == 3 else 1 for leaf, _ in pairs.values())


def test_split_params_keeps_adapters_apart(raw):
    policy, _, _ = adapted_policy(raw, TARGETS["language"][1], LoRAConfig())
    tree = unflatten_dict({path: jnp.zeros(leaf.shape) for path, leaf in policy.abstract.items()}, sep="/")
    trainable, frozen = split_params(tree, policy.parts)
    assert take_adapters(trainable).keys() == take_adapters(join_params(trainable, frozen)).keys()
    assert isinstance(nnx.merge(policy.eval_graph, join_params(trainable, frozen)), nnx.Module)
    assert jax.tree.structure(join_params(trainable, frozen)) == jax.tree.structure(tree)


def test_the_reference_model_is_transformers_own():
    assert torch_model(config_with()).__class__ is Qwen2_5_VLForConditionalGeneration
