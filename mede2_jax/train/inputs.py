"""What a run is made of, opened and checked before anything is written: model, data and mesh."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError, counted
from mede2_jax.data.dataset import Dataset, open_splits
from mede2_jax.data.images import describe_stacks
from mede2_jax.data.kept_index import IndexFolder
from mede2_jax.data.rows import BatchShape
from mede2_jax.families import Family, attention_heads, check_tokenizer, model_config
from mede2_jax.foreign import visible
from mede2_jax.models.attention import has_fused
from mede2_jax.models.lora import is_trainable
from mede2_jax.models.quantized import SCALE
from mede2_jax.outputs.image_root import describe_root
from mede2_jax.outputs.manifest import differences, file_digest, several_of
from mede2_jax.parallel.distributed import agreed, barrier, is_first, several
from mede2_jax.parallel.mesh import check_rows_divide, describe_excess, describe_whole_heads, make_mesh, processes_along
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.losses import DPOLoss, Loss, SFTLoss
from mede2_jax.train.model_spec import ModelSpec, make_model_spec
from mede2_jax.train.reference import pairs_digest
from mede2_jax.train.run_directory import FOLDER, check_run_directory
from mede2_jax.weights.model_directory import check_params
from mede2_jax.weights.model_info import PARAMS, read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import Adapter, check_exportable, import_adapter

INDEX_FOLDER = ".mede2-index"
"""Beside the runs: what was found in their data (`data.kept_index`)."""
STATE_BYTES = 12
"""Of each trained number in a checkpoint: itself and two moments, float32."""


@dataclasses.dataclass(frozen=True)
class TrainingInputs:
    """What is known before anything is written or computed."""

    config: TrainConfig
    model_dir: Path
    family: Family
    sizes: Any
    """The family's model config."""
    stored: Mapping[str, np.dtype]
    """Dtype of each parameter in the model directory; the run's own model keeps them."""
    digests: tuple[str, ...]
    """Of the model, and of the adapter if there is one: what the run starts from."""
    processor: Any
    adapter: Adapter | None
    """What `config.adapter` holds."""
    train: Dataset
    held_out: Dataset | None
    shape: BatchShape
    mesh: Mesh
    spec: ModelSpec
    loss: Loss


def open_inputs(config: TrainConfig, model_dir: Path, devices: list[jax.Device] | None = None) -> TrainingInputs:
    """Opens and checks model, data and mesh (of all devices, or of `devices`); writes nothing.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    mesh = make_mesh(config.mesh, devices)
    if is_first():
        check_run_directory(config, model_dir)
    info = read_info(model_dir)
    family, sizes = model_config(model_dir)
    infos = ParamReader(model_dir / PARAMS).infos
    abstract = family.abstract_params(sizes)
    check_params(model_dir, abstract, infos)
    stored = {path: entry.dtype for path, entry in infos.items()}
    spec = open_model_spec(config, family, sizes, stored, mesh)
    adapted = [path.removesuffix("/lora_a") for path in spec.abstract if path.endswith("/lora_a")]
    check_exportable(adapted, family.weight_rules(sizes), abstract)
    _check_disk(config, spec, stored)
    adapter = None if config.adapter is None else _given_adapter(config, family, sizes)
    index_folder = config.output.parent / INDEX_FOLDER
    digests = (info.digest,) if adapter is None else (info.digest, pairs_digest(adapter.pairs))
    return open_data(
        config, model_dir, family, sizes, mesh, spec, stored=stored, digests=digests, adapter=adapter, index_folder=index_folder
    )


def open_model_spec(config: TrainConfig, family: Family, sizes: Any, stored: Mapping[str, np.dtype], mesh: Mesh) -> ModelSpec:
    """The model as it is trained, on a mesh that can run it.

    Raises:
        UserError: The mesh or the platform cannot do what the config asks for, or `param_dtype` is narrower than stored.
    """
    _check_machine(config, mesh)
    return make_model_spec(
        family,
        sizes,
        parts=config.parts.model_dump(),
        lora=config.lora,
        compute_dtype=jnp.dtype(config.compute_dtype),
        param_dtype=_frozen_dtypes(config, stored),
        remat=config.remat,
        apart=_held_apart(config, mesh),
        frozen_dtype=config.frozen_dtype,
    )


def _held_apart(config: TrainConfig, mesh: Mesh) -> bool:
    """By itself on one GPU alone: elsewhere a loop over layers keeps gathered parameters, and what is compiled, one layer long."""
    if config.frozen_layers != "auto":
        return config.frozen_layers == "apart"
    return mesh.size == 1 and mesh.devices.flat[0].platform in ("gpu", "cuda")


def open_data(
    config: TrainConfig,
    model_dir: Path,
    family: Family,
    sizes: Any,
    mesh: Mesh,
    spec: ModelSpec,
    *,
    stored: Mapping[str, np.dtype],
    digests: tuple[str, ...],
    adapter: Adapter | None = None,
    index_folder: Path | None = None,
) -> TrainingInputs:
    """The inputs of a model that is known, once its data are indexed and packed.

    With an index folder, which all processes must share, the first process reads the data and the others what it kept.

    Raises:
        UserError: The data, the tokenizer or the image processor cannot be used.
    """
    processor = family.load_processor(model_dir, config.data)
    check_tokenizer(model_dir, processor, sizes)
    if not is_first():
        barrier("index")
    kept = None if index_folder is None else IndexFolder(index_folder, compare_images=is_first())
    train, held_out = open_splits(config.data, config.stage, processor, kept=kept)
    if is_first():
        barrier("index")
    # One shape for training, evaluation and the reference pass, so that each function compiles once.
    shape = train.shape.union(held_out.shape) if held_out else train.shape
    _check_length(model_dir, shape, sizes)
    check_rows_divide(shape.tokens, mesh)
    return TrainingInputs(
        config=config,
        model_dir=model_dir,
        family=family,
        sizes=sizes,
        stored=stored,
        digests=digests,
        processor=processor,
        adapter=adapter,
        train=train,
        held_out=held_out,
        shape=shape,
        mesh=mesh,
        spec=spec,
        loss=DPOLoss(config.dpo) if config.stage == "dpo" else SFTLoss(),
    )


def manifest(inputs: TrainingInputs) -> dict[str, Any]:
    """The run's inputs by digest, and every record that was left out, by reason."""
    sources = {
        name: {
            "path": str(data.source.file.path),
            "format": data.source.format,
            "digest": data.digest,
            "examples": len(data),
            "rows": len(data.rows),
            "skipped": data.skipped,
        }
        for name, data in (("train", inputs.train), ("eval", inputs.held_out))
        if data is not None
    }
    return {
        "version": __version__,
        FOLDER: str(Path.cwd()),
        "config": inputs.config.model_dump(mode="json"),
        "model": str(inputs.model_dir),
        "digests": list(inputs.digests),
        "data": sources,
    }


def manifest_with_files(inputs: TrainingInputs) -> dict[str, Any]:
    """The manifest with the digest of each data file, by which a history tells whether it is still the same; reads them once more."""
    said = manifest(inputs)
    for part in said["data"].values():
        part["file_digest"] = file_digest(Path(part["path"]))
    return said


def check_same(inputs: TrainingInputs) -> None:
    """Every process must have been started with one config, and see one model and one data set.

    Raises:
        UserError: This one differs from the first.
    """
    ours = manifest(inputs)
    first = agreed(lambda: ours)
    for name, what in (
        ("config", "was started with another config than"),
        ("digests", "sees another model than"),
        ("data", "sees other data than"),
    ):
        mine = json.loads(json.dumps(ours[name]))
        if differing := differences({name: first[name]}, {name: mine}, lambda _: False, "there", "here"):
            raise UserError(f"this process {what} process 0 ({several_of(differing.values())}); give all the same options and files")


def show_inputs(inputs: TrainingInputs, console: Console) -> None:
    """What will be trained on what, before the waiting begins."""
    config, spec, mesh = inputs.config, inputs.spec, inputs.mesh
    sizes = {path: math.prod(leaf.shape) for path, leaf in spec.abstract.items() if not path.endswith(SCALE)}
    trained = sum(size for path, size in sizes.items() if is_trainable(path, spec.parts))
    axes = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    if several():
        spread = ", ".join(f"{name} over {counted(number, 'process', 'processes')}" for name, number in processes_along(mesh).items())
        console.print(f"{jax.process_count()} processes: {spread}")
    console.print(
        f"[bold]{config.stage}[/] of {inputs.family.name}: {sum(sizes.values()):,} parameters, {trained:,} trained; "
        f"{counted(mesh.size, f'{mesh.devices.flat[0].platform} device')}: {axes}"
    )
    for line in (describe_excess(spec.excess(mesh), mesh.shape), describe_whole_heads(attention_heads(inputs.sizes), mesh.shape)):
        if line is not None:
            console.print(f"[yellow]{line}[/]")
    for name, data in (("train", inputs.train), ("eval", inputs.held_out)):
        if data is None:
            continue
        stats = data.statistics()
        fill = f"{stats.token_fill:.1%} full" + (f", patches {stats.patch_fill:.1%}" if inputs.shape.patches else "")
        source = f"{visible(str(data.source.file.path))} ({data.source.format})"
        fullest = f" (the fullest; data.row_tokens={config.data.row_tokens})" if inputs.shape.tokens < config.data.row_tokens else ""
        size = f"{counted(stats.rows, 'row')} of {inputs.shape.tokens} tokens{fullest}"
        console.print(f"{name}: {counted(stats.examples, 'example')} of {source} in {size}, {fill}", markup=False)
        if config.data.image_root is None and data.source.image_root != data.source.file.path.parent:
            console.print(describe_root(data.source.file.path, data.source.image_root), markup=False)
        if notice := describe_stacks(name for entry in data.entries for name in entry.stacks):
            console.print(notice, soft_wrap=True, markup=False)
        for reason, count in stats.skipped.items():
            console.print(f"[yellow]skipped {counted(count, 'example')}: {reason}[/]")
    a_step = config.rows_per_step * config.accumulation
    if len(inputs.train.rows) < a_step:
        console.print(
            f"[yellow]{counted(len(inputs.train.rows), 'row')} cannot fill a step of {a_step} (rows_per_step × accumulation): the rest is "
            "padding; lower them, or data.row_tokens[/]"
        )


def _check_machine(config: TrainConfig, mesh: Mesh) -> None:
    if jax.process_count() > 1 and not several():
        raise UserError(
            f"this machine is one of {jax.process_count()} of a pod, and the others are not known; use --distributed.launcher=tpu"
        )
    if config.rows_per_step % (pieces := mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(f"rows_per_step={config.rows_per_step} is not a multiple of data × fsdp = {pieces}; choose one that is")
    if config.attention == "fused" and not has_fused(platform := mesh.devices.flat[0].platform):
        raise UserError(f"attention=fused: there are no fused kernels for {platform}; use auto or xla")
    if config.remat == "offload" and "pinned_host" not in {memory.kind for memory in jax.devices()[0].addressable_memories()}:
        raise UserError("remat=offload needs a device with pinned host memory; use dots_no_batch or full here")
    if config.tracking.wandb_project and importlib.util.find_spec("wandb") is None:
        raise UserError("tracking.wandb_project is set but wandb is not installed; pip install -e '.[wandb]'")


def _frozen_dtypes(config: TrainConfig, stored: Mapping[str, np.dtype]) -> Mapping[str, Any]:
    """Dtype of each parameter while it is frozen; never narrower than stored, so that it comes out as it went in."""
    if config.param_dtype is None:
        return stored
    asked = jnp.dtype(config.param_dtype)
    narrowed = [path for path, dtype in stored.items() if dtype.itemsize > asked.itemsize]
    if narrowed:
        raise UserError(
            f"param_dtype={config.param_dtype} would round {len(narrowed)} parameters stored as {stored[narrowed[0]]}; "
            f"leave it out, or convert the model with --dtype={config.param_dtype}"
        )
    return dict.fromkeys(stored, asked)


def _check_disk(config: TrainConfig, spec: ModelSpec, stored: Mapping[str, np.dtype]) -> None:
    """The checkpoints that may lie side by side, and the model at the end."""
    trained = sum(math.prod(leaf.shape) for path, leaf in spec.abstract.items() if is_trainable(path, spec.parts))
    model = sum(math.prod(leaf.shape) * stored[path].itemsize for path, leaf in spec.plain.items())
    kept = config.checkpoint.keep_last + config.checkpoint.keep_best + 1
    needed = trained * STATE_BYTES * kept + model
    folder = next(parent for parent in (config.output.resolve(), *config.output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"output {str(config.output)!r} needs up to {needed / 1e9:.3g} GB ({kept} checkpoints and the model), and the disk has "
            f"{free / 1e9:.3g} GB free; no space left for that: free some, lower checkpoint.keep_last, or choose another disk"
        )


def _check_length(model_dir: Path, shape: BatchShape, sizes: Any) -> None:
    limit = sizes.language.max_positions
    if limit is not None and shape.tokens > limit:
        raise UserError(
            f"{model_dir}: rows of {shape.tokens} tokens, but past {limit} this model's rotary embedding would be scaled, which is "
            f"not supported; set data.row_tokens={limit} or less"
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
