"""What a mutant is: one small wrong change to the project, and the test that must notice it. Read from tests/mutants/*.yaml."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import pydantic
from pydantic import Field, field_validator, model_validator

from mede2_jax.config import Config, UserError, describe_validation_error, read_yaml

FOLDER = "tests/mutants"


class Mutant(Config):
    """One entry."""

    name: str = Field(min_length=1, max_length=90)
    """What the change does, in words; no other entry has it."""
    file: str
    """The file that is changed, from the root of the project."""
    find: str = Field(min_length=1)
    """Text that is in the file once."""
    replace: str
    """What takes its place."""
    test: str
    """What must fail then: a test file, a `file::test`, or `file -k expression`. It passes without the change."""
    hangs: bool = False
    """The change makes the test wait for ever: running into the time limit counts as noticed."""

    @field_validator("file", "test")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value.partition("::")[0].partition(" -k ")[0])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a path inside the project")
        return value

    @model_validator(mode="after")
    def _changes_something(self) -> Mutant:
        if self.find == self.replace:
            raise ValueError("find and replace are the same text")
        return self

    @property
    def test_file(self) -> str:
        """The file of `test`."""
        return self.test.partition(" -k ")[0].partition("::")[0]

    @property
    def pytest_arguments(self) -> list[str]:
        """`test` for pytest's command line."""
        target, _, expression = self.test.partition(" -k ")
        return [target, "-k", expression] if expression else [target]

    def fault(self, root: Path) -> str | None:
        """Why it cannot be tried on the project at `root`, in a line."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        if not (root / self.test_file).is_file():
            return f"there is no test file {self.test_file}"
        text = path.read_text(encoding="utf-8")
        if (count := text.count(self.find)) != 1:
            return f"its find text is {'not' if count == 0 else f'{count} times'} in {self.file}: {self.find.strip()!r}"
        if self.file.endswith(".py"):
            try:
                compile(text.replace(self.find, self.replace), self.file, "exec")
            except SyntaxError as error:
                return f"{self.file} would be no Python any more: {error.msg}"
        return None


class _Room(Config):
    mutants: tuple[Mutant, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A mutant and the room (the YAML file's name) that it stands in."""

    room: str
    mutant: Mutant


def read_entries(root: Path) -> list[Entry]:
    """All entries of the project at `root`, room by room.

    Raises:
        UserError: A file is not of the form, two entries have one name, or there is none.
    """
    entries: list[Entry] = []
    places: dict[str, str] = {}
    for path in sorted((root / FOLDER).glob("*.yaml")):
        try:
            room = _Room.model_validate(read_yaml(_Room, path))
        except pydantic.ValidationError as error:
            raise UserError(f"{path}: {describe_validation_error(error)}") from None
        if not room.mutants:
            raise UserError(f"{path}: no mutants in it")
        for mutant in room.mutants:
            if mutant.name in places:
                raise UserError(f"{path}: the name {mutant.name!r} is in {places[mutant.name]} already; choose another")
            places[mutant.name] = path.name
            entries.append(Entry(path.stem, mutant))
    if not entries:
        raise UserError(f"no mutants in {root / FOLDER}/*.yaml")
    return entries
