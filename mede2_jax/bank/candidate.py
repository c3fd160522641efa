"""What a source gives: a question as it will stand in the bank, whose images are not kept yet, or why it is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mede2_jax.data.records import Message
from mede2_jax.tasks.asking import ItemImage

NO_LICENCE = "no licence is stated, or none that is known"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A question before its images are kept."""

    id: str
    where: str
    """File and place, for messages."""
    prompt: tuple[Message, ...] = ()
    images: tuple[ItemImage, ...] = ()
    """One for each image part of the prompt."""
    answer: str | None = None
    options: Mapping[str, str] | None = None
    licence: str | None = None
    """As it is said; None: nothing is said."""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parents: tuple[str, ...] = ()
    source: str | None = None
    """None: the name of what it was read from."""
    dropped: str = ""
    """Why it is left out; empty: it is not, unless for its licence."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Files that questions are read from."""

    name: str
    files: tuple[Path, ...]
    roots: tuple[Path, ...]
    """Folders that image files are looked for in."""
    read: Callable[[], Iterator[Candidate]]
    """All of them, one after the other."""
    needs_licence: bool = False
    """Whether what states no licence is left out: works of others, and not files that a user has put together."""
    definition: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of a YAML file: which, and a digest of what it says."""
    notices: Sequence[str] = ()
    """What the user should hear before."""
