"""LoRA adapters in PEFT's format: written, read strictly, and merged slice by slice.

PEFT names tensors after the modules in memory: `base_model.model.` + module + `.lora_A.weight` [r, in] and
`.lora_B.weight` [out, r]. Here an adapter is A [L, in, r] and B [L, r, out] by the linear layer's path (no L if unstacked).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign, check, load_json
from mede2_jax.rounding import Rounder
from mede2_jax.weights.hf import CheckpointWriter, TensorInfo, read_header, read_tensor, row_blocks
from mede2_jax.weights.model_info import INFO
from mede2_jax.weights.staging import staged_directory
from mede2_jax.weights.table import Entry, Layout, Table, Transpose, detect_layout, expected

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
KERNEL = "/kernel"
UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""Options of LoraConfig that change what the adapter computes, and are off when empty or false."""
PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the base weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them."""


class _PeftConfig(Foreign):
    """`adapter_config.json`, as far as it is read."""

    r: Annotated[int, pydantic.Field(le=2**16)]
    lora_alpha: Annotated[float, pydantic.Field(ge=-1e6, le=1e6)]
    lora_dropout: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    base_model_name_or_path: str = ""
    bias: str = "none"
    init_lora_weights: bool | str = True


@dataclass(frozen=True)
class Adapter:
    """Low-rank updates: kernel + scale · A·B."""

    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Path of a linear layer, such as `language/layers/attention/q_proj`, to (A [L, in, r], B [L, r, out])."""
    rank: int
    alpha: float
    rslora: bool = False
    """Rank-stabilised: the scale is alpha / sqrt(rank)."""
    dropout: float = 0.0
    """Dropout it was trained with; of no effect afterwards."""
    base: str = ""
    """Name or path of the model it belongs to."""

    @property
    def scale(self) -> float:
        """What A·B is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def merged(
        self, kernel: np.ndarray, path: str, layer: int | None, dtype: np.dtype, rounder: Rounder | None = None, first_row: int = 0
    ) -> np.ndarray:
        """A kernel [in, out] with its update, added in float32 and rounded once to `dtype`; others are only cast.

        Args:
            kernel: One layer of a stacked kernel, or a whole one; or rows of either.
            path: The parameter's path, ending in `/kernel` for those with an update.
            layer: The layer's index, None if unstacked.
            dtype: Dtype of the result.
            rounder: How to round, and who hears of it; none: to the nearest.
            first_row: Where the rows begin.
        """
        pair = self.pairs.get(path.removesuffix(KERNEL)) if path.endswith(KERNEL) else None
        if pair is None:
            return kernel.astype(dtype, copy=False)
        a, b = (matrix if layer is None else matrix[layer] for matrix in pair)
        a, b, rounder = a[first_row:].astype(np.float32), b.astype(np.float32), rounder or Rounder("nearest")
        result = np.empty(kernel.shape, dtype)
        for start, rows in row_blocks(kernel):
            stop = start + len(rows)
            update = np.float32(self.scale) * (a[start:stop] @ b)
            result[start:stop] = rounder.add(rows, update, dtype, path, layer, first_row + start, rank=self.rank)
        return result


def export_adapter(to: Path, adapter: Adapter, table: Table, abstract: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, which PEFT loads on the transformers model.

    The base is named only if it is a checkpoint: a model directory is not one, and what reads the name would fail to load it.

    Args:
        to: The directory to make.
        adapter: What to write, in its own dtypes.
        table: The model's weight table.
        abstract: The model's parameters, nested, anything with `.shape`.
        overwrite: Whether an existing adapter may be replaced.

    Raises:
        UserError: The target exists, the disk is full, or an adapted layer is not a linear layer of the model.
    """
    layout = table.layouts[-1]
    check_exportable(adapter.pairs, table, abstract)
    linears = _linears(table, abstract, layout)
    tensors: dict[str, np.ndarray] = {}
    for module, (path, entry) in linears.items():
        if path in adapter.pairs:
            a, b = (matrix if entry.layer is None else matrix[entry.layer] for matrix in adapter.pairs[path])
            assert a.shape == (entry.hf_shape[1], adapter.rank) and b.shape == (adapter.rank, entry.hf_shape[0]), (module, a.shape, b.shape)
            tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = a.T, b.T
    planned = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    with staged_directory(to, needed_bytes=nbytes, overwrite=overwrite) as partial:
        with CheckpointWriter(partial, planned, max_shard_bytes=nbytes + 1, single_name=TENSORS) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
        config = _peft_config(adapter, target_modules(adapter, table, layout))
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_exportable(paths: Collection[str], table: Table, abstract: Mapping[str, Any]) -> None:
    """Checks that adapters of these layers can be written.

    Raises:
        UserError: One is no linear layer of the model, or the checkpoint fuses it with others.
    """
    unknown = sorted(set(paths) - {path for path, _ in _linears(table, abstract, table.layouts[-1]).values()})
    if not unknown:
        return
    if any(rule.path == unknown[0] + KERNEL and rule.part[1] > 1 for rule in table.rules):
        raise UserError(
            f"{unknown[0]!r} lies fused with others in this model's checkpoint format, so that PEFT cannot hold its adapter; set "
            f"parts.{unknown[0].split('/')[0]} to frozen or full, or start from a checkpoint in a format that keeps it apart"
        )
    raise UserError(f"{unknown[0]!r} is not a linear layer of this model, so that PEFT cannot hold its adapter")


def import_adapter(directory: Path, table: Table, abstract: Mapping[str, Any]) -> Adapter:
    """Reads an adapter that PEFT wrote, in either name layout; every tensor is used, every layer of a target is there.

    Args:
        directory: With `adapter_config.json` and `adapter_model.safetensors`.
        table: The model's weight table.
        abstract: The model's parameters, nested, anything with `.shape`.

    Raises:
        UserError: A file is missing or broken, a tensor is missing, unexpected or of the wrong shape, or the adapter
            uses a feature that a plain low-rank update does not have.
    """
    config = _read_config(directory)
    rank, file = config.r, directory / TENSORS
    infos = read_header(file)
    modules = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in infos if name.startswith(PREFIX)}
    linears = _linears(table, abstract, detect_layout(table, abstract, {f"{module}.weight" for module in modules}))
    layers: dict[str, dict[int | None, tuple[np.ndarray, np.ndarray]]] = {}
    used: set[str] = set()
    for module, (path, entry) in linears.items():
        names = [f"{PREFIX}{module}.lora_{matrix}.weight" for matrix in "AB"]
        if not any(name in infos for name in names):
            continue
        shapes = [(rank, entry.hf_shape[1]), (entry.hf_shape[0], rank)]
        a, b = (_read_matrix(infos, name, shape, file) for name, shape in zip(names, shapes, strict=True))
        layers.setdefault(path, {})[entry.layer] = (a, b)
        used.update(names)
    extra = sorted(set(infos) - used)
    if extra or not layers:
        what = f"{counted(len(extra), 'tensor')} of no linear layer of this model, first {shown(extra[0], 99)!r}" if extra else "no tensors"
        raise UserError(f"{file}: it holds {what}; was the adapter made for another model?")
    counts = {path: sum(path == other for other, _ in linears.values()) for path in layers}
    for path, found in layers.items():
        if len(found) != counts[path]:
            raise UserError(
                f"{file}: {path} is adapted in {len(found)} of {counts[path]} layers; adapters of some layers only are not supported"
            )
    pairs = {path: _stacked(found) for path, found in layers.items()}
    return Adapter(pairs, rank, config.lora_alpha, config.use_rslora, config.lora_dropout, config.base_model_name_or_path)


def target_modules(adapter: Adapter, table: Table, layout: Layout) -> str:
    """The adapted modules as a regular expression that PEFT matches in full: a bare `down_proj` would hit the vision tower too."""
    modules = [
        re.escape(layout.rename(rule.hf).removesuffix(".weight")).replace(re.escape("{layer}"), r"\d+")
        for rule in table.rules
        if rule.path is not None and rule.path.endswith(KERNEL) and rule.path.removesuffix(KERNEL) in adapter.pairs
    ]
    return "|".join(modules)


def _linears(table: Table, abstract: Mapping[str, Any], layout: Layout) -> dict[str, tuple[str, Entry]]:
    """Module name to (path of the linear layer, the entry of its weight)."""
    entries = (entry for entry in expected(table, abstract, layout) if entry.path.endswith(KERNEL) and entry.rows is None)
    linear = (entry for entry in entries if isinstance(entry.op, Transpose))
    return {entry.hf.removesuffix(".weight"): (entry.path.removesuffix(KERNEL), entry) for entry in linear}


def _stacked(layers: Mapping[int | None, tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if None in layers:
        return layers[None]
    ordered = [layers[index] for index in range(len(layers))]
    return np.stack([a for a, _ in ordered]), np.stack([b for _, b in ordered])


def _read_matrix(infos: Mapping[str, TensorInfo], name: str, shape: tuple[int, int], file: Path) -> np.ndarray:
    if name not in infos:
        raise UserError(f"{file}: {name!r} is missing; the adapter is incomplete")
    if infos[name].shape != shape:
        raise UserError(f"{file}: {name!r} is {list(infos[name].shape)}, the model and rank r need {list(shape)}")
    matrix = read_tensor(infos[name])
    if not all(np.isfinite(rows.astype(np.float32)).all() for _, rows in row_blocks(matrix)):
        raise UserError(f"{file}: {name!r} holds infinity or what is no number; the adapter is damaged")
    return matrix.T


def _read_config(directory: Path) -> _PeftConfig:
    file = directory / CONFIG
    raw = load_json(file, "--adapter takes a directory that PEFT saved")
    if (kind := raw.get("peft_type", "LORA")) != "LORA":
        raise UserError(f"{file}: peft_type {shown(kind)!r} is not supported, only LORA")
    config = check(raw, _PeftConfig, str(file), "only a LoRA adapter's config can be read")
    if config.r < 1:
        raise UserError(f"{file}: r={config.r} is not supported; a rank is 1 at least")
    refused = [f"{name}={shown(raw[name])}" for name in UNSUPPORTED if raw.get(name)]
    refused += [f"bias={shown(config.bias)!r}"] if config.bias != "none" else []
    init = config.init_lora_weights
    refused += [f"init_lora_weights={shown(init)}"] if init not in PLAIN_INITS else []
    if refused:
        raise UserError(f"{file}: {', '.join(refused)} not supported; only a plain LoRA adapter is (merge it with peft instead)")
    if not (directory / TENSORS).exists():
        raise UserError(f"no {TENSORS} in {str(directory)!r}; save the adapter as safetensors")
    return config


def _peft_config(adapter: Adapter, targets: str) -> dict[str, Any]:
    loadable = adapter.base and not (Path(adapter.base) / INFO).exists()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base if loadable else None,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": int(adapter.alpha) if float(adapter.alpha).is_integer() else adapter.alpha,
        "lora_dropout": adapter.dropout,
        "use_rslora": adapter.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": targets,
    }
