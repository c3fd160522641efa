"""Several files that a command makes anew, each with its manifest: all appear together, or none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pydantic

from mede2_jax.outputs.file import OutputFile
from mede2_jax.outputs.publish import partial_path, publish, settle, undone_on_failure


class Part(NamedTuple):
    """One of the files."""

    path: Path
    split: str
    """What it holds, as its manifest says."""
    records: Iterable[pydantic.BaseModel]


def write_together(parts: Sequence[Part], places: Sequence[Path], manifest: Mapping[str, Any], command: str, what: str) -> None:
    """Writes files and their manifests.

    Args:
        parts: The files; their records are taken one by one.
        places: Where this command may write: what an earlier run has left at one that is none of `parts` is gone after.
        manifest: Of all files.
        command: As manifests name it.
        what: The records in words.

    Raises:
        UserError: A record cannot be written, or another run writes here.
    """
    outs = [part.path for part in parts]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(OutputFile(partial_path(path), what)) for path in outs]
        for place in places:
            settle(place, command)
        stack.enter_context(undone_on_failure(places, command))
        for file, part in zip(files, parts, strict=True):
            file.restart()
            for record in part.records:
                file.append([record])
        manifests = [{**manifest, "split": part.split} for part in parts]
        publish([file.path for file in files], outs, [place for place in places if place not in outs], manifests)
