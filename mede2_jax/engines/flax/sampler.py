"""The Flax sampler: answers chat requests in this process, on CPU, GPU or TPU, from a model directory.

A question has a slot while it is worked on. Its prompt and images are computed once, by the code that training runs, and its
samples are decoded together. Between calls of a fixed number of steps the host takes finished questions out and puts new
ones in, so that the devices always have as many as there are slots.

What sample i of a request gets follows from the model, the prompt and `request.seed + i`: not from the slot, from n, nor from what else
is being worked on (up to the rounding of floating-point sums, which a device may order by the number of rows).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from mede2_jax.config import UserError
from mede2_jax.data.processor import Processor, ProcessorOptions
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest, Sampling, TokenRules, token_rules
from mede2_jax.engines.flax.config import FlaxConfig
from mede2_jax.engines.flax.programs import Programs
from mede2_jax.engines.flax.prompts import Limits, Prompt, encode_prompt, prompt_batch
from mede2_jax.engines.flax.slots import Slot
from mede2_jax.families import check_tokenizer, model_config
from mede2_jax.foreign import one_line
from mede2_jax.models.decoding import CacheShape, Decoding, Progress, read_block
from mede2_jax.models.sampling import TokenChoice, seed_key
from mede2_jax.parallel.host import prepare_host
from mede2_jax.parallel.mesh import make_mesh
from mede2_jax.weights.model_info import own_dtype, read_info


class FlaxSampler:
    """A `ChatEngine` in this process. One `answer` at a time.

    Args:
        model: The model directory.
        sampling: How responses are sampled.
        config: How the devices are used.
        options: How images and conversations are prepared; as the model was trained.
        devices: Which devices; None: all.
    """

    def __init__(
        self,
        model: Path,
        sampling: Sampling,
        config: FlaxConfig | None = None,
        options: ProcessorOptions | None = None,
        devices: list[jax.Device] | None = None,
    ) -> None:
        self.model, self.sampling, self.config = Path(model), sampling, config or FlaxConfig()
        self._options, self._devices = options or ProcessorOptions(), devices
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Loads the model.

        Raises:
            UserError: It cannot be loaded, or does not fit.
        """
        prepare_host()
        if jax.process_count() > 1:
            raise UserError(
                f"{jax.process_count()} processes are not supported; let each process answer its share of the questions by itself"
            )
        if self.config.mesh.sequence != 1:
            raise UserError(
                f"mesh.sequence={self.config.mesh.sequence} splits rows of training; to sample, split the model with mesh.tensor"
            )
        mesh = make_mesh(self.config.mesh, self._devices)
        info = read_info(self.model)
        family, sizes = model_config(self.model)
        self._processor: Processor = family.load_processor(self.model, self._options)
        check_tokenizer(self.model, self._processor, sizes)
        vocab_size = sizes.language.vocab_size
        self._rules: TokenRules = token_rules(self._processor, vocab_size)
        self._limits = Limits(self.config.max_prompt_tokens, self.sampling.max_tokens, sizes.language.max_positions)
        how = Decoding(
            choice=TokenChoice(self.sampling.temperature, self.sampling.top_p),
            steps=self.config.steps,
            max_tokens=self.sampling.max_tokens,
            stop=self._rules.stop,
        )
        with self._device_errors():
            self.programs = Programs(
                family,
                sizes,
                self.model,
                mesh,
                dtype=jnp.dtype(own_dtype(info) if self.config.dtype == "auto" else self.config.dtype),
                shape=_cache_shape(self.config, self.sampling, mesh.shape["data"] * mesh.shape["fsdp"]),
                how=how,
                banned=np.isin(np.arange(vocab_size), self._rules.banned),
            )
        self._workers = self._stack.enter_context(ThreadPoolExecutor(self.config.workers, thread_name_prefix="prompts"))
        return self

    def __exit__(self, *exception: Any) -> None:
        """Gives the devices' memory back."""
        self._stack.close()
        if hasattr(self, "programs"):
            del self.programs

    def answer(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply | ChatFailure]:
        """Answers every request once, in the order they are finished; takes as many ahead as there are slots.

        Raises:
            UserError: The device is out of memory, or the model gives what is no number. What was answered has been given out.
        """
        prepared = _Ahead(requests, self._prepare, self._workers, self.programs.shape.slots)
        slots: list[Slot | None] = [None] * self.programs.shape.slots
        finished: list[ChatReply | ChatFailure] = []
        while True:
            try:
                with self._device_errors():
                    finished += self._fill(slots, prepared)
                    running = self.programs.decode(self._progress(slots)) if any(slots) else None
            except Exception:  # of the requests or of the device; what is finished is not lost
                yield from finished
                raise
            yield from finished  # while the devices work
            if running is None:
                return
            with self._device_errors():
                tokens, logprobs = jax.device_get(running)
            finished = self._collect(slots, tokens, logprobs)

    def _prepare(self, request: ChatRequest) -> Prompt | ChatFailure:
        return encode_prompt(request, self._processor, self._limits)

    def _fill(self, slots: list[Slot | None], prepared: _Ahead) -> list[ChatFailure]:
        """Puts prompts into free slots, one a prefill for each piece of the mesh, and returns what cannot be answered."""
        refused: list[ChatFailure] = []
        rows = self.programs.rows
        share = len(slots) // rows
        while True:
            # Of each piece the first free slot, so that a prompt is computed where it stays.
            free = [next((at for at in range(row * share, (row + 1) * share) if slots[at] is None), None) for row in range(rows)]
            prompts: list[Prompt | None] = [None] * rows
            for row in range(rows):
                if free[row] is not None:
                    prompts[row] = _next_prompt(prepared, refused)
            if not any(prompts):
                return refused
            places = [-1] * rows
            for row, (at, prompt) in enumerate(zip(free, prompts, strict=True)):
                if at is not None and prompt is not None:
                    places[row], slots[at] = at - row * share, Slot(prompt, self.config.samples)
            batch = prompt_batch(prompts, self._processor, self.programs.shape.prompt)
            images = self.programs.encode(batch) if batch["patches"].shape[1] else self.programs.no_images
            self.programs.prefill(batch, images, np.array(places, np.int32))

    def _progress(self, slots: Sequence[Slot | None]) -> Progress:
        count, samples = len(slots), self.config.samples
        active, keys = np.zeros((count, samples), bool), np.zeros((count, samples, 2), np.uint32)
        lengths = np.zeros((3, count), np.int32)
        for at, slot in enumerate(slots):
            if slot is not None:
                lengths[:, at] = slot.prompt.length, slot.prompt.response_position, slot.length
                for column, sample in enumerate(slot.turn):
                    active[at, column], keys[at, column] = sample.finish_reason is None, seed_key(sample.seed)
        fields: dict[str, Any] = dict(zip(("prompt_length", "response_position", "response_length"), lengths, strict=True))
        return Progress(**fields | {"active": active, "keys": keys})

    def _collect(self, slots: list[Slot | None], tokens: np.ndarray, logprobs: np.ndarray) -> list[ChatReply | ChatFailure]:
        """Gives every sample its tokens; frees the slots of the questions whose samples are all at their end."""
        finished: list[ChatReply | ChatFailure] = []
        for at, slot in enumerate(slots):
            if slot is None:
                continue
            slot.take(tokens[at], logprobs[at], self._processor.chat.tokenizer, self._rules.stop, self.sampling)
            if slot.is_finished:
                finished.append(slot.reply())
                slots[at] = None
        return finished

    @contextlib.contextmanager
    def _device_errors(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(
                f"the device is out of memory ({one_line(str(error))[:160]}); lower slots={self.config.slots}, "
                f"samples={self.config.samples} or max_prompt_tokens={self.config.max_prompt_tokens}, or split the model with mesh.tensor"
            ) from None


class _Ahead:
    """Prompts in the order of their requests, prepared ahead by threads; takes no more requests than `limit` ahead."""

    def __init__(self, requests: Iterable[ChatRequest], prepare: Any, workers: ThreadPoolExecutor, limit: int) -> None:
        self._requests, self._prepare, self._workers, self._limit = iter(requests), prepare, workers, limit
        self._waiting: collections.deque[Future[Prompt | ChatFailure]] = collections.deque()

    def next(self) -> Prompt | ChatFailure | None:
        """The next one; None at the end."""
        for request in itertools.islice(self._requests, self._limit - len(self._waiting)):
            self._waiting.append(self._workers.submit(self._prepare, request))
        return self._waiting.popleft().result() if self._waiting else None


def _next_prompt(prepared: _Ahead, refused: list[ChatFailure]) -> Prompt | None:
    """The next prompt that can be answered; those before it that cannot are added to `refused`."""
    while isinstance(found := prepared.next(), ChatFailure):
        refused.append(found)
    return found


def _cache_shape(config: FlaxConfig, sampling: Sampling, pieces: int) -> CacheShape:
    """Room for the longest prompt and response, in whole blocks as the cache is read."""
    prompt = -(-config.max_prompt_tokens // 8) * 8
    response = -(-sampling.max_tokens // config.steps) * config.steps
    return CacheShape(
        slots=config.slots * pieces,
        samples=config.samples,
        prompt=-(-prompt // read_block(prompt)) * read_block(prompt),
        response=-(-response // read_block(response)) * read_block(response),
    )
