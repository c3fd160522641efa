"""SFT and DPO losses: from log-probabilities of scored tokens to a number, and what to report beside it.

A loss sums over what a micro-batch holds and divides by totals of the whole step, so that the gradient does not depend on
how a step is cut into rows and micro-batches.
Axes: A micro-batches, B rows, S scored tokens, R responses (slots 2i, 2i+1: chosen and rejected of one pair).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from mede2_jax.config import Config
from mede2_jax.models.logprobs import response_sums

LossType = Literal["sigmoid", "hinge", "ipo"]
Totals = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class DPOConfig(Config):
    """Direct preference optimisation (Rafailov et al. 2023)."""

    beta: float = Field(default=0.1, gt=0)
    """Strength of the tie to the reference; rewards are beta · log(policy / reference)."""
    loss: LossType = "sigmoid"
    """sigmoid (DPO), hinge (SLiC, Zhao et al. 2023) or ipo (Azar et al. 2023; per-token mean log-ratios, as in TRL)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of swapped labels (conservative DPO, Mitchell 2023); sigmoid loss only."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of a negative log-likelihood term on the chosen responses, per token."""


class Loss(Protocol):
    """A stage's loss."""

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """What the whole step's sums are divided by, from fields with any leading axes."""

    def __call__(self, logprobs: Float[Array, "B S"], batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Metrics]:
        """This micro-batch's share of the loss, and of each metric."""


@dataclasses.dataclass(frozen=True)
class SFTLoss:
    """Mean negative log-likelihood of the scored tokens of the whole step."""

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """Scored tokens."""
        return {"tokens": _count(batch["scored_response"] >= 0)}

    def __call__(self, logprobs: Float[Array, "B S"], batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Metrics]:
        """Padding has log-probability 0 and is not in the total."""
        loss = -jnp.sum(logprobs) / totals["tokens"]
        return loss, {"loss": loss}


@dataclasses.dataclass(frozen=True)
class DPOLoss:
    """Equation 7 of Rafailov et al. 2023 and its hinge and IPO relatives, averaged over the pairs of the step."""

    config: DPOConfig

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """Pairs, and tokens of the chosen responses."""
        chosen_slot = (batch["scored_response"] >= 0) & (batch["scored_response"] % 2 == 0)
        return {"pairs": jnp.maximum(jnp.sum(batch["response_weight"]) / 2, 1.0), "chosen_tokens": _count(chosen_slot)}

    def __call__(self, logprobs: Float[Array, "B S"], batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Metrics]:
        """Pairs of weight 0 (padding) add nothing."""
        responses = batch["response_weight"].shape[-1]
        sums = response_sums(logprobs, batch["scored_response"], responses)
        lengths = response_sums(jnp.ones_like(logprobs), batch["scored_response"], responses)
        weight = batch["response_weight"][..., ::2]
        chosen, rejected = sums[..., ::2], sums[..., 1::2]
        reference = batch["response_reference"]
        chosen_ratio, rejected_ratio = chosen - reference[..., ::2], rejected - reference[..., 1::2]
        per_pair = preference_loss(self.config, chosen_ratio, rejected_ratio, lengths[..., ::2], lengths[..., 1::2])

        def mean(values: jax.Array) -> jax.Array:
            return jnp.sum(values * weight) / totals["pairs"]

        beta = self.config.beta
        preference = mean(per_pair)
        nll = -jnp.sum(chosen * weight) / totals["chosen_tokens"]
        loss = preference + self.config.sft_weight * nll
        metrics = {
            "loss": loss,
            "preference_loss": preference,
            "chosen_nll": nll,
            "reward_chosen": mean(beta * chosen_ratio),
            "reward_rejected": mean(beta * rejected_ratio),
            "margin": mean(beta * (chosen_ratio - rejected_ratio)),
            "accuracy": mean((chosen_ratio > rejected_ratio).astype(jnp.float32)),
            "logprob_chosen": mean(chosen),
            "logprob_rejected": mean(rejected),
        }
        return loss, metrics


def preference_loss(
    config: DPOConfig,
    chosen_ratio: Float[Array, "*B"],
    rejected_ratio: Float[Array, "*B"],
    chosen_tokens: Float[Array, "*B"],
    rejected_tokens: Float[Array, "*B"],
) -> Float[Array, "*B"]:
    """The loss of each pair.

    Args:
        config: Which loss, and beta.
        chosen_ratio: log policy − log reference of the chosen response, summed over its tokens.
        rejected_ratio: The same of the rejected response.
        chosen_tokens: Tokens of the chosen response (IPO compares per-token means, as TRL does on its authors' word).
        rejected_tokens: Tokens of the rejected response.
    """
    logit = config.beta * (chosen_ratio - rejected_ratio)
    if config.loss == "hinge":
        return jax.nn.relu(1 - logit)
    if config.loss == "ipo":
        gap = chosen_ratio / jnp.maximum(chosen_tokens, 1) - rejected_ratio / jnp.maximum(rejected_tokens, 1)
        return jnp.square(gap - 1 / (2 * config.beta))
    smoothing = config.label_smoothing
    return -(1 - smoothing) * jax.nn.log_sigmoid(logit) - smoothing * jax.nn.log_sigmoid(-logit)


def _count(mask: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.sum(mask), 1).astype(jnp.float32)
