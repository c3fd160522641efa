"""The weight table of Qwen2.5-VL: the decoder's rules, the vision tower's, the projector's, and the two name layouts."""

from __future__ import annotations

from mede2_jax.model_configs.qwen2_5_vl import Qwen2_5VLConfig
from mede2_jax.weights.qwen2 import decoder_rules
from mede2_jax.weights.table import FlattenPatches, Layout, Rule, Table, Transpose

LAYOUTS = (
    Layout("hub"),
    Layout("new", (("model.", "model.language_model."), ("visual.", "model.visual."))),
)
"""The released checkpoints' names, and those of the modules (and of some saves) since transformers 4.52."""


def weight_rules(config: Qwen2_5VLConfig) -> Table:
    """Every tensor of a checkpoint of this config, in the hub layout's names."""
    vision = config.vision
    window = (vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    decoder = decoder_rules(hf="model.", head="lm_head.weight", path="language", tied=config.language.tie_word_embeddings)
    patch_embed = Rule("visual.patch_embed.proj.weight", "vision/patch_embed/kernel", FlattenPatches(window))
    return Table((*decoder, patch_embed, *_blocks(), *_projector()), LAYOUTS)


def _blocks() -> list[Rule]:
    hf, path = "visual.blocks.{layer}.", "vision/blocks/"
    rules = [Rule(f"{hf}{norm}.weight", f"{path}{norm}/scale") for norm in ("norm1", "norm2")]
    linears = {"attn.qkv": "attention/qkv", "attn.proj": "attention/proj"}
    linears |= {f"mlp.{name}": f"mlp/{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    for theirs, ours in linears.items():
        rules += _linear(hf + theirs, path + ours)
    return [*rules, Rule("visual.rotary_pos_emb.inv_freq", None)]


def _projector() -> list[Rule]:
    return [
        Rule("visual.merger.ln_q.weight", "projector/norm/scale"),
        *_linear("visual.merger.mlp.0", "projector/up"),
        *_linear("visual.merger.mlp.2", "projector/down"),
    ]


def _linear(hf: str, path: str) -> list[Rule]:
    return [Rule(f"{hf}.weight", f"{path}/kernel", Transpose()), Rule(f"{hf}.bias", f"{path}/bias")]
