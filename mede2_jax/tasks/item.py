"""An item of a benchmark, and what a task is: its files, its items, and its owner's way to read a reply."""

from __future__ import annotations

import abc
import ast
import dataclasses
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mede2_jax.config import MOST_FAULTS, UserError
from mede2_jax.data.record_file import half_character
from mede2_jax.foreign import JSONFault, parse_json, shown
from mede2_jax.reasoning.prompts import SYSTEM
from mede2_jax.scoring.judging import Judging
from mede2_jax.scoring.reading import Reading, Rule, Truth, several
from mede2_jax.scoring.texts import open_rule
from mede2_jax.tasks.asking import MARK, OFFICIAL, OPEN, OURS, Asked, ItemImage, Piece, with_choices

LETTERS = string.ascii_uppercase
LETTERED = re.compile(r"^\s*\(?([A-Z])[.):]\s+(.*\S)\s*$", re.MULTILINE)
"""A line that begins with its letter, as `A. gout` or `(A) gout`."""
_LONGEST_LITERAL = 1 << 20


@dataclasses.dataclass(frozen=True)
class Item:
    """One question of a benchmark with its right answer."""

    id: str
    question: str
    """Without its options; marks of images stand as the owner wrote them."""
    answer: Truth
    """A letter of `options`, or the right text, or several."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Letter to text; empty for an open question."""
    images: tuple[ItemImage, ...] = ()
    """In the order of their marks."""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Value of each column that scores are broken down by."""
    cluster: str = ""
    """What items that hang together share: a patient, a case, one question asked twice."""
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What else a prompt wants."""

    @property
    def is_open(self) -> bool:
        """Whether the answer is a text whose meaning counts: no choice, and not yes or no."""
        return not self.options and self.fields.get("kind") != "yes_no"


class Task(abc.ABC):
    """A benchmark as its owner has it. One instance for each setting that has scores of its own."""

    name: str
    title: str
    """As tables call it."""
    files: tuple[str | tuple[str, ...], ...]
    """Where the owner's files lie in the folder that the user gives, as patterns, the likeliest first; a tuple is read together."""
    columns: tuple[str, ...]
    """What is read of the files."""
    image_columns: tuple[str, ...] = ()
    """What is read besides where images are wanted."""
    always_with_images: bool = False
    """Whether each item has an image in these, so that a model would be asked blind where one has none."""
    all_columns: ClassVar[bool] = False
    """Whether each of these must be in one of the files: an owner's files differ in them, those of a YAML file do not."""
    all_files: ClassVar[bool] = False
    """Whether all files that a pattern finds are read together, and not only the numbered parts of one table."""
    setting_column: ClassVar[str] = ""
    """In which a row may name its setting; empty: rows name none."""
    breakdowns: tuple[str, ...] = ()
    """Names of `Item.groups`, in the order of tables."""
    prompts: ClassVar[tuple[str, ...]] = (OFFICIAL,)
    """The owner's ways to ask; a reply is read by the one it was asked in. The first is the default."""
    image_folders: ClassVar[tuple[str, ...]] = ("",)
    """Where the files of images lie in the folder that the user gives."""
    counts: Mapping[str, int]
    """Items that the owner's files hold: "" of all, `column=value` of a part."""
    clustered: bool = False
    """Whether items hang together, so that intervals are to be drawn over clusters."""
    options_in_picture: bool = False
    """Whether a model sees the options in the item's picture alone, so that nobody can show them in another order."""
    difference: ClassVar[str] = ""
    """Where the owner's own figure is another than that of his rule as it is meant, and why."""
    never_open: str = ""
    """Why its items cannot be asked without their choices; empty: they can."""
    errors_are_objects: ClassVar[bool] = False
    """Whether any object in the place of a reply is an error that the owner's scripts store, which he reads as an empty reply."""
    owners_judge: ClassVar[Judging | None] = None
    """How the owner has replies judged; None: by his rule alone."""

    @abc.abstractmethod
    def read(self, row: Mapping[str, Any], where: str) -> Item:
        """A row of the owner's file as an item.

        Raises:
            UserError: Names place, column and value.
        """

    def check_setting(self, row: Mapping[str, Any], where: str) -> None:
        """Refuses a row, of the benchmark or of responses to it, whose `setting_column` names another setting than the task's.

        Raises:
            UserError: It does.
        """
        return

    def check_set(self, items: Sequence[Item], where: str) -> None:
        """Refuses the items of another set, where no single row says which set it is of.

        Raises:
            UserError: They are of another one.
        """
        return

    def wants(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is to be read at all: a file may also hold other languages, or other splits."""
        return True

    @abc.abstractmethod
    def as_owner_asks(self, item: Item, prompt: str) -> Asked:
        """An item in one of the owner's ways.

        Args:
            item: With its images.
            prompt: One of `prompts`.

        Raises:
            UserError: An image is missing.
        """

    def question_of(self, item: Item) -> tuple[Piece, ...]:
        """A question with its choices as MedXpertQA writes them: what `mede2` asks.

        Images stand where the question marks or names them, else before the text, as in the records that models are trained on here
        (and in LLaMA-Factory, which puts images without a mark there).

        Raises:
            UserError: An image is missing.
        """
        return (*item.images, with_choices(item.question, item.options))

    def asked(self, item: Item, prompt: str) -> Asked:
        """An item as `prompt` asks it: ours, or one of the owner's.

        Raises:
            UserError: An image is missing.
        """
        if prompt not in (OURS, OPEN):
            return self.as_owner_asks(item, prompt)
        if (seen := self.as_asked(item, prompt)) is None:
            raise UserError(f"{shown(item.id)}: its options are images, which cannot be left out")
        return Asked(self.question_of(seen), system=SYSTEM.text)

    def as_asked(self, item: Item, prompt: str) -> Item | None:
        """An item as those who answer `prompt` see it: where its options are left out, the answer is the right one's text.

        None: they cannot be, since some are images.
        """
        if prompt != OPEN or not item.options:
            return item
        if any(MARK.search(option) or not option.strip() for option in item.options.values()):
            return None
        texts = tuple(dict.fromkeys(item.options[one] for one in several(item.answer)))
        truth: Truth = texts[0] if len(texts) == 1 else texts
        return dataclasses.replace(item, options={}, answer=truth, fields={**item.fields, "kind": "open"})

    @property
    def our_prompts(self) -> tuple[str, ...]:
        """Our ways to ask."""
        return (OURS,) if self.never_open else (OURS, OPEN)

    def following_options(self, before: Item, item: Item) -> Item:
        """An item whose options stand in another order than `before`, with what follows them in its other fields."""
        return item

    def prompt_names(self, said: str) -> tuple[str, ...]:
        """What a user means by the name of a prompt: that one, or each of the owner's.

        Raises:
            UserError: There is none of that name.
        """
        if said == OFFICIAL:
            return self.prompts
        if said not in (*self.our_prompts, *self.prompts):
            names = ", ".join((*self.our_prompts, *(name for name in self.prompts if name != OFFICIAL)))
            raise UserError(f"{self.no_prompt(said)}: {names}, or {OFFICIAL} for all of its owner's")
        return (said,)

    def no_prompt(self, said: str) -> str:
        """How an error begins of a prompt that the task does not have."""
        why = f" ({self.never_open})" if said == OPEN else ""
        return f"--prompt={shown(said)} is none of {self.name}'s{why}"

    @abc.abstractmethod
    def rule(self, item: Item, prompt: str) -> Rule:
        """The owner's rule for replies to an item; his random guesses left out.

        Args:
            item: What was asked.
            prompt: How, one of `prompts`. Replies to ours are read as those to the first of them, by the options as ours show them.
        """

    def rule_for(self, item: Item, prompt: str) -> Rule:
        """The rule for replies to an item as `as_asked` has it; without its choices it is that of open answers, whatever the owner's."""
        return open_rule() if prompt == OPEN else self.rule(item, prompt)

    def owners_figure(self, readings: Mapping[str, Reading], items: Sequence[Item]) -> float | None:
        """The accuracy that the owner prints for these replies, where his random guesses can be known and change it; else None.

        Args:
            readings: By his rule, of one reply an item.
            items: All of the task, in the order of its files.
        """
        return None

    no_images_hint: ClassVar[str] = ""
    """What else may be done where an item has none, though it should."""

    def check_images(self, item: Item) -> None:
        """Refuses an item without images where each has one: whoever were asked would be asked blind.

        Raises:
            UserError: It has none.
        """
        if self.always_with_images and not item.images:
            where = " or ".join(map(repr, self.image_columns[:MOST_FAULTS]))
            raise UserError(f"no image in column {where}, and each item of {self.name} has one; put it there{self.no_images_hint}")

    def holds(self, item: Item) -> bool:
        """Whether an item of the files is one of this task: some tasks are parts of others."""
        return True

    def is_outside(self, identity: str) -> bool:
        """Whether an id is of an item of the whole that this task is a part of, and not of the part: an owner's output has all."""
        return False


def text(row: Mapping[str, Any], name: str, where: str, *, empty: bool = False) -> str:
    """A column that holds text; a whole number counts as its digits.

    Raises:
        UserError: It is not there, no text, or empty.
    """
    value = row.get(name)
    if name not in row:
        raise UserError(f"{where}: column {name!r} is missing; the columns are {shown(', '.join(map(str, row)), 200)}")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not (empty or value.strip()):
        raise UserError(f"{where}: column {name!r} must be text, found {shown(value)}")
    return value


def lettered(texts: Sequence[str]) -> dict[str, str]:
    """Options by letter, in their order."""
    return dict(zip(LETTERS, texts, strict=False))


def letter(value: str, options: Mapping[str, str], name: str, where: str) -> str:
    """A column that holds the letter of an option.

    Raises:
        UserError: It is none.
    """
    if value.strip() not in options:
        raise UserError(f"{where}: column {name!r} must be one of {', '.join(options)}, found {shown(value)}")
    return value.strip()


def exactly(options: Mapping[str, str], size: int, name: str, where: str) -> dict[str, str]:
    """Options of a set whose items all have so many: another number is of another set.

    Raises:
        UserError: There are more, or fewer.
    """
    if len(options) != size:
        raise UserError(f"{where}: column {name!r} must hold {size} options, found {len(options)}: {shown(', '.join(options.values()))}")
    return dict(options)


def options_of(value: Any, name: str, where: str) -> dict[str, str]:
    """Options in any of the owners' forms: letter to text, a list of texts, or a list of {letter, content}.

    Raises:
        UserError: It is none of these, or a letter is given twice.
    """
    pairs: list[tuple[Any, Any]]
    if isinstance(value, Mapping):
        pairs = [(key, option) for key, option in value.items() if option is not None]  # parquet gives each item every letter
    elif isinstance(value, (list, tuple)) and all(isinstance(one, Mapping) for one in value):
        pairs = [(one.get("letter"), one.get("content")) for one in value]
    elif isinstance(value, (list, tuple)):
        pairs = list(zip(LETTERS, value, strict=False))
    else:
        pairs = []
    options = {
        key: option for key, option in pairs if isinstance(key, str) and len(key) == 1 and key in LETTERS and isinstance(option, str)
    }
    if len(options) < len(pairs) or not options or (isinstance(value, (list, tuple)) and len(value) > len(LETTERS)):
        raise UserError(f"{where}: column {name!r} must hold the options by letter, found {shown(value)}")
    return options


def written_options(value: Any) -> Any:
    """What a text of options stands for: JSON, a list or mapping as Python writes one, or lines that begin with their letters.

    Anything else is given back as it is, for `options_of` to take or to refuse.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except JSONFault:
        pass
    if value.lstrip()[:1] in ("[", "{"):
        return python_literal(value, value)
    return dict(LETTERED.findall(value)) or value


def python_literal(text: str, otherwise: Any = None) -> Any:
    """What Python writes as this text; `otherwise` where it would not write it."""
    if len(text) >= _LONGEST_LITERAL:
        return otherwise
    try:
        value = ast.literal_eval(text.strip())
        return value if half_character(value) is None else otherwise
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return otherwise
