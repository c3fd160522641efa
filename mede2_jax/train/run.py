"""A run from config to model: opens model and data, computes the reference, trains, and writes what comes out.

A run directory holds config.yaml, manifest.json (what went in, and what was left out and why), metrics.jsonl, tensorboard/,
checkpoints/, reference.safetensors (DPO), and at the end curves.png, model/ (merged) and adapter/ (PEFT, with LoRA).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from mede2_jax.models.lora import Params, put_adapters
from mede2_jax.parallel import distributed
from mede2_jax.train.batches import eval_batches, open_loader, open_pass, unstacked
from mede2_jax.train.checkpoint import Best, Checkpoints, saved_bytes, shapes_of
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.curves import plot_curves
from mede2_jax.train.export import export
from mede2_jax.train.inputs import TrainingInputs, check_same, manifest_with_files, open_inputs, show_inputs
from mede2_jax.train.loop import Loop
from mede2_jax.train.metrics import Tracker, closing_table
from mede2_jax.train.model_spec import init_params
from mede2_jax.train.optimizer import describe_warmup, make_optimizer, make_schedule
from mede2_jax.train.progress import narrated
from mede2_jax.train.reference import References, fill_reference, load_reference, reference_digest, save_reference
from mede2_jax.train.run_directory import MODEL, is_finished, open_run_directory
from mede2_jax.train.state import TrainState, init_state
from mede2_jax.train.step import Steps
from mede2_jax.train.stop import StopRequest
from mede2_jax.weights.run_checkpoint import CHECKPOINTS

REFERENCE_SAVE_SECONDS = 60.0
"""Between saves of a reference pass: what a kill may cost."""


def run(config: TrainConfig, model_dir: Path, console: Console) -> None:
    """Trains, or goes on training, and writes the run directory.

    Args:
        config: The run.
        model_dir: The model directory to start from.
        console: Where to show progress.

    Raises:
        UserError: Something the user gave cannot be used; a run directory that existed is as it was.
    """
    if distributed.agreed(lambda: is_finished(config)):
        console.print(f"{config.output} is finished; nothing to do", markup=False)
        _show_results(config.output, console)
        return
    inputs = open_inputs(config, model_dir)
    check_same(inputs)
    with open_run_directory(config, manifest_with_files(inputs)) if distributed.is_first() else contextlib.nullcontext():
        distributed.barrier("run directory")
        show_inputs(inputs, console)
        with jax.default_matmul_precision("highest" if config.compute_dtype == "float32" else "default"):
            _run(inputs, console)


def _run(inputs: TrainingInputs, console: Console) -> None:
    config = inputs.config
    optimizer = make_optimizer(config.optimizer, config.learning_rate, _total_steps(inputs))
    if (line := describe_warmup(config.optimizer, _total_steps(inputs))) is not None:
        console.print(f"[yellow]{line}")
    steps = Steps(inputs.spec, inputs.loss, optimizer, inputs.mesh, config.logprob_chunk, config.attention)
    off: list[float] = []
    params = init_params(inputs.spec, inputs.model_dir, inputs.mesh, config.seed, off.append)
    for one in off:
        console.print(f"the language model's frozen kernels in {config.frozen_dtype}: {one:.2%} off their weights (root mean square)")
    if inputs.adapter is not None:
        params = put_adapters(params, inputs.adapter.pairs)
    references = _references(inputs, steps, params, console)
    if references is None:
        console.print("stopped before the first step, reference log-probabilities saved; go on with the same command and --resume")
        return
    state = init_state(inputs.spec, params, optimizer, inputs.mesh, config.seed)
    del params  # the state owns them now: a second reference would keep them alive beside what training makes of them
    loop = _loop(inputs, steps, state, references, console)
    del state
    with contextlib.closing(loop.checkpoints):
        if not _train(inputs, loop, console):
            return
        trainable = _to_export(inputs, loop, console)
    frozen = loop.state.frozen
    del loop  # the optimizer's state has done its work
    export(inputs, frozen, trainable, console, *off)
    _show_results(config.output, console)


def _to_export(inputs: TrainingInputs, loop: Loop, console: Console) -> Params:
    """The trained parameters of the last step, or (`export=best`) of the checkpoint with the lowest evaluation loss."""
    found = distributed.agreed(lambda: loop.checkpoints.best) if inputs.config.export == "best" else None
    if found is None or (best := Best(*found)).step == int(loop.state.step):
        return loop.state.trainable
    console.print(f"exporting step {best.step}, of the lowest evaluation loss: {best.eval_loss:.4f}")
    return loop.checkpoints.restore_trainable(best.step, shapes_of(loop.state))


def _total_steps(inputs: TrainingInputs) -> int:
    config = inputs.config
    return config.max_steps or _steps_per_epoch(inputs) * config.epochs


def _steps_per_epoch(inputs: TrainingInputs) -> int:
    return -(-len(inputs.train.rows) // (inputs.config.rows_per_step * inputs.config.accumulation))


def _references(inputs: TrainingInputs, steps: Steps, params: Params, console: Console) -> dict[str, np.ndarray] | None:
    """DPO's reference log-probabilities of the training and evaluation data, from the run's file or computed now.

    None when asked to stop meanwhile: what was computed is in the run, and the next start goes on from there.
    """
    if inputs.config.stage != "dpo":
        return {}
    path = inputs.config.output / "reference.safetensors"
    data = {name: dataset for name, dataset in (("train", inputs.train), ("eval", inputs.held_out)) if dataset is not None}
    held = [frozen_dtype] if (frozen_dtype := inputs.config.frozen_dtype) is not None else []
    digest = reference_digest(*inputs.digests, inputs.config.compute_dtype, *held, *(dataset.digest for dataset in data.values()))
    found = _begun_reference(path, digest, {name: len(part) for name, part in data.items()})

    def responses(batch: Mapping[str, np.ndarray]) -> tuple[Any, Any, Any]:
        placed = steps.place(batch, micro=False)
        return (*distributed.replicated((placed["response_pair"], placed["response_role"])), steps.reference(params, placed))

    with StopRequest() as stop:
        for name, dataset in data.items():
            with open_pass(inputs, steps, dataset, None) as loader:
                loader.set_state(loader.get_state() | {"step": found.done[name]})
                filling = fill_reference(found, name, unstacked(loader), responses)
                saved = time.monotonic()
                for done in narrated(filling, f"reference log-probabilities, {name}", found.done[name], loader.total_steps, console):
                    if stop.poll() or time.monotonic() - saved > REFERENCE_SAVE_SECONDS or done == loader.total_steps:
                        if distributed.is_first():
                            save_reference(path, found, digest)
                        saved = time.monotonic()
                    if stop.agreed:
                        break
            if stop.poll(now=True):
                return None
    return found.tables


def _begun_reference(path: Path, digest: str, examples: Mapping[str, int]) -> References:
    """What the first process finds in the run, in every process."""
    empty = References.empty(examples)
    found = load_reference(path, digest) if distributed.is_first() and path.exists() else empty
    done = distributed.agreed(lambda: found.done)
    return References(jax.tree.map(np.array, distributed.broadcast(found.tables)), done)


def _loop(inputs: TrainingInputs, steps: Steps, state: TrainState, references: dict[str, np.ndarray], console: Console) -> Loop:
    """The loop at the run's start, or at its last checkpoint."""
    config, total_steps = inputs.config, _total_steps(inputs)
    checkpoints = Checkpoints(config.output / CHECKPOINTS, config.checkpoint, saved_bytes(state))
    epochs = -(-total_steps // _steps_per_epoch(inputs))
    reference, accumulation = references.get("train"), config.accumulation
    loader = open_loader(inputs, steps, inputs.train, reference, epochs=epochs, accumulation=accumulation, shuffle=True)
    begun_with: dict[str, Any] = {"digests": list(inputs.digests), "config": config.model_dump(mode="json")}
    latest = distributed.agreed(lambda: checkpoints.latest) if config.resume else None
    if latest is not None:
        saved, position = checkpoints.restore(latest, shapes_of(state))
        state = dataclasses.replace(state, **saved)
        loader.set_state(position)
        console.print(f"resumed from the checkpoint of step {latest}")
    elif config.resume:
        console.print(f"no checkpoint in {config.output} yet: this begins at the first step", markup=False)
    tracker = Tracker(
        config.output,
        config.tracking,
        config=begun_with["config"],
        total_steps=total_steps,
        start_step=int(state.step),
        log_every=config.log_every,
        console=console,
        write=distributed.is_first(),
    )
    held_out = inputs.held_out
    return Loop(
        config=config,
        state=state,
        steps=steps,
        loader=loader,
        eval_batches=None if held_out is None else functools.partial(eval_batches, inputs, steps, held_out, references.get("eval")),
        checkpoints=checkpoints,
        tracker=tracker,
        learning_rates=np.asarray(make_schedule(config.optimizer, config.learning_rate, total_steps)(np.arange(total_steps))),
        begun_with=begun_with,
    )


def _train(inputs: TrainingInputs, loop: Loop, console: Console) -> bool:
    """Whether the end was reached."""
    output = inputs.config.output
    with loop.tracker, loop.loader:
        finished = loop.run()
    if finished and distributed.is_first():
        console.print(closing_table(loop.tracker.history))
        plot_curves(loop.tracker.history, output / "curves.png")
    elif not finished:
        step = int(loop.state.step)
        console.print(f"stopped at step {step} of {loop.total_steps}, state saved; go on with the same command and --resume")
    return finished


def _show_results(output: Path, console: Console) -> None:
    rows = [("model (merged)", MODEL), ("PEFT adapter", "adapter"), ("curves", "curves.png"), ("metrics", "metrics.jsonl")]
    for name, file in rows:
        if (output / file).exists():
            console.print(f"{name + ':':16} {output / file}", soft_wrap=True, markup=False)
