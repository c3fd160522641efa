"""The training loop: dispatch step n, then read the numbers of step n−1; evaluate, save, and stop when asked to."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.loader import Loader
from mede2_jax.parallel.distributed import agreed
from mede2_jax.train.checkpoint import Checkpoints
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.metrics import Tracker
from mede2_jax.train.state import TrainState, all_params
from mede2_jax.train.step import Steps
from mede2_jax.train.stop import StopRequest


@dataclasses.dataclass
class Loop:
    """What a run of the loop needs. `state` is replaced at every step."""

    config: TrainConfig
    state: TrainState
    steps: Steps
    loader: Loader
    eval_batches: Callable[[], Iterator[Mapping[str, np.ndarray]]] | None
    """Starts one pass over the evaluation data."""
    checkpoints: Checkpoints
    tracker: Tracker
    learning_rates: np.ndarray
    """Of each step of the run. On the host: reading it from a device would wait for the step that runs there."""
    begun_with: dict[str, Any]
    """What the run was made from, kept in every checkpoint."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.learning_rates)

    def run(self) -> bool:
        """Trains to the end, or until SIGTERM or Ctrl-C; saves either way. True when the end was reached.

        Raises:
            UserError: A number is not finite (names the step; the last good checkpoint stays), or the data cannot be read.
        """
        step = int(self.state.step)
        self._clock = time.perf_counter()
        self._recent: collections.deque[float] = collections.deque(maxlen=20)
        # The first process has the history, and what is best decides what all save.
        history = agreed(lambda: [(record["step"], record["eval_loss"]) for record in self.tracker.history if "eval_loss" in record])
        self._evaluated: dict[int, float] = dict(history)
        pending: _Pending | None = None
        batch: Mapping[str, np.ndarray] = {}
        with StopRequest() as stop:
            if self._owes_evaluation(step) and (eval_loss := self._evaluate(step, stop)) is not None:
                self._evaluated[step] = eval_loss
                self.checkpoints.rate(step, eval_loss)
            self.tracker.console.print("compiling the training step; the first one takes longer than the others")
            while step < self.total_steps and not stop.poll():
                batch = next(self.loader)
                placed = self.steps.place(batch, micro=True)
                contents = self.steps.contents({name: placed[name] for name in ("response_pair", "key_start", "key_end")})
                self.state, metrics = self.steps.train(self.state, placed)
                step += 1
                if pending:
                    self._report(pending)
                pending = _Pending(step, metrics, contents, placed["tokens"].size)
                last, evaluate = step == self.total_steps, self._owes_evaluation(step)
                if evaluate or last or step % self.config.checkpoint.every == 0:
                    self._report(pending)
                    pending = None
                    eval_loss = self._evaluate(step, stop) if evaluate else None
                    self._save(step, batch, eval_loss, last)
            if pending:
                self._report(pending)
            if stop.agreed and batch:
                self._check_finite(step, batch)
                self.checkpoints.save(self.state, self.loader.get_state(), self.begun_with, None)
            self.checkpoints.wait()
        return step >= self.total_steps and not self._owes_evaluation(step)

    def _owes_evaluation(self, step: int) -> bool:
        """Whether it is time to evaluate and not done: a run that is stopped meanwhile makes up for it when it is resumed."""
        due = step > 0 and (step % self.config.eval_every == 0 or step == self.total_steps)
        return self.eval_batches is not None and due and step not in self._evaluated

    def _save(self, step: int, batch: Mapping[str, np.ndarray], eval_loss: float | None, last: bool) -> None:
        """Saves when it is time to, and when an evaluation was among the best that are to be kept."""
        keep_best = self.config.checkpoint.keep_best
        better = eval_loss is not None and sum(before <= eval_loss for before in self._evaluated.values()) < keep_best
        if eval_loss is not None:
            self._evaluated[step] = eval_loss
        if better or last or step % self.config.checkpoint.every == 0:
            self._check_finite(step, batch)
            self.checkpoints.save(self.state, self.loader.get_state(), self.begun_with, eval_loss)

    def _check_finite(self, step: int, batch: Mapping[str, np.ndarray]) -> None:
        """A step's numbers are those before its update; a state is kept only if it gives finite numbers itself."""
        micro = {name: value[0] for name, value in batch.items()}
        sums, totals = self.steps.eval(all_params(self.state), self.steps.place(micro, micro=False))
        self._refuse_broken(step, jax.device_get(self.steps.loss.report(sums, totals)))

    def _refuse_broken(self, step: int, numbers: Mapping[str, Any]) -> None:
        broken = {name: float(value) for name, value in numbers.items() if not math.isfinite(value)}
        if not broken:
            return
        self.checkpoints.wait()
        kept = self.checkpoints.latest
        name, value = next(iter(broken.items()))
        raise UserError(
            f"step {step}: {name} is {value}; "
            + (f"the checkpoint of step {kept} is kept" if kept else "no checkpoint had been saved yet")
            + ". Look at the data of this step, or start again in another --output with a lower optimizer.learning_rate"
        )

    def _report(self, done: _Pending) -> None:
        """Reads a step's numbers back, which waits for it, and logs them."""
        numbers = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
        self._refuse_broken(done.step, numbers)
        contents = {name: int(value) for name, value in jax.device_get(done.contents).items()}
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self._recent.append(elapsed)
        # The first step compiles, so it says nothing about the others.
        usual = statistics.median(list(self._recent)[1:]) if len(self._recent) > 1 else None
        record: dict[str, Any] = {
            "step": done.step,
            "epoch": round(done.step / self.loader.steps_per_epoch, 4),
            **numbers,
            "learning_rate": float(self.learning_rates[done.step - 1]),
            "tokens_per_second": contents["tokens"] / elapsed,
            "padding": 1 - contents["tokens"] / done.room,
            "examples": contents["examples"],
            "compilations": self.steps.compilations,
            "time": time.time(),
        }
        self.tracker.log(record, eta_seconds=None if usual is None else usual * (self.total_steps - done.step))

    def _evaluate(self, step: int, stop: StopRequest) -> float | None:
        """Every metric over all of the evaluation data; None when asked to stop meanwhile."""
        assert self.eval_batches is not None
        params = all_params(self.state)
        running: Any = None
        summed: Any = None
        for batch in self.eval_batches():
            if stop.poll():
                return None
            started = self.steps.eval(params, self.steps.place(batch, micro=False))
            if running is not None:  # read while the next batch is computed
                summed = _added(summed, running)
            running = started
        metrics = jax.device_get(self.steps.loss.report(*_added(summed, running)))
        averages = {f"eval_{name}": float(value) for name, value in metrics.items()}
        self._refuse_broken(step, averages)
        self.tracker.log({"step": step, **averages, "time": time.time()})
        self._clock = time.perf_counter()
        return averages["eval_loss"]


def _added(summed: Any, sums: Any) -> Any:
    on_host = jax.device_get(sums)
    return on_host if summed is None else jax.tree.map(np.add, summed, on_host)


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A dispatched step whose numbers are not read yet."""

    step: int
    metrics: Mapping[str, jax.Array]
    contents: Mapping[str, jax.Array]
    room: int
    """Tokens, padding included."""
