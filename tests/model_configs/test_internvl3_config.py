"""config.json of the -hf and of the original checkpoints, and what it may not ask for."""

import copy

import pytest

from mede2_jax.model_configs.internvl3 import config_from_hf

TEXT = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151674,
}
VISION = {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-6,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
}
HF = {
    "architectures": ["InternVLForConditionalGeneration"],
    "model_type": "internvl",
    "downsample_ratio": 0.5,
    "image_seq_length": 256,
    "image_token_id": 151667,
    "projector_hidden_act": "gelu",
    "text_config": TEXT,
    "vision_config": VISION
    | {"model_type": "internvl_vision", "attention_bias": True, "use_qk_norm": False, "image_size": [448, 448], "patch_size": [14, 14]}
    | {"use_absolute_position_embeddings": True, "use_mask_token": False, "use_mean_pooling": True},
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
}
ORIGINAL = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 448,
    "llm_config": TEXT,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "pad2square": False,
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "tie_word_embeddings": False,
    "use_thumbnail": True,
    "vision_config": VISION
    | {"model_type": "intern_vit_6b", "image_size": 448, "patch_size": 14, "qkv_bias": True, "qk_normalization": False},
}


def changed(raw, path, value):
    raw = copy.deepcopy(raw)
    *parents, last = path.split(".")
    at = raw
    for name in parents:
        at = at[name]
    at[last] = value
    return raw


def test_both_forms_mean_the_same_model():
    hf, original = config_from_hf(HF), config_from_hf(ORIGINAL)
    assert (hf.language, hf.vision, hf.tile_size, hf.merge) == (original.language, original.vision, original.tile_size, original.merge)
    assert (hf.format, hf.image_token_id, original.format, original.image_token_id) == ("hf", 151667, "original", None)
    assert (hf.grid, hf.merge, hf.language.head_dim, hf.language.mrope_section) == (32, 2, 128, None)
    assert hf.language.max_positions == 32768, "dynamic scaling begins there"
    assert not hf.language.tie_word_embeddings, "the released -hf configs say nothing of it, and are not tied"


def test_what_newer_transformers_writes_means_the_same():
    text = {name: value for name, value in TEXT.items() if name not in ("rope_theta", "rope_scaling")}
    text |= {"rope_parameters": {"rope_type": "dynamic", "type": "dynamic", "factor": 2.0, "rope_theta": 1000000.0}}
    text |= {"layer_types": ["full_attention"] * 28, "tie_word_embeddings": False}
    assert config_from_hf(HF | {"text_config": text, "tie_word_embeddings": False}) == config_from_hf(HF)


@pytest.mark.parametrize(("outer", "inner", "hf", "original"), [(True, False, True, False), (False, True, False, True)])
def test_whose_word_counts_on_tied_embeddings(outer, inner, hf, original):
    assert (
        config_from_hf(changed(HF | {"tie_word_embeddings": outer}, "text_config.tie_word_embeddings", inner)).language.tie_word_embeddings
        is hf
    )
    raw = changed(ORIGINAL | {"tie_word_embeddings": outer}, "llm_config.tie_word_embeddings", inner)
    assert config_from_hf(raw).language.tie_word_embeddings is original


def test_the_large_encoder_and_its_defaults():
    kind = {"norm_type": "rms_norm", "hidden_size": 3200, "intermediate_size": 12800, "num_attention_heads": 25, "num_hidden_layers": 45}
    vision = config_from_hf(HF | {"vision_config": HF["vision_config"] | kind | {"attention_bias": False, "use_qk_norm": True}}).vision
    assert (vision.norm, vision.qkv_bias, vision.qk_norm, vision.qk_norm_eps) == ("rms_norm", False, True, 1e-6)
    bare = {name: value for name, value in ORIGINAL["vision_config"].items() if name not in ("norm_type", "qkv_bias", "qk_normalization")}
    assert config_from_hf(ORIGINAL | {"vision_config": bare | kind}).vision == vision


def test_tiles_of_another_size():
    config = config_from_hf(ORIGINAL | {"force_image_size": 224})
    assert (config.tile_size, config.grid, config.vision.image_size) == (224, 16, 448)
    assert config_from_hf(ORIGINAL | {"force_image_size": None}).tile_size == 448


@pytest.mark.parametrize(
    ("raw", "path", "value", "expected"),
    [
        (ORIGINAL, "ps_version", "v1", "ps_version='v1'.*only 'v2'"),
        (ORIGINAL, "select_layer", -4, "select_layer=-4"),
        (ORIGINAL, "llm_config.model_type", "internlm2", "'internlm2' is not supported, only 'qwen2'"),
        (HF, "text_config.model_type", "llama", "'llama' is not supported"),
        (HF, "text_config.rope_scaling", {"type": "yarn", "factor": 4.0}, "yarn"),
        (HF, "text_config.hidden_act", "gelu", "hidden_act"),
        (HF, "text_config.use_sliding_window", True, "use_sliding_window"),
        (HF, "text_config.layer_types", ["full_attention", "sliding_attention"], "sliding_attention"),
        (HF, "vision_feature_layer", -2, "vision_feature_layer=-2"),
        (HF, "vision_feature_layer", [-1, -2], "vision_feature_layer"),
        (HF, "vision_feature_select_strategy", "full", "'full' is not supported, only 'default'"),
        (HF, "projector_hidden_act", "relu", "projector_hidden_act"),
        (HF, "downsample_ratio", 0.3, "downsample_ratio=0.3"),
        (HF, "downsample_ratio", 0, "downsample_ratio=0"),
        (HF, "vision_config.hidden_act", "quick_gelu", "vision hidden_act"),
        (HF, "vision_config.norm_type", "batch_norm", "norm_type='batch_norm'"),
        (HF, "vision_config.image_size", [448, 224], "only squares"),
        (HF, "vision_config.image_size", [462, 462], "tile of 462 pixels"),
        (HF, "vision_config.use_mean_pooling", False, "use_mean_pooling"),
        (HF, "vision_config.use_absolute_position_embeddings", False, "use_absolute_position_embeddings"),
        (HF, "vision_config.num_attention_heads", 15, "does not divide"),
    ],
)
def test_what_the_model_does_not_do_is_refused(raw, path, value, expected):
    with pytest.raises(ValueError, match=expected) as error:
        config_from_hf(changed(raw, path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("raw", "name"),
    [(HF, "text_config"), (HF, "vision_config"), (ORIGINAL, "llm_config")]
    + [(HF, f"text_config.{name}") for name in ("hidden_size", "vocab_size", "rope_theta", "max_position_embeddings")]
    + [(HF, f"vision_config.{name}") for name in ("num_hidden_layers", "image_size", "intermediate_size")],
)
def test_a_missing_field_is_named(raw, name):
    raw = copy.deepcopy(raw)
    *parents, last = name.split(".")
    del (raw[parents[0]] if parents else raw)[last]
    with pytest.raises(ValueError, match=f"'{last}' is missing"):
        config_from_hf(raw)
