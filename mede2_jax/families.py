"""The model families: what each one brings, in one table. Nothing else asks which family a checkpoint is of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.data import qwen2_5_vl as qwen2_5_vl_data
from mede2_jax.models import qwen2_5_vl
from mede2_jax.weights import qwen2_5_vl as qwen2_5_vl_weights


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family."""

    name: str
    model_type: str
    """`model_type` in config.json."""
    config_from_hf: Callable[[Mapping[str, Any]], Any]
    """config.json to the model's config; ValueError when it asks for what the model does not do."""
    build: Callable[..., Any]
    """(config, *, rngs, param_dtype, compute_dtype, remat) to the NNX module."""
    abstract_params: Callable[..., dict[str, Any]]
    """(config, dtype) to a nested dict of shapes."""
    weight_rules: Callable[..., Any]
    """Config to the weight table."""
    load_processor: Callable[..., Any]
    """Model directory and pixel limits to the processor of text and images."""


FAMILIES = (
    Family(
        name="qwen2_5_vl",
        model_type="qwen2_5_vl",
        config_from_hf=qwen2_5_vl.config_from_hf,
        build=qwen2_5_vl.Qwen2_5VL,
        abstract_params=qwen2_5_vl.abstract_params,
        weight_rules=qwen2_5_vl_weights.weight_rules,
        load_processor=qwen2_5_vl_data.Qwen2_5VLProcessor.load,
    ),
)


def read_config(directory: Path) -> dict[str, Any]:
    """The config.json of a checkpoint or model directory.

    Raises:
        UserError: It is missing or not JSON.
    """
    path = Path(directory) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"no config.json in {str(directory)!r}; give a checkpoint or model directory") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object, found {type(found).__name__}")
    return found


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to.

    Raises:
        UserError: No family here has this model_type.
    """
    for family in FAMILIES:
        if config.get("model_type") == family.model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise UserError(f"config.json: model_type {config.get('model_type')!r} is not supported; supported: {known}")


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
