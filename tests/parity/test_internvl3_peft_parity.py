"""InternVL3's adapters both ways against PEFT on the transformers model: names, and the same logits."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from internvl3_reference import (
    KINDS,
    config_with,
    make_batch,
    make_example,
    numpy_state,
    original_config,
    our_params,
    torch_inputs,
    torch_model,
)
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from mede2_jax.config import UserError
from mede2_jax.families import family_of
from mede2_jax.models.lora import LoRAConfig, put_adapters
from mede2_jax.train.model_spec import make_model_spec
from mede2_jax.weights.peft import Adapter, check_exportable, export_adapter, import_adapter

LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
VISION = r"model\.vision_tower\.encoder\.layer\.\d+\.(attention\.((q|k|v)_proj|projection_layer)|mlp\.fc(1|2))"
PROJECTOR = r"model\.multi_modal_projector\.linear_(1|2)"
TARGETS = {
    "language": (LANGUAGE, {"vision": "frozen", "projector": "frozen", "language": "lora"}),
    "everything": (f"{LANGUAGE}|{VISION}|{PROJECTOR}", {"vision": "lora", "projector": "lora", "language": "lora"}),
}
PARTS = [4, (5,), 3, (1,), 7]


def adapted_policy(raw, parts, lora):
    family = family_of(raw)
    sizes = family.config_from_hf(raw)
    policy = make_model_spec(family, sizes, parts=parts, lora=lora, compute_dtype=jnp.float32, param_dtype=jnp.float32, remat="none")
    return policy, family.weight_rules(sizes), family.abstract_params(sizes)


def logits_with(policy, base, pairs, batch):
    plain = flatten_dict(base, sep="/")
    adapter = ("/lora_a", "/lora_b")
    tree = {
        path: jnp.zeros(leaf.shape) if path.endswith(adapter) else plain[path.replace("/base/", "/")]
        for path, leaf in policy.abstract.items()
    }
    model = policy.model(put_adapters(unflatten_dict(tree, sep="/"), pairs))
    return np.asarray(model.hidden_states(batch) @ model.vocabulary().T)[0]


def random_pairs(policy, seed=1):
    rng = np.random.default_rng(seed)

    def draw(path):
        return rng.normal(0, 0.2, policy.abstract[path].shape).astype(np.float32)

    paths = [path.removesuffix("/lora_a") for path in policy.abstract if path.endswith("/lora_a")]
    return {path: (draw(f"{path}/lora_a"), draw(f"{path}/lora_b")) for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("which", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_made_by_peft_loads_here(kind, which, tmp_path):
    raw, (targets, parts) = config_with(kind), TARGETS[which]
    model = torch_model(raw)
    base = our_params(raw, numpy_state(model))
    peft_model = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, use_rslora=True, target_modules=targets)).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                # At 0.2 the adapters outweigh the model tenfold, and float32 itself, here and in PyTorch, is 1e-4 from float64.
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    peft_model.save_pretrained(tmp_path / "adapter")
    example = make_example(np.random.default_rng(0), PARTS)
    with torch.no_grad():
        theirs = peft_model(**torch_inputs(example)).logits[0].numpy()
    policy, table, abstract = adapted_policy(raw, parts, LoRAConfig(rank=3, alpha=7, rslora=True))
    adapter = import_adapter(tmp_path / "adapter", table, abstract)
    assert adapter.scale == pytest.approx(policy.lora.scale)
    ours = logits_with(policy, base, adapter.pairs, make_batch(raw, [[example]]))
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("which", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_adapter_loads_in_peft(kind, which, tmp_path):
    raw, parts = config_with(kind), TARGETS[which][1]
    model = torch_model(raw)
    base = our_params(raw, numpy_state(model))
    policy, table, abstract = adapted_policy(raw, parts, LoRAConfig(rank=4, alpha=6))
    pairs = random_pairs(policy)
    export_adapter(tmp_path / "adapter", Adapter(pairs, 4, 6.0), table, abstract)
    found = import_adapter(tmp_path / "adapter", table, abstract).pairs
    assert all(np.array_equal(one, two) for path in pairs for one, two in zip(pairs[path], found[path], strict=True))
    example = make_example(np.random.default_rng(2), PARTS)
    ours = logits_with(policy, base, pairs, make_batch(raw, [[example]]))
    with torch.no_grad():
        before = model(**torch_inputs(example)).logits[0].numpy()
        loaded = PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        theirs = loaded(**torch_inputs(example)).logits[0].numpy()
    assert np.abs(ours - theirs).max() <= 1e-4
    assert np.abs(theirs - before).max() > 0.1, "the adapter must matter"
    active = {name for name, _ in loaded.named_modules() if name.endswith("lora_A.default")}
    assert len(active) == sum(a.shape[0] if a.ndim == 3 else 1 for a, _ in pairs.values())


def test_an_adapter_of_the_original_format_has_its_names(tmp_path):
    raw = original_config(config_with())
    policy, table, abstract = adapted_policy(raw, TARGETS["language"][1], LoRAConfig(rank=4))
    pairs = random_pairs(policy)
    export_adapter(tmp_path / "adapter", Adapter(pairs, 4, 16.0), table, abstract)
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.language_model.model.layers.2.self_attn.q_proj.lora_A.weight" in names and len(names) == 2 * 3 * 7
    assert set(import_adapter(tmp_path / "adapter", table, abstract).pairs) == set(pairs)


def test_what_the_original_format_fuses_cannot_be_adapted():
    """PEFT would hold one adapter for q, k and v together; three of them are not of that form."""
    raw = original_config(config_with())
    policy, table, abstract = adapted_policy(raw, TARGETS["everything"][1], LoRAConfig())
    paths = [path.removesuffix("/lora_a") for path in policy.abstract if path.endswith("/lora_a")]
    with pytest.raises(UserError, match=r"vision/blocks/attention/k_proj' lies fused with others .* set parts.vision to frozen or full"):
        check_exportable(paths, table, abstract)
    kept = [path for path in paths if not path.startswith("vision/blocks/attention/") or path.endswith("projection_layer")]
    check_exportable(kept, table, abstract)
    check_exportable(paths, *adapted_policy(config_with(), TARGETS["everything"][1], LoRAConfig())[1:])
