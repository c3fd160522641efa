"""The history of a preference pair: both rollouts, their judgments, and the files that these stand in."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mede2_jax.config import UserError
from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment, PreferencePair, Rollout
from mede2_jax.origins.source import NO_MANIFEST, Source, of_file, of_model
from mede2_jax.outputs.manifest import recorded_path
from mede2_jax.trace.config import TraceConfig

KindT = TypeVar("KindT", Rollout, Judgment)


@dataclass
class History:
    """All that is known of a pair."""

    pair: PreferencePair
    rollouts: dict[str, Rollout]
    """By side: chosen, rejected."""
    judgments: dict[str, list[Judgment]]
    sources: list[Source]


def trace(id: str, config: TraceConfig) -> History:
    """Finds the history of a pair.

    Raises:
        UserError: There is no such pair, or a file that is needed is missing.
    """
    file = RecordFile(config.pairs)
    records = ((file[number], file.where(number)) for number in range(len(file)))
    ids: list[str] = []
    for raw, where in records:
        if raw.get("id") == id:
            pair = read_record(raw, PreferencePair, "mede2", where)
            break
        ids.append(str(raw.get("id")))
    else:
        near = difflib.get_close_matches(id, ids, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its first is {ids[0]!r}"
        raise UserError(f"no pair {id!r} in {config.pairs}; {hint}")
    made = of_file("pairs", config.pairs, None)
    judgments = _linked("judgments", config.judgments, made, file)
    people = [_linked("people", config.people, made, file)] if config.people is not None or "people" in made.manifest else []
    rollouts = _linked("rollouts", config.rollouts, made, file)
    sources = [made, judgments, *people, rollouts, *_origins(rollouts)]
    named = _named(pair, config.pairs)
    found = _find([rollouts], Rollout, [rollout for rollout, _ in named.values()])
    judged = _find([judgments, *people], Judgment, [name for _, names in named.values() for name in names])
    return History(
        pair,
        {side: found[rollout] for side, (rollout, _) in named.items()},
        {side: [judged[name] for name in names] for side, (_, names) in named.items()},
        sources,
    )


def _named(pair: PreferencePair, path: Path) -> dict[str, tuple[str, list[str]]]:
    """The rollout and the judgments of each side."""
    sides = {side: pair.metadata.get(side) for side in ("chosen", "rejected")}
    try:
        return {side: (str(part["rollout"]), list(part["judgments"])) for side, part in sides.items()}  # type: ignore[index]
    except (KeyError, TypeError):
        wanted = "python -m mede2_jax.pair writes pairs that do"
        raise UserError(f"pair {pair.id!r} of {path} does not say which rollouts and judgments it is made of; {wanted}") from None


def _linked(name: str, given: Path | None, by: Source, file: RecordFile) -> Source:
    """A file that the manifest of another names, unless it is given."""
    recorded = by.manifest.get(name)
    entry: Mapping[str, Any] = recorded if isinstance(recorded, dict) else {}
    if given is None and not isinstance(entry.get("path"), str):
        raise UserError(f"{by.path} has no manifest that names its {name}; give --{name}=FILE")
    path = given if given is not None else recorded_path(entry["path"], file.path)
    if not path.exists():
        raise UserError(f"{name} {str(path)!r}, of which {by.path} was made, are not there; give --{name}=FILE")
    return of_file(name, path, entry.get("digest"))


def _origins(rollouts: Source) -> Iterator[Source]:
    """Questions and model behind rollouts, as far as their manifest tells."""
    for name in ("questions", "model"):
        entry = rollouts.manifest.get(name)
        if not (isinstance(entry, dict) and isinstance(entry.get("path"), str)):
            yield Source(name, None, fault="the rollouts' manifest does not name it" if rollouts.manifest else "no manifest of rollouts")
            continue
        assert rollouts.path is not None
        path = recorded_path(entry["path"], rollouts.path)
        if name == "questions":
            source = of_file(name, path, entry.get("digest"))
            if source.fault == NO_MANIFEST:  # nobody has to have made questions here
                source.fault = ""
            yield source
            continue
        source = of_model(name, path, entry)
        yield source


def _find(sources: Sequence[Source], kind: type[KindT], ids: Sequence[str]) -> dict[str, KindT]:
    found = dict[str, KindT]()
    for source in sources:
        assert source.path is not None
        file = RecordFile(source.path)
        for number in range(len(file)):
            if len(found) == len({*ids}):
                return found
            raw = file[number]
            if raw.get("id") in ids:
                found[raw["id"]] = read_own(raw, kind, file.where(number))
    if missing := next((name for name in ids if name not in found), None):
        places = " or ".join(str(source.path) for source in sources)
        raise UserError(f"{missing!r}, of which the pair is made, is not in {places}; give the file that it was made of")
    return found
