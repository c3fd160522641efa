"""The questions of an evaluation as a file, and their images beside it, each once by what it holds."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from mede2_jax.data.image_store import ImageStore
from mede2_jax.data.ordered import in_order
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Question
from mede2_jax.evaluate.chosen import Chosen
from mede2_jax.foreign import shown
from mede2_jax.outputs.file import write_whole
from mede2_jax.tasks.asking import ORDER, SHUFFLE, THEN, ItemImage, question_id
from mede2_jax.tasks.catalogue import read_items
from mede2_jax.tasks.image_files import image_bytes, image_roots
from mede2_jax.tasks.item import Item
from mede2_jax.tasks.shuffling import order_of, shuffled

QUESTIONS = "questions.jsonl"


def prepare(chosen: Sequence[Chosen], roots: Sequence[Path], data: Sequence[Path], store: ImageStore) -> Iterator[Question]:
    """The questions, item by item, with their images kept.

    Args:
        chosen: What is asked.
        roots: Folders that image files are looked for in; none: beside each task's files.
        data: Where each task's files are.
        store: Where images go.

    Raises:
        UserError: An image is missing or damaged; names item and image.
    """
    for one, folder in zip(chosen, data, strict=True):
        wanted, beside = set(one.ids), roots or image_roots(one.items.task, folder)

        def questions(item: Item, one: Chosen = one, beside: Sequence[Path] = beside) -> list[Question]:
            with located(f"{one.items.task.name}, item {shown(item.id)}"):
                return _questions(one, item, beside, store)

        items = (item for item in read_items(one.items.task, one.items.files) if item.id in wanted)
        yield from itertools.chain.from_iterable(in_order(questions, items))


def write_questions(path: Path, questions: Sequence[Question], *, keep: bool) -> list[int]:
    """Writes the file of questions; returns the record number of each that is asked now.

    Args:
        path: Of the file.
        questions: Those that are asked now.
        keep: Whether what is in the file stays where it is: there are replies to it.

    Raises:
        UserError: The file that is there is damaged.
    """
    records: dict[str, Question] = {}
    if keep and path.exists():
        file = RecordFile(path)
        before = (read_own(file[number], Question, file.where(number)) for number in range(len(file)))
        records = {question.id: question for question in before}
    records |= {question.id: question for question in questions}
    write_whole(path, "".join(record.model_dump_json(exclude_none=True) + "\n" for record in records.values()))
    numbers = {id: number for number, id in enumerate(records)}
    return [numbers[question.id] for question in questions]


def prompts_digest(questions: Sequence[Question]) -> str:
    """Of what is asked: every word, and what every image holds."""
    whole = hashlib.sha256()
    for question in questions:
        whole.update(question.model_dump_json(include={"id", "prompt", "images", "metadata"}).encode() + b"\n")
    return f"sha256:{whole.hexdigest()}"


def _questions(one: Chosen, item: Item, roots: Sequence[Path], store: ImageStore) -> list[Question]:
    task, kept = one.items.task, dict[ItemImage, str]()
    task.check_images(item)
    questions = []
    seeds = (one.shuffles if item.options else ()) or (None,)  # without options there is no order: it is asked once
    for prompt, seed in itertools.product(one.prompts, seeds):
        if task.as_asked(item, prompt) is None:
            continue  # the score says that it is left out
        order = "" if seed is None else order_of(seed, item)
        asked = task.asked(shuffled(task, item, order) if order else item, prompt)
        metadata = {SHUFFLE: seed, ORDER: order or None, THEN: asked.then}
        for image in asked.images:
            if image not in kept:
                kept[image] = store.put(image_bytes(image, roots), image.name)
        questions.append(
            Question(
                id=question_id(task.name, prompt, item.id, seed),
                prompt=asked.messages,
                images=tuple(kept[image] for image in asked.images),
                source=task.name,
                metadata={"prompt": prompt, "item": item.id} | {name: said for name, said in metadata.items() if said is not None},
            )
        )
    return questions
