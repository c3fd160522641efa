"""From a bank to curated questions, step by step; all files appear together, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mede2_jax import __version__
from mede2_jax.config import Config, UserError
from mede2_jax.curate.attempts import find_easy, find_unsolvable
from mede2_jax.curate.candidates import Bank, read_bank
from mede2_jax.curate.config import CurateConfig, StepName
from mede2_jax.curate.duplicates import find_duplicates
from mede2_jax.curate.funnel import Stage, draw, table
from mede2_jax.curate.leakage import find_leaks
from mede2_jax.curate.remarks import find_types, refine
from mede2_jax.curate.split import held_out
from mede2_jax.curate.verdict import Edited, Step
from mede2_jax.data.about import marked_stem
from mede2_jax.data.questions import QuestionFile, open_questions
from mede2_jax.data.records import Question
from mede2_jax.outputs.image_root import image_root
from mede2_jax.outputs.manifest import file_digest
from mede2_jax.outputs.publish import check_replaceable
from mede2_jax.outputs.together import Part, write_together

COMMAND = "python -m mede2_jax.curate"


class Left(Config):
    """A question that was left out."""

    id: str
    step: str
    reason: str
    by: str | None = None
    """Id of the question, or `BENCHMARK/ITEM`, that it is too like."""
    similarity: float | None = None
    distance: float | None = None
    pass_rate: float | None = None


class Refined(Config):
    """A question whose text was to be edited."""

    id: str
    kept: str | None = None
    """Why it is as it was."""
    removed: tuple[str, ...] | None = None
    """What was taken out."""
    before: str
    after: str | None = None
    """The questions, with marks where their images stand."""


def run(config: CurateConfig, console: Console) -> None:
    """Curates a bank.

    Args:
        config: Which, and how.
        console: Where to show what came out.

    Raises:
        UserError: Something the user gave cannot be used, or no question is left; files that were there are as they were.
    """
    assert config.out is not None and config.questions is not None
    for place in _places(config):
        check_replaceable(place, COMMAND, "curated")
    root = image_root(config.questions, config.image_root, notify=lambda line: console.print(line, soft_wrap=True, markup=False))
    file = open_questions(config.questions, root, config.max_image_pixels)
    numbers = list(range(len(file.ids())))
    if idle := config.idle:
        options = ", ".join(f"{step} (no {option})" for step, option in idle.items())
        console.print(f"steps that are left out: {options}", style="yellow", soft_wrap=True, markup=False)
    bank = read_bank(file, numbers)
    steps, kept = [], numbers
    for name in config.steps:
        if name in idle:
            continue
        step = _find(name, file, bank, kept, config)
        steps.append(step)
        kept = [number for number in kept if number not in step.dropped]
    together = [pair for step in steps for pair in step.together]
    evaluated = held_out(bank, kept, together, config.eval_fraction, config.seed)
    if len(evaluated) == len(kept):
        raise UserError(f"no question is left of {len(numbers):,} for training; {_why(steps) or 'use a smaller eval_fraction'}")
    stages = _stages(bank, numbers, steps, evaluated)
    _write(config, file, root, steps, [[number for number in kept if number not in evaluated], sorted(evaluated)], bank, stages)
    draw(stages, config.beside("funnel", ".png"))
    console.print(table(stages))
    for what, path in zip(("questions", "left out", "held out", "edited"), _places(config), strict=True):
        if path.exists():
            console.print(f"{what + ':':10} {path}", soft_wrap=True, markup=False)


def _find(name: StepName, file: QuestionFile, bank: Bank, kept: Sequence[int], config: CurateConfig) -> Step:
    if name == "duplicates":
        return find_duplicates(bank, kept, config.duplicates)
    if name == "leakage":
        return find_leaks(bank, kept, config.leakage, config.max_image_pixels)
    if name == "difficulty":
        return find_easy(file, kept, config.difficulty)
    if name == "type":
        return find_types(file, kept, config.type)
    return find_unsolvable(file, kept, config.solvability) if name == "solvability" else refine(file, kept, config.refinement)


def _places(config: CurateConfig) -> list[Path]:
    """All files that a run may write with a manifest."""
    assert config.out is not None
    return [config.out, *map(config.beside, ("dropped", "eval", "refined"))]


def _why(steps: Sequence[Step]) -> str:
    return "; ".join(f"{count:,}: {reason}" for step in steps for reason, count in _reasons(step).items())


def _reasons(step: Step) -> Counter[str]:
    return Counter(found.reason for found in step.dropped.values())


def _stages(bank: Bank, numbers: Sequence[int], steps: Sequence[Step], evaluated: set[int]) -> list[Stage]:
    """The funnel, from the bank to what is trained on."""

    def stage(name: str, left: set[int], dropped: Counter[str]) -> Stage:
        images = sum(bool(bank.questions[number].images) for number in left)
        return Stage(name, len(left) - images, images, dropped)

    left = set(numbers)
    stages = [stage("bank", left, Counter())]
    for step in steps:
        left = left - step.dropped.keys()
        stages.append(stage(step.name, left, _reasons(step)))
    if evaluated:
        stages.append(stage("split", left - evaluated, Counter({"held out": len(evaluated)})))
    return stages


def _write(
    config: CurateConfig,
    file: QuestionFile,
    root: Path,
    steps: Sequence[Step],
    splits: Sequence[Sequence[int]],
    bank: Bank,
    stages: Sequence[Stage],
) -> None:
    """The questions that stay, those left out and those held out, with a manifest each."""
    assert config.out is not None
    train, evaluated = splits
    edited = {number: found for step in steps for number, found in step.edited.items()}

    def questions(numbers: Sequence[int]) -> Iterator[Question]:
        return (edited[number].question if number in edited else file.question(number) for number in numbers)

    parts = [
        Part(config.out, "train", questions(train)),
        Part(config.beside("dropped"), "dropped", _left(steps, bank)),
        *([Part(config.beside("eval"), "eval", questions(evaluated))] if evaluated else []),
        *([Part(config.beside("refined"), "refined", _refined(edited, file))] if edited else []),
    ]
    write_together(parts, _places(config), _manifest(config, root, steps, stages), COMMAND, "questions")


def _left(steps: Sequence[Step], bank: Bank) -> Iterator[Left]:
    for step in steps:
        for number, found in sorted(step.dropped.items()):
            yield Left(id=bank.questions[number].id, step=step.name, **found.content())


def _refined(edited: Mapping[int, Edited], file: QuestionFile) -> Iterator[Refined]:
    for number, found in sorted(edited.items()):
        before, after = marked_stem(file.question(number)), marked_stem(found.question)
        if found.kept:
            yield Refined(id=found.question.id, before=before, kept=found.kept)
        else:
            yield Refined(id=found.question.id, before=before, removed=found.removed, after=after)


def _manifest(config: CurateConfig, root: Path, steps: Sequence[Step], stages: Sequence[Stage]) -> dict[str, Any]:
    assert config.questions is not None
    edited = Counter(found.kept or "edited" for step in steps for found in step.edited.values())
    certificates = [certificate for step in steps for certificate in step.certificates]
    return {
        "command": COMMAND,
        "config": config.model_dump(mode="json"),
        "questions": {"path": str(config.questions.absolute()), "digest": file_digest(config.questions)},
        "attempts": {
            step: [{"path": str(path.absolute()), "digest": file_digest(path)} for path in paths]
            for step, paths in config.replies.items()
            if paths and step in config.steps
        },
        "images": {"root": str(root.absolute())},
        "versions": {"mede2_jax": __version__},
        "counts": {stage.name: {"text": stage.text, "images": stage.images} for stage in stages},
        "dropped": {stage.name: dict(stage.dropped) for stage in stages if stage.dropped},
        **({"edited": dict(edited)} if edited else {}),
        **({"leakage": {"checked": certificates}} if certificates else {}),
    }
