"""SFT and DPO losses: from log-probabilities of scored tokens to a number, and what to report beside it.

A loss sums over what a micro-batch holds and divides by totals of the whole step, so that neither the gradient nor a reported
number depends on how a step (or an evaluation) is cut into rows and batches.
Axes: A micro-batches, B rows, S scored tokens, R responses (slots 2i, 2i+1: chosen and rejected of one pair).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from mede2_jax.config import Config
from mede2_jax.models.logprobs import TokenScores, response_sums

LossType = Literal["sigmoid", "hinge", "ipo"]
Totals = dict[str, jax.Array]
Sums = dict[str, jax.Array]
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

    @model_validator(mode="after")
    def _smoothing_has_an_effect(self) -> DPOConfig:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing={self.label_smoothing} has no effect with loss={self.loss}; use loss=sigmoid")
        return self


class Loss(Protocol):
    """A stage's loss."""

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """What sums are divided by, from fields with any leading axes; adds up over batches."""

    def __call__(self, scores: TokenScores, batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Sums]:
        """This micro-batch's share of the loss, and sums that add up over micro-batches."""

    def report(self, sums: Sums, totals: Totals) -> Metrics:
        """The metrics, the loss among them, of everything that was summed."""


@dataclasses.dataclass(frozen=True)
class SFTLoss:
    """Mean negative log-likelihood of the scored tokens of the whole step."""

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """Scored tokens."""
        return {"tokens": _count(batch["scored_response"] >= 0)}

    def __call__(self, scores: TokenScores, batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Sums]:
        """Padding has log-probability 0 and is not in the total. `accuracy`: scored tokens that are the model's first choice."""
        sums = {"loss": -jnp.sum(scores.logprob), "accuracy": _count(scores.best)}
        return self.report(sums, totals)["loss"], sums

    def report(self, sums: Sums, totals: Totals) -> Metrics:
        """Means over tokens."""
        return {name: value / jnp.maximum(totals["tokens"], 1) for name, value in sums.items()}


@dataclasses.dataclass(frozen=True)
class DPOLoss:
    """Equation 7 of Rafailov et al. 2023 and its hinge and IPO relatives, averaged over the pairs of the step."""

    config: DPOConfig

    def totals(self, batch: Mapping[str, jax.Array]) -> Totals:
        """Pairs, and tokens of the chosen responses."""
        chosen_slot = (batch["scored_response"] >= 0) & (batch["scored_response"] % 2 == 0)
        return {"pairs": jnp.sum(batch["response_weight"]) / 2, "chosen_tokens": _count(chosen_slot)}

    def __call__(self, scores: TokenScores, batch: Mapping[str, jax.Array], totals: Totals) -> tuple[jax.Array, Sums]:
        """Pairs of weight 0 (padding) add nothing."""
        logprobs, responses = scores.logprob, batch["response_weight"].shape[-1]
        logprob = response_sums(logprobs, batch["scored_response"], responses)
        lengths = response_sums(jnp.ones_like(logprobs), batch["scored_response"], responses)
        ratio = logprob - batch["response_reference"]
        chosen, rejected = ratio[..., ::2], ratio[..., 1::2]
        beta = self.config.beta
        per_pair = {
            "preference_loss": preference_loss(self.config, chosen, rejected, lengths[..., ::2], lengths[..., 1::2]),
            "chosen_nll": -logprob[..., ::2],
            "reward_chosen": beta * chosen,
            "reward_rejected": beta * rejected,
            "margin": beta * (chosen - rejected),
            "accuracy": (chosen > rejected).astype(jnp.float32),
            "logprob_chosen": logprob[..., ::2],
            "logprob_rejected": logprob[..., 1::2],
        }
        sums = {name: jnp.sum(values * batch["response_weight"][..., ::2]) for name, values in per_pair.items()}
        return self.report(sums, totals)["loss"], sums

    def report(self, sums: Sums, totals: Totals) -> Metrics:
        """Means over pairs; `chosen_nll` is a mean over the tokens of the chosen responses."""
        over = {name: totals["chosen_tokens" if name == "chosen_nll" else "pairs"] for name in sums}
        means = {name: value / jnp.maximum(over[name], 1) for name, value in sums.items()}
        return {"loss": means["preference_loss"] + self.config.sft_weight * means["chosen_nll"], **means}


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
    return jnp.sum(mask).astype(jnp.float32)
