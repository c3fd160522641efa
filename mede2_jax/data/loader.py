"""Batches of rows, in an order that a step number alone decides, prepared ahead by grain threads or processes.

A rows · B rows per micro-batch and process · one element of the loader is one optimizer step: every array [A, B, …].
The position is the step number. Restoring it replays nothing, and gives the same batches with any number of workers.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, Self

import absl.flags
import grain
import numpy as np
from jaxtyping import Float32

from mede2_jax.config import UserError
from mede2_jax.data.dataset import Dataset
from mede2_jax.data.rows import BatchShape, Row

_MAX_THREADS = 4
_PADDING = -1
"""Row number that stands for a row of padding."""


class RowOrder:
    """Random access to the row number at each place of this process's whole run: epochs, steps, micro-batches, rows.

    Args:
        rows: Rows in the dataset.
        rows_per_step: Rows of a micro-batch over all processes.
        accumulation: Micro-batches of a step.
        epochs: Passes over the data.
        seed: With the epoch, decides the shuffle.
        shuffle: Whether each epoch has its own order.
        columns: Which rows of every micro-batch are this process's, ascending; none given: all of them.
    """

    def __init__(
        self,
        rows: int,
        *,
        rows_per_step: int,
        accumulation: int,
        epochs: int,
        seed: int,
        shuffle: bool,
        columns: Sequence[int] | None = None,
    ) -> None:
        self.rows, self.epochs, self.seed, self.shuffle = rows, epochs, seed, shuffle
        self.rows_per_step, self.accumulation = rows_per_step, accumulation
        self.columns = range(rows_per_step) if columns is None else columns
        self.steps_per_epoch = -(-rows // (rows_per_step * accumulation))

    @property
    def rows_per_element(self) -> int:
        """Rows of one step that are ours."""
        return self.accumulation * len(self.columns)

    def __len__(self) -> int:
        return self.epochs * self.steps_per_epoch * self.rows_per_element

    def __getitem__(self, place: int) -> int:
        step, within = divmod(int(place), self.rows_per_element)
        micro_batch, column = divmod(within, len(self.columns))
        epoch, step = divmod(step, self.steps_per_epoch)
        at = (step * self.accumulation + micro_batch) * self.rows_per_step + self.columns[column]
        if at >= self.rows:
            return _PADDING
        return int(_epoch_order(self.rows, self.seed, epoch)[at]) if self.shuffle else at


class Loader(Iterator[dict[str, np.ndarray]]):
    """Iterates over steps; see `make_loader`. Close it, or use it in `with`, to end its workers."""

    def __init__(self, dataset: Dataset, order: RowOrder, build: Any, workers: int, buffer: int) -> None:
        self.dataset = dataset
        self.steps_per_epoch = order.steps_per_epoch
        self.total_steps = order.steps_per_epoch * order.epochs
        self._order, self._build, self._workers = order, build, workers
        self._ahead = max(buffer, order.rows_per_element)  # the next step's rows are made while this one runs
        # grain holds as many again in the main process.
        self._per_worker = -(-self._ahead // (2 * max(workers, 1)))
        self._step = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self._step >= self.total_steps:
            self.close()
            raise StopIteration
        if self._iterator is None:
            self._iterator = self._start()
        element = next(self._iterator)
        self._step += 1
        return element

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON: the next step, and what the order of rows depends on."""
        order = self._order
        return {
            "step": self._step,
            "digest": self.dataset.digest,
            "rows": order.rows,
            "rows_per_step": order.rows_per_step,
            "accumulation": order.accumulation,
            "seed": order.seed,
            "shuffle": order.shuffle,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position; the next batches are those that an unbroken run would have given.

        Raises:
            UserError: The position belongs to other data or another order of rows.
        """
        ours = self.get_state()
        changed = [f"{name}: {state.get(name)} then, {ours[name]} now" for name in ours if name != "step" and state.get(name) != ours[name]]
        if changed:
            raise UserError(f"the saved data position does not fit this run ({'; '.join(changed)}); resume with the same data and settings")
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Ends the workers; the loader can still go on from where it is."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> grain.DatasetIterator:
        places = grain.MapDataset.source(self._order)[self._step * self._order.rows_per_element :]
        # A worker has one row in its hands, and the others behind it; threads hold them all.
        threads = min(_MAX_THREADS, os.cpu_count() or 1, self._ahead) if not self._workers else 1
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=1 if self._workers else self._ahead)
        prepared = places.map(self._build).to_iter_dataset(read)
        if self._workers:
            if not absl.flags.FLAGS.is_parsed():
                # grain asks absl for its flags before it starts a worker; our commands parse their own.
                absl.flags.FLAGS.mark_as_parsed()
            prepared = grain.experimental.WithOptionsIterDataset(
                prepared, grain.experimental.DatasetOptions(min_shm_size=self._shared_memory_from())
            )
            prepared = prepared.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=self._per_worker)
            )
        stack = functools.partial(stack_rows, accumulation=self._order.accumulation)
        # Rows are prepared one by one and in order, whoever prepares them; only then do they become steps.
        return iter(prepared.batch(self._order.rows_per_element, batch_fn=stack))

    def _shared_memory_from(self) -> int:
        """Array size from which workers hand over in shared memory: none where a container's /dev/shm is too small."""
        shape = self._build.keywords["shape"]
        needed = self._workers * (2 * self._per_worker + 4) * (shape.patches * shape.patch_dim * 4 + shape.tokens * 32)
        free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else needed
        return 1 << 16 if free >= needed else 1 << 62


def make_loader(
    dataset: Dataset,
    shape: BatchShape,
    *,
    rows_per_step: int,
    accumulation: int = 1,
    epochs: int = 1,
    seed: int = 0,
    shuffle: bool = True,
    columns: Sequence[int] | None = None,
    workers: int = 0,
    buffer: int = 8,
    reference: Float32[np.ndarray, "N 2"] | None = None,
) -> Loader:
    """A loader of steps: dicts of arrays [A, B, …], A = `accumulation`, B = this process's share of `rows_per_step`.

    An epoch's last step is filled up with rows of padding (weight 0); no row is left out.

    Args:
        dataset: The indexed data.
        shape: Sizes of every row, at least `dataset.shape`.
        rows_per_step: Rows of a micro-batch over all processes.
        accumulation: Micro-batches of a step.
        epochs: Passes over the data.
        seed: With the epoch, decides the order of rows.
        shuffle: Off keeps the plan's order.
        columns: This process's rows of every micro-batch, ascending; none given: all of them.
        workers: Processes that prepare rows; 0 uses threads.
        buffer: Rows of this process that are prepared ahead, of all workers together; at least those of a step.
        reference: Reference log-probabilities of chosen and rejected by dataset index.
    """
    assert shape.union(dataset.shape) == shape, "shape must hold the dataset's rows"
    assert reference is None or reference.shape == (len(dataset), 2)
    order = RowOrder(
        len(dataset.rows),
        rows_per_step=rows_per_step,
        accumulation=accumulation,
        epochs=epochs,
        seed=seed,
        shuffle=shuffle,
        columns=columns,
    )
    build = functools.partial(_build_row, dataset=dataset, shape=shape, reference=reference)
    return Loader(dataset, order, build, workers, buffer)


def stack_rows(rows: Sequence[Row], accumulation: int) -> dict[str, np.ndarray]:
    """Stacks A·B rows into arrays [A, B, …]."""
    return {
        name: np.stack([row[name] for row in rows]).reshape(accumulation, len(rows) // accumulation, *rows[0][name].shape)
        for name in rows[0]
    }


def _build_row(row: int, *, dataset: Dataset, shape: BatchShape, reference: np.ndarray | None) -> Row:
    return dataset.row(row, shape, reference)


@functools.lru_cache(maxsize=4)
def _epoch_order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)
