"""Everything a training run is made of, as one frozen config; and the embedded default that needs no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mede2_jax.config import Config, UserError
from mede2_jax.data.dataset import DataConfig
from mede2_jax.models.layers import RematPolicy
from mede2_jax.models.lora import LoRAConfig, Mode
from mede2_jax.parallel.mesh import MeshConfig
from mede2_jax.train.losses import DPOConfig
from mede2_jax.train.optimizer import OptimizerConfig

Stage = Literal["sft", "dpo"]

PAPER_LEARNING_RATE: dict[Stage, float] = {"sft": 1e-4, "dpo": 1e-6}
"""MedE², appendix C."""

SAMPLE_DATA = Path(__file__).resolve().parents[2] / "data" / "sample"

EMBEDDED: dict[str, Any] = {
    "data": {"row_tokens": 2048, "eval_fraction": 0.15},
    "compute_dtype": "float32",
    "rows_per_step": 1,
    "eval_every": 16,
    "log_every": 1,
}
"""With no --model and no --config: a tiny random model on the sample data, on a CPU, in minutes."""

EMBEDDED_STAGE: dict[Stage, dict[str, Any]] = {
    "sft": {"epochs": 8, "optimizer": {"learning_rate": 5e-3}, "data": {"path": "demonstrations.jsonl"}, "output": "runs/sft"},
    "dpo": {"epochs": 6, "optimizer": {"learning_rate": 5e-4}, "data": {"path": "preferences.jsonl"}, "output": "runs/dpo"},
}


class PartsConfig(Config):
    """What is trained in each part of the model."""

    vision: Mode = "frozen"
    """The vision tower."""
    projector: Mode = "frozen"
    """The layers from vision to language width."""
    language: Mode = "lora"
    """The language model: lora, or full for all its parameters."""


class CheckpointConfig(Config):
    """When the run's state is saved, and which saves are kept. A run also saves on SIGTERM and at its end."""

    every: int = Field(default=200, ge=1)
    """Steps between saves."""
    keep_last: int = Field(default=2, ge=1)
    """How many of the latest to keep."""
    keep_best: int = Field(default=1, ge=0)
    """How many of the best by evaluation loss to keep besides (with evaluation only)."""


class TrackingConfig(Config):
    """Where metrics go, besides the console and metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard event files into the run."""
    wandb_project: str | None = None
    """Also log to Weights & Biases under this project (needs the `wandb` extra and its own login)."""


class TrainConfig(Config):
    """A training run: SFT (stage I of MedE²) or DPO (stage II)."""

    stage: Stage = "dpo"
    """sft: supervised fine-tuning on demonstrations; dpo: direct preference optimisation on pairs."""
    model: Path | None = None
    """Model directory to start from (see `python -m mede2_jax.convert`); for DPO, the one that SFT ended in."""
    adapter: Path | None = None
    """PEFT adapter to continue from, put on `model`; its rank, alpha and layers must be those of `lora`."""
    output: Path = Path("runs/run")
    """Run directory: config, checkpoints, metrics, curves, and at the end model/ and adapter/."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint (starts afresh if there is none)."""
    overwrite: bool = False
    """Delete a run that is already in `output`, and start afresh."""

    data: DataConfig = DataConfig()
    parts: PartsConfig = PartsConfig()
    lora: LoRAConfig = LoRAConfig()
    dpo: DPOConfig = DPOConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    epochs: int = Field(default=3, ge=1)
    """Passes over the training data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps; the learning rate's schedule is laid out over them."""
    rows_per_step: int = Field(default=8, ge=1)
    """Packed rows of one micro-batch, over all devices."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches whose gradients make one optimizer step."""
    eval_every: int = Field(default=100, ge=1)
    """Steps between evaluations, when data.eval_path or data.eval_fraction gives something to evaluate on."""
    log_every: int = Field(default=10, ge=1)
    """Steps between console lines; metrics.jsonl has every step."""
    seed: int = 0
    """Of the adapters' start, of dropout and of the order of rows."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of activations and matrix products; norms, softmax and loss are float32 always."""
    param_dtype: Literal["bfloat16", "float32"] | None = None
    """Of frozen parameters, by default as they are stored in the model directory; trained ones are float32 always."""
    remat: RematPolicy = "full"
    """What the backward pass recomputes: none, full, dots, dots_no_batch, offload."""
    logprob_chunk: int = Field(default=256, ge=8)
    """Scored tokens a row whose logits exist at a time."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        if set(self.parts.model_dump().values()) == {"frozen"}:
            raise ValueError(
                "parts: everything is frozen, so there is nothing to train; set one of vision, projector, language to lora or full"
            )
        for part, mode in self.parts.model_dump().items():
            rate = getattr(self.optimizer, f"{part}_learning_rate")
            if mode == "frozen" and rate is not None:
                raise ValueError(f"optimizer.{part}_learning_rate={rate:g} has no effect: parts.{part} is frozen")
        if self.adapter is not None and "lora" not in self.parts.model_dump().values():
            raise ValueError("adapter needs a part whose mode is lora")
        return self

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, the paper's for the stage unless given."""
        given = self.optimizer.learning_rate
        return PAPER_LEARNING_RATE[self.stage] if given is None else given


def embedded_defaults(stage: Stage) -> dict[str, Any]:
    """The embedded default of a stage as config values.

    Raises:
        UserError: The sample data is not beside the package (it comes with a checkout, not with a wheel).
    """
    values = {**EMBEDDED, **EMBEDDED_STAGE[stage], "stage": stage}
    path = SAMPLE_DATA / EMBEDDED_STAGE[stage]["data"]["path"]
    if not path.exists():
        raise UserError(f"no sample data at {path}; run from a checkout of the project, or give --model and --data.path")
    return {**values, "data": {**EMBEDDED["data"], "path": str(path)}}
