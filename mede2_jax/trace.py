"""`python -m mede2_jax.trace PAIR_ID --pairs=FILE`: the whole history of a preference pair: question, rollouts, judgments, prompts, models.

The files are found through the manifests beside them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mede2_jax.command import run_command
from mede2_jax.config import Config, UserError
from mede2_jax.data.readers import read_own, read_record
from mede2_jax.data.record_file import RecordFile
from mede2_jax.data.records import Judgment, PreferencePair, Rollout
from mede2_jax.flags import parse
from mede2_jax.foreign import visible
from mede2_jax.outputs.manifest import file_digest, read_manifest, recorded_path
from mede2_jax.reasoning import prompts
from mede2_jax.reasoning.answers import final_answer
from mede2_jax.reasoning.judge_reply import Verdict
from mede2_jax.reasoning.rubric import ASPECTS, MMRP
from mede2_jax.weights.model_info import read_info

DESCRIPTION = """Show where a preference pair comes from: its question, both rollouts, their judgments, prompts and models.

  python -m mede2_jax.trace PAIR_ID --pairs=pairs.jsonl

Judgments, rollouts and questions are found through the manifests beside the files; --judgments and --rollouts say where they are now.
"""

NO_MANIFEST = "no manifest beside it"

KindT = TypeVar("KindT", Rollout, Judgment)


class TraceConfig(Config):
    """What to trace, and where it is."""

    pairs: Path = Path("runs/pairs.jsonl")
    """Pairs: what `python -m mede2_jax.pair` writes."""
    judgments: Path | None = None
    """The judgments, if they are no longer where the manifest of the pairs says."""
    rollouts: Path | None = None
    """The rollouts, likewise."""
    limit: int = 1500
    """Characters of a text to show; 0: all."""


@dataclass
class Source:
    """A file on the way, and what its manifest says of it."""

    name: str
    path: Path | None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    """Why it tells nothing, or what is no longer as it was."""


@dataclass
class History:
    """All that is known of a pair."""

    pair: PreferencePair
    rollouts: dict[str, Rollout]
    """By side: chosen, rejected."""
    judgments: dict[str, list[Judgment]]
    sources: list[Source]


def main(argv: Sequence[str]) -> None:
    """Parses the command line and shows the history."""
    ids = [argument for argument in argv if not argument.startswith("-")]
    flags = [argument for argument in argv if argument.startswith("-")]
    config = parse(TraceConfig, flags, program="python -m mede2_jax.trace PAIR_ID", description=DESCRIPTION)
    if len(ids) != 1:
        raise UserError(f"give one pair's id and options as --name=value: python -m mede2_jax.trace PAIR_ID --pairs={config.pairs}")
    history = trace(ids[0], config)
    for part in shown(history, config.limit or None):
        Console(soft_wrap=False).print(part)


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
    made = _source("pairs", config.pairs, None)
    judgments = _linked("judgments", config.judgments, made, file)
    rollouts = _linked("rollouts", config.rollouts, made, file)
    sources = [made, judgments, rollouts, *_origins(rollouts)]
    named = _named(pair, config.pairs)
    found = _find(rollouts.path, Rollout, [rollout for rollout, _ in named.values()])
    judged = _find(judgments.path, Judgment, [name for _, names in named.values() for name in names])
    return History(
        pair,
        {side: found[rollout] for side, (rollout, _) in named.items()},
        {side: [judged[name] for name in names] for side, (_, names) in named.items()},
        sources,
    )


def shown(history: History, limit: int | None) -> Iterator[RenderableType]:
    """The history, to be read from the question down."""
    pair, question = history.pair, history.rollouts["chosen"]
    yield Panel(_question(question, limit), title=f"question {_safe(question.question_id)}", title_align="left")
    for side, rollout in history.rollouts.items():
        judgments = history.judgments[side]
        body = Group(_rollout(rollout), Text(_cut(rollout.response, limit)), _verdicts(judgments))
        yield Panel(body, title=f"{side}: rollout {_safe(rollout.id)}", title_align="left")
    yield Panel(_sources(history), title=f"pair {_safe(pair.id)}", title_align="left")


def _named(pair: PreferencePair, path: Path) -> dict[str, tuple[str, list[str]]]:
    """The rollout and the judgments of each side."""
    sides = {side: pair.metadata.get(side) for side in ("chosen", "rejected")}
    try:
        return {side: (str(part["rollout"]), list(part["judgments"])) for side, part in sides.items()}  # type: ignore[index]
    except (KeyError, TypeError):
        wanted = "python -m mede2_jax.pair writes pairs that do"
        raise UserError(f"pair {pair.id!r} of {path} does not say which rollouts and judgments it is made of; {wanted}") from None


def _source(name: str, path: Path, digest: str | None) -> Source:
    """A file with its manifest; `digest` is what it had when it was used."""
    if not path.is_file():
        return Source(name, path, fault="a folder, and no file" if path.is_dir() else "not there any more")
    manifest = read_manifest(path)
    fault = NO_MANIFEST if manifest is None else ""
    if digest is not None and file_digest(path) != digest:
        fault = "changed since: the file has another digest now"
    return Source(name, path, manifest or {}, fault)


def _linked(name: str, given: Path | None, by: Source, file: RecordFile) -> Source:
    """A file that the manifest of another names, unless it is given."""
    recorded = by.manifest.get(name)
    entry: Mapping[str, Any] = recorded if isinstance(recorded, dict) else {}
    if given is None and not isinstance(entry.get("path"), str):
        raise UserError(f"{by.path} has no manifest that names its {name}; give --{name}=FILE")
    path = given if given is not None else recorded_path(entry["path"], file.path)
    if not path.exists():
        raise UserError(f"{name} {str(path)!r}, of which {by.path} was made, are not there; give --{name}=FILE")
    return _source(name, path, entry.get("digest"))


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
            source = _source(name, path, entry.get("digest"))
            if source.fault == NO_MANIFEST:  # nobody has to have made questions here
                source.fault = ""
            yield source
            continue
        source = Source(name, path, entry)
        try:
            info = read_info(path)
        except UserError:
            source.fault = "not there any more"
        else:
            source.manifest = {**entry, "parents": list(info.parents)}
            source.fault = "" if info.digest == entry.get("digest") else f"another model now: {info.digest}"
        yield source


def _find(path: Path | None, kind: type[KindT], ids: Sequence[str]) -> dict[str, KindT]:
    assert path is not None
    file, found = RecordFile(path), dict[str, KindT]()
    for number in range(len(file)):
        raw = file[number]
        if raw.get("id") in ids:
            found[raw["id"]] = read_own(raw, kind, file.where(number))
            if len(found) == len({*ids}):
                return found
    missing = next(name for name in ids if name not in found)
    raise UserError(f"{missing!r}, of which the pair is made, is not in {path}; give the file that it was made of")


def _question(rollout: Rollout, limit: int | None) -> RenderableType:
    texts = [f"{message.role}: {message.text}" for message in rollout.prompt if message.role != "system"]
    table = _grid()
    table.add_row("images", _safe(", ".join(rollout.images) or "none"))
    table.add_row("right answer", _safe(rollout.answer or "not known"))
    return Group(Text(_cut("\n".join(texts), limit)), table)


def _grid() -> Table:
    """Two columns; nothing is cut: digests are to be copied."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    return table


def _rollout(rollout: Rollout) -> Table:
    table = _grid()
    table.add_row("model", _safe(rollout.model))
    table.add_row("sample, seed", f"{rollout.sample}, {rollout.seed}")
    table.add_row("final answer", _safe(final_answer(rollout.response) or "none"))
    return table


def _verdicts(judgments: Sequence[Judgment]) -> Table:
    """One column a judgment."""
    table = Table()
    table.add_column("aspect (* not of MMRP)")
    for judgment in judgments:
        judge = judgment.judge
        asked = f", prompt {judge.prompt}" if judge.prompt else ""
        table.add_column(_safe(f"judgment {judgment.id}\n{judge.engine} {judge.model}{asked}"), overflow="fold")
    for aspect in ASPECTS:
        verdicts = [getattr(judgment, aspect) for judgment in judgments]
        name = aspect.replace("_", " ") + ("" if aspect in MMRP else "*")
        table.add_row(name, *(_verdict(verdict) for verdict in verdicts))
    return table


def _verdict(verdict: Verdict) -> str:
    met = "[green]yes[/]" if verdict.met else "[red]no[/]"
    return f"{met}  {_safe(verdict.reason)}" if verdict.reason else met


def _sources(history: History) -> RenderableType:
    table = _grid()
    fails = history.pair.metadata.get("rejected_fails") or []
    table.add_row("rejected fails", _safe(", ".join(map(str, fails)) if isinstance(fails, list) else str(fails)))
    for source in history.sources:
        table.add_row(source.name, _safe(str(source.path or "—")) + (f" [yellow]({_safe(source.fault)})[/]" if source.fault else ""))
        for name, value in _facts(source):
            table.add_row("", f"{name}: {_safe(value)}")
    used = {judgment.judge.prompt for judgments in history.judgments.values() for judgment in judgments} - {None}
    for prompt in prompts.JUDGES.values():
        if prompt.title in used:
            table.add_row("judge's prompt", _safe(f"{prompt.title} ({prompt.origin}), mede2_jax.reasoning.prompts"))
            used.discard(prompt.title)
    for title in sorted(filter(None, used)):
        table.add_row("judge's prompt", f"{_safe(title)} [yellow](not in this version of mede2_jax)[/]")
    return table


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    """What matters of a manifest."""
    config = source.manifest.get("config")
    options: Mapping[str, Any] = config if isinstance(config, dict) else {}
    names = {
        "pairs": ("criteria", "agreement", "max_pairs", "choose", "max_length_ratio", "max_similarity", "seed"),
        "judgments": ("judge", "model", "prompt", "repeat", "temperature", "seed"),
        "rollouts": ("engine", "n", "temperature", "top_p", "max_tokens", "seed"),
    }.get(source.name, ())
    if said := ", ".join(f"{name}={_plain(options[name])}" for name in names if name in options):
        yield "made with", said
    if isinstance(versions := source.manifest.get("versions"), dict):
        yield "versions", ", ".join(f"{name} {version}" for name, version in versions.items())
    if source.name == "model":
        for name in ("family", "digest"):
            if source.manifest.get(name):
                yield name, str(source.manifest[name])
        parents = source.manifest.get("parents")
        for digest in parents if isinstance(parents, list) else ():
            yield "made from", str(digest)


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _safe(text: str) -> str:
    """Foreign text for a cell: neither a terminal nor rich obeys it."""
    return escape(visible(text))


def _cut(text: str, limit: int | None) -> str:
    if limit is None or len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])}… ({len(text) - limit:,} characters more: --limit=0)"


if __name__ == "__main__":
    run_command(main)
