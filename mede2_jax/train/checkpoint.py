"""Checkpoints of a run: one atomic Orbax step holds what exact resume needs.

A step has three items: `state` (trained parameters, optimizer state, step, rng), `data` (the position in the data) and
`config`. Frozen parameters are not in it: they stay in the model directory the run started from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mede2_jax.config import UserError
from mede2_jax.train.config import CheckpointConfig
from mede2_jax.train.state import TrainState
from mede2_jax.weights.model_directory import share_large_writes_only
from mede2_jax.weights.params import reason

SAVED = ("trainable", "optimizer_state", "step", "rng")


class Checkpoints:
    """The checkpoints under a directory: saved in the background, the latest and the best kept."""

    def __init__(self, directory: Path, config: CheckpointConfig):
        share_large_writes_only()
        keep = [preservation_policy.LatestN(config.keep_last)]
        if config.keep_best:
            best = preservation_policy.BestN(get_metric_fn=_quality, n=config.keep_best, keep_checkpoints_without_metrics=False)
            keep.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
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
            self._manager.save(step, args=items, metrics=None if eval_loss is None else {"eval_loss": eval_loss}, force=True)

    @property
    def latest(self) -> int | None:
        """The last completed step, or None."""
        return self._manager.latest_step()

    def restore(self, abstract: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """The latest step: the saved fields of the state, laid out as in `abstract`, and the data's position.

        What it was begun with is a record: the run directory has compared them with those of this start.

        Raises:
            UserError: The checkpoint is damaged.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore({name: getattr(abstract, name) for name in SAVED}),
            data=ocp.args.JsonRestore(),
        )
        with self._users_errors("read"):
            restored = self._manager.restore(self.latest, args=items)
        return restored["state"], restored["data"]

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


def _quality(metrics: dict[str, float]) -> float:
    return -metrics["eval_loss"]
