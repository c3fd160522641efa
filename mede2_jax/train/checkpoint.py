"""Checkpoints of a run: one atomic Orbax step holds what exact resume needs.

A step has three items: `state` (trained parameters, optimizer state, step, rng), `data` (the position in the data) and
`config`. Frozen parameters are not in it: they stay in the model directory the run started from.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_manager import METRIC_ITEM_NAME
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mede2_jax.config import UserError
from mede2_jax.models.lora import Params
from mede2_jax.outputs.file import write_whole
from mede2_jax.parallel.distributed import barrier, is_first
from mede2_jax.train.config import CheckpointConfig
from mede2_jax.train.state import TrainState
from mede2_jax.weights.model_directory import share_large_writes_only, write_limit
from mede2_jax.weights.params import reason
from mede2_jax.weights.run_checkpoint import STATE, TRAINABLE

SAVED = (TRAINABLE, "optimizer_state", "step", "rng")


def saved_bytes(state: TrainState) -> int:
    """Bytes of a checkpoint, of all processes together."""
    return sum(leaf.nbytes for name in SAVED for leaf in jax.tree.leaves(getattr(state, name)))


class Best(NamedTuple):
    """A step that was evaluated."""

    step: int
    eval_loss: float


class Checkpoints:
    """The checkpoints under a directory: saved in the background, the latest and the best kept.

    Args:
        directory: Where.
        config: Which are kept.
        size: Bytes of one, of all processes together; how long saving may take follows from it.
    """

    def __init__(self, directory: Path, config: CheckpointConfig, size: int = 0):
        share_large_writes_only()
        keep = [preservation_policy.LatestN(config.keep_last), _BestN(config.keep_best)]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
            best_fn=_loss,  # without one, Orbax writes no metrics, and a run that is resumed forgets which checkpoints were the best
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=write_limit(size)),
        )
        self._manager = ocp.CheckpointManager(Path(directory).resolve(), options=options)

    def save(self, state: TrainState, data: dict[str, Any], begun_with: dict[str, Any], eval_loss: float | None) -> None:
        """Starts saving; returns once the state is copied and training may go on.

        Args:
            state: Its trained parameters, optimizer state, step and rng are saved.
            data: The position in the data.
            begun_with: The config, and digests of the model that the frozen parameters come from.
            eval_loss: Of an evaluation at this step, by which the best are kept.

        Raises:
            UserError: The disk is full; the checkpoints before stay.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave({name: getattr(state, name) for name in SAVED}),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(begun_with),
        )
        with self._users_errors("save"):
            self._manager.save(step, args=items, metrics={} if eval_loss is None else {"eval_loss": eval_loss}, force=True)

    def rate(self, step: int, eval_loss: float) -> None:
        """Gives a step that is there the loss of an evaluation that came after it was saved.

        Raises:
            UserError: The disk is full.
        """
        if is_first():
            metrics = Path(self._manager.directory) / str(step) / METRIC_ITEM_NAME
            with self._users_errors("save"):
                metrics.mkdir(exist_ok=True)
                write_whole(metrics / METRIC_ITEM_NAME, json.dumps({"eval_loss": eval_loss}))  # the file that Orbax reads
        barrier("rated")
        self._manager.reload()

    @property
    def latest(self) -> int | None:
        """The last completed step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> Best | None:
        """The step with the lowest evaluation loss among those that are there, the earliest of equals; None if none was evaluated."""
        evaluated = [Best(step, _loss(self._manager.metrics(step))) for step in sorted(self._manager.all_steps())]
        best = min(evaluated, key=lambda best: best.eval_loss, default=None)
        return None if best is None or math.isinf(best.eval_loss) else best

    def restore(self, step: int, abstract: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """A step: the saved fields of the state, laid out as in `abstract`, and the data's position.

        What it was begun with is a record: the run directory has compared them with those of this start.

        Args:
            step: The step, the same one in every process.
            abstract: Shapes, dtypes and shardings.

        Raises:
            UserError: The checkpoint is damaged.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore({name: getattr(abstract, name) for name in SAVED}),
            data=ocp.args.JsonRestore(),
        )
        with self._users_errors("read"):
            restored = self._manager.restore(step, args=items)
        return restored["state"], restored["data"]

    def restore_trainable(self, step: int, abstract: TrainState) -> Params:
        """The trained parameters of a step alone; as `restore`."""
        wanted = {TRAINABLE: abstract.trainable}
        arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
        state = ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True)
        with self._users_errors("read"), ocp.PyTreeCheckpointer() as reader:
            restored: dict[str, Params] = reader.restore(self._manager.directory / str(step) / STATE, args=state)
        return restored[TRAINABLE]

    def wait(self) -> None:
        """Blocks until what was started is on disk, and raises what went wrong there."""
        with self._users_errors("save"):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        """Waits, and stops the manager's threads."""
        self._manager.close()

    @contextlib.contextmanager
    def _users_errors(self, verb: str) -> Iterator[None]:
        """A full disk or a damaged file is the user's to mend."""
        try:
            yield
        except (ValueError, OSError, RuntimeError, KeyError) as error:
            kept = f"the checkpoint of step {self.latest} is kept" if self.latest is not None else "none had been saved before"
            raise UserError(f"cannot {verb} a checkpoint in {self._manager.directory}: {reason(error)}; {kept}") from None


def shapes_of(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _loss(metrics: Mapping[str, float] | None) -> float:
    """The evaluation loss of a checkpoint; infinite if it was not evaluated."""
    return (metrics or {}).get("eval_loss", math.inf)


class _BestN(preservation_policy.PreservationPolicy):
    """Keeps the n of the lowest evaluation loss; Orbax's own takes any checkpoint where fewer were evaluated."""

    def __init__(self, n: int):
        self.n = n

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        losses = [_loss(checkpoint.metrics) for checkpoint in checkpoints]
        best = sorted(range(len(losses)), key=losses.__getitem__)[: self.n]
        return [index in best and math.isfinite(loss) for index, loss in enumerate(losses)]
