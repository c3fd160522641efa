"""config.json in its released and its newer form, and what it may not ask for."""

import copy

import pytest

from mede2_jax.model_configs.qwen2_5_vl import config_from_hf

RELEASED = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_config": {
        "depth": 32,
        "hidden_act": "silu",
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "in_chans": 3,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "temporal_patch_size": 2,
    },
}


def changed(path, value):
    raw = copy.deepcopy(RELEASED)
    *parents, last = path.split(".")
    at = raw
    for name in parents:
        at = at[name]
    at[last] = value
    return raw


def test_the_newer_nested_form_means_the_same():
    outer = ("model_type", "image_token_id", "video_token_id", "vision_start_token_id", "vision_config", "tie_word_embeddings")
    text = {name: value for name, value in RELEASED.items() if name not in (*outer, "rope_theta", "rope_scaling")}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
    newer = {**{name: RELEASED[name] for name in outer}, "text_config": text}
    assert config_from_hf(newer) == config_from_hf(RELEASED)
    assert config_from_hf(RELEASED).language.head_dim == 128


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("rope_scaling", {"type": "yarn", "factor": 4.0, "mrope_section": [16, 24, 24]}, "yarn"),
        ("rope_scaling", {"type": "mrope", "mrope_section": [16, 24]}, "mrope_section"),
        ("hidden_act", "gelu", "hidden_act"),
        ("vision_config.hidden_act", "gelu", "vision hidden_act"),
        ("use_sliding_window", True, "use_sliding_window"),
        ("vision_config.out_hidden_size", 2048, "out_hidden_size"),
    ],
)
def test_what_the_model_does_not_do_is_refused(path, value, expected):
    with pytest.raises(ValueError, match=expected):
        config_from_hf(changed(path, value))


@pytest.mark.parametrize("name", ["num_hidden_layers", "vision_config", "image_token_id"])
def test_a_missing_field_is_named(name):
    raw = {key: value for key, value in RELEASED.items() if key != name}
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        config_from_hf(raw)
