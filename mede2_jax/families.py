"""The model families: what each one brings, in one table. Nothing else asks which family a checkpoint is of.

JAX is imported only when a model is built: vLLM reads the same table where there is no JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from mede2_jax.config import UserError
from mede2_jax.data import internvl3 as internvl3_data
from mede2_jax.data import qwen2_5_vl as qwen2_5_vl_data
from mede2_jax.foreign import shown
from mede2_jax.json_file import load_json
from mede2_jax.model_configs import internvl3, qwen2_5_vl
from mede2_jax.tiny_checkpoints import internvl3 as internvl3_tiny
from mede2_jax.tiny_checkpoints import qwen2_5_vl as qwen2_5_vl_tiny
from mede2_jax.tiny_checkpoints.recipe import Recipe
from mede2_jax.weights import internvl3 as internvl3_weights
from mede2_jax.weights import qwen2_5_vl as qwen2_5_vl_weights

FamilyName = Literal["qwen2_5_vl", "internvl3"]
DEFAULT_FAMILY: FamilyName = "qwen2_5_vl"
"""Of the tiny models made where none is given."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family."""

    name: FamilyName
    model_types: tuple[str, ...]
    """Every `model_type` in config.json that is of this family."""
    config_from_hf: Callable[[Mapping[str, Any]], Any]
    """config.json to the model's config; ValueError when it asks for what the model does not do."""
    build: Callable[..., Any]
    """(config, *, rngs, param_dtype, compute_dtype, remat) to the NNX module."""
    abstract_params: Callable[..., dict[str, Any]]
    """(config, dtype) to a nested dict of shapes."""
    weight_rules: Callable[..., Any]
    """Config to the weight table."""
    load_processor: Callable[..., Any]
    """(model directory, options) to the processor of text and images."""
    tiny: Mapping[str, Recipe]
    """Formats that its checkpoints come in, the usual one first, and what makes a tiny one of each."""
    image_processors: tuple[str, ...]
    """transformers' image processors of its checkpoints, as preprocessor_config.json names them."""
    prepare_vllm: Callable[[], None] = lambda: None
    """Called in each of vLLM's processes before it reads a config.json."""


def _build_qwen2_5_vl(config: qwen2_5_vl.Qwen2_5VLConfig, **options: Any) -> Any:
    from mede2_jax.models.qwen2_5_vl import Qwen2_5VL

    return Qwen2_5VL(config, **options)


def _abstract_qwen2_5_vl(*arguments: Any) -> dict[str, Any]:
    from mede2_jax.models.qwen2_5_vl import abstract_params

    return abstract_params(*arguments)


def _build_internvl3(config: internvl3.InternVL3Config, **options: Any) -> Any:
    from mede2_jax.models.internvl3 import InternVL3

    return InternVL3(config, **options)


def _abstract_internvl3(*arguments: Any) -> dict[str, Any]:
    from mede2_jax.models.internvl3 import abstract_params

    return abstract_params(*arguments)


def _prepare_vllm_for_internvl3() -> None:
    from mede2_jax.model_configs.internvl3_vllm import register_config

    register_config()


FAMILIES = (
    Family(
        name="qwen2_5_vl",
        model_types=("qwen2_5_vl",),
        config_from_hf=qwen2_5_vl.config_from_hf,
        build=_build_qwen2_5_vl,
        abstract_params=_abstract_qwen2_5_vl,
        weight_rules=qwen2_5_vl_weights.weight_rules,
        load_processor=qwen2_5_vl_data.Qwen2_5VLProcessor.load,
        tiny={"hf": qwen2_5_vl_tiny.RECIPE},
        image_processors=("Qwen2VLImageProcessor",),
    ),
    Family(
        name="internvl3",
        model_types=("internvl", "internvl_chat"),
        config_from_hf=internvl3.config_from_hf,
        build=_build_internvl3,
        abstract_params=_abstract_internvl3,
        weight_rules=internvl3_weights.weight_rules,
        load_processor=internvl3_data.InternVL3Processor.load,
        tiny={"hf": internvl3_tiny.HF, "original": internvl3_tiny.ORIGINAL},
        image_processors=("GotOcr2ImageProcessor",),
        prepare_vllm=_prepare_vllm_for_internvl3,
    ),
)


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a checkpoint or model directory.

    Raises:
        UserError: It is missing or not JSON.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        adapter = (Path(directory) / "adapter_config.json").exists()
        instead = (
            "this is an adapter: give its model, and the adapter with --adapter" if adapter else "give a checkpoint or model directory"
        )
        raise UserError(f"no config.json in {str(directory)!r}; {instead}") from None
    return load_json(path)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to.

    Raises:
        UserError: No family here has this model_type.
    """
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family
    known = ", ".join(model_type for family in FAMILIES for model_type in family.model_types)
    raise UserError(f"config.json: model_type {shown(repr(config.get('model_type')))} is not supported; supported: {known}")


def family_named(name: FamilyName) -> Family:
    """The family of that name."""
    return next(family for family in FAMILIES if family.name == name)


def attention_heads(sizes: Any) -> dict[str, int]:
    """Heads of each part of a model that has attention."""
    return {"language": sizes.language.num_heads, "vision": sizes.vision.num_heads}


def model_config(directory: Path) -> tuple[Family, Any]:
    """The family and model config of a checkpoint or model directory.

    Raises:
        UserError: config.json is missing, broken, or asks for what the model does not do.
    """
    raw = read_config(directory)
    family = family_of(raw)
    try:
        return family, family.config_from_hf(raw)
    except ValueError as error:
        raise UserError(f"{directory}: {error}") from None


def check_tokenizer(directory: Path, processor: Any, sizes: Any) -> None:
    """Compares a model directory's tokenizer with its model.

    Args:
        directory: The model directory, for errors.
        processor: The processor loaded from it.
        sizes: The model's config.

    Raises:
        UserError: The tokenizer has tokens that the embedding has not, or another image token.
    """
    rows, vocabulary = sizes.language.vocab_size, processor.chat.tokenizer.get_vocab()
    # What no text may hold cannot reach the embedding: transformers adds such names to a tokenizer on its own.
    outside = sorted(token for token, number in vocabulary.items() if number >= rows and token not in processor.chat.reserved)
    if outside:
        raise UserError(
            f"{directory}: the tokenizer has {len(vocabulary)} tokens, the model's embedding {rows} and none for {outside[0]!r}; use the "
            "model's own tokenizer"
        )
    if sizes.image_token_id not in (None, processor.image_token_id):
        raise UserError(f"{directory}: config.json has image_token_id {sizes.image_token_id}, the tokenizer {processor.image_token_id}")
