"""What was found when training data were checked against benchmarks: a certificate in the manifests of whatever was made of them.

"leakage": {"checked": [{"benchmark": "medxpertqa_mm", "digest": "sha256:…", "thresholds": {"ngram": 13, …},
                         "matches": [{"id": "MM-12", "record": "q17", "by": "text", "similarity": 0.93}]}]}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic

from mede2_jax.json_file import Finite, Foreign, check
from mede2_jax.origins.history import walk
from mede2_jax.origins.source import Source

LEAKAGE = "leakage"
"""Of a manifest."""


class Match(Foreign):
    """A benchmark's item that a record is too like."""

    id: Annotated[str, pydantic.Field(min_length=1)]
    """Of the item."""
    record: str = ""
    """Of the question or demonstration."""
    by: str = ""
    """What they have in common: text, image."""
    similarity: Finite | None = None


class Certificate(Foreign):
    """One check against one benchmark."""

    benchmark: Annotated[str, pydantic.Field(min_length=1)]
    digest: str
    """Of the benchmark's files."""
    matches: list[Match]
    thresholds: dict[str, Any] = pydantic.Field(default_factory=dict)


class _Certificates(Foreign):
    checked: list[Certificate]


@dataclass(frozen=True)
class Found:
    """A certificate, and in whose manifest it stands."""

    certificate: Certificate
    source: Source


def certificates(source: Source) -> Iterator[Found]:
    """All certificates in the history of a thing.

    Args:
        source: The thing, with its history.

    Raises:
        UserError: A certificate that cannot be read: nobody may take it for none.
    """
    for one in walk(source):
        if (said := one.manifest.get(LEAKAGE)) is None:
            continue
        for certificate in check(said, _Certificates, f"{one.path}: its manifest's {LEAKAGE}", "make that file again").checked:
            yield Found(certificate, one)
