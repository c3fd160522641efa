"""The history of a score: its benchmark and replies, the model, the run that made the model, and all that the run was made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pydantic
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from mede2_jax.config import UserError
from mede2_jax.foreign import visible
from mede2_jax.json_file import Finite, Foreign, check, load_json
from mede2_jax.origins.history import Historian
from mede2_jax.origins.source import Source, facts
from mede2_jax.outputs.manifest import recorded_path
from mede2_jax.score.against import SCORE
from mede2_jax.score.responses import how_asked
from mede2_jax.tasks.catalogue import digest_of

CURE = "give a folder that python -m mede2_jax.score or evaluate wrote"


class _Overall(Foreign):
    accuracy: Finite
    correct: int
    samples: int


class _Data(Foreign):
    files: Annotated[list[str], pydantic.Field(min_length=1)]
    digest: str


class _Responses(Foreign):
    path: str
    digest: str


class _Score(Foreign):
    """What a history needs of score.json."""

    task: str
    mode: str
    prompt: str
    prompt_is_known: bool = True
    rules: int
    version: str
    overall: _Overall
    data: _Data
    responses: _Responses
    data_is_carried: bool = False


def of_score(folder: Path) -> Source:
    """A score with its history.

    Args:
        folder: What `score` wrote with --out, or one of the folders in an evaluation's.

    Raises:
        UserError: There is no score, or it is damaged.
    """
    path = folder / SCORE
    if not path.is_file() and (inside := sorted(folder.glob(f"*/*/{SCORE}"))):
        names = ", ".join(str(one.parent) for one in inside[:4]) + (", …" if len(inside) > 4 else "")
        raise UserError(f"{folder} holds several scores: give one of them, as --score={inside[0].parent} (there are {names})")
    raw = load_json(path, CURE)
    said = check(raw, _Score, str(path), CURE)
    source = Source("score", path, raw)
    if not said.data_is_carried:
        source.made_of.append(_benchmark(said.data, folder))
    source.made_of.append(Historian().records("rollouts", _found(said.responses.path, folder), said.responses.digest))
    return source


def _found(text: str, folder: Path) -> Path:
    """A path as a score has it; else beside the score or above, if all was moved: an evaluation's replies lie two folders above."""
    path = recorded_path(text, folder / SCORE)
    for above in (folder.parent, folder.parent.parent):
        path = path if path.exists() else recorded_path(str(path), above / path.name)
    return path


def _benchmark(said: _Data, folder: Path) -> Source:
    files = [_found(name, folder) for name in said.files]
    where = files[0] if len(files) == 1 else files[0].parent
    source = Source("benchmark", where, {"digest": said.digest})
    if missing := [path for path in files if not path.is_file()]:
        source.fault = f"not there any more: {', '.join(map(str, missing[:3]))}"
    elif digest_of(files) != said.digest:
        source.fault = "changed since: the files have another digest now"
    return source


def tree(source: Source) -> Tree:
    """A history, the newest first."""
    node = Tree(_label(source), guide_style="dim")
    _grow(node, source)
    return node


def _grow(node: Tree, source: Source) -> None:
    for one in source.made_of:
        _grow(node.add(_label(one)), one)


def _label(source: Source) -> Table:
    """Name and place, what is no longer as it was, and what matters of the manifest; nothing is cut: digests are to be copied."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    place = Text(visible(str(source.path or "—")))
    if source.fault:
        place.append(f"  ({visible(source.fault)})", style="yellow")
    table.add_row(Text(source.name, style="bold"), place)
    for name, value in (*_of_score(source), *facts(source), *_of_run(source)):
        table.add_row(Text(visible(name), style="dim"), Text(visible(value)))
    return table


def _of_score(source: Source) -> Iterator[tuple[str, str]]:
    if source.name == "benchmark":
        yield "digest", str(source.manifest["digest"])
    if source.name != "score":
        return
    said = check(source.manifest, _Score, str(source.path), CURE)
    overall = said.overall
    asked = how_asked(said.prompt, [said.prompt_is_known])
    yield "task", f"{said.task}, {asked}, read as {said.mode} (rules {said.rules}, mede2_jax {said.version})"
    yield "accuracy", f"{100 * overall.accuracy:.2f}, {overall.correct:,} of {overall.samples:,}"


def _of_run(source: Source) -> Iterator[tuple[str, str]]:
    if source.name != "run":
        return
    if isinstance(version := source.manifest.get("version"), str):
        yield "version", f"mede2_jax {version}"
    data: Any = source.manifest.get("data")
    for part, entry in data.items() if isinstance(data, dict) else ():
        if isinstance(entry, dict) and isinstance(entry.get("examples"), int):
            skipped = entry.get("skipped")
            left = sum(count for count in skipped.values() if isinstance(count, int)) if isinstance(skipped, dict) else 0
            yield f"{part} data", f"{entry['examples']:,} examples" + (f", {left:,} left out" if left else "")
