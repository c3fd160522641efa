"""A tiny InternVL3 checkpoint with the small encoder, laid out as the released ones of transformers (-hf) or as the original ones."""

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

SPECIAL_TOKENS = (
    *QWEN2_TOKENS,
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
HF_CHAT_TEMPLATE = chat_template(image="<IMG_CONTEXT>\\n", video="<video>\\n")
# The original's knows text only: its own code writes what stands for images.
ORIGINAL_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""
TILE = 112
PATCH = 14
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
MAX_TILES = 4


def hf_files(vocab_size: int, ids: Ids) -> dict[str, dict[str, Any]]:
    """Each JSON file's content in transformers' format."""
    # The released tokenizers name a video token that is none of the vocabulary's: transformers adds it, past the embedding.
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokens = tokenizer_config(ids, HF_CHAT_TEMPLATE, SPECIAL_TOKENS)
    return {
        "config.json": hf_config(vocab_size, ids),
        "tokenizer_config.json": tokens | {"extra_special_tokens": named},
        "preprocessor_config.json": hf_preprocessor_config(),
        "processor_config.json": {"image_seq_length": tile_tokens(), "processor_class": "InternVLProcessor"},
        "generation_config.json": generation_config(ids, ids["<|im_end|>"]),
    }


def original_files(vocab_size: int, ids: Ids) -> dict[str, dict[str, Any]]:
    """Each JSON file's content in the original format."""
    return {
        "config.json": original_config(vocab_size, ids),
        "tokenizer_config.json": tokenizer_config(ids, ORIGINAL_CHAT_TEMPLATE, SPECIAL_TOKENS),
        "preprocessor_config.json": {
            "crop_size": TILE,
            "do_center_crop": True,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
            **IMAGENET,
            "resample": 3,
            "size": TILE,
        },
        "generation_config.json": generation_config(ids, ids["<|endoftext|>"]),
    }


def hf_config(vocab_size: int, ids: Ids) -> dict[str, Any]:
    """config.json in transformers' format."""
    vision = {
        "architectures": ["InternVisionModel"],
        "attention_bias": True,
        "hidden_dropout_prob": 0.0,
        "image_size": [TILE, TILE],
        "layer_scale_init_value": 0.1,
        "model_type": "internvl_vision",
        "patch_size": [PATCH, PATCH],
        "projection_dropout": 0.0,
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_qk_norm": False,
    }
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": 0.5,
        "image_seq_length": tile_tokens(),
        "image_token_id": ids["<IMG_CONTEXT>"],
        "projector_hidden_act": "gelu",
        "text_config": _decoder_config(vocab_size, ids) | {"eos_token_id": ids["<|im_end|>"]},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "vision_config": _encoder_config() | vision,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def original_config(vocab_size: int, ids: Ids) -> dict[str, Any]:
    """config.json in the original format."""
    vision = {
        "architectures": ["InternVisionModel"],
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "image_size": TILE,
        "initializer_factor": 0.1,
        "model_type": "intern_vit_6b",
        "patch_size": PATCH,
        "qk_normalization": False,
        "qkv_bias": True,
        "use_flash_attn": True,
    }
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "hidden_size": 128,
        "llm_config": _decoder_config(vocab_size, ids) | {"eos_token_id": ids["<|endoftext|>"]},
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": _encoder_config() | vision,
    }


def _decoder_config(vocab_size: int, ids: Ids) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
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
        "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }


def _encoder_config() -> dict[str, Any]:
    return {
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-6,
        "norm_type": "layer_norm",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 4,
        "torch_dtype": "float32",
    }


def tile_tokens() -> int:
    """Tokens that a tile takes."""
    return (TILE // PATCH // 2) ** 2


def hf_preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json in transformers' format; unlike the released one it cuts images into tiles, for something to try."""
    return {
        "crop_to_patches": True,
        "data_format": "channels_first",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        **IMAGENET,
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": MAX_TILES,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": TILE, "width": TILE},
    }


def generation_config(ids: Ids, end: int) -> dict[str, Any]:
    """generation_config.json: the token that ends a response."""
    return {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": end, "pad_token_id": ids["<|endoftext|>"]}


def hf_shapes(config: Mapping[str, Any]) -> Shapes:
    """Every tensor's hub name and shape in transformers' format."""
    yield from decoder_shapes(config["text_config"], prefix="language_model.model.", head="language_model.lm_head.weight")
    vision, head = config["vision_config"], "vision_tower.embeddings."
    width, feed, patches = vision["hidden_size"], vision["intermediate_size"], (TILE // PATCH) ** 2
    yield f"{head}cls_token", (1, 1, width)
    yield f"{head}position_embeddings", (1, 1 + patches, width)
    yield f"{head}patch_embeddings.projection.weight", (width, vision["num_channels"], PATCH, PATCH)
    yield f"{head}patch_embeddings.projection.bias", (width,)
    linears = {f"attention.{name}": (width, width) for name in ("q_proj", "k_proj", "v_proj", "projection_layer")}
    linears |= {"mlp.fc1": (feed, width), "mlp.fc2": (width, feed)}
    for layer in range(vision["num_hidden_layers"]):
        yield from _block_shapes(f"vision_tower.encoder.layer.{layer}.", ("layernorm_before", "layernorm_after"), "lambda_", linears)
    names = ("layer_norm", "linear_1", "linear_2")
    yield from _projector_shapes([f"multi_modal_projector.{name}" for name in names], width, config["text_config"]["hidden_size"])


def original_shapes(config: Mapping[str, Any]) -> Shapes:
    """Every tensor's name and shape in the original format."""
    yield from decoder_shapes(config["llm_config"], prefix="language_model.model.", head="language_model.lm_head.weight")
    vision, head = config["vision_config"], "vision_model.embeddings."
    width, feed, patches = vision["hidden_size"], vision["intermediate_size"], (TILE // PATCH) ** 2
    yield f"{head}class_embedding", (1, 1, width)
    yield f"{head}position_embedding", (1, 1 + patches, width)
    yield f"{head}patch_embedding.weight", (width, vision["num_channels"], PATCH, PATCH)
    yield f"{head}patch_embedding.bias", (width,)
    linears = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (feed, width), "mlp.fc2": (width, feed)}
    for layer in range(vision["num_hidden_layers"]):
        yield from _block_shapes(f"vision_model.encoder.layers.{layer}.", ("norm1", "norm2"), "ls", linears)
    yield from _projector_shapes(["mlp1.0", "mlp1.1", "mlp1.3"], width, config["llm_config"]["hidden_size"])


def _block_shapes(block: str, norms: tuple[str, str], scale: str, linears: Mapping[str, tuple[int, int]]) -> Shapes:
    width = linears["mlp.fc1"][1]
    for index, norm in enumerate(norms, start=1):
        yield f"{block}{norm}.weight", (width,)
        yield f"{block}{norm}.bias", (width,)
        yield f"{block}{scale}{index}", (width,)
    for name, shape in linears.items():
        yield from linear_shapes(f"{block}{name}", shape)


def _projector_shapes(names: list[str], vision_width: int, width: int) -> Shapes:
    norm, first, second = names
    yield f"{norm}.weight", (4 * vision_width,)
    yield f"{norm}.bias", (4 * vision_width,)
    yield from linear_shapes(first, (width, 4 * vision_width))
    yield from linear_shapes(second, (width, width))


HF = Recipe(SPECIAL_TOKENS, hf_files, hf_shapes)
ORIGINAL = Recipe(SPECIAL_TOKENS, original_files, original_shapes)
