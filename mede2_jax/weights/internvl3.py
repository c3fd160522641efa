"""The weight tables of InternVL3: of the -hf checkpoints (two name layouts) and of the original ones (q, k and v fused)."""

from __future__ import annotations

from mede2_jax.model_configs.internvl3 import InternVL3Config
from mede2_jax.weights.qwen2 import decoder_rules
from mede2_jax.weights.table import FlattenPatches, Layout, Rule, Table, Transpose

HF_LAYOUTS = (
    Layout("hub"),
    Layout(
        "new",
        (
            ("language_model.lm_head.", "lm_head."),
            ("language_model.model.", "model.language_model."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        ),
    ),
)
"""The released checkpoints' names, and those of the modules (and of some saves) since transformers 4.52."""
ORIGINAL_LAYOUTS = (Layout("hub"),)

HF_BLOCK, ORIGINAL_BLOCK = "vision_tower.encoder.layer.{layer}.", "vision_model.encoder.layers.{layer}."
NAMES = {
    "vision/class_token": ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    "vision/positions": ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    "vision/patch_embed": ("vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
    "vision/blocks/norm1": (f"{HF_BLOCK}layernorm_before", f"{ORIGINAL_BLOCK}norm1"),
    "vision/blocks/attention/q_proj": (f"{HF_BLOCK}attention.q_proj", f"{ORIGINAL_BLOCK}attn.qkv"),
    "vision/blocks/attention/k_proj": (f"{HF_BLOCK}attention.k_proj", f"{ORIGINAL_BLOCK}attn.qkv"),
    "vision/blocks/attention/v_proj": (f"{HF_BLOCK}attention.v_proj", f"{ORIGINAL_BLOCK}attn.qkv"),
    "vision/blocks/attention/q_norm": (f"{HF_BLOCK}attention.q_norm", f"{ORIGINAL_BLOCK}attn.q_norm"),
    "vision/blocks/attention/k_norm": (f"{HF_BLOCK}attention.k_norm", f"{ORIGINAL_BLOCK}attn.k_norm"),
    "vision/blocks/attention/projection_layer": (f"{HF_BLOCK}attention.projection_layer", f"{ORIGINAL_BLOCK}attn.proj"),
    "vision/blocks/layer_scale1/scale": (f"{HF_BLOCK}lambda_1", f"{ORIGINAL_BLOCK}ls1"),
    "vision/blocks/norm2": (f"{HF_BLOCK}layernorm_after", f"{ORIGINAL_BLOCK}norm2"),
    "vision/blocks/mlp/fc1": (f"{HF_BLOCK}mlp.fc1", f"{ORIGINAL_BLOCK}mlp.fc1"),
    "vision/blocks/mlp/fc2": (f"{HF_BLOCK}mlp.fc2", f"{ORIGINAL_BLOCK}mlp.fc2"),
    "vision/blocks/layer_scale2/scale": (f"{HF_BLOCK}lambda_2", f"{ORIGINAL_BLOCK}ls2"),
    "projector/norm": ("multi_modal_projector.layer_norm", "mlp1.0"),
    "projector/linear_1": ("multi_modal_projector.linear_1", "mlp1.1"),
    "projector/linear_2": ("multi_modal_projector.linear_2", "mlp1.3"),
}
"""Our parameter or module, and its name in the -hf and in the original format. The decoder's names are the same in both."""


def weight_rules(config: InternVL3Config) -> Table:
    """Every tensor of a checkpoint of this config, in the hub layout's names of its own format."""
    original, vision = config.format == "original", config.vision
    tied = config.language.tie_word_embeddings
    rules = [*decoder_rules(hf="language_model.model.", head="language_model.lm_head.weight", path="language", tied=tied)]
    for path, names in NAMES.items():
        hf, name = names[original], path.rsplit("/", 1)[-1]
        if name in ("class_token", "positions", "scale"):
            rules.append(Rule(hf, path))
        elif name == "patch_embed":
            window = (vision.in_channels, vision.patch_size, vision.patch_size)
            rules += [Rule(f"{hf}.weight", f"{path}/kernel", FlattenPatches(window)), Rule(f"{hf}.bias", f"{path}/bias")]
        elif name in ("q_norm", "k_norm"):
            rules += _norm(hf, path, bias=False) if vision.qk_norm else ()
        elif name.startswith("norm"):
            rules += _norm(hf, path, bias=path == "projector/norm" or vision.norm == "layer_norm")
        elif name in ("q_proj", "k_proj", "v_proj"):
            rules += _linear(hf, path, bias=vision.qkv_bias, part=("qkv".index(name[0]), 3) if original else (0, 1))
        else:
            rules += _linear(hf, path)
    return Table(tuple(rules), ORIGINAL_LAYOUTS if original else HF_LAYOUTS)


def _norm(hf: str, path: str, *, bias: bool) -> list[Rule]:
    return [Rule(f"{hf}.weight", f"{path}/scale"), *([Rule(f"{hf}.bias", f"{path}/bias")] if bias else [])]


def _linear(hf: str, path: str, *, bias: bool = True, part: tuple[int, int] = (0, 1)) -> list[Rule]:
    weight = Rule(f"{hf}.weight", f"{path}/kernel", Transpose(), part=part)
    return [weight, *([Rule(f"{hf}.bias", f"{path}/bias", part=part)] if bias else [])]
