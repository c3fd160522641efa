"""A file of questions with its images: checked in one pass before anything is sampled, then read question by question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mede2_jax.config import UserError
from mede2_jax.data.images import CheckedImage, ImageSize, check_image, decode_image, read_image_bytes
from mede2_jax.data.ordered import in_order
from mede2_jax.data.readers import read_own
from mede2_jax.data.reading import located
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Question

CASE = "case"
"""In the metadata of a question: what it shares with others of the same patient, image or article."""


@dataclass(frozen=True)
class Checked:
    """What the check keeps of a question."""

    record: int
    """Number of the question in its file."""
    id: str
    files: tuple[bytes, ...]
    """Digest of each image file."""
    stacks: tuple[str, ...]
    """The image files with several frames."""


@dataclass(frozen=True)
class QuestionFile:
    """A file of questions that is open; questions are read when asked for, from any thread."""

    file: RecordFile
    image_root: Path
    max_image_pixels: int
    kind: type[Question] = Question
    """Of its records: responses to questions are questions, too."""

    def __len__(self) -> int:
        return len(self.file)

    def question(self, number: int) -> Question:
        """The question with that number in the file.

        Raises:
            UserError: Names file, line and field.
        """
        return read_own(self.file[number], self.kind, self.file.where(number))

    def images(self, number: int, question: Question) -> tuple[Image.Image, ...]:
        """The images of a question, RGB.

        Raises:
            UserError: One is missing or damaged.
        """
        with located(self.file.where(number)):
            return tuple(decode_image(read_image_bytes(self.image_root, name), name, self.max_image_pixels) for name in question.images)

    def image_bytes(self, name: str) -> bytes:
        """An image file of a question's, as it is.

        Raises:
            UserError: It is missing.
        """
        return read_image_bytes(self.image_root, name)

    def files(self, number: int, question: Question) -> tuple[bytes, ...]:
        """The image files of a question, as they are.

        Raises:
            UserError: One is missing.
        """
        with located(self.file.where(number)):
            return tuple(read_image_bytes(self.image_root, name) for name in question.images)

    def ids(self) -> list[str]:
        """The id of every question, in order; every question is read, no image is.

        Raises:
            UserError: The first fault in the file, with line and field; or two questions with one id.
        """
        seen: dict[str, int] = {}
        for number in range(len(self)):
            question = self.question(number)
            first = seen.setdefault(question.id, number)
            if first != number:
                same = "is the question of" if "id" not in question.model_fields_set else f"field 'id': {question.id!r} is also that of"
                raise UserError(f"{self.file.where(number)}: {same} {self.file.where(first)}; ids must differ")
        return list(seen)

    def check(self, numbers: Sequence[int], accept: Callable[[Question, list[ImageSize]], None]) -> Iterator[Checked]:
        """Reads these questions and decodes their images, each file once; one question after the other.

        Args:
            numbers: Of the questions.
            accept: Called with each question and its images' sizes, in several threads; a UserError of its own gets the place.

        Raises:
            UserError: The first fault, with file, line and field or image.
        """
        known: dict[str, CheckedImage] = {}

        def job(number: int) -> Checked:
            question = self.question(number)
            with located(self.file.where(number)):
                for name in question.images:
                    if name not in known:  # two threads may both decode a shared image once; the results are equal
                        known[name] = check_image(read_image_bytes(self.image_root, name), name, self.max_image_pixels)
                images = [known[name] for name in question.images]
                accept(question, [image.size for image in images])
            stacks = tuple(name for name in question.images if known[name].is_stack)
            return Checked(number, question.id, tuple(image.digest for image in images), stacks)

        return in_order(job, numbers)


def open_questions(path: Path, image_root: Path | None, max_image_pixels: int, kind: type[Question] = Question) -> QuestionFile:
    """Opens a file of questions.

    Args:
        path: JSONL, or JSON with one list.
        image_root: Folder that image paths start from; None: the file's.
        max_image_pixels: An image with more is an error.
        kind: Of its records.

    Raises:
        UserError: The file cannot be read.
    """
    file = RecordFile(path)
    return QuestionFile(file, image_root or file.path.parent, max_image_pixels, kind)
