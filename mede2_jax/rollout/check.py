"""`--check_logprobs`: does the engine sample from the model that is trained?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from mede2_jax.config import UserError, counted
from mede2_jax.engines.chat import ChatReply
from mede2_jax.engines.flax import logprob_check
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.rollout.engine import check_engine, engine_dtype, open_engine
from mede2_jax.rollout.job import open_job
from mede2_jax.rollout.run import first_requests

QUESTIONS = 8
"""How many are sampled unless `limit` says otherwise."""


def check_logprobs(config: RolloutConfig, model_dir: Path, console: Console) -> logprob_check.LogprobCheck:
    """Samples a few questions and scores every sampled token as training would; prints how far the two are apart.

    Raises:
        UserError: Something the user gave cannot be used, no question could be answered, or the two differ by more than
            `max_difference`.
    """
    config = config.model_copy(update={"logprobs": True, "limit": config.limit or QUESTIONS})
    job = open_job(config, model_dir, console)
    check_engine(job)
    replies: list[ChatReply] = []
    with open_engine(job, lambda line: console.print(line, soft_wrap=True, markup=False)) as engine:
        for reply in engine.answer(first_requests(job)):
            if isinstance(reply, ChatReply):
                replies.append(reply)
            else:
                console.print(f"{reply.request.id} was not answered: {reply.reason}", soft_wrap=True, markup=False, style="yellow")
    if not replies:
        raise UserError("no question could be answered, so there is nothing to compare")
    dtype = engine_dtype(job)
    samples = sum(len(reply.completions) for reply in replies)
    console.print(f"{counted(samples, 'response')} of engine {job.engine}; now scored as in training, computing in {dtype}")
    found = logprob_check.compare(replies, job.processor, logprob_check.training_logprobs(model_dir, dtype))
    if not np.isfinite(found.difference).all():
        raise UserError("log-probabilities are not finite, on one side at least; is the model whole, and did training stay finite?")
    logprob_check.show(found, console)
    largest = float(found.difference.max())
    if config.max_difference is not None and largest > config.max_difference:
        raise UserError(f"a log-probability differs by {largest:.3g} nats, more than max_difference={config.max_difference:g}")
    return found
