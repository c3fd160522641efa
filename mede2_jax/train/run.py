"""A run from config to model: opens model and data, computes the reference, trains, and writes what comes out.

A run directory holds config.yaml, manifest.json (what went in, and what was left out and why), metrics.jsonl, tensorboard/,
checkpoints/, reference.safetensors (DPO), and at the end curves.png, model/ (merged) and adapter/ (PEFT, with LoRA).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from mede2_jax import __version__
from mede2_jax.config import UserError, to_yaml
from mede2_jax.data.dataset import Dataset, open_splits
from mede2_jax.data.loader import Loader, make_loader
from mede2_jax.data.rows import BatchShape
from mede2_jax.families import Family, model_config
from mede2_jax.models.lora import base_path, is_trainable, merge_lora, put_adapters, take_adapters
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.train.checkpoint import Checkpoints, abstract_state
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.loop import Loop
from mede2_jax.train.losses import DPOLoss, Loss, SFTLoss
from mede2_jax.train.metrics import Tracker, closing_table, plot_curves
from mede2_jax.train.optimizer import make_optimizer, make_schedule
from mede2_jax.train.reference import compute_reference, load_reference, reference_digest, save_reference
from mede2_jax.train.state import Policy, TrainState, all_params, init_params, init_state, make_policy
from mede2_jax.train.step import Steps
from mede2_jax.weights.model_directory import read_info, write_model_directory
from mede2_jax.weights.peft import Adapter, export_adapter, import_adapter

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

References = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is known before anything is written or computed."""

    config: TrainConfig
    model_dir: Path
    family: Family
    processor: Any
    train: Dataset
    held_out: Dataset | None
    shape: BatchShape
    mesh: Mesh
    policy: Policy
    loss: Loss


def run(config: TrainConfig, model_dir: Path, console: Console) -> None:
    """Trains, or goes on training, and writes the run directory.

    Args:
        config: The run.
        model_dir: The model directory to start from.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used; a run directory that existed is as it was.
    """
    setup = open_setup(config, model_dir)
    prepare_run_directory(config)
    write_manifest(setup)
    show_setup(setup, console)
    params = init_params(setup.policy, model_dir, setup.mesh, config.seed)
    if config.adapter is not None:
        params = put_adapters(params, _given_adapter(setup, config.adapter).pairs)
    total_steps = _total_steps(setup)
    optimizer = make_optimizer(config.optimizer, config.learning_rate, total_steps)
    steps = Steps(setup.policy, setup.loss, optimizer, setup.mesh, config.logprob_chunk)
    with jax.default_matmul_precision("highest" if config.compute_dtype == "float32" else "default"):
        references = _references(setup, steps, params, console)
        state = init_state(setup.policy, params, optimizer, setup.mesh, config.seed)
        finished, state = _train(setup, steps, state, references, total_steps, console)
        if finished:
            _export(setup, state, console)


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
    processor = family.load_processor(model_dir, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels)
    train, held_out = open_splits(config.data, config.stage, processor)
    # One shape for training, evaluation and the reference pass, so that each function compiles once.
    shape = train.shape.union(held_out.shape) if held_out else train.shape
    loss: Loss = DPOLoss(config.dpo) if config.stage == "dpo" else SFTLoss()
    return Setup(config, model_dir, family, processor, train, held_out, shape, mesh, policy, loss)


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


def _total_steps(setup: Setup) -> int:
    config = setup.config
    per_epoch = -(-len(setup.train.rows) // (config.rows_per_step * config.accumulation))
    everything = per_epoch * config.epochs
    return min(everything, config.max_steps) if config.max_steps else everything


def _references(setup: Setup, steps: Steps, params: Any, console: Console) -> References:
    """DPO's reference log-probabilities of the training and evaluation data, from the run's file or computed now."""
    if setup.config.stage != "dpo":
        return {}
    config, path = setup.config, setup.config.output / "reference.safetensors"
    adapter = (
        "" if config.adapter is None else reference_digest(*(f"{p.name}:{p.stat().st_size}" for p in sorted(config.adapter.iterdir())))
    )
    data = {name: dataset for name, dataset in (("train", setup.train), ("eval", setup.held_out)) if dataset is not None}
    digest = reference_digest(read_info(setup.model_dir).digest, adapter, config.compute_dtype, *(d.digest for d in data.values()))
    if path.exists():
        return load_reference(path, digest)

    def logprobs(batch: Mapping[str, np.ndarray]) -> np.ndarray:
        return _local_rows(steps.reference(params, steps.place(batch, micro=False)))

    tables = {}
    for name, dataset in data.items():
        with _pass(setup, dataset, None) as loader:
            batches = track(
                _unstacked(loader),
                f"reference log-probabilities, {name}",
                total=loader.total_steps,
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
            tables[name] = compute_reference(batches, logprobs, len(dataset))
    tables = {name: _gathered(table) for name, table in tables.items()}
    if jax.process_index() == 0:
        save_reference(path, tables, digest)
    return tables


def _train(
    setup: Setup, steps: Steps, state: TrainState, references: References, total_steps: int, console: Console
) -> tuple[bool, TrainState]:
    config = setup.config
    checkpoints = Checkpoints(config.output / "checkpoints", config.checkpoint)
    loader = _loader(setup, setup.train, references.get("train"), epochs=config.epochs, accumulation=config.accumulation, shuffle=True)
    if config.resume and checkpoints.latest is not None:
        saved, position = checkpoints.restore(abstract_state(state))
        state = dataclasses.replace(state, **saved)
        loader.set_state(position)
        console.print(f"resumed from the checkpoint of step {checkpoints.latest}")
    held_out = setup.held_out
    tracker = Tracker(
        config.output,
        config.tracking,
        config=config.model_dump(mode="json"),
        total_steps=total_steps,
        start_step=int(state.step),
        log_every=config.log_every,
        console=console,
    )
    loop = Loop(
        config=config,
        state=state,
        steps=steps,
        loader=loader,
        eval_batches=None if held_out is None else functools.partial(_eval_batches, setup, held_out, references.get("eval")),
        checkpoints=checkpoints,
        tracker=tracker,
        learning_rate=make_schedule(config.optimizer, config.learning_rate, total_steps),
        total_steps=total_steps,
        saved_config=config.model_dump(mode="json"),
    )
    with tracker, loader:
        finished = loop.run()
    checkpoints.close()
    if not finished:
        console.print(f"stopped at step {int(loop.state.step)} of {total_steps}, state saved; go on with --resume --output={config.output}")
    elif tracker.history:
        console.print(closing_table(tracker.history))
        plot_curves(tracker.history, config.output / "curves.png")
    return finished, loop.state


def _export(setup: Setup, state: TrainState, console: Console) -> None:
    """The merged model directory, and the adapters in PEFT's format."""
    config, policy = setup.config, setup.policy
    params = all_params(state)
    if policy.has_adapters:
        pairs = {path: (_to_host(a), _to_host(b)) for path, (a, b) in take_adapters(params).items()}
        lora = config.lora
        adapter = Adapter(pairs, lora.rank, lora.alpha, rslora=lora.rslora, dropout=lora.dropout, base=str(setup.model_dir))
        if jax.process_index() == 0:
            export_adapter(config.output / "adapter", adapter, *_tables(setup), overwrite=True)
    shardings = flatten_dict(policy.shardings(setup.mesh), sep="/")
    plain = {base_path(path): place for path, place in shardings.items() if not path.endswith(("/lora_a", "/lora_b"))}
    merge = functools.partial(_merged, scale=config.lora.scale, dtype=_stored_dtype(setup))
    # The run is over: the merged kernels may take the place of the frozen ones.
    merged = jax.jit(merge, out_shardings=unflatten_dict(plain, sep="/"), donate_argnums=0)(params)
    write_model_directory(
        config.output / "model",
        family=setup.family.name,
        source=setup.model_dir,
        params=merged,
        parents=(read_info(setup.model_dir).digest,),
    )
    setup.processor.save(config.output / "model")
    rows = [("model (merged)", "model"), ("PEFT adapter", "adapter"), ("curves", "curves.png"), ("metrics", "metrics.jsonl")]
    for name, file in rows:
        if (config.output / file).exists():
            console.print(f"{name + ':':16} {config.output / file}", soft_wrap=True)


def _given_adapter(setup: Setup, directory: Path) -> Adapter:
    """An adapter to continue from; it must scale as this run does."""
    adapter, lora = import_adapter(directory, *_tables(setup)), setup.config.lora
    if (adapter.rank, adapter.scale) != (lora.rank, lora.scale):
        raise UserError(
            f"{directory} has rank {adapter.rank} and scale {adapter.scale:g}, this run rank {lora.rank} and scale {lora.scale:g}; "
            f"set lora.rank={adapter.rank} lora.alpha={adapter.alpha:g} lora.rslora={str(adapter.rslora).lower()}"
        )
    return adapter


def _tables(setup: Setup) -> tuple[Any, Any]:
    """The weight table and the abstract parameters that names are checked against."""
    sizes = model_config(setup.model_dir)[1]
    return setup.family.weight_rules(sizes), setup.family.abstract_params(sizes)


def _merged(params: Any, scale: float, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), merge_lora(params, scale))


def _stored_dtype(setup: Setup) -> Any:
    """A run ends in the dtype its model directory came in."""
    dtype = read_info(setup.model_dir).dtype
    return jnp.float32 if dtype == "mixed" else jnp.dtype(dtype)


def _loader(setup: Setup, dataset: Dataset, reference: np.ndarray | None, *, epochs: int, accumulation: int, shuffle: bool) -> Loader:
    return make_loader(
        dataset,
        setup.shape,
        rows_per_step=setup.config.rows_per_step,
        accumulation=accumulation,
        epochs=epochs,
        seed=setup.config.seed,
        shuffle=shuffle,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=setup.config.data.workers,
        buffer=setup.config.data.buffer,
        reference=reference,
    )


def _pass(setup: Setup, dataset: Dataset, reference: np.ndarray | None) -> Loader:
    """One pass over all rows in the plan's order, a micro-batch at a time."""
    return _loader(setup, dataset, reference, epochs=1, accumulation=1, shuffle=False)


def _eval_batches(setup: Setup, dataset: Dataset, reference: np.ndarray | None) -> Iterator[Mapping[str, np.ndarray]]:
    with _pass(setup, dataset, reference) as loader:
        yield from _unstacked(loader)


def _unstacked(loader: Loader) -> Iterator[dict[str, np.ndarray]]:
    """[1, B, …] to [B, …]."""
    for batch in loader:
        yield {name: value[0] for name, value in batch.items()}


def _mesh_text(mesh: Mesh) -> str:
    return f"{mesh.size} {jax.devices()[0].platform} device(s): " + " × ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _local_rows(sums: jax.Array) -> np.ndarray:
    """This process's rows of a replicated [B, R] array."""
    whole = np.asarray(jax.device_get(sums))
    rows = len(whole) // jax.process_count()
    return whole[jax.process_index() * rows : (jax.process_index() + 1) * rows]


def _gathered(table: np.ndarray) -> np.ndarray:
    """Every process has filled its own rows of the table; put them together."""
    if jax.process_count() == 1:
        return table
    from jax.experimental import multihost_utils

    return np.nanmax(np.asarray(multihost_utils.process_allgather(table)), axis=0)


def _to_host(array: jax.Array) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True) if jax.process_count() > 1 else array)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _free(name: str) -> bool:
    return any(name == free or name.startswith(free + ".") for free in FREE_TO_CHANGE)
