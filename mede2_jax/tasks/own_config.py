"""A benchmark of one's own as a YAML file: where its files are, which column is what, what kind of answers it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mede2_jax.config import Config
from mede2_jax.foreign import shown

AnswerKind = Literal["choice", "yes_no", "short", "open"]
Scalar = str | bool | int

LONGEST_NAME = 255
"""Bytes of a file's or folder's name that file systems take."""
LONGEST_PATTERN = 800
"""Characters; below any folder, what it finds stays within the 4,096 bytes of a path that systems take."""


def _several(value: Any) -> Any:
    """One of several may be written without brackets."""
    return (value,) if isinstance(value, (str, bool, int)) else value


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_several)]
Values = Annotated[tuple[Scalar, ...], BeforeValidator(_several)]


class OwnColumns(Config):
    """Which column is what."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {}

    id: Name | None = None
    """None: the number of the row, over all files."""
    question: Name
    answer: Name
    """Of the right answer; a list in it is several, each of which is right (not of choices)."""
    options: Names = ()
    """Of the options: one column each, or one that holds all: a list, letter to text, letter and content, JSON of these, lettered lines."""
    images: Names = ()
    """Of the images, in their order: one or several columns of names, lists of names, or images in the table. Empty ones are skipped."""
    groups: Names = ()
    """By which scores are broken down."""
    cluster: Name | None = None
    """What items that hang together share, a patient or an image: intervals are then drawn over these."""


class OwnKinds(Config):
    """What kind of answer a row has, by one of its columns."""

    column: Name
    values: dict[str, AnswerKind] = Field(min_length=1)
    """The kind for each value of the column; capital and small letters are the same."""
    others: AnswerKind | None = None
    """The kind for all other values; none: they are an error."""

    @field_validator("values", mode="before")
    @classmethod
    def _quoted(cls, values: Any) -> Any:
        if isinstance(values, dict) and any(isinstance(value, bool) for value in values):
            raise ValueError('YAML takes yes and no for true and false; write them in quotes, as "yes": yes_no')
        return values


class OwnConfig(Config):
    """A benchmark."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "task": "name",
        "data_files": "files",
        "path": "files",
        "filter": "where",
        "split": "files",
        "count": "items",
        "suffix": "prompt",
        "image": "columns.images",
        "choices": "columns.options",
        "target": "columns.answer",
        "gt_answer": "columns.answer",
    }

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,99}$")
    """What scores call it: small letters, digits and `_ . -`."""
    title: str = ""
    """What tables call it; empty: its name."""
    files: Names = Field(min_length=1)
    """Patterns below the folder that --data gives, the likeliest first: all that the first one with any file finds is read."""
    columns: OwnColumns
    kind: AnswerKind | None = None
    """What all rows ask for: choice, one of the options; yes_no; short, some words; open, a text."""
    kinds: OwnKinds | None = None
    """Where rows differ in that."""
    answer_is: Literal["letter", "text", "index"] = "letter"
    """How the right option is written: its letter, its text, or its place from 0."""
    images_are: Literal["files", "base64"] = "files"
    """What a text in an image column is: a file's name, or the image itself."""
    image_folder: str = ""
    """Below the data's folder, before each name."""
    some_without_images: bool = False
    """Whether some items have no image though columns.images are named; else one without is an error where a model is asked."""
    where: dict[str, Values] = Field(default_factory=dict)
    """Only rows whose columns have one of these values are read: `q_lang: en`."""
    items: int | None = Field(default=None, ge=1)
    """How many there are, if that is known: another number is told with every score."""
    prompt: str = ""
    """What is usually put after the question."""

    @field_validator("files")
    @classmethod
    def _patterns(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in files:
            parts = re.split(r"[/\\]", pattern)
            if pattern.startswith(("/", "\\", "~")) or ".." in parts or "\0" in pattern or not any(parts) or set(parts) <= {"", "."}:
                raise ValueError(f"{shown(pattern)!r} is no pattern of files below the data's folder, as 'data/test-*.parquet' is")
            if any("**" in part and part != "**" for part in parts):
                raise ValueError(f"{shown(pattern)!r}: ** stands for folders and must be a part of its own, as in 'a/**/*.json'")
            if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in parts) or len(pattern) > LONGEST_PATTERN:
                limits = f"{LONGEST_NAME} bytes a part, {LONGEST_PATTERN:,} characters in all"
                raise ValueError(f"{shown(pattern)!r} is longer than a file's name can be: {limits}")
        return files

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind is None) == (self.kinds is None):
            raise ValueError("give one of 'kind' (choice, yes_no, short or open) and 'kinds' (a column that says which, and its values)")
        if "choice" in self.all_kinds and not self.columns.options:
            raise ValueError("'kind: choice' wants columns.options")
        if self.kinds is not None and "kind" in self.columns.groups:
            raise ValueError("scores are broken down by kind of themselves where there are 'kinds'; take 'kind' out of columns.groups")
        if self.some_without_images and not self.columns.images:
            raise ValueError("'some_without_images' has no use without columns.images; leave it out")
        return self

    @property
    def all_kinds(self) -> tuple[AnswerKind, ...]:
        """The kinds that rows may have."""
        if self.kinds is None:
            return () if self.kind is None else (self.kind,)
        return (*self.kinds.values.values(), *((self.kinds.others,) if self.kinds.others else ()))
