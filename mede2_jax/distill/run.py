"""From teachers' responses to demonstrations; all files appear together, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mede2_jax import __version__
from mede2_jax.config import Config, UserError, counted
from mede2_jax.data.about import is_asked
from mede2_jax.data.judged import ImageFiles
from mede2_jax.data.questions import open_questions
from mede2_jax.data.records import Demonstration, Message
from mede2_jax.distill.candidates import Candidate, Remarks, read_candidates
from mede2_jax.distill.choose import Rated, choose, rate
from mede2_jax.distill.config import DistillConfig
from mede2_jax.distill.people import reviewed
from mede2_jax.foreign import visible
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable
from mede2_jax.outputs.summary import share
from mede2_jax.outputs.together import Part, write_together
from mede2_jax.reasoning.remarks import Merit

COMMAND = "python -m mede2_jax.distill"
MOST_PIXELS = 50_000_000


class Left(Config):
    """A response of which no demonstration was made."""

    id: str
    """As among the candidates."""
    question: str
    rollout: str
    """As its teacher's file has it."""
    teacher: str
    step: str
    """rules, rating, people, or choice."""
    reason: str
    merits: dict[Merit, float] | None = None


def run(config: DistillConfig, console: Console) -> None:
    """Makes demonstrations.

    Args:
        config: Of what, and how.
        console: Where to show what came out.

    Raises:
        UserError: Something the user gave cannot be used, or no response keeps the rules; files that were there are as they were.
    """
    assert config.out is not None and config.questions is not None
    places = [config.out, config.beside("candidates"), config.beside("dropped")]
    for place in places:
        check_replaceable(place, COMMAND, "demonstrations")
    root = image_root(config.questions, config.image_root, notify=lambda line: console.print(line, soft_wrap=True, markup=False))
    file = open_questions(config.questions, root, MOST_PIXELS)
    questions = {number: file.question(number) for number in range(len(file.ids()))}
    found = read_candidates(config, questions)
    kept = [one for one in found if not one.fault]
    if not kept:
        reasons = "; ".join(f"{count:,}: {reason}" for reason, count in Counter(one.fault for one in found).most_common())
        raise UserError(f"no response of {len(found):,} keeps the rules{f' ({reasons})' if reasons else ''}")
    rated = reviewed(_rated(kept, config), config, ImageFiles(root))
    chosen, why = choose([one for one in rated if not one.fault], config)
    left = [*_broken(found), *_denied(rated), *_not_chosen(rated, why)]
    parts = [
        Part(config.out, "train", map(_demonstration, chosen)),
        Part(config.beside("candidates"), "candidates", (one.rollout for one in kept)),
        Part(config.beside("dropped"), "dropped", left),
    ]
    write_together(parts, places, _manifest(config, root, found, kept, chosen, left), COMMAND, "demonstrations")
    console.print(_table(found, kept, chosen, left))
    for what, path in zip(("demonstrations", "candidates", "left out"), places, strict=True):
        console.print(f"{what + ':':15} {path}", soft_wrap=True, markup=False)
    if not config.ratings:
        rate_them = f"rollout --ask=rating --questions={config.beside('candidates')}, then this command with --ratings=FILE"
        console.print(f"the rules alone have decided; to have them rated: {rate_them}", style="yellow", soft_wrap=True, markup=False)
    if not chosen:
        console.print("no candidate's ratings are good enough: there is no demonstration", style="yellow")


def _rated(kept: Sequence[Candidate], config: DistillConfig) -> list[Rated]:
    if not config.ratings:
        return [Rated(one, {}) for one in kept]
    ratings = Remarks(config.ratings, "rating", {one.rollout.id for one in kept})
    missing = [one.rollout.id for one in kept if not ratings.about(one.rollout) and is_asked(one.rollout, "rating")]
    ratings.check_used()
    if missing and config.missing == "refuse":
        raise UserError(
            f"--ratings has nothing on {counted(len(missing), 'candidate')} ({visible(missing[0])} first); rate them: "
            f"rollout --ask=rating --questions={config.beside('candidates')}; or go on without: --missing=accept"
        )
    return [rate(one, ratings, config) for one in kept]


def _broken(found: Sequence[Candidate]) -> Iterator[Left]:
    return (_left(one, "rules", one.fault) for one in found if one.fault)


def _denied(rated: Sequence[Rated]) -> Iterator[Left]:
    return (_left(one.candidate, one.by, one.fault, one.merits) for one in rated if one.fault)


def _not_chosen(rated: Sequence[Rated], why: Mapping[str, str]) -> Iterator[Left]:
    for one in rated:
        if (reason := why.get(one.candidate.rollout.id)) is not None:
            yield _left(one.candidate, "choice", reason, one.merits)


def _left(one: Candidate, step: str, reason: str, merits: dict[Merit, float] | None = None) -> Left:
    origin = one.origin
    return Left(
        id=one.rollout.id,
        question=origin.question_id,
        rollout=origin.id,
        teacher=origin.model,
        step=step,
        reason=reason,
        merits=merits or None,
    )


def _demonstration(one: Rated) -> Demonstration:
    """What is trained on: the question's turns, and the response."""
    rollout = one.candidate.rollout
    return Demonstration(
        id=rollout.id,
        images=rollout.images,
        parents=(rollout.question_id, rollout.id),
        source=rollout.source,
        licence=rollout.licence,
        metadata={**rollout.metadata, **({"merits": one.merits} if one.merits else {})},
        messages=(*rollout.prompt, Message(role="assistant", content=rollout.response)),
    )


def _manifest(
    config: DistillConfig,
    root: Path,
    found: Sequence[Candidate],
    kept: Sequence[Candidate],
    chosen: Sequence[Rated],
    left: Sequence[Left],
) -> dict[str, Any]:
    assert config.questions is not None
    files = {"rollouts": config.rollouts, "expansions": config.expansions, "ratings": config.ratings, "reviews": config.reviews}
    dropped: dict[str, Counter[str]] = {}
    for one in left:
        dropped.setdefault(one.step, Counter())[one.reason] += 1
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        "questions": _named(config.questions),
        **{name: [_named(path) for path in paths] for name, paths in files.items() if paths},
        "images": {"root": str(root.absolute())},
        "versions": {"mede2_jax": __version__},
        "counts": {"responses": len(found), "candidates": len(kept), "demonstrations": len(chosen)},
        "teachers": {
            teacher: dict(zip(("responses", "candidates", "demonstrations"), counts, strict=True))
            for teacher, counts in _teachers(found, kept, chosen).items()
        },
        "dropped": {step: dict(reasons) for step, reasons in dropped.items()},
    }


def _named(path: Path) -> dict[str, str]:
    return {"path": str(path.absolute()), "digest": file_digest(path)}


def _teachers(found: Sequence[Candidate], kept: Sequence[Candidate], chosen: Sequence[Rated]) -> dict[str, tuple[int, int, int]]:
    """Of each teacher its responses, candidates and demonstrations."""
    counts = [Counter(one.teacher for one in some) for some in (found, kept, [one.candidate for one in chosen])]
    return {teacher: (counts[0][teacher], counts[1][teacher], counts[2][teacher]) for teacher in sorted(counts[0])}


def _table(found: Sequence[Candidate], kept: Sequence[Candidate], chosen: Sequence[Rated], left: Sequence[Left]) -> Table:
    table = Table(title="distilled")
    table.add_column("")
    for name in ("responses", "candidates", "demonstrations"):
        table.add_column(name, justify="right")
    for teacher, (responses, candidates, demonstrations) in _teachers(found, kept, chosen).items():
        table.add_row(visible(teacher[:40]), f"{responses:,}", f"{candidates:,}", share(demonstrations, len(chosen)))
    table.add_section()
    table.add_row("all", f"{len(found):,}", f"{len(kept):,}", f"{len(chosen):,}")
    table.add_section()
    for (step, reason), count in Counter((one.step, one.reason) for one in left).most_common():
        table.add_row(
            f"[dim]{step}:[/] {reason}",
            *(f"−{count:,}" if step in steps else "" for steps in (("rules",), ("rating", "people"), ("choice",))),
        )
    return table
