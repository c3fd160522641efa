"""What a sampling run is made of, opened and checked before anything is written or started: model, processor and questions."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.images import ImageSize, describe_stacks
from mede2_jax.data.judged import files_digest
from mede2_jax.data.processor import Processor
from mede2_jax.data.questions import QuestionFile, open_questions
from mede2_jax.data.reading import reading_progress
from mede2_jax.data.records import Question
from mede2_jax.data.rows import prompt_tokens
from mede2_jax.engines.chat import ChatRequest, TokenRules, token_rules
from mede2_jax.families import Family, model_config
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.reasoning.answers import BareLetters, true_choice
from mede2_jax.rollout.config import RolloutConfig
from mede2_jax.weights.model_info import ModelInfo, read_info

VERSIONS = ("jax", "transformers", "pillow")
"""What can change a sample; vLLM's own stands at the beginning of its log."""


@dataclasses.dataclass(frozen=True)
class SamplingJob:
    """What is known before anything is sampled."""

    config: RolloutConfig
    model_dir: Path
    info: ModelInfo
    family: Family
    sizes: Any
    """The family's model config."""
    processor: Processor
    rules: TokenRules
    questions: QuestionFile
    all_ids: tuple[str, ...]
    """Of every question in the file, by record number."""
    numbers: tuple[int, ...]
    """Record numbers of the questions that this run samples."""
    longest_prompt: int
    """Tokens, of these questions."""
    inputs: dict[str, Any]
    """What the manifest says of all this; a run that goes on must have the same."""

    @property
    def sampled(self) -> str:
        """Digest of what is sampled: the model, or the model with an adapter."""
        return str(self.inputs["model"]["digest"])

    def prompt_ids(self, request: ChatRequest) -> list[int]:
        """The token ids of a request's prompt, as training has them."""
        grids = [self.processor.grid(image.height, image.width) for image in request.decoded]
        return prompt_tokens(request.messages, self.processor, grids).tolist()


def open_job(config: RolloutConfig, model_dir: Path, console: Console, numbers: Sequence[int] | None = None) -> SamplingJob:
    """Opens and checks model and questions; writes nothing.

    Args:
        config: The run.
        model_dir: The model directory to sample.
        console: Where to show progress.
        numbers: Record numbers of the questions to sample; None: those of the config's shard and limit.

    Raises:
        UserError: Something the user gave cannot be used.
    """
    assert config.questions is not None
    questions = open_questions(config.questions, config.data.image_root, config.data.max_image_pixels)
    all_ids = tuple(questions.ids())
    info = read_info(model_dir)
    family, sizes = model_config(model_dir)
    processor = family.load_processor(model_dir, config.data)
    numbers = _numbers(config, len(all_ids)) if numbers is None else tuple(numbers)
    images, longest = _check_questions(questions, numbers, processor, console)
    digest = file_digest(questions.file.path)
    sampled = info.digest if config.vllm.adapter is None else _adapted_digest(info.digest, config.vllm.adapter)
    inputs = {
        "model": {"path": str(model_dir.absolute()), "family": info.family, "digest": sampled},
        "processor": {"digest": processor.fingerprint, "reserved": list(processor.chat.reserved)},
        "questions": {"path": str(questions.file.path.absolute()), "count": len(all_ids), "digest": digest},
        "images": {"root": str(questions.image_root.absolute()), "digests": images},
        "versions": {"mede2_jax": __version__, "python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }
    rules = token_rules(processor, sizes.language.vocab_size)
    return SamplingJob(config, model_dir, info, family, sizes, processor, rules, questions, all_ids, numbers, longest, inputs)


def question_seed(seed: int, question_id: str) -> int:
    """The seed of a question's sample 0. It and those after it stay below 2³¹: not every engine takes larger ones."""
    digest = hashlib.sha256(f"{seed}\0{question_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (2**31 - 2**20)


def _adapted_digest(model: str, adapter: Path) -> str:
    try:
        content = (adapter / "adapter_config.json").read_bytes() + (adapter / "adapter_model.safetensors").read_bytes()
    except OSError as error:
        raise UserError(f"vllm.adapter={adapter} is no PEFT adapter ({error.strerror}: {error.filename}); give a run's adapter/") from None
    return f"sha256:{hashlib.sha256(model.encode() + content).hexdigest()}"


def _numbers(config: RolloutConfig, count: int) -> tuple[int, ...]:
    index, shards = config.part
    numbers = tuple(range(index, count, shards))[: config.limit]
    if not numbers:
        raise UserError(f"--shard={config.shard} has no question: there are {count} in {config.questions}; use fewer shards")
    return numbers


def _check_questions(questions: QuestionFile, numbers: Sequence[int], processor: Processor, console: Console) -> tuple[dict[str, str], int]:
    """Reads each question as it will be sampled; returns the digest of each one's images, and the tokens of the longest prompt."""
    lengths: list[int] = []
    bare = BareLetters()

    def accept(question: Question, sizes: list[ImageSize]) -> None:
        lengths.append(len(prompt_tokens(question.prompt, processor, [processor.grid(*size) for size in sizes])))
        bare.add(question.id, question.answer, question.options)
        if question.options and question.answer is not None:
            try:
                true_choice(question.answer, question.options)
            except ValueError as error:
                raise UserError(str(error)) from None

    digests: dict[str, str] = {}
    stacks: set[str] = set()
    with reading_progress(console.is_terminal) as progress:
        task = progress.add_task(f"reading {questions.file.path.name}", total=len(numbers))
        for checked in questions.check(numbers, accept):
            progress.advance(task)
            stacks.update(checked.stacks)
            if checked.files:
                digests[checked.id] = files_digest(checked.files)
    for notice in (bare.notice, describe_stacks(stacks)):
        if notice:
            console.print(notice, soft_wrap=True, markup=False)
    return digests, max(lengths)
