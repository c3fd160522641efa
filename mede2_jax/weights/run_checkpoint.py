"""A checkpoint of a training run, read without its trainer: which model it trained, and what became of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.json_file import Count, Finite, Foreign, load_checked
from mede2_jax.weights.model_info import read_info
from mede2_jax.weights.params import ParamReader
from mede2_jax.weights.peft import Adapter

CHECKPOINTS, STATE, TRAINABLE = "checkpoints", "state", "trainable"
"""RUN/checkpoints/STEP/state is what Orbax saved of a step; its parameters stand below `trainable`."""
MANIFEST = "manifest.json"


class _LoRA(Foreign):
    rank: Count
    alpha: Finite
    rslora: bool
    dropout: float


class _Config(Foreign):
    lora: _LoRA
    data: dict[str, Any]


class _Begun(Foreign):
    """What a run began with, as every checkpoint has it."""

    digests: Annotated[list[str], pydantic.Field(min_length=1)]
    config: _Config


class _Manifest(Foreign):
    """`manifest.json` of a run."""

    model: str


class _Metrics(Foreign):
    eval_loss: Finite | None = None


@dataclass(frozen=True)
class RunCheckpoint:
    """A step of a run."""

    step: int
    model_dir: Path
    """Of the frozen parameters; those that it has of the trained ones are what they were."""
    digests: tuple[str, ...]
    """Of that model, and of the adapter that the run went on from, if there was one."""
    data: Mapping[str, Any]
    """The options by which images and conversations were prepared, among others."""
    adapter: Adapter | None
    trained: ParamReader
    """Parameters trained in full, each at `trainable/PATH`."""

    def in_full(self) -> Iterator[str]:
        """Paths of the parameters that were trained in full."""
        return (path.removeprefix(f"{TRAINABLE}/") for path in self.trained.infos if not path.endswith(("/lora_a", "/lora_b")))


def is_run(directory: Path) -> bool:
    """Whether it is a run directory."""
    return (directory / MANIFEST).is_file() and (directory / CHECKPOINTS).is_dir()


def open_checkpoint(run: Path, step: str, model: Path | None = None) -> RunCheckpoint:
    """Opens a step of a run.

    Args:
        run: The run directory.
        step: Its number, `last`, or `best`: the one with the lowest evaluation loss.
        model: The model directory that the run started from, if it is not where the run says.

    Raises:
        UserError: There is no such step; it is damaged; the model is not where it was, or another.
    """
    steps = sorted(int(path.name) for path in (run / CHECKPOINTS).iterdir() if path.name.isdecimal() and path.is_dir())
    number = _chosen(run, steps, step)
    folder = run / CHECKPOINTS / str(number)
    begun = load_checked(folder / "config" / "metadata", _Begun, "the checkpoint is damaged: use another --step")
    model_dir = model or Path(load_checked(run / MANIFEST, _Manifest).model)
    if not model_dir.is_dir():
        raise UserError(f"{run} started from {shown(str(model_dir), 200)!r}, which is not there; say where it is now: --model=MODEL_DIR")
    if (digest := read_info(model_dir).digest) != begun.digests[0]:
        raise UserError(
            f"{model_dir} is not the model that {run} started from (its digest is {digest}); say where that is: --model=MODEL_DIR"
        )
    reader = ParamReader(folder / STATE, below=f"{TRAINABLE}/")
    return RunCheckpoint(number, model_dir, tuple(begun.digests), begun.config.data, _adapter(reader, begun.config.lora), reader)


def _chosen(run: Path, steps: list[int], step: str) -> int:
    if not steps:
        raise UserError(f"{run} has no checkpoint")
    if step == "last":
        return steps[-1]
    if step == "best":
        losses = {number: run / CHECKPOINTS / str(number) / "metrics" / "metrics" for number in steps}
        found = [(load_checked(file, _Metrics).eval_loss, number) for number, file in losses.items() if file.is_file()]
        evaluated = [(loss, number) for loss, number in found if loss is not None]
        if not evaluated:
            raise UserError(f"no checkpoint of {run} was evaluated, so none is the best; give --step=N, one of {_listed(steps)}")
        return min(evaluated)[1]
    if int(step) not in steps:
        raise UserError(f"{run} has no checkpoint of step {int(step)}; give --step=N, one of {_listed(steps)}")
    return int(step)


def _listed(steps: list[int]) -> str:
    return ", ".join(map(str, steps))


def _adapter(reader: ParamReader, lora: _LoRA) -> Adapter | None:
    """The adapters of a step, in memory: they are small."""
    linears = [path.removesuffix("/lora_a") for path in reader.infos if path.endswith("/lora_a")]
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {
        linear.removeprefix(f"{TRAINABLE}/"): (reader.read(f"{linear}/lora_a"), reader.read(f"{linear}/lora_b")) for linear in linears
    }
    return Adapter(pairs, lora.rank, lora.alpha, rslora=lora.rslora, dropout=lora.dropout) if pairs else None
