"""What a run is made of, opened and checked before anything is written: model, data, mesh, and the run directory."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from jax.sharding import Mesh
from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError, to_yaml
from mede2_jax.data.dataset import Dataset, open_splits
from mede2_jax.data.rows import BatchShape
from mede2_jax.families import Family, model_config
from mede2_jax.models.lora import is_trainable
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.losses import DPOLoss, Loss, SFTLoss
from mede2_jax.train.state import Policy, make_policy
from mede2_jax.weights.model_directory import PARAMS, check_params, read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import Adapter, import_adapter

FREE_TO_CHANGE = (
    "output",
    "resume",
    "overwrite",
    "tracking",
    "log_every",
    "checkpoint",
    "mesh",
    "data.workers",
    "data.buffer",
    "data.verify_images",
)
"""Options that may differ when a run is resumed: they do not change its numbers (a mesh does so by rounding only)."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is known before anything is written or computed."""

    config: TrainConfig
    model_dir: Path
    family: Family
    sizes: Any
    """The family's model config."""
    processor: Any
    adapter: Adapter | None
    """What `config.adapter` holds."""
    train: Dataset
    held_out: Dataset | None
    shape: BatchShape
    mesh: Mesh
    policy: Policy
    loss: Loss


def open_setup(config: TrainConfig, model_dir: Path, devices: list[jax.Device] | None = None) -> Setup:
    """Opens and checks model, data and mesh (of all devices, or of `devices`); writes nothing."""
    mesh = make_mesh(config.mesh, devices)
    if config.rows_per_step % (pieces := mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(f"rows_per_step={config.rows_per_step} is not a multiple of data × fsdp = {pieces}; choose one that is")
    if config.remat == "offload" and "pinned_host" not in {memory.kind for memory in jax.devices()[0].addressable_memories()}:
        raise UserError("remat=offload needs an accelerator with pinned host memory; use dots_no_batch or full here")
    _check_run_directory(config)
    read_info(model_dir)
    family, sizes = model_config(model_dir)
    policy = make_policy(
        family,
        sizes,
        parts=config.parts.model_dump(),
        lora=config.lora,
        compute_dtype=jnp.dtype(config.compute_dtype),
        param_dtype=jnp.dtype(config.param_dtype),
        remat=config.remat,
    )
    check_params(model_dir, family.abstract_params(sizes), ParamReader(model_dir / PARAMS).infos)
    adapter = None if config.adapter is None else _given_adapter(config, family, sizes)
    processor = family.load_processor(model_dir, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels)
    train, held_out = open_splits(config.data, config.stage, processor)
    # One shape for training, evaluation and the reference pass, so that each function compiles once.
    shape = train.shape.union(held_out.shape) if held_out else train.shape
    loss: Loss = DPOLoss(config.dpo) if config.stage == "dpo" else SFTLoss()
    return Setup(config, model_dir, family, sizes, processor, adapter, train, held_out, shape, mesh, policy, loss)


def prepare_run_directory(config: TrainConfig) -> None:
    """Makes the run directory and writes the resolved config; with `overwrite`, removes what was there."""
    if config.overwrite and config.output.exists():
        shutil.rmtree(config.output)
    config.output.mkdir(parents=True, exist_ok=True)
    (config.output / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def write_manifest(setup: Setup) -> None:
    """manifest.json: the run's inputs by digest, and every record that was left out, by reason."""
    config = setup.config
    sources = {
        name: {
            "path": str(data.source.file.path),
            "format": data.source.format,
            "digest": data.digest,
            "examples": len(data),
            "rows": len(data.rows),
            "skipped": data.skipped,
        }
        for name, data in (("train", setup.train), ("eval", setup.held_out))
        if data is not None
    }
    manifest = {
        "version": __version__,
        "config": config.model_dump(mode="json"),
        "model": {"path": str(setup.model_dir), "digest": read_info(setup.model_dir).digest},
        "data": sources,
    }
    (config.output / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show_setup(setup: Setup, console: Console) -> None:
    """What will be trained on what, before the waiting begins."""
    config, policy = setup.config, setup.policy
    counts = {path: int(np.prod(leaf.shape)) for path, leaf in policy.abstract.items()}
    trained = sum(count for path, count in counts.items() if is_trainable(path, policy.parts))
    console.print(
        f"[bold]{config.stage}[/] of {setup.family.name}: {sum(counts.values()):,} parameters, {trained:,} trained; "
        f"{_mesh_text(setup.mesh)}"
    )
    for name, data in (("train", setup.train), ("eval", setup.held_out)):
        if data is None:
            continue
        stats = data.statistics()
        fill = f"{stats.token_fill:.1%} full" + (f", patches {stats.patch_fill:.1%}" if setup.shape.patches else "")
        source = f"{data.source.file.path} ({data.source.format})"
        console.print(f"{name}: {stats.examples} examples of {source} in {stats.rows} rows of {setup.shape.tokens} tokens, {fill}")
        for reason, count in stats.skipped.items():
            console.print(f"[yellow]skipped {count} example(s): {reason}[/]")


def _check_run_directory(config: TrainConfig) -> None:
    """Refuses to touch a run unless told to resume it with the same config, or to overwrite it."""
    saved = config.output / "config.yaml"
    if not config.output.exists() or not any(config.output.iterdir()):
        return
    if config.overwrite:
        if not saved.exists():
            raise UserError(f"{config.output} is not a run directory (no config.yaml), and is not deleted; choose another output")
        return
    if not config.resume:
        raise UserError(f"{config.output} already exists; use --resume to continue it, --overwrite to start over, or another --output")
    if not saved.exists():
        raise UserError(f"{config.output} is not a run directory (no config.yaml); choose another output")
    if (config.output / "model").exists():
        raise UserError(f"{config.output} is finished (it has model/); use --overwrite to start over, or another --output")
    before = _flat(yaml.safe_load(saved.read_text(encoding="utf-8")))
    now = _flat(config.model_dump(mode="json"))
    differing = [
        f"{name}: {before.get(name)} then, {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not _free(name)
    ]
    if differing:
        raise UserError(
            f"cannot resume {config.output} with another config ({'; '.join(differing)}); resume with the same one, or use another --output"
        )


def _given_adapter(config: TrainConfig, family: Family, sizes: Any) -> Adapter:
    """The adapter to continue from; it must scale as this run does."""
    assert config.adapter is not None
    adapter, lora = import_adapter(config.adapter, family.weight_rules(sizes), family.abstract_params(sizes)), config.lora
    if (adapter.rank, adapter.scale) != (lora.rank, lora.scale):
        raise UserError(
            f"{config.adapter} has rank {adapter.rank} and scale {adapter.scale:g}, this run rank {lora.rank} and scale {lora.scale:g}; "
            f"set lora.rank={adapter.rank} lora.alpha={adapter.alpha:g} lora.rslora={str(adapter.rslora).lower()}"
        )
    return adapter


def _mesh_text(mesh: Mesh) -> str:
    return f"{mesh.size} {jax.devices()[0].platform} device(s): " + " × ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _free(name: str) -> bool:
    return any(name == free or name.startswith(free + ".") for free in FREE_TO_CHANGE)
