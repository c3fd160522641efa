"""Which files become a bank of questions, as one frozen config; and the embedded default that needs no files of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from mede2_jax.bank.licences import FAMILIES, REUSE, check_families, family, licence
from mede2_jax.config import Config, UserError
from mede2_jax.embedded import SAMPLE, SAMPLE_QUESTIONS, Embedded

_TABLE = SAMPLE / "text_questions.yaml"
_SOURCES = {"source": f"{_TABLE},records", "data": f"{_TABLE.with_suffix('.csv')},{SAMPLE_QUESTIONS}"}
EMBEDDED = Embedded({**_SOURCES, "out": "runs/bank.jsonl"}, {}, ("source", "data"))
"""The sample's text questions, a table with a YAML file, and its multimodal ones, which are records already."""

Share = Annotated[float, Field(ge=0.0, le=100.0)]


class BankConfig(Config):
    """Sources of questions, and the file that they become."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {
        "sources": "source",
        "input": "data",
        "inputs": "data",
        "image_root": "images",
        "license": "licence",
        "licenses": "licences",
        "output": "out",
    }

    source: tuple[str, ...] = ()
    """What is read, several with commas between: a YAML file that says which column is what (data/README.md); a benchmark's name, whose
    form its file has; records, questions as this command writes them; pmc, packages of PubMed Central."""
    data: tuple[Path, ...] = ()
    """Of each source, in their order: its file, or the folder that it lies in."""
    images: tuple[Path, ...] = ()
    """Folders that image files are looked for in; none: beside each source's files."""
    out: Path | None = None
    """File that the questions go to; images go to the folder `images` beside it. One that this command wrote before is replaced."""
    licence: tuple[str, ...] = ()
    """What sources are under that do not say so themselves: one licence for all, or one for each, none for none."""
    licences: tuple[str, ...] = REUSE
    """Licences, without their versions, that questions are taken under; others are left out and counted."""
    window: tuple[Share, Share] = (0.5, 99.5)
    """Of grey images of more than 8 bits, per cent of the pixels that become black and that stay below white. They are kept as 8 bits,
    and each question says its values; 0,100 is the whole range."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """An image with more is an error."""

    @field_validator("licences")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return check_families(value)

    @field_validator("licence")
    @classmethod
    def _named(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            if one.casefold() != "none" and not licence([one]):
                raise ValueError(f"{one[:40]!r} is no licence that is known, such as {', '.join(FAMILIES[:3])} or CC-BY-4.0")
        return value

    @field_validator("window")
    @classmethod
    def _grows(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("must be two shares in per cent, the lower one first, such as 0.5,99.5")
        return value

    @model_validator(mode="after")
    def _matching(self) -> Self:
        if len(self.data) != len(self.source):
            raise ValueError(f"source names {len(self.source)} and data {len(self.data)}; give each source its file or folder")
        if len(self.licence) > 1 and len(self.licence) != len(self.source):
            raise ValueError(f"licence names {len(self.licence)} for {len(self.source)} sources; give one for all, or one for each")
        if double := [f"{one} of {path}" for at, (one, path) in enumerate(self.pairs) if (one, path) in self.pairs[:at]]:
            raise ValueError(f"source {double[0]} is given twice")
        return self

    @property
    def pairs(self) -> Sequence[tuple[str, Path]]:
        """Each source with its file or folder."""
        return list(zip(self.source, self.data, strict=True))

    def stated(self, number: int) -> str | None:
        """The licence of a source that does not say its own; None: nobody says it."""
        said = self.licence[number if len(self.licence) > 1 else 0] if self.licence else "none"
        return None if said.casefold() == "none" else licence([said])

    def takes(self, name: str) -> bool:
        """Whether questions under a licence are taken."""
        return family(name) in self.licences


def embedded_defaults() -> dict[str, Any]:
    """The embedded default as config values.

    Raises:
        UserError: The sample data is not beside the package.
    """
    if not _TABLE.exists():
        raise UserError(f"no sample data at {_TABLE}; run from a checkout of the project, or give --source and --data")
    return {name: value.split(",") if name != "out" else value for name, value in EMBEDDED.defaults().items()}
