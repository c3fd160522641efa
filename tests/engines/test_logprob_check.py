"""Sampler against trainer: equal where they are equal, and a difference is found where there is one."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from mede2_jax.config import UserError
from mede2_jax.engines.flax import logprob_check
from mede2_jax.engines.flax.config import FlaxConfig
from mede2_jax.engines.flax.sampler import FlaxSampler
from mede2_jax.rollout.check import check_logprobs
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.rollout.job import open_job
from mede2_jax.rollout.run import first_requests


@pytest.fixture(scope="module")
def setup(sample, tiny_model):
    config = RolloutConfig(questions=sample / "questions.jsonl", limit=2, n=2, max_tokens=8)
    return open_job(config, tiny_model, Console(quiet=True))


@pytest.fixture(scope="module")
def replies(setup):
    with FlaxSampler(setup.model_dir, setup.config.sampling, FlaxConfig(slots=2, samples=2)) as engine:
        return list(engine.answer(first_requests(setup)))


@pytest.fixture(scope="module")
def score(setup):
    return logprob_check.training_logprobs(setup.model_dir, "float32")


@pytest.mark.slow
def test_the_flax_sampler_agrees_with_training(setup, replies, score):
    found = logprob_check.compare(replies, setup.processor, score)
    assert found.responses == 4
    assert len(found.difference) == sum(len(completion.token_ids) for reply in replies for completion in reply.completions)
    assert found.difference.max() < 1e-5


@pytest.mark.slow
def test_a_wrong_log_probability_is_found(setup, replies, score):
    reply = replies[0]
    changed = dataclasses.replace(reply.completions[1], logprobs=(*reply.completions[1].logprobs[:-1], -0.5))
    wrong = dataclasses.replace(reply, completions=(reply.completions[0], changed))
    found = logprob_check.compare([wrong], setup.processor, score)
    assert found.difference.max() > 1 and np.median(found.difference) < 1e-5


def test_another_image_is_found(setup, replies, score):
    reply = replies[0]
    request = dataclasses.replace(reply.request, images=tuple(image.point(lambda value: 255 - value) for image in reply.request.images))
    found = logprob_check.compare([dataclasses.replace(reply, request=request)], setup.processor, score)
    assert found.difference.max() > 1e-4


def test_the_table_names_the_largest_difference():
    text = io.StringIO()
    logprob_check.show(
        logprob_check.LogprobCheck(np.array([-1.0, -2.0], np.float32), np.array([-1.0, -2.25], np.float32), 1), Console(file=text)
    )
    assert "largest difference" in text.getvalue() and "0.25 nats" in text.getvalue() and "mean difference" in text.getvalue()


@pytest.mark.slow
def test_what_is_not_finite_is_an_error_not_a_table(setup, monkeypatch):
    def broken(*_):
        return lambda batch: np.full((1, batch["scored_target"].shape[1]), np.nan, np.float32)

    monkeypatch.setattr(logprob_check, "training_logprobs", broken)
    config = setup.config.model_copy(update={"engine": "flax", "check_logprobs": True, "limit": 1, "n": 1})
    with pytest.raises(UserError, match="not finite"):
        check_logprobs(config, setup.model_dir, Console(quiet=True))


@pytest.mark.slow
def test_the_command_fails_when_the_difference_is_too_large(setup):
    config = setup.config.model_copy(update={"engine": "flax", "check_logprobs": True, "limit": 1, "n": 1, "max_difference": 1e-12})
    with pytest.raises(UserError, match="more than max_difference=1e-12"):
        check_logprobs(config, setup.model_dir, Console(quiet=True))


def test_no_log_probabilities_are_an_error(setup, replies, score):
    bare = dataclasses.replace(replies[0], completions=(dataclasses.replace(replies[0].completions[0], logprobs=None),))
    with pytest.raises(ValueError, match="no log-probabilities"):
        logprob_check.compare([bare], setup.processor, score)
