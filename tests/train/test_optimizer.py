"""The update rule against torch's AdamW and clipping and transformers' schedules; and that a run logs the rate it used."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.console import Console
from trainer_process import training_metrics
from training import make_config, one_device_inputs, short_pairs

from mede2_jax.train import run as trainer
from mede2_jax.train.optimizer import OptimizerConfig, describe_warmup, make_optimizer, make_schedule

STEPS, PEAK = 14, 0.02
"""Of 14 steps, a tenth is 1.4: rounding it up and rounding it to the nearest differ."""
SHAPES = {
    "vision/patch_embed/kernel": (5, 4),
    "vision/norm/scale": (4,),
    "projector/up/kernel": (4, 6),
    "projector/up/bias": (6,),
    "language/layers/q_proj/lora_a": (2, 6, 3),
    "language/layers/q_proj/lora_b": (2, 3, 6),
    "language/layers/norm/scale": (2, 6),
}
UNDECAYED = ("scale", "bias")


def numbers(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return {path: (size * rng.standard_normal(shape)).astype(np.float32) for path, shape in SHAPES.items()}


GRADIENTS = [numbers(100 + step, size=0.01 if step % 3 == 2 else 1.0) for step in range(STEPS)]
"""Every third is small, so that clipping acts at some steps and not at others."""


def theirs(config):
    """Parameters after each step, and each step's rates by part, of torch and transformers."""
    tensors = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in numbers(0).items()}
    groups = []
    for path, tensor in tensors.items():
        rate = getattr(config, f"{path.split('/')[0]}_learning_rate") or PEAK
        decay = 0.0 if path.endswith(UNDECAYED) else config.weight_decay
        groups.append({"params": [tensor], "lr": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(config.beta1, config.beta2), eps=config.eps)
    scheduler = their_schedule(config, optimizer)
    history = []
    for gradients in GRADIENTS:
        for path, tensor in tensors.items():
            tensor.grad = torch.tensor(gradients[path])
        if config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), config.max_grad_norm)
        optimizer.step()
        scheduler.step()
        history.append({path: tensor.detach().numpy().copy() for path, tensor in tensors.items()})
    return history


def their_schedule(config, optimizer, steps=STEPS):
    warmup = transformers.TrainingArguments("unused", warmup_steps=config.warmup_ratio, use_cpu=True).get_warmup_steps(steps)
    if config.schedule == "cosine":
        return transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=config.final_ratio)
    if config.schedule == "constant":
        return transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    if config.final_ratio:
        return transformers.get_polynomial_decay_schedule_with_warmup(optimizer, warmup, steps, lr_end=config.final_ratio * PEAK)
    return transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps)


def ours(config):
    optimizer = make_optimizer(config, PEAK, STEPS)
    params = unflatten_dict({path: jnp.asarray(value) for path, value in numbers(0).items()}, sep="/")
    state, history = optimizer.init(params), []

    @jax.jit
    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for gradients in GRADIENTS:
        params, state = update(unflatten_dict(gradients, sep="/"), state, params)
        history.append({path: np.asarray(value) for path, value in flatten_dict(params, sep="/").items()})
    return history


OPTIONS = {
    "defaults": {},
    "linear": {"schedule": "linear"},
    "constant": {"schedule": "constant"},
    "cosine to a tenth": {"final_ratio": 0.1},
    "linear to a third": {"schedule": "linear", "final_ratio": 1 / 3, "warmup_ratio": 0.3},
    "constant whatever the end": {"schedule": "constant", "final_ratio": 0.2},
    "no warm-up": {"warmup_ratio": 0.0},
    "long warm-up": {"warmup_ratio": 0.5, "schedule": "linear"},
    "decay": {"weight_decay": 0.3},
    "betas": {"beta1": 0.7, "beta2": 0.95},
    "eps": {"eps": 1e-2, "max_grad_norm": None},
    "no clipping": {"max_grad_norm": None, "beta2": 0.9},
    "tight clipping": {"max_grad_norm": 0.05, "beta2": 0.9, "eps": 1e-3},
    "part rates": {"vision_learning_rate": 0.002, "projector_learning_rate": 0.05, "weight_decay": 0.2},
    "language's rate": {"language_learning_rate": 0.1, "weight_decay": 0.1, "schedule": "linear"},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_every_step_is_torchs(options):
    config = OptimizerConfig(**options)
    for step, (our, their) in enumerate(zip(ours(config), theirs(config), strict=True)):
        for path in SHAPES:
            np.testing.assert_allclose(our[path], their[path], rtol=0, atol=5e-6, err_msg=f"step {step}, {path}")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.03, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 4, 14, 30, 44])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_rates_are_transformers(schedule, steps, ratio):
    config = OptimizerConfig(schedule=schedule, warmup_ratio=ratio)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler, expected = their_schedule(config, optimizer, steps), []
    for _ in range(steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    rates = np.asarray(make_schedule(config, PEAK, steps)(np.arange(steps)))
    np.testing.assert_allclose(rates, expected, rtol=0, atol=1e-6 * PEAK)
    if ratio:
        assert rates[0] == 0, "the first step of a warm-up has no rate yet"


@pytest.mark.slow
def test_the_options_matter():
    """Each of them moves the end by far more than the tolerance, so that none of the comparisons above is idle."""
    ends = {name: ours(OptimizerConfig(**options))[-1] for name, options in OPTIONS.items()}
    for name, end in ends.items():
        if name not in ("defaults", "constant whatever the end"):
            assert max(np.abs(end[path] - ends["defaults"][path]).max() for path in SHAPES) > 1e-3, name


@pytest.mark.slow
def test_the_logged_rate_is_the_one_that_was_used(sample, tiny_model, tmp_path, monkeypatch):
    """With no memory of gradients Adam moves every number by exactly the rate, so that the parameters themselves tell it."""
    pairs = short_pairs(sample, tmp_path / "pairs.jsonl", count=3)
    options = {"learning_rate": 0.01, "warmup_ratio": 0.4, "schedule": "linear", "beta1": 0, "beta2": 0, "eps": 1e-30}
    config = make_config(
        pairs,
        sample,
        output=tmp_path / "run",
        parts={"projector": "full", "language": "frozen"},
        optimizer={**options, "max_grad_norm": None},
        checkpoint={"every": 1, "keep_last": 10},
        max_steps=5,
    )
    monkeypatch.setattr(trainer, "open_inputs", one_device_inputs)
    trainer.run(config, tiny_model, Console(quiet=True))
    logged = [record["learning_rate"] for record in training_metrics(tmp_path / "run")]
    assert len(set(logged)) == 5 and logged[0] == 0
    manager = ocp.CheckpointManager(tmp_path / "run" / "checkpoints")
    states = [manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"] for step in range(1, 6)]
    biases = [np.asarray(flatten_dict(state["trainable"], sep="/")["projector/up/bias"]) for state in states]
    for rate, before, after in zip(logged[1:], biases, biases[1:], strict=False):
        assert np.abs(after - before).max() == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(("steps", "ratio", "told"), [(1, 0.1, True), (3, 0.9, True), (2, 0.1, False), (1, 0.0, False)])
def test_a_run_that_is_all_warm_up_is_told_of(steps, ratio, told):
    config = OptimizerConfig(warmup_ratio=ratio)
    rates = [float(make_schedule(config, PEAK, steps)(step)) for step in range(steps)]
    assert (max(rates) < 0.999 * PEAK) == told == ((describe_warmup(config, steps) or "").startswith("warm-up takes all of"))
