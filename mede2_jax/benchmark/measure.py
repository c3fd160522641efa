"""What is measured: the step alone, the input pipeline alone, and the two together as training runs them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mede2_jax.benchmark.config import BenchmarkConfig
from mede2_jax.outputs.memory import peak_memory
from mede2_jax.sizing.chips import peak_tflops
from mede2_jax.sizing.flops import Contents, Flops, contents, count_flops
from mede2_jax.train.batches import open_loader
from mede2_jax.train.inputs import TrainingInputs
from mede2_jax.train.state import TrainState, all_params
from mede2_jax.train.step import Steps

Batch = Mapping[str, np.ndarray]
PLACED = 4
"""Batches that lie on the devices while steps are timed alone."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What came out. Times are seconds, of one step unless said otherwise; `held` and `flops` are means over the timed steps."""

    devices: int
    device_kind: str
    rows: int
    row_tokens: int
    row_patches: int
    held: Contents
    flops: Flops
    peak_tflops: float | None
    compile_seconds: float
    """To trace, lower and compile the step, or to read it from the compilation cache."""
    step_seconds: float
    """Median, its batch already on the devices."""
    slowest_step_seconds: float
    pipeline_step_seconds: float
    """Mean of steps that follow one another while the pipeline prepares their batches, as in training."""
    input_seconds: float
    """To prepare a step's batch when nothing else runs."""
    images_per_second_per_core: float | None
    reference_seconds: float | None
    """A reference pass over as many rows (DPO)."""
    peak_memory_bytes: int | None
    """The largest of the devices; on a CPU, of the process."""
    compilations: int

    @property
    def tokens_per_second_per_device(self) -> float:
        """Real tokens, not padding."""
        return self.held.tokens / self.step_seconds / self.devices

    @property
    def examples_per_second_per_device(self) -> float:
        """Pairs or demonstrations."""
        return self.held.examples / self.step_seconds / self.devices

    @property
    def tflops_per_device(self) -> float:
        """Model operations, recomputation left out."""
        return self.flops.total / self.step_seconds / self.devices / 1e12

    @property
    def hardware_tflops_per_device(self) -> float:
        """Recomputation counted."""
        return self.flops.done / self.step_seconds / self.devices / 1e12

    @property
    def mfu(self) -> float | None:
        """Share of the peak that the model's operations take."""
        return None if self.peak_tflops is None else self.tflops_per_device / self.peak_tflops

    @property
    def waiting(self) -> float:
        """Share of a training step's time in which the devices wait for data."""
        return max(0.0, 1 - self.step_seconds / self.pipeline_step_seconds)

    @property
    def real_tokens(self) -> float:
        """Share of real tokens in the rows."""
        return self.held.tokens / (self.rows * self.row_tokens)


def measure(config: BenchmarkConfig, inputs: TrainingInputs, steps: Steps, state: TrainState, reference_pass: bool) -> Figures:
    """Runs the steps; `state` is used up.

    Args:
        config: The benchmark.
        inputs: The model and the data.
        steps: The compiled functions.
        state: The state before the first step.
        reference_pass: Whether to time a reference pass too.
    """
    input_seconds, images = _time_input(config, inputs, steps)
    batches = list(itertools.islice(_forever(config, inputs, steps), PLACED))
    placed = [steps.place(batch, micro=True) for batch in batches]
    with compile_seconds("train_step") as spent:
        state, metrics = steps.train(state, placed[0])
        jax.block_until_ready(metrics)
    for number in range(1, config.warmup):
        state, metrics = steps.train(state, placed[number % PLACED])
    jax.block_until_ready(metrics)
    seconds = []
    for number in range(config.steps):
        begun = time.perf_counter()
        state, metrics = steps.train(state, placed[number % PLACED])
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - begun)
    if config.profile is not None:
        state = _trace(config.profile, steps, state, placed)
    held = [contents(batches[number % PLACED]) for number in range(config.steps)]
    together, state = _time_training(config, inputs, steps, state)
    step_seconds = statistics.median(seconds)
    mean = _mean(held)
    device = inputs.mesh.devices.flat[0]
    return Figures(
        devices=inputs.mesh.size,
        device_kind=device.device_kind,
        rows=config.rows_per_step * config.accumulation,
        row_tokens=inputs.shape.tokens,
        row_patches=inputs.shape.patches,
        held=mean,
        flops=count_flops(inputs.spec, inputs.sizes, mean, remat=config.remat, tensor=inputs.mesh.shape["tensor"]),
        peak_tflops=config.peak_tflops or (peak_tflops(device.device_kind) if config.compute_dtype == "bfloat16" else None),
        compile_seconds=sum(spent),
        step_seconds=step_seconds,
        slowest_step_seconds=max(seconds),
        pipeline_step_seconds=together,
        input_seconds=input_seconds,
        images_per_second_per_core=images,
        reference_seconds=_time_reference(steps, all_params(state), batches[0]) if reference_pass else None,
        peak_memory_bytes=_peak_memory(inputs),
        compilations=steps.compilations,
    )


@contextlib.contextmanager
def compile_seconds(function: str) -> Iterator[list[float]]:
    """What JAX says that it spent on tracing, lowering and compiling a function of that name meanwhile."""
    spent: list[float] = []

    def listen(event: str, duration_secs: float, **about: Any) -> None:
        # Traced under its own name, lowered and compiled as `jit(name)`; what it calls is traced within.
        if event.startswith("/jax/core/compile/") and about.get("fun_name") in (function, f"jit({function})"):
            spent.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield spent
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _forever(config: BenchmarkConfig, inputs: TrainingInputs, steps: Steps) -> Iterator[dict[str, np.ndarray]]:
    """Steps without end, full ones only: an epoch's last may hold rows of padding."""
    reference = np.zeros((len(inputs.train), 2), np.float32) if config.stage == "dpo" else None
    epochs, accumulation = 1_000_000, config.accumulation
    with open_loader(inputs, steps, inputs.train, reference, epochs=epochs, accumulation=accumulation, shuffle=True) as loader:
        whole = len(inputs.train.rows) // (config.rows_per_step * config.accumulation)
        for number, batch in enumerate(loader):
            if not whole or number % loader.steps_per_epoch < whole:
                yield batch


def _time_input(config: BenchmarkConfig, inputs: TrainingInputs, steps: Steps) -> tuple[float, float | None]:
    """Seconds for a step's batch, and images a second and core, when nothing else runs."""
    batches = _forever(config, inputs, steps)
    begun, used = time.perf_counter(), _processor_seconds()
    images = 0
    for batch in itertools.islice(batches, config.steps):
        starts = batch["patch_image_start"][batch["patch_image_end"] > batch["patch_image_start"]]
        images += int((np.diff(starts, prepend=-1) != 0).sum())
    elapsed, used = time.perf_counter() - begun, _processor_seconds() - used
    batches.close()  # type: ignore[attr-defined]
    return elapsed / config.steps, images / max(used, 1e-9) if images else None


def _processor_seconds() -> float:
    return sum(
        resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def _time_training(config: BenchmarkConfig, inputs: TrainingInputs, steps: Steps, state: TrainState) -> tuple[float, TrainState]:
    """Seconds a step when its batch comes from the pipeline and the step before is still running, as in a run."""
    batches = _forever(config, inputs, steps)
    pending: Any = None
    begun = 0.0
    for number, batch in enumerate(itertools.islice(batches, config.steps + config.warmup)):
        state, metrics = steps.train(state, steps.place(batch, micro=True))
        if pending is not None:
            jax.block_until_ready(pending)
        pending = metrics
        if number == config.warmup - 1:
            jax.block_until_ready(pending)
            begun = time.perf_counter()
    jax.block_until_ready(pending)
    elapsed = time.perf_counter() - begun
    batches.close()  # type: ignore[attr-defined]
    return elapsed / config.steps, state


def _time_reference(steps: Steps, params: Any, batch: Batch) -> float:
    micro = steps.place({name: value[0] for name, value in batch.items()}, micro=False)
    run = functools.partial(steps.reference, params, micro)
    jax.block_until_ready(run())
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return (time.perf_counter() - begun) * batch["tokens"].shape[0]


def _trace(folder: Path, steps: Steps, state: TrainState, placed: list[Any]) -> TrainState:
    with jax.profiler.trace(os.fspath(folder)):
        for number in range(3):
            state, metrics = steps.train(state, placed[number % PLACED])
        jax.block_until_ready(metrics)
    return state


def _mean(held: list[Contents]) -> Contents:
    return Contents(**{field.name: statistics.mean(getattr(one, field.name) for one in held) for field in dataclasses.fields(Contents)})


def _peak_memory(inputs: TrainingInputs) -> int | None:
    found = [device.memory_stats() for device in inputs.mesh.devices.flat if device.process_index == jax.process_index()]
    peaks = [stats["peak_bytes_in_use"] for stats in found if stats and "peak_bytes_in_use" in stats]
    if peaks:
        return max(peaks)
    return peak_memory()
