"""Scores as `score` and `evaluate` left them: which model's, of what, each verdict, and what score.json says."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic

from mede2_jax.config import UserError, counted
from mede2_jax.data.record_file import RecordFile
from mede2_jax.foreign import shown
from mede2_jax.json_file import Foreign, check, load_json
from mede2_jax.score.against import SCORE, VERDICTS
from mede2_jax.score.responses import how_asked

Json = dict[str, Any]
CURE = "score it again, with python -m mede2_jax.score"
OUTCOMES = ("correct", "wrong", "unparsed")
FINISHES = ("stop", "cut", "refused", "failed")


Count = Annotated[int, pydantic.Field(ge=0, le=1 << 40)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
Ends = Annotated[list[Share], pydantic.Field(min_length=2, max_length=2)]
Size = Annotated[str, pydantic.Field(pattern=r"^[1-9][0-9]{0,5}$")]
"""A k, as JSON has it for a name."""


class Value(Foreign):
    """A metric with its interval."""

    value: Share
    interval: Ends | None = None


class Part(Foreign):
    """A score of all items, or of some."""

    items: Count = pydantic.Field(gt=0)
    samples: Count = pydantic.Field(gt=0)
    correct: Count
    wrong: Count = 0
    unparsed: Count = 0
    cut: Count = 0
    refused: Count = 0
    failed: Count = 0
    accuracy: Share
    interval: Ends | None = None
    interval_method: str = ""


class Files(Foreign):
    """The benchmark's files."""

    files: list[str] = pydantic.Field(default_factory=list)
    digest: str = ""
    deviations: list[str] = pydantic.Field(default_factory=list)


class From(Foreign):
    """The responses."""

    path: str = ""
    digest: str = ""
    columns: dict[str, str] = pydantic.Field(default_factory=dict)
    models: list[str] = pydantic.Field(default_factory=list)


class Some(Foreign):
    """How many items of all."""

    items: Count
    of: Count


class Prompts(Foreign):
    """What was asked."""

    digest: str = ""


class Check(Foreign):
    """One check of training data against a benchmark."""

    data: str = ""
    same_files: bool = True
    """Whether it was against the very files that were scored."""


class Leakage(Foreign):
    """What was found of the benchmark in the data that trained the model."""

    checked: list[Check] = pydantic.Field(default_factory=list)
    touched: list[str] = pydantic.Field(default_factory=list)
    without_touched: Part | None = None


class Changed(Foreign):
    """Items whose read answer changes with the order of their options."""

    items: Count = 0
    changed: Count = 0


class Orders(Foreign):
    """Scores by order of the options."""

    by_seed: dict[str, Part] = pydantic.Field(default_factory=dict)
    answers: Changed = Changed()


class Agreed(Foreign):
    """Rule and judge on the same answers."""

    responses: Count
    both_right: Count = 0
    rule_only: Count = 0
    judge_only: Count = 0
    both_wrong: Count = 0
    agreement: Share
    interval: Ends | None = None
    kappa: float | None = None


class Titled(Foreign):
    """A prompt."""

    title: str = ""


class Judged(Foreign):
    """What a judge of open answers did."""

    api: str = ""
    model: str = ""
    prompt: Titled = Titled()
    responses: Count = 0
    correct: Count = 0
    failed: Count = 0
    agreement: Agreed | None = None


class At(Foreign):
    """Metrics of k samples, by k."""

    pass_: dict[Size, Value] = pydantic.Field(default_factory=dict, alias="pass")
    majority: dict[Size, Value] = pydantic.Field(default_factory=dict)
    chance: dict[Size, Share] = pydantic.Field(default_factory=dict)


class ScoreFile(Foreign):
    """score.json, as far as a report reads it: what else it says is shown in full, and nothing depends on it."""

    task: str
    title: str = ""
    mode: str
    prompt: str
    prompt_is_known: bool = True
    """Whether the replies' file or the user says so; else it is only how the replies were read."""
    rules: int | str = ""
    version: str = ""
    data: Files = Files()
    data_is_carried: bool = False
    responses: From = From()
    partial: Some | None = None
    prompts: Prompts = Prompts()
    sampled: dict[str, Any] = pydantic.Field(default_factory=dict)
    definition: dict[str, Any] = pydantic.Field(default_factory=dict)
    overall: Part
    by: dict[str, dict[str, Part]] = pydantic.Field(default_factory=dict)
    at: At = At()
    steps: dict[str, Count] = pydantic.Field(default_factory=dict)
    owners_figure: Share | None = None
    difference_from_owner: str = ""
    leakage: Leakage | None = None
    left_out: list[str] = pydantic.Field(default_factory=list)
    """Items that cannot be asked so."""
    unjudged: Count = 0
    """Open answers that a rule alone takes for wrong."""
    shuffles: Orders | None = None
    judge: Judged | None = None


class Verdict(NamedTuple):
    """What became of a sample."""

    id: str
    sample: int
    read: str | None
    step: str
    outcome: str
    finish: str
    shuffle: int | None = None
    """The seed of the order in which its options were shown; None: the owner's own."""
    order: str = ""
    of_order: int = 0
    """Its number among the samples in that order."""
    rule: str = ""
    """What a rule alone says, where a judge was asked besides."""
    top5: bool | None = None
    """Whether one of five diagnoses is right."""

    @property
    def of(self) -> tuple[str, int | None, int]:
        """Which reply it is of: item, order, and number in that order."""
        return self.id, self.shuffle, self.sample if self.shuffle is None else self.of_order


@dataclasses.dataclass(frozen=True)
class Score:
    """Of one model, on one task, asked and read in one way."""

    model: str
    folder: Path
    said: ScoreFile
    raw: Json
    """All of score.json."""
    verdicts: tuple[Verdict, ...]

    @property
    def file(self) -> Path:
        """Its score.json, from which recorded paths start."""
        return self.folder / SCORE

    @property
    def notices(self) -> dict[str, str]:
        """What has to be said wherever this score stands: in a word, and in full."""
        told = {}
        if not self.said.prompt_is_known:
            told["prompt not known"] = f"how the items were asked is not known; read as replies to {self.said.prompt}"
        if self.said.partial is not None:
            told["partial"] = f"partial: {self.said.partial.items:,} of {self.said.partial.of:,} items"
        if self.said.left_out:
            told["items left out"] = f"{counted(len(self.said.left_out), 'item')} left out, which cannot be asked so"
        if self.said.unjudged:
            told["not judged"] = f"{counted(self.said.unjudged, 'open answer')} taken for wrong by a rule alone; some may mean the same"
        if self.said.judge is not None and self.said.judge.failed:
            told["judge failures"] = f"{counted(self.said.judge.failed, 'judgment')} failed and count as not correct"
        if self.said.data.deviations:
            told["not the owner's whole set"] = (
                f"not the owner's whole test set, or another revision of it ({'; '.join(self.said.data.deviations)})"
            )
        return told


@dataclasses.dataclass(frozen=True)
class Board:
    """Scores that may stand beside one another: one task, one prompt, one mode."""

    task: str
    title: str
    prompt: str
    mode: str
    scores: tuple[Score, ...]
    """Of each model at most one, in the order of the models."""

    @property
    def name(self) -> str:
        """As headings have it."""
        return f"{self.title} · {how_asked(self.prompt, [one.said.prompt_is_known for one in self.scores])} · read as {self.mode}"

    @property
    def slug(self) -> str:
        """As file names have it."""
        return slug(f"{self.task}-{self.prompt}-{self.mode}")


def slug(text: str) -> str:
    """A text as a part of a file name: ASCII letters, digits and underscores, and dashes for all between them."""
    kept = "".join(one if one.isascii() and (one.isalnum() or one == "_") else "-" for one in text)
    return "-".join(filter(None, kept.split("-")))[:80] or "x"


def named(given: Sequence[str], option: str) -> list[tuple[str, Path]]:
    """Folders with their names: NAME=FOLDER, or the end of the path that tells a folder from the others.

    Raises:
        UserError: A folder is not there, or is given twice.
    """
    pairs: list[tuple[str, Path]] = []
    for text in given:
        name, equals, folder = text.partition("=")
        is_named = bool(equals) and not Path(text).exists()
        path = Path(folder if is_named else text)
        if not path.is_dir():
            raise UserError(f"--{option}: there is no folder {shown(str(path), 200)!r}")
        if any(path.resolve() == other.resolve() for _, other in pairs):
            raise UserError(f"--{option}: {path} is given twice")
        pairs.append((name.strip() if is_named else "", path))
    unnamed = [path for name, path in pairs if not name]
    return [(name or _short(path, unnamed), path) for name, path in pairs]


def _short(path: Path, others: Sequence[Path]) -> str:
    """The last parts of a path, as many as tell it from the others."""
    parts = path.resolve().parts
    for count in range(1, len(parts) + 1):
        if sum(other.resolve().parts[-count:] == parts[-count:] for other in others) == 1:
            return "/".join(parts[-count:])
    return str(path)


def read_boards(given: Sequence[str]) -> tuple[list[str], list[Board]]:
    """The models in order, and their scores by what they are of.

    Raises:
        UserError: A folder holds no score, a score is damaged, or a model has two of the same.
    """
    models: dict[str, None] = {}
    found: dict[tuple[str, str, str], list[Score]] = {}
    for model, folder in named(given, "scores"):
        models[model] = None
        for place in _folders(folder):
            score = read_score(model, place)
            some = found.setdefault((score.said.task, score.said.prompt, score.said.mode), [])
            if twice := [other for other in some if other.model == model]:
                raise UserError(
                    f"--scores: {twice[0].folder} and {place} are both {shown(model)}'s scores of {shown(score.said.task)} "
                    f"({shown(score.said.prompt)}, {shown(score.said.mode)}); give them two names: NAME=FOLDER"
                )
            some.append(score)
    order = list(models)
    boards = [
        Board(task, some[0].said.title or task, prompt, mode, tuple(sorted(some, key=lambda one: order.index(one.model))))
        for (task, prompt, mode), some in found.items()
    ]
    return order, boards


def _folders(folder: Path) -> Iterable[Path]:
    """The folders of the scores in one that `score` (itself) or `evaluate` (TASK/PROMPT below it) wrote."""
    below = sorted(path.parent for path in folder.glob(f"*/*/{SCORE}"))
    if (folder / SCORE).is_file():
        if below:
            raise UserError(
                f"--scores: {folder} holds a {SCORE} of its own and {counted(len(below), 'score')} below it, such as {below[0]}; "
                f"move its own {SCORE} and {VERDICTS} to another folder"
            )
        return [folder]
    if below:
        return below
    raise UserError(f"--scores: {folder} holds no {SCORE}; give a folder that python -m mede2_jax.score or evaluate wrote with --out")


def read_score(model: str, folder: Path) -> Score:
    """A score with its verdicts.

    Raises:
        UserError: A file is damaged, or the two do not belong together.
    """
    raw = load_json(folder / SCORE, CURE)
    said = check(raw, ScoreFile, str(folder / SCORE), CURE)
    verdicts = tuple(_verdicts(folder / VERDICTS))
    counts = Counter(one.outcome for one in verdicts)
    if (len(verdicts), counts["correct"]) != (said.overall.samples, said.overall.correct):
        raise UserError(
            f"{folder / VERDICTS} has {counts['correct']:,} correct of {len(verdicts):,}, and {SCORE} beside it says "
            f"{said.overall.correct:,} of {said.overall.samples:,}: they are not of one run; {CURE}"
        )
    return Score(model, folder, said, raw, verdicts)


class _Rule(Foreign):
    outcome: str = ""


class _Line(Foreign):
    id: str
    sample: Count
    read: str | None = None
    step: str = ""
    outcome: str
    finish: str = "stop"
    shuffle: int | None = None
    order: str = ""
    of_order: Count = 0
    rule: _Rule = _Rule()
    top5: bool | None = None


def _verdicts(path: Path) -> Iterable[Verdict]:
    file = RecordFile(path)
    for number in range(len(file)):
        line = check(file[number], _Line, file.where(number), CURE)
        if line.outcome not in OUTCOMES or line.finish not in FINISHES:
            raise UserError(f"{file.where(number)}: outcome {shown(line.outcome)} and finish {shown(line.finish)} are no verdict; {CURE}")
        shown_as = line.shuffle, line.order, line.of_order
        yield Verdict(line.id, line.sample, line.read, line.step, line.outcome, line.finish, *shown_as, line.rule.outcome, line.top5)
