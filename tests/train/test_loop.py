"""The loop around a step that only counts: an evaluation that a signal broke off is made up for, wherever it came."""

import dataclasses
import os
import signal
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from mede2_jax.train.checkpoint import Checkpoints, shapes_of
from mede2_jax.train.config import TrackingConfig, TrainConfig
from mede2_jax.train.loop import Loop
from mede2_jax.train.metrics import Tracker
from mede2_jax.train.state import TrainState

LOSSES = [0.9, 0.7, 0.8, 0.3, 0.5, 0.2, 0.6, 0.4]
"""Of an evaluation after so many steps."""
BATCHES = 3
"""Of an evaluation."""
ROW = {name: np.zeros((1, 2)) for name in ("tokens", "response_pair", "key_start", "key_end")}


class CountingSteps:
    """Each step adds one to the only parameter; the loss of an evaluation is that number's."""

    compilations = 0
    loss = SimpleNamespace(report=lambda sums, totals: {"loss": sums / totals})

    def place(self, batch, micro):
        return batch

    def contents(self, batch):
        return {"tokens": 2, "examples": 1}

    def train(self, state, batch):
        moved = dataclasses.replace(state, trainable={"a": state.trainable["a"] + 1}, step=state.step + 1)
        return moved, {"loss": np.float32(1)}

    def eval(self, params, batch):
        return np.float64(LOSSES[int(params["a"])]), np.float64(1)


class Rows:
    """Data without end."""

    steps_per_epoch = 4

    def __next__(self):
        return ROW

    def get_state(self):
        return {}


class Run:
    """Starts and resumes of one run; `broken` are the evaluations that a signal reaches: (which of those begun, its batch)."""

    def __init__(self, folder, steps, every, broken=()):
        self.folder, self.steps, self.broken, self.begun = folder, steps, set(broken), 0
        checkpoint = {"every": 100, "keep_last": 1, "keep_best": 1}
        self.config = TrainConfig.model_validate({"eval_every": every, "checkpoint": checkpoint, "data": {"path": "x"}})
        folder.mkdir()

    def batches(self):
        self.begun += 1
        for batch in range(BATCHES):
            if (self.begun, batch) in self.broken:
                os.kill(os.getpid(), signal.SIGTERM)
            yield ROW

    def go(self):
        """Whether the end was reached; what was logged, and which checkpoint is the best."""
        checkpoints = Checkpoints(self.folder / "checkpoints", self.config.checkpoint)
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(frozen={}, trainable={"a": zero}, optimizer_state=zero, step=zero, rng=zero)
        if checkpoints.latest is not None:
            saved, _ = checkpoints.restore(checkpoints.latest, shapes_of(state))
            state = dataclasses.replace(state, **saved)
        about = {"total_steps": self.steps, "start_step": int(state.step), "log_every": 100, "console": Console(quiet=True)}
        with Tracker(self.folder, TrackingConfig(tensorboard=False), config={}, **about) as tracker:
            rates = np.zeros(self.steps)
            finished = Loop(self.config, state, CountingSteps(), Rows(), self.batches, checkpoints, tracker, rates, {}).run()
            best = checkpoints.best
        checkpoints.close()
        return finished, [(record["step"], record.get("eval_loss")) for record in tracker.history], best


@pytest.mark.parametrize(
    ("steps", "every", "broken", "starts"),
    [
        (4, 2, [(1, 0), (3, 0)], 3),
        (3, 1, [(1, 0), (2, 0), (3, 0)], 4),
        (7, 3, [(3, 1)], 2),
        (5, 2, [(1, 1), (3, 2)], 3),
        (6, 5, [(1, 0), (2, 2), (4, 1), (5, 0)], 5),
        (1, 1, [(1, 2)], 2),
        (7, 7, [(1, 0), (2, 0)], 3),
        (6, 2, [(2, 1)], 2),
    ],
    ids=[
        "each of them",
        "one again and again",
        "the last, which no schedule has",
        "in the middle and in its last batch",
        "two of them, twice each",
        "after the only step",
        "the only one",
        "the best",
    ],
)
def test_an_evaluation_that_was_broken_off_is_made_up_for(steps, every, broken, starts, tmp_path):
    unbroken = Run(tmp_path / "unbroken", steps, every).go()
    run = Run(tmp_path / "run", steps, every, broken)
    ends = [run.go() for _ in range(starts)]
    assert [finished for finished, _, _ in ends] == [False] * (starts - 1) + [True], "a run that owes an evaluation is not finished"
    assert ends[-1] == unbroken
    evaluated = [step for step, loss in ends[-1][1] if loss is not None]
    assert evaluated == sorted({*range(every, steps + 1, every), steps})
