"""From sources to one file of questions, with its images beside it; the file appears whole or not at all."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
from rich.console import Console
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.bank.candidate import NO_LICENCE, Candidate, Source
from mede2_jax.bank.config import BankConfig
from mede2_jax.bank.licences import licence
from mede2_jax.bank.pmc import open_packages
from mede2_jax.bank.tables import PMC, RECORDS, open_records, open_table
from mede2_jax.config import UserError, counted
from mede2_jax.data.faults import describe_fault
from mede2_jax.data.image_store import IMAGES, ImageStore
from mede2_jax.data.ordered import in_order
from mede2_jax.data.reading import located, reading_progress
from mede2_jax.data.records import Question
from mede2_jax.data.windows import windowed
from mede2_jax.foreign import shown, visible
from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable, partial_path, publish, settle, undone_on_failure
from mede2_jax.tasks.asking import ItemImage
from mede2_jax.tasks.catalogue import digest_of
from mede2_jax.tasks.image_files import image_bytes

COMMAND = "python -m mede2_jax.bank"
WINDOWS = "windows"
"""In the metadata of a question: of each of its images that had more than 8 bits, by its path, the values that are black and white."""


@dataclasses.dataclass
class Tally:
    """What became of the questions of a source. All that were read are taken, or left out for a reason."""

    read: int = 0
    taken: int = 0
    images: int = 0
    """Questions with any."""
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)
    licences: Counter[str] = dataclasses.field(default_factory=Counter)
    """Of those that are taken."""


def run(config: BankConfig, console: Console) -> None:
    """Makes a bank.

    Args:
        config: What from.
        console: Where to show what came out.

    Raises:
        UserError: Something the user gave cannot be used, or nothing is left; a file that was there is as it was.
    """
    assert config.out is not None
    out = config.out
    check_replaceable(out, COMMAND, "bank")
    sources = [_open(name, data, config) for name, data in config.pairs]
    for notice in (notice for source in sources for notice in source.notices):
        console.print(visible(notice), style="yellow", soft_wrap=True, markup=False)
    digests = [digest_of(source.files) for source in sources]
    tallies = [Tally() for _ in sources]
    with OutputFile(partial_path(out), "questions") as file:
        settle(out, COMMAND)
        with undone_on_failure([out], COMMAND):
            file.restart()
            bank = _Bank(config, ImageStore(out.parent, config.max_image_pixels))
            with reading_progress(shown=True) as progress:
                for number, (source, tally) in enumerate(zip(sources, tallies, strict=True)):
                    task = progress.add_task(source.name, total=None)
                    for question in bank.questions(source, tally, config.stated(number)):
                        file.append([question])
                        progress.advance(task)
            if file.is_empty:
                reasons = "; ".join(f"{count:,}: {reason}" for tally in tallies for reason, count in tally.dropped.items())
                raise UserError(f"no question is left of {sum(tally.read for tally in tallies):,} ({reasons or 'none was read'})")
            publish([file.path], [out], [], [_manifest(config, sources, digests, tallies)])
    console.print(_table(sources, tallies))
    console.print(f"{'bank:':10} {out}", soft_wrap=True, markup=False)


def _open(name: str, data: Path, config: BankConfig) -> Source:
    if not data.exists():
        raise UserError(f"no data of {shown(name)} at {str(data)!r}: there is no such file or folder")
    if name == PMC:
        return open_packages(data)
    return open_records(data, config.images) if name == RECORDS else open_table(name, data, config.images)


class _Bank:
    """Questions as they come, each id once.

    Args:
        config: As it is.
        store: Where images go.
    """

    def __init__(self, config: BankConfig, store: ImageStore) -> None:
        self.config, self.store = config, store
        self.places: dict[str, str] = {}

    def questions(self, source: Source, tally: Tally, stated: str | None) -> Iterator[Question]:
        """Those of a source that are taken; the others are counted.

        Raises:
            UserError: A question or an image cannot be used, or an id is given twice.
        """

        def made(candidate: Candidate) -> tuple[Candidate, Question | str]:
            return candidate, self._question(source, candidate, stated)

        for candidate, question in in_order(made, source.read()):
            if (first := self.places.get(candidate.id)) is not None:
                raise UserError(f"{candidate.where}: the id {shown(candidate.id)!r} is also that of {first}; ids must differ")
            self.places[candidate.id] = candidate.where
            tally.read += 1
            if isinstance(question, str):
                tally.dropped[question] += 1
                continue
            tally.taken += 1
            tally.images += bool(question.images)
            tally.licences[question.licence or "not stated"] += 1
            yield question

    def _question(self, source: Source, candidate: Candidate, stated: str | None) -> Question | str:
        """A question with its images kept, or why it is left out."""
        said = candidate.licence or stated
        known = licence([said]) if said else ""
        if said and not (known and self.config.takes(known)):
            return f"its licence ({known or shown(said, 60)}) is none of --licences"
        if not said and source.needs_licence:
            return NO_LICENCE
        if candidate.dropped:
            return candidate.dropped
        with located(candidate.where):
            kept = {image: self._keep(image, source) for image in dict.fromkeys(candidate.images)}
            windows = {path: window for path, window in kept.values() if window is not None}
            try:
                return Question(
                    id=candidate.id,
                    images=tuple(kept[image][0] for image in candidate.images),
                    parents=candidate.parents,
                    source=candidate.source or source.name,
                    licence=known or None,
                    metadata={**candidate.metadata, **({WINDOWS: windows} if windows else {})},
                    prompt=candidate.prompt,
                    answer=candidate.answer,
                    options=dict(candidate.options) if candidate.options else None,
                )
            except pydantic.ValidationError as fault:  # such as an empty option
                raise UserError(describe_fault(fault, Question)) from None

    def _keep(self, image: ItemImage, source: Source) -> tuple[str, list[float] | None]:
        """An image's path in the bank, and the window that it is seen through, if it needs one."""
        data = image_bytes(image, source.roots)
        if (seen := windowed(data, image.name, self.config.max_image_pixels, self.config.window)) is None:
            return self.store.put(data, image.name), None
        return self.store.put(seen[0], f"{image.name}.png"), [seen[1].low, seen[1].high]


def _manifest(config: BankConfig, sources: list[Source], digests: list[str], tallies: list[Tally]) -> dict[str, Any]:
    assert config.out is not None
    said = [
        {
            "name": source.name,
            **({"definition": dict(source.definition)} if source.definition else {}),
            "files": [{"path": str(path.absolute()), "digest": file_digest(path)} for path in source.files[:MOST_FILES]],
            "count": len(source.files),
            "digest": digest,
            "questions": {"in": tally.read, "out": tally.taken, "with_images": tally.images},
            "dropped": dict(tally.dropped),
            "licences": dict(tally.licences),
        }
        for source, digest, tally in zip(sources, digests, tallies, strict=True)
    ]
    total, taken = sum(tally.read for tally in tallies), sum(tally.taken for tally in tallies)
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        "sources": said,
        "images": {"root": str(config.out.parent.absolute()), "folder": IMAGES},
        "versions": {"mede2_jax": __version__},
        "counts": {"questions": {"in": total, "out": taken}},
        "dropped": dict(sum((tally.dropped for tally in tallies), Counter())),
    }


MOST_FILES = 100
"""Of a source that a manifest names one by one; `digest` is of all."""


def _table(sources: list[Source], tallies: list[Tally]) -> Table:
    table = Table(title="bank")
    table.add_column("source")
    for name in ("read", "taken", "with images"):
        table.add_column(name, justify="right")
    table.add_column("licences")
    for source, tally in zip(sources, tallies, strict=True):
        licences = ", ".join(f"{name} {count:,}" for name, count in tally.licences.most_common())
        table.add_row(visible(source.name), f"{tally.read:,}", f"{tally.taken:,}", f"{tally.images:,}", visible(licences))
        for reason, count in tally.dropped.most_common():
            table.add_row("  left out", "", f"{count:,}", "", visible(reason))
    if len(sources) > 1:
        table.add_section()
        taken, with_images = sum(tally.taken for tally in tallies), sum(tally.images for tally in tallies)
        table.add_row("together", f"{sum(tally.read for tally in tallies):,}", f"{taken:,}", f"{with_images:,}", counted(taken, "question"))
    return table
