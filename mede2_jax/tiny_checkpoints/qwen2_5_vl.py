"""A tiny Qwen2.5-VL checkpoint, laid out as the released ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mede2_jax.tiny_checkpoints.recipe import (
    QWEN2_TOKENS,
    Ids,
    Recipe,
    Shapes,
    chat_template,
    decoder_shapes,
    linear_shapes,
    tokenizer_config,
)

DEFAULT_SYSTEM_TURN = """\
{%- if not messages or messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
"""
CHAT_TEMPLATE = chat_template(
    opening=DEFAULT_SYSTEM_TURN,
    image="<|vision_start|><|image_pad|><|vision_end|>",
    video="<|vision_start|><|video_pad|><|vision_end|>",
)


def files(vocab_size: int, ids: Ids) -> dict[str, dict[str, Any]]:
    """Each JSON file's content."""
    return {
        "config.json": model_config(vocab_size, ids),
        "tokenizer_config.json": tokenizer_config(ids, CHAT_TEMPLATE, QWEN2_TOKENS),
        "preprocessor_config.json": preprocessor_config(),
        "generation_config.json": generation_config(ids),
    }


def model_config(vocab_size: int, ids: Ids) -> dict[str, Any]:
    """config.json, laid out as in the released checkpoints."""
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "max_position_embeddings": 8192,
        "max_window_layers": 4,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": vocab_size,
        "vision_config": {
            "depth": 4,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
        },
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json: CLIP's mean and standard deviation, and at most 448² pixels an image."""
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "min_pixels": 56 * 56,
        "max_pixels": 448 * 448,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def generation_config(ids: Ids) -> dict[str, Any]:
    """generation_config.json: stop at the end of the turn or of the text."""
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    return {
        "bos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "eos_token_id": [end_of_turn, end_of_text],
        "do_sample": True,
        "temperature": 0.000001,
        "repetition_penalty": 1.05,
    }


def tensor_shapes(config: Mapping[str, Any]) -> Shapes:
    """Every tensor's hub name and shape."""
    yield from decoder_shapes(config, prefix="model.", head="lm_head.weight")
    yield from _vision_shapes(config["vision_config"])


def _vision_shapes(vision: Mapping[str, Any]) -> Shapes:
    width, feed, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    yield "visual.patch_embed.proj.weight", (width, vision["in_chans"], vision["temporal_patch_size"], patch, patch)
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linears |= {"mlp.gate_proj": (feed, width), "mlp.up_proj": (feed, width), "mlp.down_proj": (width, feed)}
    for block in range(vision["depth"]):
        for norm in ("norm1", "norm2"):
            yield f"visual.blocks.{block}.{norm}.weight", (width,)
        for name, shape in linears.items():
            yield from linear_shapes(f"visual.blocks.{block}.{name}", shape)
    yield "visual.merger.ln_q.weight", (width,)
    yield from linear_shapes("visual.merger.mlp.0", (merged, merged))
    yield from linear_shapes("visual.merger.mlp.2", (vision["out_hidden_size"], merged))


RECIPE = Recipe(QWEN2_TOKENS, files, tensor_shapes)
