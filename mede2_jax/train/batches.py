"""The loaders of a run: training's own, and passes over all rows in the plan's order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mede2_jax.data.dataset import Dataset
from mede2_jax.data.loader import Loader, make_loader
from mede2_jax.train.inputs import TrainingInputs
from mede2_jax.train.step import Steps


def open_loader(
    inputs: TrainingInputs, steps: Steps, dataset: Dataset, reference: np.ndarray | None, *, epochs: int, accumulation: int, shuffle: bool
) -> Loader:
    """This process's rows, as the run's config has them prepared.

    Args:
        inputs: The run.
        steps: Says which rows are this process's.
        dataset: Whose rows.
        reference: Reference log-probabilities, [examples, 2], or none.
        epochs: Passes over the data.
        accumulation: Micro-batches of a step.
        shuffle: Whether each epoch has its own order.
    """
    config = inputs.config
    return make_loader(
        dataset,
        inputs.shape,
        rows_per_step=config.rows_per_step,
        accumulation=accumulation,
        epochs=epochs,
        seed=config.seed,
        shuffle=shuffle,
        columns=steps.columns(config.rows_per_step),
        workers=config.data.workers,
        buffer=config.data.buffer,
        reference=reference,
    )


def open_pass(inputs: TrainingInputs, steps: Steps, dataset: Dataset, reference: np.ndarray | None) -> Loader:
    """One pass over all rows in the plan's order, a micro-batch at a time."""
    return open_loader(inputs, steps, dataset, reference, epochs=1, accumulation=1, shuffle=False)


def eval_batches(inputs: TrainingInputs, steps: Steps, dataset: Dataset, reference: np.ndarray | None) -> Iterator[dict[str, np.ndarray]]:
    """The micro-batches of such a pass."""
    with open_pass(inputs, steps, dataset, reference) as loader:
        yield from unstacked(loader)


def unstacked(loader: Loader) -> Iterator[dict[str, np.ndarray]]:
    """[1, B, …] to [B, …]."""
    for batch in loader:
        yield {name: value[0] for name, value in batch.items()}
