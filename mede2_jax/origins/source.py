"""One file, model or run on the way, and what is known of it; whatever a manifest says, no more than a fault in one line comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.outputs.manifest import file_digest, read_manifest
from mede2_jax.tree import flatten
from mede2_jax.weights.model_info import read_info

NO_MANIFEST = "no manifest beside it"
GONE = "not there any more"

_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "bank": ("licences", "window"),
    "pairs": ("criteria", "agreement", "max_pairs", "choose", "max_length_ratio", "max_similarity", "seed"),
    "judgments": ("judge", "model", "prompt", "repeat", "temperature", "seed"),
    "rollouts": ("engine", "api_model", "n", "temperature", "top_p", "max_tokens", "seed"),
    "run": (
        *("stage", "epochs", "max_steps", "rows_per_step", "accumulation", "optimizer.learning_rate", "lora.rank", "lora.alpha"),
        *("dpo.beta", "compute_dtype", "export", "seed"),
    ),
}
"""What of a config says how a thing was made."""
_COMMANDS = {
    **{"python -m mede2_jax.pair": "pairs", "python -m mede2_jax.judge": "judgments", "python -m mede2_jax.rollout": "rollouts"},
    "python -m mede2_jax.bank": "bank",
}


@dataclass
class Source:
    """A file, a model directory or a run, and what its manifest says of it."""

    name: str
    path: Path | None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    """Why it tells nothing, or what is no longer as it was."""
    made_of: list[Source] = field(default_factory=list)


def of_file(name: str, path: Path, digest: str | None) -> Source:
    """A file with its manifest.

    Args:
        name: What it is: rollouts, judgments, pairs, …
        path: Where it is.
        digest: What it had when it was used; None: not to be compared.
    """
    if not path.is_file():
        return Source(name, path, fault="a folder, and no file" if path.is_dir() else GONE)
    manifest = read_manifest(path)
    fault = NO_MANIFEST if manifest is None else ""
    if digest is not None and file_digest(path) != digest:
        fault = "changed since: the file has another digest now"
    return Source(name, path, manifest or {}, fault)


def of_model(name: str, path: Path, said: Mapping[str, Any]) -> Source:
    """A model directory.

    Args:
        name: What it is.
        path: Where it is.
        said: What a manifest has of it, its digest among that.
    """
    source = Source(name, path, said)
    try:
        info = read_info(path)
    except (UserError, OSError):  # a path may be too long to be one
        source.fault = GONE
    else:
        source.manifest = {"family": info.family, "digest": info.digest, **said, "parents": list(info.parents)}
        source.fault = "" if info.digest == source.manifest["digest"] else f"another model now: {info.digest}"
    return source


def facts(source: Source) -> Iterator[tuple[str, str]]:
    """What matters of a manifest, by name; foreign text as it is."""
    config = source.manifest.get("config")
    options = flatten(config, ".") if isinstance(config, dict) else {}
    kind = _COMMANDS.get(str(source.manifest.get("command")), source.name)
    is_idle = options.get("stage") == "sft"
    names = [name for name in _OPTIONS.get(kind, ()) if options.get(name) is not None and not (is_idle and name.startswith("dpo."))]
    if said := ", ".join(f"{name}={_plain(options[name])}" for name in names):
        yield "made with", said
    if kind == "bank" and (read := _sources(source.manifest.get("sources"))):
        yield "read from", read
    if isinstance(versions := source.manifest.get("versions"), dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if source.name in ("model", "the model before"):
        for name in ("family", "digest"):
            if source.manifest.get(name):
                yield name, str(source.manifest[name])
        parents = source.manifest.get("parents")
        for digest in parents if isinstance(parents, list) else ():
            yield "made from", str(digest)


def _sources(said: Any) -> str:
    """What a bank was read from, with the questions that were taken of those that were there."""
    known = [one for one in said if isinstance(one, dict) and isinstance(one.get("questions"), dict)] if isinstance(said, list) else []
    return ", ".join(f"{one.get('name')} ({one['questions'].get('out')} of {one['questions'].get('in')} questions)" for one in known)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
