"""What a command does that is given nothing: values of its own, on the sample data that a checkout of the project has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.tree import unflatten

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
"""The sample data, beside the package in a checkout; a wheel does not have them."""
SAMPLE_QUESTIONS, SAMPLE_ROLLOUTS = SAMPLE / "questions.jsonl", SAMPLE / "rollouts.jsonl"


@dataclass(frozen=True)
class Embedded:
    """The embedded default of a command. It counts only where the user gives nothing of `decided_by`: nobody's own questions or
    responses are taken for the sample's, and no paid or own model for the tiny one. Training alone takes own data for it, and says so."""

    values: Mapping[str, Any]
    """Options, by dotted name, with the values they have then."""
    files: Mapping[str, Path]
    """Options that are files of the sample."""
    decided_by: Sequence[str]
    """Options that the user gives who means data or a model of their own."""

    def is_meant(self, argv: Sequence[str]) -> bool:
        """Whether a command line leaves all to the embedded default."""
        own = {"--config", "-h", "--help", *(f"--{name}" for name in self.decided_by)}
        return not any(argument.split("=")[0] in own for argument in argv)

    def defaults(self) -> dict[str, Any]:
        """The embedded default as config values.

        Raises:
            UserError: The sample data is not beside the package.
        """
        for path in self.files.values():
            if not path.exists():
                needed = " and ".join(f"--{name}" for name in dict.fromkeys((*self.decided_by, *self.files)))
                raise UserError(f"no sample data at {path}; run from a checkout of the project, or give {needed}")
        return unflatten({**self.values, **{name: str(path) for name, path in self.files.items()}}, ".")

    def summary(self) -> str:
        """What it sets, as one line for `--help`."""
        files = {name: path.relative_to(SAMPLE.parents[1]) for name, path in self.files.items()}
        return " ".join(f"{name}={value}" for name, value in {**self.values, **files}.items())
