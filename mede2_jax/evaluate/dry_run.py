"""`--dry_run`: what a model would be shown, as text and (where its processor is ours) as tokens, with the images in their places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from mede2_jax.data.processor import Processor
from mede2_jax.data.records import ImagePart
from mede2_jax.engines.chat import ChatRequest
from mede2_jax.foreign import shown, visible
from mede2_jax.rollout.job import ModelJob, SamplingJob
from mede2_jax.rollout.run import request
from mede2_jax.tasks.asking import THEN

ITEMS = 1
"""Of each task, unless `limit` or `ids` say otherwise."""


def show_prompts(job: SamplingJob, names: Mapping[str, str], console: Console) -> None:
    """Prints the prompt of every question of a job.

    Args:
        job: Of the questions.
        names: What the benchmark calls an image file.
        console: Where to.
    """

    def say(line: str, style: str | None = None) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False, style=style)

    for number in job.numbers:
        question = job.questions.question(number)
        asked = request(job, number, range(1))
        called = [shown(names.get(name, name)) for name in question.images]
        tokens = job.prompt_ids(asked) if isinstance(job, ModelJob) else []
        title = f"── {shown(question.id, 200)}"
        say(f"{title}: {len(tokens):,} tokens" if isinstance(job, ModelJob) else title, "bold")
        say(shown_text(job.processor, asked, tokens, called) if isinstance(job, ModelJob) else shown_turns(asked, called))
        if then := question.metadata.get(THEN):
            say(f"── then, to the reply: {shown(str(then), 400)}")
        say(f"── tokens: {shown_tokens(job.processor, tokens)}\n" if isinstance(job, ModelJob) else "")


def shown_turns(asked: ChatRequest, names: Sequence[str]) -> str:
    """A conversation as an API is sent it, with each image named in its place."""
    images = zip(names, asked.images, strict=True)
    lines = []
    for message in asked.messages:
        pieces = [f"[{message.role}] "]
        for part in [message.content] if isinstance(message.content, str) else message.content:
            if isinstance(part, ImagePart):
                name, image = next(images)
                pieces.append("⟦image {}, {}×{}⟧".format(name, *image.size))
            else:
                pieces.append(_lines(part if isinstance(part, str) else part.text))
        lines.append("".join(pieces))
    return "\n".join(lines)


def _lines(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def shown_text(processor: Processor, asked: ChatRequest, tokens: Sequence[int], names: Sequence[str]) -> str:
    """A prompt's text, with each image named in its place."""
    images = zip(names, asked.decoded, strict=True)
    pieces = []
    for is_image, some in _runs(processor, tokens):
        if is_image:
            name, image = next(images)
            pieces.append(f"⟦image {name}, {image.width}×{image.height}: {len(some):,} tokens⟧")
        else:
            text = processor.chat.tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            pieces.append(_lines(text))
    return "".join(pieces)


def shown_tokens(processor: Processor, tokens: Sequence[int]) -> str:
    """A prompt's token ids; those of an image are one with its count."""
    return " ".join(f"{some[0]}×{len(some)}" if is_image else " ".join(map(str, some)) for is_image, some in _runs(processor, tokens))


def _runs(processor: Processor, tokens: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    image = processor.chat.image_token_id
    for is_image, some in itertools.groupby(tokens, lambda token: token == image):
        yield is_image, list(some)
