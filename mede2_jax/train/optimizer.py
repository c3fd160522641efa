"""AdamW with warm-up and cosine decay, clipping, and a learning rate for each part of the model."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from mede2_jax.config import Config, counted

NO_DECAY = ("bias", "scale")


class OptimizerConfig(Config):
    """AdamW (Loshchilov & Hutter 2019). Defaults are those of the original's framework where the paper is silent."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate, and the one that the metrics show; by default the paper's: 1e-4 for sft, 1e-6 for dpo."""
    vision_learning_rate: float | None = Field(default=None, gt=0)
    """Of the vision tower, when it differs."""
    projector_learning_rate: float | None = Field(default=None, gt=0)
    """Of the projector, when it differs."""
    language_learning_rate: float | None = Field(default=None, gt=0)
    """Of the language model, when it differs."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """After warm-up: decay to final_ratio of the peak over the rest of the run, or none."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps (rounded up) in which the learning rate rises; the first of them has the rate 0, as in transformers."""
    final_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the decay ends, as a share of the peak."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the squared gradient's running mean."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled decay of matrices (never of biases and norm scales)."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm; null turns clipping off."""


def warmup_steps(config: OptimizerConfig, total_steps: int) -> int:
    """Steps in which the learning rate rises."""
    return math.ceil(config.warmup_ratio * total_steps)


def describe_warmup(config: OptimizerConfig, total_steps: int) -> str | None:
    """What the user should know of a run so short that all of it is warm-up; None of any other."""
    if warmup_steps(config, total_steps) < total_steps:
        return None
    steps = counted(total_steps, "step")
    return f"warm-up takes all of {steps}, the first with learning rate 0: use more steps, or a lower optimizer.warmup_ratio (0 is none)"


def make_schedule(config: OptimizerConfig, peak: float, total_steps: int) -> optax.Schedule:
    """Learning rate at each step, 0-based: transformers' schedules, step for step."""
    warmup = warmup_steps(config, total_steps)
    decay_steps = max(total_steps - warmup, 1)

    def rate(step: jax.Array) -> jax.Array:
        done = jnp.clip((step - warmup) / decay_steps, 0.0, 1.0)
        shape = {"cosine": 0.5 * (1 + jnp.cos(jnp.pi * done)), "linear": 1 - done, "constant": jnp.ones_like(done)}[config.schedule]
        rising = step / max(warmup, 1)
        return peak * jnp.where(step < warmup, rising, config.final_ratio + (1 - config.final_ratio) * shape)

    return rate


def make_optimizer(config: OptimizerConfig, peak: float, total_steps: int) -> optax.GradientTransformation:
    """The whole update rule, for a tree of trainable parameters whose top level is the parts."""
    schedule = make_schedule(config, peak, total_steps)
    clip = optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm)
    return optax.chain(
        clip,
        optax.scale_by_adam(config.beta1, config.beta2, config.eps, mu_dtype=jnp.float32),
        optax.add_decayed_weights(config.weight_decay, mask=_decays) if config.weight_decay else optax.identity(),
        _scale_parts({part: rate / peak for part, rate in _part_rates(config).items()}),
        optax.scale_by_learning_rate(schedule),
    )


def _part_rates(config: OptimizerConfig) -> dict[str, float]:
    rates = {part: getattr(config, f"{part}_learning_rate") for part in ("vision", "projector", "language")}
    return {part: rate for part, rate in rates.items() if rate is not None}


def _scale_parts(factors: dict[str, float]) -> optax.GradientTransformation:
    def scale(updates: Any, _: Any = None) -> Any:
        return {part: jax.tree.map(lambda u: u * factors.get(part, 1.0), tree) for part, tree in updates.items()}  # noqa: B023

    return optax.stateless(scale)


def _decays(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NO_DECAY, params)
