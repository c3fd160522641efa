"""Which engine samples, and how it is made from a job."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatEngine, tokens_text
from mede2_jax.engines.vllm.server import VLLMServer
from mede2_jax.rollout.api import APIJob, APIRun
from mede2_jax.rollout.config import engine_kind
from mede2_jax.rollout.job import ModelJob, SamplingJob
from mede2_jax.weights.model_info import own_dtype


def check_engine(job: ModelJob) -> None:
    """Refuses what the engine cannot do; starts nothing.

    Raises:
        UserError: vLLM reads its image options from the model directory, and others were given.
    """
    if engine_kind(job.config) != "vllm":
        if job.config.vllm.adapter is not None:
            raise UserError(f"no vLLM in {str(job.config.vllm.env)!r} to serve vllm.adapter; make it with bash launch/vllm_env.sh")
        return
    own = type(job.config.data)(system_prompt=job.config.data.system_prompt)
    if job.family.load_processor(job.model_dir, own).fingerprint != job.processor.fingerprint:
        given = job.config.data.model_dump(exclude_defaults=True, exclude={"system_prompt", "image_root", "max_image_pixels"})
        raise UserError(
            f"vLLM takes its image options from the model directory, where they are not those given ({', '.join(given)}); leave them out "
            "(a training run's model has the options it was trained with), or use --engine=flax"
        )


def engine_dtype(job: ModelJob) -> str:
    """What the engine computes in."""
    chosen = job.config.flax.dtype if engine_kind(job.config) == "flax" else job.config.vllm.dtype
    return own_dtype(job.info) if chosen == "auto" else chosen


@contextlib.contextmanager
def open_engine(job: SamplingJob, notify: Callable[[str], None]) -> Iterator[ChatEngine]:
    """The engine, started; it is stopped on the way out.

    Raises:
        UserError: It cannot be started.
    """
    if isinstance(job, APIJob):
        from mede2_jax.engines.paid.engine import open_api

        with open_api(job.config.api, job.config.sampling, notify, job.totals) as api:
            yield api
        return
    assert isinstance(job, ModelJob)
    with _open_sampler(job, notify) as engine:
        yield engine


def check_api(config: APIRun) -> None:
    """Refuses an API that cannot be asked: no key, no client, or `max_cost` for a model without a price. Asks nothing.

    Raises:
        UserError: As said.
    """
    from mede2_jax.engines.paid.engine import open_api

    open_api(config.api, config.sampling, lambda _: None)


@contextlib.contextmanager
def _open_sampler(job: ModelJob, notify: Callable[[str], None]) -> Iterator[ChatEngine]:
    config = job.config
    with contextlib.ExitStack() as stack:
        if engine_kind(config) == "flax":
            from mede2_jax.engines.flax.sampler import FlaxSampler

            notify("loading the model; the first samples take longer, since the sampler compiles")
            # The cache has room for what there is.
            sizes = {
                "max_prompt_tokens": min(config.flax.max_prompt_tokens, job.longest_prompt),
                "samples": min(config.flax.samples, config.n),
            }
            flax = config.flax.model_copy(update=sizes)
            yield stack.enter_context(FlaxSampler(job.model_dir, config.sampling, flax, config.data))
            return
        from mede2_jax.engines.vllm.client import OpenAIChat, VLLMExtras

        urls, servers, check, key = config.base_url, config.servers, None, None
        if not urls:
            server = stack.enter_context(_own_server(job, notify))
            urls, check, key = (server.base_url,), server.check, server.key
            servers = servers.model_copy(update={"served_model": server.model_name})
        yield stack.enter_context(
            OpenAIChat(
                urls,
                config.sampling,
                servers,
                system_prompt=config.data.system_prompt,
                logprobs=config.logprobs,
                vllm=VLLMExtras(
                    job.rules,
                    job.prompt_ids,
                    text=functools.partial(tokens_text, job.processor.chat.tokenizer),
                    image=job.processor.vllm_image,
                ),
                notify=notify,
                check=check,
                key=key,
            )
        )


def _own_server(job: ModelJob, notify: Callable[[str], None]) -> VLLMServer:
    """A server for this run; its context is as long as this run's longest prompt and response need."""
    config = job.config
    vllm = config.vllm
    if vllm.max_model_len is None:
        # A question that is too long for the model fails alone.
        limit = job.sizes.language.max_position_embeddings or math.inf
        vllm = vllm.model_copy(update={"max_model_len": int(min(job.longest_prompt + config.max_tokens, limit))})
    log = Path(f"{config.out or 'runs/check_logprobs'}.vllm.log")
    server = VLLMServer(vllm, job.model_dir, log=log)
    notify(f"starting vLLM; its log is {log}")
    return server
