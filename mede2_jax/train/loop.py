"""The training loop: dispatch step n, then read the numbers of step n−1; evaluate, save, and stop when asked to."""

from __future__ import annotations

import collections
import dataclasses
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Self

import jax
import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.loader import Loader
from mede2_jax.train.checkpoint import Checkpoints
from mede2_jax.train.config import TrainConfig
from mede2_jax.train.metrics import Tracker
from mede2_jax.train.state import TrainState, all_params
from mede2_jax.train.step import Steps


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
    learning_rate: Callable[[Any], Any]
    total_steps: int
    saved_config: dict[str, Any]

    def run(self) -> bool:
        """Trains to the end, or until SIGTERM or Ctrl-C; saves either way. True when the end was reached.

        Raises:
            UserError: A number is not finite (names the step; the last good checkpoint stays), or the data cannot be read.
        """
        step = int(self.state.step)
        self._clock = time.perf_counter()
        self._recent: collections.deque[float] = collections.deque(maxlen=20)
        pending: _Pending | None = None
        with _StopRequest() as stop:
            while step < self.total_steps and not stop.requested:
                batch = next(self.loader)
                placed = self.steps.place(batch, micro=True)
                self.state, metrics = self.steps.train(self.state, placed)
                step += 1
                if pending:
                    self._report(pending)
                pending = _Pending(step, metrics, _contents(batch))
                evaluate = self.eval_batches is not None and (step % self.config.eval_every == 0 or step == self.total_steps)
                save = step % self.config.checkpoint.every == 0 or step == self.total_steps
                if evaluate or save or stop.requested:
                    # A state is kept only once its numbers are known to be finite.
                    self._report(pending)
                    pending = None
                eval_loss = self._evaluate(step) if evaluate else None
                if save:
                    self._save(eval_loss)
            if pending:
                self._report(pending)
            if stop.requested:
                self._save(None)
            self.checkpoints.wait()
        return step >= self.total_steps

    def _save(self, eval_loss: float | None) -> None:
        self.checkpoints.save(self.state, self.loader.get_state(), self.saved_config, eval_loss)

    def _report(self, done: _Pending) -> None:
        """Reads a step's numbers back, which waits for it, and logs them."""
        numbers = {name: float(value) for name, value in jax.device_get(done.metrics).items()}
        broken = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        if broken:
            self.checkpoints.wait()
            kept = self.checkpoints.latest
            saved = f"the checkpoint of step {kept} is kept" if kept else "no checkpoint had been saved yet"
            name, value = next(iter(broken.items()))
            raise UserError(
                f"step {done.step}: {name} is {value}; {saved}. Lower optimizer.learning_rate or optimizer.max_grad_norm, "
                "or look at the data of this step; --resume goes on from the checkpoint"
            )
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self._recent.append(elapsed)
        # The first step compiles, so it says nothing about the others.
        usual = statistics.median(self._recent) if len(self._recent) > 1 else None
        record: dict[str, Any] = {
            "step": done.step,
            "epoch": round(done.step / self.loader.steps_per_epoch, 4),
            **numbers,
            "learning_rate": float(self.learning_rate(done.step - 1)),
            "tokens_per_second": done.tokens / elapsed,
            "padding": 1 - done.tokens / done.room,
            "examples": done.examples,
            "compilations": self.steps.compilations,
            "time": time.time(),
        }
        self.tracker.log(record, eta_seconds=None if usual is None else usual * (self.total_steps - done.step))

    def _evaluate(self, step: int) -> float:
        """Averages every metric over the evaluation data, each batch weighted by what it holds."""
        assert self.eval_batches is not None
        params = all_params(self.state)
        sums: dict[str, float] = {}
        weight = 0.0
        for batch in self.eval_batches():
            metrics, batch_weight = jax.device_get(self.steps.eval(params, self.steps.place(batch, micro=False)))
            weight += float(batch_weight)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) * float(batch_weight)
        averages = {f"eval_{name}": value / weight for name, value in sums.items()}
        self.tracker.log({"step": step, **averages, "time": time.time()})
        self._clock = time.perf_counter()
        return averages["eval_loss"]


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A dispatched step whose numbers are not read yet."""

    step: int
    metrics: Mapping[str, jax.Array]
    contents: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return self.contents[0]

    @property
    def room(self) -> int:
        return self.contents[1]

    @property
    def examples(self) -> int:
        return self.contents[2]


def _contents(batch: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """(real tokens, all tokens, examples) of a step over all processes, taking the others to hold as much as this one."""
    processes = jax.process_count()
    real = int((batch["key_end"] > batch["key_start"]).sum())
    pairs = batch["response_pair"]
    return real * processes, batch["tokens"].size * processes, len(np.unique(pairs[pairs >= 0])) * processes


class _StopRequest:
    """Turns SIGTERM and Ctrl-C into a request that the loop reads between steps; a second signal acts as usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[signal.Signals(number)])
