"""Where a run's numbers go: console, metrics.jsonl, TensorBoard, Weights & Biases; and at the end a table and curves."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mede2_jax.config import UserError, counted
from mede2_jax.foreign import JSONFault, parse_json
from mede2_jax.outputs.file import write_whole
from mede2_jax.train.config import TrackingConfig

SHOWN = ("loss", "accuracy", "margin", "reward_chosen", "reward_rejected", "grad_norm", "learning_rate", "tokens_per_second", "padding")
SUMMARY = (
    "loss",
    "margin",
    "accuracy",
    "reward_chosen",
    "reward_rejected",
    "logprob_chosen",
    "logprob_rejected",
    "grad_norm",
    "tokens_per_second",
    "padding",
)
EDGE = 10
"""How many steps at each end of a run the closing table averages."""


class Tracker:
    """Writes every step's numbers, and shows some of them.

    Args:
        run_dir: The run.
        tracking: Which trackers, besides the console and metrics.jsonl.
        config: The resolved config, for Weights & Biases.
        total_steps: Of the run.
        start_step: Steps already done; later lines of an interrupted run are cut off metrics.jsonl.
        log_every: Steps between console lines.
        console: Where to show progress.
        write: Off in all processes but the first: they keep no history and write nothing.
    """

    def __init__(
        self,
        run_dir: Path,
        tracking: TrackingConfig,
        *,
        config: dict[str, Any],
        total_steps: int,
        start_step: int,
        log_every: int,
        console: Console,
        write: bool = True,
    ):
        self.console, self._log_every, self._total = console, log_every, total_steps
        self.path = run_dir / "metrics.jsonl"
        self.history = _keep_until(self.path, start_step) if write else []
        self._file = self.path.open("a", encoding="utf-8") if write else None
        self._board = _tensorboard(run_dir, start_step) if write and tracking.tensorboard else None
        self._wandb = _wandb(tracking.wandb_project, run_dir, config) if write and tracking.wandb_project else None
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Where output is not a terminal the lines are enough.
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("training", total=total_steps, completed=start_step, loss="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if self._file:
            self._file.close()
        if self._board:
            with contextlib.suppress(OSError):  # on a full disk: what ended the run has been said
                self._board.close()
        if self._wandb:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def log(self, record: dict[str, Any], eta_seconds: float | None = None) -> None:
        """One step's numbers (`step` among them); `eval_…` names are an evaluation's."""
        if self._file is None:
            return
        self.history.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        step = record["step"]
        numbers = {name: value for name, value in record.items() if isinstance(value, (int, float)) and name not in ("step", "time")}
        if self._board:
            for name, value in numbers.items():
                self._board.add_scalar(name.replace("eval_", "eval/") if name.startswith("eval_") else f"train/{name}", value, step)
        if self._wandb:
            self._wandb.log(numbers, step=step)
        if "eval_loss" in record:
            self.console.print(
                f"[bold]eval[/] step {step}/{self._total}  " + _shown({k.removeprefix("eval_"): v for k, v in numbers.items()})
            )
            return
        self._progress.update(self._task, completed=step, loss=f"loss {record['loss']:.4f}")
        if step % self._log_every == 0 or step in (1, self._total):
            eta = "" if eta_seconds is None else f"  eta {_duration(eta_seconds)}"
            self.console.print(f"step {step}/{self._total}  {_shown(numbers)}{eta}")


def closing_table(history: Sequence[dict[str, Any]]) -> Group:
    """What matters in a run, from beginning to end: training averaged over a few steps at each end; the evaluations that tell."""
    train = [record for record in history if "loss" in record]
    evals = [record for record in history if "eval_loss" in record]
    edge = max(1, min(EDGE, len(train) // 4))
    tables = []
    if train:
        ends = {f"first {counted(edge, 'step')}": train[:edge], f"last {counted(edge, 'step')}": train[-edge:]}
        tables.append(_summary("run summary", ends, SUMMARY))
    if evals:
        told = (("first", evals[0]), ("last", evals[-1]), ("lowest loss", min(evals, key=lambda record: record["eval_loss"])))
        columns = {", ".join(name for name, other in told if other is one) + f": step {one['step']}": [one] for _, one in told}
        tables.append(_summary("evaluation", columns, [f"eval_{name}" for name in SUMMARY]))
    return Group(*tables)


def _summary(title: str, columns: Mapping[str, Sequence[dict[str, Any]]], names: Sequence[str]) -> Table:
    """A row for each of the numbers that there are, a column for each set of records: their mean."""
    table = Table("metric", title=title, title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in names:
        if all(name in record for records in columns.values() for record in records):
            table.add_row(name, *(_number(_mean(records, name)) for records in columns.values()))
    return table


def _keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """What an interrupted run logged up to its checkpoint; later lines, and a torn last one, are cut off the file."""
    if not path.exists():
        return []
    kept: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            record = parse_json(line)
        except JSONFault as fault:
            if fault.syntax:
                break  # torn by a kill in mid-write; nothing after it can be whole
            record = None
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}: line {len(kept) + 1} is no record of a step; move the file away, and its steps are lost")
        if record["step"] <= step:
            kept.append(record)
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _tensorboard(run_dir: Path, start_step: int) -> Any:
    from tensorboardX import SummaryWriter

    # purge_step hides what an interrupted run wrote after its last checkpoint.
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=start_step + 1 if start_step else None)


def _wandb(project: str | None, run_dir: Path, config: dict[str, Any]) -> Any:
    import wandb

    # The same id for the same directory: a resumed run goes on in the same place.
    identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
    return wandb.init(project=project, dir=str(run_dir), config=config, name=run_dir.name, id=identity, resume="allow")


def _mean(records: Sequence[dict[str, Any]], name: str) -> float:
    return sum(record[name] for record in records) / len(records)


def _shown(record: dict[str, Any]) -> str:
    return "  ".join(f"{name} {_number(record[name])}" for name in SHOWN if name in record)


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:.2e}" if abs(value) < 1e4 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
