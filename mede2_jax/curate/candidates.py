"""A bank as curation sees it: every question with what is compared of it, and every image once, by its file."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from mede2_jax.curate.pictures import hashes, neighbours, stacked
from mede2_jax.curate.texts import Text, text_of
from mede2_jax.data.about import stem_of
from mede2_jax.data.images import decode_image
from mede2_jax.data.ordered import in_order
from mede2_jax.data.questions import CASE, QuestionFile
from mede2_jax.data.reading import located, reading_progress


@dataclasses.dataclass(frozen=True)
class Known:
    """What is compared of a question."""

    id: str
    text: Text
    images: tuple[int, ...]
    """Numbers of its images."""
    case: str


@dataclasses.dataclass(frozen=True)
class Bank:
    """All questions of a file."""

    questions: list[Known]
    hashes: np.ndarray
    """Of every image: [N C H]."""

    def alike(self, distance: float) -> dict[int, dict[int, float]]:
        """For every image those that show the same picture, with the share of bits that differ; itself not among them."""
        found: defaultdict[int, dict[int, float]] = defaultdict(dict)
        for one, other, _, share in neighbours(self.hashes[:, 0], self.hashes, distance):
            if one != other:
                for a, b in ((one, other), (other, one)):
                    found[a][b] = min(share, found[a].get(b, 1.0))
        return found


def read_bank(file: QuestionFile, numbers: Sequence[int]) -> Bank:
    """Reads questions, and every image once.

    Raises:
        UserError: An image is missing or damaged.
    """
    number_of: dict[str, int] = {}
    questions: list[Known] = []
    for number in numbers:
        question = file.question(number)
        images = tuple(number_of.setdefault(name, len(number_of)) for name in question.images)
        text = text_of(stem_of(question), question.options, question.answer)
        questions.append(Known(question.id, text, images, str(question.metadata.get(CASE) or "")))
    return Bank(questions, stacked(list(_hashed(file, list(number_of)))))


def _hashed(file: QuestionFile, names: Sequence[str]) -> Iterator[np.ndarray]:
    def job(name: str) -> np.ndarray:
        with located(str(file.file.path)):
            return hashes(decode_image(file.image_bytes(name), name, file.max_image_pixels))

    with reading_progress(shown=True) as progress:
        yield from progress.track(in_order(job, names), total=len(names), description="images")
