"""From a file of records back to all that it is made of: other records, the model that sampled them, its run, and that run's data.

rollouts ─ model ─ run ─┬─ the model before ─ run ─┬─ …
                        └─ training data: pairs ─┬─ judgments
                                                 └─ rollouts ─ …
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.json_file import load_json
from mede2_jax.origins.source import GONE, NO_MANIFEST, Source, of_file, of_model
from mede2_jax.outputs.manifest import recorded_path
from mede2_jax.weights.run_checkpoint import MANIFEST, is_run

RECORDS = ("pairs", "judgments", "people", "reviews", "demonstrations", "rollouts", "expansions", "ratings", "questions")
"""Files that a manifest may name, each as an object with its path and digest, or a list of such objects."""
NOBODY_MAKES = ("questions", "training data", "evaluation data", "benchmark")
"""What need not have been made here, and then has no manifest."""
AS_ABOVE = "as above"
DEEPEST = 24
"""Steps back: more are a circle, or somebody's joke."""


class Historian:
    """Reads histories; everything once.

    Args:
        verify: Compare what files hold with the digests that they had: reads them all.
    """

    def __init__(self, *, verify: bool = True) -> None:
        self.verify = verify
        self._seen: dict[Path, Any] = {}
        """What was read, with the digest that its first mention has."""

    def records(self, name: str, path: Path, digest: Any = None, depth: int = 0) -> Source:
        """A file of records with its history; a fault of any kind is told in it.

        Args:
            name: What it is.
            path: Where it is.
            digest: What it had when it was used; None where that is not known.
            depth: Steps back so far.
        """
        if (known := self._known(name, path, depth, digest)) is not None:
            return known
        try:
            source = of_file(name, path, digest if self.verify and isinstance(digest, str) else None)
        except (UserError, OSError) as error:
            source = Source(name, path, fault=str(error))
        if source.fault == NO_MANIFEST and name in NOBODY_MAKES:
            source.fault = ""
        if source.path is not None and source.manifest:
            source.made_of = list(self._made_of(source, depth + 1))
        return source

    def model(self, name: str, path: Path, said: Mapping[str, Any], depth: int = 0) -> Source:
        """A model directory with its history, as far back as runs lie around their models."""
        if (known := self._known(name, path, depth, said.get("digest"))) is not None:
            return known
        source = of_model(name, path, said)
        if source.fault == GONE:
            return source
        parents, folder = source.manifest.get("parents"), path.absolute().parent
        if isinstance(parents, list) and parents and is_run(folder):
            run = self.run(folder, depth + 1)
            if run.manifest.get("digests") == parents:
                source.made_of = [run]
        return source

    def run(self, folder: Path, depth: int = 0) -> Source:
        """A training run with what it began with."""
        if (known := self._known("run", folder, depth)) is not None:
            return known
        source = Source("run", folder)
        try:
            source.manifest = load_json(folder / MANIFEST)
        except UserError as error:
            source.fault = str(error)
            return source
        began = _text(source.manifest.get("folder")) or "."
        digests = source.manifest.get("digests")
        if (before := _text(source.manifest.get("model"))) is not None:
            path = self._path(Path(began) / before, folder)
            said = {"digest": digests[0]} if isinstance(digests, list) and digests else {}
            source.made_of.append(self.model("the model before", path, said, depth + 1))
        data = source.manifest.get("data")
        for part, name in (("train", "training data"), ("eval", "evaluation data")):
            entry = data.get(part) if isinstance(data, dict) else None
            if isinstance(entry, dict) and (text := _text(entry.get("path"))) is not None:
                path = self._path(Path(began) / text, folder)
                source.made_of.append(self.records(name, path, entry.get("file_digest"), depth + 1))
        return source

    def _made_of(self, source: Source, depth: int) -> Iterator[Source]:
        assert source.path is not None
        attempts = source.manifest.get("attempts")  # what models said, by the step of a curation that went by it
        steps = {f"replies for {step}": said for step, said in attempts.items()} if isinstance(attempts, dict) else {}
        for name, said in [*steps.items(), *((name, source.manifest.get(name)) for name in (*RECORDS, "model"))]:
            if name == "questions" and "benchmarks" in source.manifest:
                continue  # an evaluation's own, made of the benchmark; their digest is of that
            for entry in said if isinstance(said, list) else [said]:
                if not isinstance(entry, dict) or (text := _text(entry.get("path"))) is None:
                    continue
                path = self._path(Path(text), source.path)
                yield self.model(name, path, entry, depth) if name == "model" else self.records(name, path, entry.get("digest"), depth)

    def _path(self, path: Path, by: Path) -> Path:
        try:
            return recorded_path(str(path), by)
        except UserError:
            return path

    def _known(self, name: str, path: Path, depth: int, digest: Any = None) -> Source | None:
        """What is said of a thing that stands in the history already; two mentions must mean the same."""
        if depth > DEEPEST:
            return Source(name, path, fault=f"more than {DEEPEST} steps back")
        if path not in self._seen:
            self._seen[path] = digest
            return None
        differs = None not in (digest, self._seen[path]) and digest != self._seen[path]
        return Source(name, path, fault="as above, but it had another digest then" if differs else AS_ABOVE)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def walk(source: Source) -> Iterator[Source]:
    """A thing and all that it is made of, from the top down."""
    yield source
    for one in source.made_of:
        yield from walk(one)
