"""The original format's config.json as vLLM takes it, whose code of its own is not run.

vLLM has the model; the class of its config it takes from the checkpoint's Python files (`trust_remote_code`), unless
transformers knows one of that name.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig, Qwen2Config

MODEL_TYPE = "internvl_chat"
VISION_DEFAULTS: dict[str, Any] = {
    "num_channels": 3,
    "hidden_act": "gelu",
    "norm_type": "rms_norm",
    "layer_norm_eps": 1e-6,
    "qkv_bias": False,
    "qk_normalization": True,
    "initializer_factor": 0.1,
}
"""Of the original's InternVisionConfig, where the released files leave something out."""
DEFAULTS: dict[str, Any] = {
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "ps_version": "v1",
    "dynamic_image_size": False,
    "use_thumbnail": False,
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 6,
}
"""Of the original's InternVLChatConfig."""


class InternVLChatConfig(PretrainedConfig):
    """The config as vLLM's InternVLChatModel reads it; at module level, since vLLM sends it to other processes."""

    model_type = MODEL_TYPE

    def __init__(self, vision_config: dict[str, Any] | None = None, llm_config: dict[str, Any] | None = None, **values: Any) -> None:
        self.vision_config = PretrainedConfig(**(VISION_DEFAULTS | (vision_config or {})))
        self.text_config = Qwen2Config(**(llm_config or {}))
        # Tiles are of `force_image_size`; vLLM looks for their size in the vision part.
        if values.get("force_image_size"):
            self.vision_config.image_size = values["force_image_size"]
        super().__init__(**(DEFAULTS | values))


def register_config() -> None:
    """Makes the config known to transformers."""
    AutoConfig.register(MODEL_TYPE, InternVLChatConfig, exist_ok=True)
