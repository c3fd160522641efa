"""Questions that stand in a benchmark, or nearly: whoever trains on them measures what was learned by heart.

A question leaks if it shares a run of 13 words with an item (one that is in few items), if its text is nearly that of an item, or if one of
its images shows the picture of one. A text of few words counts only together with a picture, or where the item has none either.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mede2_jax.curate.candidates import Bank, Known
from mede2_jax.curate.config import LeakageOptions
from mede2_jax.curate.pictures import hashes, neighbours, stacked
from mede2_jax.curate.texts import LONG_RUN, SHORT, Text, TextIndex, share_options, text_of
from mede2_jax.curate.verdict import Dropped, Step
from mede2_jax.data.images import decode_image
from mede2_jax.data.ordered import in_order
from mede2_jax.data.reading import located
from mede2_jax.foreign import shown
from mede2_jax.scoring.reading import several
from mede2_jax.tasks.catalogue import digest_of, find_task, read_items, task_files
from mede2_jax.tasks.image_files import image_bytes, image_roots
from mede2_jax.tasks.item import Item

BY_TEXT, BY_IMAGE = "text", "image"
COMMON = 3
"""A long run that is in more items than that is a phrase of the benchmark's, and no sign of one of them."""


class Benchmark:
    """A benchmark's items, as questions are compared with them.

    Args:
        name: Of the task.
        data: Where its files are.
        options: What counts as alike.
        max_image_pixels: An image with more is an error.

    Raises:
        UserError: There is no such task, no file of it, or an image is missing.
    """

    def __init__(self, name: str, data: Path, options: LeakageOptions, max_image_pixels: int) -> None:
        task = find_task(name)
        files = task_files(task, data)
        self.name, self.digest, self.options = task.name, digest_of(files), options
        self.ids: list[str] = []
        self.texts: list[Text] = []
        self.index, self.runs = TextIndex(options.similarity), defaultdict[int, list[int]](list)
        self.owners: list[int] = []
        """Of each image, the item."""
        roots = options.images or image_roots(task, data)

        def job(item: Item) -> tuple[Item, list[np.ndarray]]:
            with located(f"{task.name}, item {shown(item.id)}"):
                data = [(image_bytes(image, roots), image.name) for image in item.images]
                return item, [hashes(decode_image(content, called, max_image_pixels)) for content, called in data]

        pictures = []
        for number, (item, found) in enumerate(in_order(job, read_items(task, files))):
            self._add(number, item)
            pictures += found
            self.owners += [number] * len(found)
        self.hashes, self.with_images = stacked(pictures), set(self.owners)

    def _add(self, number: int, item: Item) -> None:
        text = text_of(item.question, item.options, several(item.answer)[0] if several(item.answer) else None)
        self.ids.append(item.id)
        self.texts.append(text)
        self.index.add(number, text)
        for run in text.long_runs.tolist():
            self.runs[run].append(number)

    def by_text(self, known: Known, seen: set[int]) -> tuple[int, float] | None:
        """The item that a question's text is that of, with the similarity.

        Args:
            known: The question.
            seen: Items of whose images it has one.
        """
        for number, share in sorted(self.index.like(known.text), key=lambda one: -one[1]):
            text = self.texts[number]
            is_telling = min(text.words, known.text.words) >= SHORT or number in seen or not (number in self.with_images or known.images)
            if is_telling and share_options(known.text, text):
                return number, share
        shared = Counter(
            number for run in known.text.long_runs.tolist() if len(self.runs.get(run, ())) <= COMMON for number in self.runs.get(run, ())
        )
        if shared:
            number, count = shared.most_common(1)[0]
            return number, count / max(len(known.text.long_runs), 1)
        return None

    def by_image(self, bank: Bank) -> dict[int, list[tuple[int, float]]]:
        """For each image of the bank the items that have its picture, with the share of bits that differ."""
        found: defaultdict[int, dict[int, float]] = defaultdict(dict)
        both = (
            *((image, owner, share) for image, owner, _, share in neighbours(bank.hashes[:, 0], self.hashes, self.options.image_distance)),
            *((image, owner, share) for owner, image, _, share in neighbours(self.hashes[:, 0], bank.hashes, self.options.image_distance)),
        )
        for image, place, share in both:
            item = self.owners[place]
            found[image][item] = min(share, found[image].get(item, 1.0))
        return {image: sorted(items.items(), key=lambda one: one[1]) for image, items in found.items()}


def find_leaks(bank: Bank, numbers: Sequence[int], options: LeakageOptions, max_image_pixels: int) -> Step:
    """Questions that stand in one of the benchmarks, with a certificate for each benchmark.

    Args:
        bank: All questions.
        numbers: Of those that are looked at.
        options: Which benchmarks, and what counts as alike.
        max_image_pixels: An image with more is an error.

    Raises:
        UserError: As `Benchmark`.
    """
    step = Step("leakage")
    for name, data in options.pairs:
        benchmark = Benchmark(name, data, options, max_image_pixels)
        matches = list(_matches(benchmark, bank, numbers))
        for number, match in matches:
            item = f"{benchmark.name}/{match['id']}"
            share, is_text = match["similarity"], match["by"] == BY_TEXT
            reason = f"its {match['by']} stands in {benchmark.name}"
            found = Dropped(reason, by=item, similarity=share if is_text else None, distance=None if is_text else round(1 - share, 4))
            step.dropped.setdefault(number, found)
        thresholds = {"similarity": options.similarity, "ngram": LONG_RUN, "image_distance": options.image_distance}
        step.certificates.append(
            {"benchmark": benchmark.name, "digest": benchmark.digest, "thresholds": thresholds, "matches": [match for _, match in matches]}
        )
    return step


def _matches(benchmark: Benchmark, bank: Bank, numbers: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions that match, each with its best match as a certificate has it."""
    pictures = benchmark.by_image(bank)
    for number in numbers:
        known = bank.questions[number]
        seen = sorted((one for image in known.images for one in pictures.get(image, ())), key=lambda one: one[1])
        if (text := benchmark.by_text(known, {item for item, _ in seen})) is not None:
            found, by, share = text[0], BY_TEXT, text[1]
        elif seen:
            found, by, share = seen[0][0], BY_IMAGE, 1 - seen[0][1]
        else:
            continue
        yield number, {"id": benchmark.ids[found], "record": known.id, "by": by, "similarity": round(share, 4)}
