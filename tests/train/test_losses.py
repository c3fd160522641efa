"""Losses against TRL's own code on the same log-probabilities, and against arithmetic written out here."""

import math
import types
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from trl import DPOTrainer

from mede2_jax.models.logprobs import TokenScores
from mede2_jax.train.losses import DPOConfig, DPOLoss, SFTLoss

PAIRS, LENGTH = 5, 12


@pytest.fixture(scope="module")
def numbers():
    """Token log-probabilities of 2·PAIRS responses of different lengths, and reference sums."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, LENGTH + 1, 2 * PAIRS)
    logprobs = -rng.exponential(1.0, (2 * PAIRS, LENGTH)).astype(np.float32)
    mask = np.arange(LENGTH) < lengths[:, None]
    reference = np.array([-lengths + rng.normal(0, 2, 2 * PAIRS)], np.float32)[0]
    return logprobs * mask, mask, reference


def trl_loss(numbers, loss_types, weights, beta, label_smoothing=0.0):
    """TRL's `_compute_loss`, with a model that returns the given log-probabilities (chosen first, then rejected)."""
    logprobs, mask, reference = (np.concatenate([x[::2], x[1::2]]) for x in numbers)
    shape = (2 * PAIRS, LENGTH)
    outputs = types.SimpleNamespace(
        log_probs=torch.tensor(logprobs, requires_grad=True),
        entropy=torch.zeros(shape),
        mean_logits=torch.zeros(shape),
        is_top1=torch.zeros(shape, dtype=torch.bool),
    )
    accelerator = types.SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=loss_types,
        loss_weights=weights,
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    completion = torch.tensor(np.pad(mask, ((0, 0), (1, 0))).astype(np.int64))  # one prompt token before each response
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, LENGTH + 1, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, LENGTH + 1, dtype=torch.long),
        "completion_mask": completion,
        "ref_chosen_logps": torch.tensor(reference[:PAIRS]),
        "ref_rejected_logps": torch.tensor(reference[PAIRS:]),
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    loss.backward()
    gradient = outputs.log_probs.grad.numpy()
    ours_order = np.empty_like(gradient)
    ours_order[::2], ours_order[1::2] = gradient[:PAIRS], gradient[PAIRS:]
    return loss.item(), ours_order * numbers[1], {name: values[0] for name, values in trainer._metrics["train"].items()}


def our_batch(numbers, rows=1):
    """The same numbers as packed rows: every response's tokens one after the other."""
    _, mask, reference = numbers
    response = np.where(mask, np.arange(2 * PAIRS)[:, None], -1).reshape(rows, -1)
    return {
        "scored_response": jnp.asarray(response),
        "response_reference": jnp.asarray(reference.reshape(rows, -1)),
        "response_weight": jnp.ones((rows, 2 * PAIRS // rows)),
    }


def scores(logprobs):
    """As the model gives them; which tokens were its first choice does not matter to a loss."""
    return TokenScores(jnp.asarray(logprobs), jnp.asarray(logprobs) > -0.5)


def our_loss(numbers, config):
    loss, batch = DPOLoss(config), our_batch(numbers)

    def total(logprobs):
        return loss(scores(logprobs.reshape(1, -1)), batch, loss.totals(batch))

    (value, sums), gradient = jax.value_and_grad(total, has_aux=True)(jnp.asarray(numbers[0]))
    return float(value), np.asarray(gradient) * numbers[1], loss.report(sums, loss.totals(batch))


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_loss_gradient_and_metrics_equal_trl(numbers, loss, beta):
    value, gradient, metrics = our_loss(numbers, DPOConfig(loss=loss, beta=beta))
    expected, expected_gradient, expected_metrics = trl_loss(numbers, [loss], [1.0], beta)
    assert value == pytest.approx(expected, abs=1e-5)
    assert np.abs(gradient - expected_gradient).max() <= 1e-6
    for ours, theirs in {
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
        "margin": "rewards/margins",
        "accuracy": "rewards/accuracies",
        "logprob_chosen": "logps/chosen",
        "logprob_rejected": "logps/rejected",
    }.items():
        assert float(metrics[ours]) == pytest.approx(expected_metrics[theirs], abs=1e-5), ours


def test_sft_term_equals_trl(numbers):
    value, gradient, _ = our_loss(numbers, DPOConfig(sft_weight=0.7))
    expected, expected_gradient, _ = trl_loss(numbers, ["sigmoid", "sft"], [1.0, 0.7], 0.1)
    assert value == pytest.approx(expected, abs=1e-5)
    assert np.abs(gradient - expected_gradient).max() <= 1e-6


def test_label_smoothing_by_hand(numbers):
    logprobs, _, reference = numbers
    ratio = logprobs.sum(-1) - reference
    logit = 0.3 * (ratio[::2] - ratio[1::2])
    by_hand = np.mean([-0.9 * math.log(1 / (1 + math.exp(-x))) - 0.1 * math.log(1 / (1 + math.exp(x))) for x in logit])
    assert our_loss(numbers, DPOConfig(beta=0.3, label_smoothing=0.1))[0] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize(("loss", "expected"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo", (1 / (2 * 0.1)) ** 2)])
def test_loss_where_policy_is_reference(numbers, loss, expected):
    logprobs, mask, _ = numbers
    assert our_loss((logprobs, mask, logprobs.sum(-1)), DPOConfig(loss=loss))[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_padding_pairs_add_nothing(numbers):
    value, _, metrics = our_loss(numbers, DPOConfig())
    loss, batch = DPOLoss(DPOConfig()), our_batch(numbers)
    padded = {
        "scored_response": jnp.pad(batch["scored_response"], ((0, 1), (0, 3)), constant_values=-1),
        "response_reference": jnp.pad(batch["response_reference"], ((0, 1), (0, 2))),
        "response_weight": jnp.pad(batch["response_weight"], ((0, 1), (0, 2))),
    }
    again, sums = loss(scores(jnp.pad(jnp.asarray(numbers[0]).reshape(1, -1), ((0, 1), (0, 3)))), padded, loss.totals(padded))
    metrics_again = loss.report(sums, loss.totals(padded))
    assert float(again) == pytest.approx(value, abs=1e-6)
    assert {k: float(v) for k, v in metrics_again.items()} == pytest.approx({k: float(v) for k, v in metrics.items()}, abs=1e-5)


def test_sft_loss_is_the_mean_over_scored_tokens(numbers):
    logprobs, mask, _ = numbers
    batch = {"scored_response": jnp.asarray(np.where(mask, 0, -1))}
    loss = SFTLoss()
    best = jnp.asarray(mask & (logprobs > -0.5))
    value, sums = loss(TokenScores(jnp.asarray(logprobs), best), batch, loss.totals(batch))
    assert float(value) == pytest.approx(-logprobs[mask].mean(), abs=1e-5)
    accuracy = loss.report(sums, loss.totals(batch))["accuracy"]
    assert 0 < float(accuracy) < 1 and float(accuracy) == pytest.approx((logprobs[mask] > -0.5).mean(), abs=1e-6)


def test_smoothing_without_effect_is_an_error():
    with pytest.raises(ValueError, match="no effect"):
        DPOConfig(loss="hinge", label_smoothing=0.1)


def test_the_sum_over_micro_batches_is_the_loss_of_the_whole(numbers):
    """Cut unevenly: one micro-batch with the first pair, one with the others."""
    value, _, _ = our_loss(numbers, DPOConfig(sft_weight=0.5))
    loss, whole = DPOLoss(DPOConfig(sft_weight=0.5)), our_batch(numbers)
    totals, parts = loss.totals(whole), 0.0
    for responses in (range(2), range(2, 2 * PAIRS)):
        keep = np.isin(np.asarray(whole["scored_response"]), list(responses))
        weight = np.isin(np.arange(2 * PAIRS), list(responses)).astype(np.float32)[None]
        micro = {**whole, "scored_response": jnp.where(keep, whole["scored_response"], -1), "response_weight": jnp.asarray(weight)}
        parts += float(loss(scores(jnp.asarray(numbers[0]).reshape(1, -1) * keep), micro, totals)[0])
    assert parts == pytest.approx(value, abs=1e-5)
