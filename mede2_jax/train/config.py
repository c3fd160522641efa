"""Everything a training run is made of, as one frozen config; and the embedded default that needs no files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mede2_jax.config import Config
from mede2_jax.data.dataset import DataConfig
from mede2_jax.embedded import SAMPLE, Embedded
from mede2_jax.families import DEFAULT_FAMILY, FamilyName
from mede2_jax.models.attention import Backend
from mede2_jax.models.layers import RematPolicy
from mede2_jax.models.lora import LoRAConfig, Mode
from mede2_jax.models.quantized import FrozenDtype
from mede2_jax.parallel.distributed import DistributedConfig
from mede2_jax.parallel.mesh_config import MeshConfig
from mede2_jax.rounding import Rounding
from mede2_jax.train.losses import DPOConfig
from mede2_jax.train.optimizer import OptimizerConfig

Stage = Literal["sft", "dpo"]

PAPER_LEARNING_RATE: dict[Stage, float] = {"sft": 1e-4, "dpo": 1e-6}
"""MedE², appendix C."""

_ANY_STAGE = {
    "data.row_tokens": 2048,
    "data.eval_fraction": 0.15,
    "compute_dtype": "float32",
    "rows_per_step": 1,
    "eval_every": 16,
    "log_every": 1,
}

EMBEDDED: Mapping[Stage, Embedded] = {
    "sft": Embedded(
        _ANY_STAGE | {"epochs": 8, "optimizer.learning_rate": 5e-3, "output": "runs/sft"},
        {"data.path": SAMPLE / "demonstrations.jsonl"},
        decided_by=("model",),
    ),
    "dpo": Embedded(
        _ANY_STAGE | {"epochs": 6, "optimizer.learning_rate": 5e-4, "output": "runs/dpo"},
        {"data.path": SAMPLE / "preferences.jsonl"},
        decided_by=("model",),
    ),
}
"""With no --model and no --config: a tiny random model on the sample data, on a CPU, in minutes."""


ALSO_CALLED = {
    "model": "model_name_or_path",
    "adapter": "adapter_name_or_path",
    "output": "output_dir",
    "overwrite": "overwrite_output_dir",
    "resume": "resume_from_checkpoint",
    "data.path": "dataset dataset_name dataset_dir train_dataset",
    "data.image_root": "media_dir",
    "data.eval_path": "eval_dataset",
    "data.eval_fraction": "val_size",
    "data.row_tokens": "cutoff_len max_length max_seq_length",
    "data.packing": "neat_packing padding_free",
    "data.max_pixels": "image_max_pixels",
    "data.min_pixels": "image_min_pixels",
    "data.workers": "dataloader_num_workers preprocessing_num_workers",
    "frozen_dtype": "quantization_bit load_in_8bit quantization_config",
    "parts.language": "finetuning_type use_peft freeze_language_model",
    "parts.vision": "freeze_vision_tower",
    "parts.projector": "freeze_multi_modal_projector",
    "lora.rank": "r lora_r",
    "lora.rslora": "use_rslora",
    "lora.targets": "lora_target lora_target_modules target_modules",
    "dpo.beta": "pref_beta",
    "dpo.loss": "pref_loss loss_type",
    "dpo.sft_weight": "pref_ftx loss_weights rpo_alpha",
    "optimizer.learning_rate": "lr",
    "optimizer.schedule": "lr_scheduler_type",
    "optimizer.warmup_ratio": "warmup_steps",
    "optimizer.beta1": "adam_beta1",
    "optimizer.beta2": "adam_beta2",
    "optimizer.eps": "adam_epsilon",
    "mesh.fsdp": "deepspeed",
    "checkpoint.every": "save_steps",
    "checkpoint.keep_last": "save_total_limit",
    "tracking.wandb_project": "report_to",
    "epochs": "num_train_epochs",
    "rows_per_step": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "eval_every": "eval_steps",
    "log_every": "logging_steps",
    "compute_dtype": "bf16",
    "remat": "gradient_checkpointing disable_gradient_checkpointing",
    "attention": "flash_attn attn_implementation",
}
"""Options by their names in LLaMA-Factory, TRL and PEFT, where these differ in more than section and separator."""


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

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {theirs: ours for ours, names in ALSO_CALLED.items() for theirs in names.split()}

    stage: Stage = "dpo"
    """sft: supervised fine-tuning on demonstrations; dpo: direct preference optimisation on pairs."""
    model: Path | None = None
    """Model directory to start from (see `python -m mede2_jax.convert`); for DPO, the one that SFT ended in."""
    family: FamilyName | None = None
    """Of the tiny random model that is made when no model is given; none: qwen2_5_vl."""
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
    distributed: DistributedConfig = DistributedConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    epochs: int = Field(default=3, ge=1)
    """Passes over the training data."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps, whatever epochs says; the learning rate's schedule is laid out over them."""
    export: Literal["last", "best"] = "last"
    """Which step `model/` and `adapter/` are of: the last, or the checkpoint with the lowest evaluation loss."""
    export_dtype: Literal["auto", "stored", "float32", "bfloat16"] = "auto"
    """Of `model/`. stored: as in the model directory that the run started from; auto: the same, but float32 for a model so small that
    rounding would add noise of over 1% of the update."""
    export_rounding: Rounding = "auto"
    """To a narrower dtype than float32. auto: to the nearest, but at random where that would lose over 5% of a layer's update."""
    rows_per_step: int = Field(default=8, ge=1)
    """Packed rows of one micro-batch, over all devices of all processes."""
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
    frozen_dtype: FrozenDtype | None = None
    """Of the frozen kernels of the language model, with a scale for each output channel: half the memory of bfloat16. The model that a run
    ends in is made of the model directory's own weights all the same."""
    remat: RematPolicy = "full"
    """What the backward pass recomputes: none, full, dots, dots_no_batch, offload."""
    frozen_layers: Literal["auto", "stacked", "apart"] = "auto"
    """apart: an array a layer, which no kernel copies out of a stack, but programs compile longer; auto: apart on one GPU."""
    attention: Backend = "auto"
    """fused: the platform's own kernels; xla: the implementation that runs everywhere; auto: fused where there are kernels."""
    logprob_chunk: int = Field(default=256, ge=8)
    """Scored tokens a row whose logits exist at a time."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.family is not None and self.model is not None:
            raise ValueError(f"family={self.family} is of the tiny model made when no model is given; leave it out, the model has its own")
        if self.resume and self.overwrite:
            raise ValueError("resume and overwrite exclude each other")
        if set(self.parts.model_dump().values()) == {"frozen"}:
            raise ValueError(
                "parts: everything is frozen, so there is nothing to train; set one of vision, projector, language to lora or full"
            )
        if self.export == "best" and not (self.checkpoint.keep_best and (self.data.eval_path or self.data.eval_fraction)):
            raise ValueError("export=best needs evaluation, and its checkpoints: set data.eval_path or data.eval_fraction, and keep_best")
        for part, mode in self.parts.model_dump().items():
            rate = getattr(self.optimizer, f"{part}_learning_rate")
            if mode == "frozen" and rate is not None:
                raise ValueError(f"optimizer.{part}_learning_rate={rate:g} has no effect: parts.{part} is frozen")
        if self.frozen_dtype is not None and self.parts.language == "full":
            raise ValueError(
                f"frozen_dtype={self.frozen_dtype} holds frozen kernels in 8 bits, and parts.language=full trains them; use lora"
            )
        if self.adapter is not None and "lora" not in self.parts.model_dump().values():
            raise ValueError("adapter needs a part whose mode is lora")
        return self

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, the paper's for the stage unless given."""
        given = self.optimizer.learning_rate
        return PAPER_LEARNING_RATE[self.stage] if given is None else given


def embedded_defaults(stage: Stage, family: FamilyName = DEFAULT_FAMILY) -> dict[str, Any]:
    """The embedded default of a stage as config values, with a run directory for each family.

    Raises:
        UserError: The sample data is not beside the package (it comes with a checkout, not with a wheel).
    """
    values = EMBEDDED[stage].defaults()
    return {**values, "stage": stage, "output": values["output"] if family == DEFAULT_FAMILY else f"{values['output']}-{family}"}


def embedded_summary() -> str:
    """What the embedded default sets besides the data, as one line for `--help`."""
    sft, dpo = EMBEDDED["sft"].values, EMBEDDED["dpo"].values
    return " ".join(f"{name}={value}" + (f" (sft: {sft[name]})" if sft[name] != value else "") for name, value in dpo.items())
