"""A run from config to model: opens model and data, computes the reference, trains, and writes what comes out.

A run directory holds config.yaml, manifest.json (what went in, and what was left out and why), metrics.jsonl, tensorboard/,
checkpoints/, reference.safetensors (DPO), and at the end curves.png, model/ (merged) and adapter/ (PEFT, with LoRA).
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.console import Console
from rich.progress import track

from mede2_jax.data.dataset import Dataset
from mede2_jax.data.loader import Loader, make_loader
from mede2_jax.models.lora import base_path, join_params, merge_lora, put_adapters, take_adapters
from mede2_jax.train.checkpoint import Checkpoints, abstract_state
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.loop import Loop
from mede2_jax.train.metrics import Tracker, closing_table, plot_curves
from mede2_jax.train.optimizer import make_optimizer, make_schedule
from mede2_jax.train.reference import compute_reference, load_reference, pairs_digest, reference_digest, save_reference
from mede2_jax.train.setup import Setup, open_setup, prepare_run_directory, show_setup, write_manifest
from mede2_jax.train.state import TrainState, init_params, init_state
from mede2_jax.train.step import Steps
from mede2_jax.weights.model_directory import copy_files, read_info, write_model_directory
from mede2_jax.weights.peft import Adapter, export_adapter

References = dict[str, np.ndarray]


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
    if setup.adapter is not None:
        params = put_adapters(params, setup.adapter.pairs)
    total_steps = _total_steps(setup)
    optimizer = make_optimizer(config.optimizer, config.learning_rate, total_steps)
    steps = Steps(setup.policy, setup.loss, optimizer, setup.mesh, config.logprob_chunk)
    with jax.default_matmul_precision("highest" if config.compute_dtype == "float32" else "default"):
        references = _references(setup, steps, params, console)
        state = init_state(setup.policy, params, optimizer, setup.mesh, config.seed)
        finished, state = _train(setup, steps, state, references, total_steps, console)
        if finished:
            _export(setup, state, console)


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
    adapter = "" if setup.adapter is None else pairs_digest(setup.adapter.pairs)
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
    if policy.has_adapters:
        pairs = {path: (_to_host(a), _to_host(b)) for path, (a, b) in take_adapters(state.trainable).items()}
        lora = config.lora
        adapter = Adapter(pairs, lora.rank, lora.alpha, rslora=lora.rslora, dropout=lora.dropout, base=str(setup.model_dir))
        if jax.process_index() == 0:
            table, abstract = setup.family.weight_rules(setup.sizes), setup.family.abstract_params(setup.sizes)
            export_adapter(config.output / "adapter", adapter, table, abstract, overwrite=True)
    shardings = flatten_dict(policy.shardings(setup.mesh), sep="/")
    plain = {base_path(path): place for path, place in shardings.items() if not path.endswith(("/lora_a", "/lora_b"))}
    merge = functools.partial(_merged, scale=config.lora.scale, dtype=_stored_dtype(setup))
    # The run is over: the merged kernels may take the place of the frozen ones.
    merged = jax.jit(merge, out_shardings=unflatten_dict(plain, sep="/"), donate_argnums=0)(state.frozen, state.trainable)
    with tempfile.TemporaryDirectory() as folder:
        # The processor as it was used, pixel limits included, so that inference sees images as training did.
        files = Path(folder)
        copy_files(setup.model_dir, files)
        setup.processor.save(files)
        parents = (read_info(setup.model_dir).digest,)
        write_model_directory(config.output / "model", family=setup.family.name, source=files, params=merged, parents=parents)
    rows = [("model (merged)", "model"), ("PEFT adapter", "adapter"), ("curves", "curves.png"), ("metrics", "metrics.jsonl")]
    for name, file in rows:
        if (config.output / file).exists():
            console.print(f"{name + ':':16} {config.output / file}", soft_wrap=True)


def _merged(frozen: Any, trainable: Any, scale: float, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), merge_lora(join_params(frozen, trainable), scale))


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
