"""MMMU, validation (MMMU-Benchmark/MMMU): all 30 subjects, and the five of health alone; choices and a few open questions."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.foreign import shown
from mede2_jax.scoring.mmmu import OwnersGuesses, is_right, read_choice, read_open
from mede2_jax.scoring.reading import Reading, Rule, Truth
from mede2_jax.tasks.asking import MARK, OURS, Asked, ItemImage, Piece, with_choices, with_images_in_place
from mede2_jax.tasks.item import LETTERS, Item, Task, letter, lettered, options_of, python_literal, text

HEALTH = ("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy", "Public_Health")
DISCIPLINES = {
    "Art & Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health & Medicine": HEALTH,
    "Humanities & Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech & Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""The owner's: subjects by discipline."""
IMAGES = 7
NESTED = "nested"
"""In the fields of an item whose options are a list in a list."""
_DIRECT = "Answer with the option's letter from the given choices directly."
_SHORT = "Answer the question using a single word or phrase."


def listed(value: Any, name: str, where: str) -> list[str]:
    """A column that holds a list of texts, as a list or as Python writes one. A list in a list is that list.

    Raises:
        UserError: It holds neither.
    """
    found = _literal(value)
    if is_nested(found):
        found = found[0]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found) or len(found) > len(LETTERS):
        raise UserError(f"{where}: column {name!r} must hold a list of texts, found {shown(value)}")
    return found


def _literal(value: Any) -> Any:
    return python_literal(value) if isinstance(value, str) else value


def is_nested(value: Any) -> bool:
    """Whether a column holds a list in a list, as one item's options are written."""
    found = _literal(value)
    return isinstance(found, list) and len(found) == 1 and isinstance(found[0], list)


def as_the_owner_has_them(item: Item) -> Mapping[str, str]:
    """The options of an item as the owner's code shows and reads them: a list in a list is one option, which is the whole list."""
    return {LETTERS[0]: str(list(item.options.values()))} if NESTED in item.fields else item.options


def subject_of(identity: str, where: str) -> str:
    """The middle of an id: `validation_Clinical_Medicine_7` is of Clinical_Medicine.

    Raises:
        UserError: The id has other parts.
    """
    found = re.fullmatch(r"(?:dev|validation|test)_(.+)_\d+", identity)
    if not found:
        raise UserError(f"{where}: column 'id' must be like validation_Clinical_Medicine_7, found {shown(identity)}")
    return found[1]


def discipline_of(subject: str) -> dict[str, str]:
    """The discipline of a subject as a group; none of one that the owner does not have."""
    return next(({"discipline": name} for name, subjects in DISCIPLINES.items() if subject in subjects), {})


def is_of_other_subjects(identity: str, subjects: Sequence[str]) -> bool:
    """Whether an id is of one of the owner's subjects, and not of these; all: it is of none."""
    try:
        subject = subject_of(identity, "")
    except UserError:
        return False
    return bool(subjects) and subject not in subjects and bool(discipline_of(subject))


def marked_images(row: Mapping[str, Any], texts: str, where: str) -> tuple[ItemImage, ...]:
    """The images whose mark occurs, each once, in the order of their first marks; others belong to the explanation.

    Raises:
        UserError: A mark has no image.
    """
    if not any(f"image_{number}" in row for number in range(1, IMAGES + 1)):
        return ()  # a table that was read without its images, or an owner's responses
    images = []
    for number in dict.fromkeys(MARK.findall(texts)):
        image = row.get(f"image_{number}")
        if image is None:
            raise UserError(f"{where}: <image {number}> stands in the text, and column 'image_{number}' is empty")
        images.append(held_image(image, f"image_{number}", where))
    return tuple(images)


def held_image(image: Any, column: str, where: str) -> ItemImage:
    """An image as a table holds it: a struct of bytes and path, or a path.

    Raises:
        UserError: It is neither.
    """
    if isinstance(image, str) and image:
        return ItemImage(image)
    if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):
        return ItemImage(str(image.get("path") or column), image["bytes"])
    raise UserError(f"{where}: column {column!r} must hold an image, found {shown(image)}")


def images_by_mark(item: Item) -> dict[str, ItemImage]:
    """The images of an item by the numbers in their marks."""
    return dict(zip(dict.fromkeys(MARK.findall(marked_texts(item.question, item.options))), item.images, strict=False))


def with_images_in_order(before: Item, item: Item) -> Item:
    """An item whose marks stand in another order than `before`, with its images in the order of its own."""
    by_mark = images_by_mark(before)
    marks = dict.fromkeys(MARK.findall(marked_texts(item.question, item.options)))
    return dataclasses.replace(item, images=tuple(by_mark[mark] for mark in marks if mark in by_mark))


def marked_texts(question: str, options: Mapping[str, str]) -> str:
    """All texts in which marks stand."""
    return "\n".join([question, *options.values()])


class MMMU(Task):
    """All subjects, or some."""

    columns = ("id", "question", "options", "answer", "question_type")
    image_columns = tuple(f"image_{number}" for number in range(1, IMAGES + 1))

    def __init__(self, name: str, title: str, subjects: tuple[str, ...], counts: Mapping[str, int]):
        self.name, self.title, self.subjects, self.counts = name, title, subjects, counts
        self.breakdowns = (*(() if subjects else ("discipline",)), "subject", "question_type")
        tables = tuple(f"{subject}/validation-*.parquet" for subject in subjects or ("*",))
        self.files = (tables, "mmmu[._-]*")

    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """See `Task.read`. A row of the owner's output, with `all_choices` and `index2ans`, is one too."""
        identity = text(row, "id", where)
        subject = subject_of(identity, where)
        kind = text(row, "question_type", where)
        question = text(row, "question", where) if "question" in row else ""
        if kind == "multiple-choice":
            options = (
                lettered(listed(row["options"], "options", where))
                if "options" in row
                else options_of(row.get("index2ans"), "index2ans", where)
            )
            right: Truth = letter(text(row, "answer", where), options, "answer", where)
        elif kind in ("open", "short-answer"):
            options = {}
            right = _open_answer(row, where)
        else:
            raise UserError(f"{where}: column 'question_type' must be multiple-choice, open or short-answer, found {shown(kind)}")
        return Item(
            id=identity,
            question=question,
            answer=right,
            options=options,
            images=marked_images(row, marked_texts(question, options), where),
            groups={**discipline_of(subject), "subject": subject, "question_type": "choice" if options else "open"},
            fields={NESTED: "yes"} if options and is_nested(row.get("options")) else {},
        )

    def owners_figure(self, readings: Mapping[str, Reading], items: Sequence[Item]) -> float | None:
        """See `Task.owners_figure`. Which letters he draws depends on all subjects before, so a part of them has no figure."""
        choices = [item for item in items if item.options]
        if self.subjects or len(items) != self.counts[""] or readings.keys() != {item.id for item in items}:
            return None
        if all(readings[item.id].answer is not None for item in choices):
            return None
        guesses, right = OwnersGuesses(), 0
        for item in sorted(items, key=lambda item: item.groups["subject"]):
            if item.options:
                right += guesses.answer(readings[item.id], as_the_owner_has_them(item)) == item.answer
            else:
                right += self.rule(item, "").is_right(readings[item.id], item.answer)
        return right / len(items)

    def holds(self, item: Item) -> bool:
        """By subject."""
        return not self.subjects or item.groups["subject"] in self.subjects

    def is_outside(self, identity: str) -> bool:
        """See `Task.is_outside`."""
        return is_of_other_subjects(identity, self.subjects)

    def following_options(self, before: Item, item: Item) -> Item:
        """See `Task.following_options`."""
        return with_images_in_order(before, item)

    def question_of(self, item: Item) -> tuple[Piece, ...]:
        """See `Task.question_of`."""
        return with_images_in_place(with_choices(item.question, item.options), images_by_mark(item), item.id)

    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """See `Task.as_owner_asks`. His own baseline shows the first image alone, before the text; here all stand in their places."""
        if item.options:
            lines = "".join(f"({one}) {option}\n" for one, option in as_the_owner_has_them(item).items())
            said = f"{item.question}\n{lines}\n{_DIRECT}"
        else:
            said = f"{item.question}\n{_SHORT}"
        return Asked(with_images_in_place(said, images_by_mark(item), item.id))

    def rule(self, item: Item, prompt: str) -> Rule:
        """See `Task.rule`."""
        options = item.options if prompt == OURS else as_the_owner_has_them(item)
        return Rule(functools.partial(read_choice, options=options)) if item.options else Rule(read_open, is_right)


def _open_answer(row: Mapping[str, Any], where: str) -> Truth:
    """A text, or a list of those that are right, which may be written as Python writes one."""
    answer = row.get("answer")
    if isinstance(answer, list) or (isinstance(answer, str) and answer.startswith("[")):
        return tuple(listed(answer, "answer", where))
    return text(row, "answer", where)


TASKS = (
    MMMU("mmmu", "MMMU (validation)", (), {"": 900}),
    MMMU("mmmu_health", "MMMU-Health (validation)", HEALTH, {"": 150, **{f"subject={subject}": 30 for subject in HEALTH}}),
)
