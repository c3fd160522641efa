"""What a sampling run is made of, opened and checked before anything is written or started: questions, and the model that answers."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import platform
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import UserError
from mede2_jax.data.about import OF_RESPONSES, Ask, conversation, is_asked
from mede2_jax.data.images import ImageSize, describe_stacks
from mede2_jax.data.judged import files_digest
from mede2_jax.data.processor import Processor
from mede2_jax.data.questions import QuestionFile, open_questions
from mede2_jax.data.reading import reading_progress
from mede2_jax.data.records import Question, Rollout
from mede2_jax.data.rows import prompt_tokens
from mede2_jax.engines.chat import ChatRequest, TokenRules, token_rules
from mede2_jax.engines.picture import Picture
from mede2_jax.families import Family, model_config
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.reasoning.answers import BareLetters, true_choice
from mede2_jax.reasoning.prompts import ABOUT
from mede2_jax.rollout.config import QuestionRun, RolloutConfig, engine_kind
from mede2_jax.weights.model_info import ModelInfo, read_info

VERSIONS = ("jax", "transformers", "pillow")
"""What can change a sample; vLLM's own stands at the beginning of its log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingJob(abc.ABC):
    """What is known before anything is sampled, whoever answers."""

    config: QuestionRun
    questions: QuestionFile
    all_ids: tuple[str, ...]
    """Of every question in the file, by record number."""
    numbers: tuple[int, ...]
    """Record numbers of the questions that this run samples."""
    inputs: dict[str, Any]
    """What the manifest says of all this; a run that goes on must have the same."""

    @property
    @abc.abstractmethod
    def engine(self) -> str:
        """What samples, as the manifest has it."""

    @property
    @abc.abstractmethod
    def described(self) -> str:
        """Who answers, for the user."""

    @property
    def sampled(self) -> str:
        """Digest of what is sampled: the model, or the model with an adapter; an API's name of it."""
        return str(self.inputs["model"]["digest"])

    @abc.abstractmethod
    def images(self, number: int, question: Question) -> tuple[Image.Image | Picture, ...]:
        """The images of a question, as its engine takes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelJob(SamplingJob):
    """A model of ours is sampled: its own processor makes the prompts."""

    config: RolloutConfig
    model_dir: Path
    info: ModelInfo
    family: Family
    sizes: Any
    """The family's model config."""
    processor: Processor
    rules: TokenRules
    longest_prompt: int
    """Tokens, of these questions."""

    @property
    def engine(self) -> str:
        """See `SamplingJob.engine`."""
        return engine_kind(self.config)

    @property
    def described(self) -> str:
        """See `SamplingJob.described`."""
        return f"model {self.model_dir}"

    def images(self, number: int, question: Question) -> tuple[Image.Image, ...]:
        """See `SamplingJob.images`: in RGB."""
        return self.questions.images(number, question)

    def prompt_ids(self, request: ChatRequest) -> list[int]:
        """The token ids of a request's prompt, as training has them."""
        grids = [self.processor.grid(image.height, image.width) for image in request.decoded]
        return prompt_tokens(request.messages, self.processor, grids).tolist()


def open_job(config: RolloutConfig, model_dir: Path, console: Console, numbers: Sequence[int] | None = None) -> ModelJob:
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
    questions = open_asked(config, console)
    all_ids = tuple(questions.ids())
    info = read_info(model_dir)
    family, sizes = model_config(model_dir)
    processor = family.load_processor(model_dir, config.data)
    numbers = shard_numbers(config, questions) if numbers is None else tuple(numbers)
    lengths: list[int] = []

    def measure(question: Question, sizes: list[ImageSize]) -> None:
        lengths.append(len(prompt_tokens(conversation(question, config.ask), processor, [processor.grid(*size) for size in sizes])))

    images = check_questions(questions, numbers, measure, console)
    sampled = info.digest if config.vllm.adapter is None else _adapted_digest(info.digest, config.vllm.adapter)
    inputs = {
        "model": {"path": str(model_dir.absolute()), "family": info.family, "digest": sampled},
        "processor": {"digest": processor.fingerprint, "reserved": list(processor.chat.reserved)},
        **question_inputs(questions, len(all_ids), images, config.ask),
        "versions": versions(*VERSIONS),
    }
    return ModelJob(
        config=config,
        questions=questions,
        all_ids=all_ids,
        numbers=numbers,
        inputs=inputs,
        model_dir=model_dir,
        info=info,
        family=family,
        sizes=sizes,
        processor=processor,
        rules=token_rules(processor, sizes.language.vocab_size),
        longest_prompt=max(lengths),
    )


def open_asked(config: QuestionRun, console: Console) -> QuestionFile:
    """The questions of a run; of one that asks about responses, these.

    Raises:
        UserError: The file cannot be read, or its manifest names a folder of images that does not count.
    """
    assert config.questions is not None
    tell = partial(console.print, soft_wrap=True, markup=False)
    root = image_root(config.questions, config.data.image_root, "--data.image_root", tell)
    return open_questions(config.questions, root, config.data.max_image_pixels, Rollout if config.ask in OF_RESPONSES else Question)


def question_inputs(questions: QuestionFile, count: int, images: dict[str, str], ask: Ask) -> dict[str, Any]:
    """What the manifest says of questions and images, and of what is asked about them."""
    prompt = ABOUT.get(ask)
    return {
        **({"prompt": {"name": prompt.title, "digest": prompt.digest}} if prompt else {}),
        "questions": {"path": str(questions.file.path.absolute()), "count": count, "digest": file_digest(questions.file.path)},
        "images": {"root": str(questions.image_root.absolute()), "digests": images},
    }


def versions(*names: str) -> dict[str, str]:
    """Of this package, Python, and others."""
    return {"mede2_jax": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}


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


def shard_numbers(config: QuestionRun, questions: QuestionFile) -> tuple[int, ...]:
    """Record numbers of the questions of a run's shard, up to its limit; of those with images where something is asked about them.

    Raises:
        UserError: There are none.
    """
    index, shards = config.part
    numbers: Sequence[int] = range(index, len(questions), shards)
    if not numbers:
        raise UserError(f"--shard={config.shard} has no question: there are {len(questions)} in {config.questions}; use fewer shards")
    if config.ask != "answer":
        numbers = [number for number in numbers if is_asked(questions.question(number), config.ask)]
        if not numbers:
            what = "responses that came to an end" if config.ask in OF_RESPONSES else "questions with images"
            raise UserError(f"--ask={config.ask} is for {what}, and {config.questions} has none; leave this step out")
    return tuple(numbers)[: config.limit]


Measure = Callable[[Question, list[ImageSize]], None]
"""Called with each question and the sizes of its images, in several threads."""


def check_questions(questions: QuestionFile, numbers: Sequence[int], measure: Measure, console: Console) -> dict[str, str]:
    """Reads each question as it will be sampled; returns the digest of each one's images.

    Raises:
        UserError: The first fault, with its place.
    """
    bare = BareLetters()

    def accept(question: Question, sizes: list[ImageSize]) -> None:
        measure(question, sizes)
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
    return digests
