"""The paper's figures from our scores, where these permit them: model size (4), ways to elicit (5), several samples (6)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mede2_jax.config import counted
from mede2_jax.report.drawing import COLOURS, HATCHES, Figure, canvas, name, style
from mede2_jax.report.paper import paper
from mede2_jax.report.scores import Board, Score, Value
from mede2_jax.score.responses import how_asked

_SIZE = re.compile(r"(?<![A-Za-z0-9.])([0-9]{1,3}(?:\.[0-9]{1,2})?)\s?[Bb](?![A-Za-z0-9])")
"""Billions of parameters in a model's name, as in `Qwen2.5-VL-7B +I`."""


def score_figures(boards: Sequence[Board]) -> Iterator[Figure]:
    """All that can be drawn."""
    for board in boards:
        yield from _by_size(board)
    yield from _side_by_side(boards)
    for board in boards:
        yield from _several_samples(board)


def size_of(model: str) -> tuple[float, str] | None:
    """Billions of parameters by a model's name, and the rest of the name; None where it does not say, or says two."""
    found = list(_SIZE.finditer(model))
    if len(found) != 1:
        return None
    before, after = model[: found[0].start()].rstrip(" -_/·"), model[found[0].end() :].lstrip(" -_/·")
    return float(found[0][1]), " ".join(f"{before} {after}".split())


def _by_size(board: Board) -> Iterator[Figure]:
    """Figure 4."""
    sized = [(found, score) for score in board.scores if (found := size_of(score.model)) is not None]
    if len({size for (size, _), _ in sized}) < 2:
        return
    figure, (axes,) = canvas()
    series: dict[str, list[tuple[float, Score]]] = {}
    for (size, rest), score in sized:
        series.setdefault(rest, []).append((size, score))
    for place, (rest, some) in enumerate(series.items()):
        some.sort(key=lambda one: one[0])
        axes.errorbar(
            [size for size, _ in some],
            [100 * score.said.overall.accuracy for _, score in some],
            yerr=_errors([score for _, score in some]),
            label=name(rest or "as it is"),
            capsize=3,
            **style(place),
        )
    for place, (stage, values) in enumerate(_of_paper(board).items()):
        sizes = [float(size) for size in values]
        axes.plot(
            sizes,
            list(map(float, values.values())),
            label=f"paper, {stage}",
            color="#777777",
            marker="xv^"[place % 3],
            linestyle=":",
            linewidth=1,
            markersize=5,
        )
    ticks = sorted({size for (size, _), _ in sized} | {float(size) for values in _of_paper(board).values() for size in values})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{size:g}B" for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("parameters")
    axes.set_ylabel("accuracy (%)")
    axes.legend()
    text = f"Accuracy by model size on {board.name}, with 95% intervals." + (" Dotted: what the paper prints." if _of_paper(board) else "")
    yield Figure(f"figure4-size-{board.slug}", f"Model size (Figure 4): {board.name}", text, figure)


def _of_paper(board: Board) -> Mapping[str, Mapping[int, str]]:
    return next((paper().sizes[key] for key, one in paper().benchmarks.items() if board.task in one.tasks and key in paper().sizes), {})


def _side_by_side(boards: Sequence[Board]) -> Iterator[Figure]:
    """Figure 5: models over benchmarks, of each way to ask and read."""
    for prompt, mode in dict.fromkeys((board.prompt, board.mode) for board in boards):
        some = [board for board in boards if (board.prompt, board.mode) == (prompt, mode) and len(board.scores) > 1]
        models = list(dict.fromkeys(score.model for board in some for score in board.scores))
        if not some:
            continue
        figure, (axes,) = canvas(width=max(6.4, 1.2 + 0.32 * len(models) * len(some)))
        width = 0.8 / len(models)
        for place, model in enumerate(models):
            bars = [(at, score) for at, board in enumerate(some) for score in board.scores if score.model == model]
            axes.bar(
                [at + (place - (len(models) - 1) / 2) * width for at, _ in bars],
                [100 * score.said.overall.accuracy for _, score in bars],
                width,
                yerr=_errors([score for _, score in bars]),
                label=name(model),
                color=COLOURS[place % len(COLOURS)],
                hatch=HATCHES[place % len(HATCHES)],
                edgecolor="white",
                error_kw={"capsize": 2, "linewidth": 1, "ecolor": "#222222"},
            )
        axes.set_xticks(range(len(some)), [name(board.title) for board in some], rotation=20 if len(some) > 3 else 0)
        axes.set_ylabel("accuracy (%)")
        figure.legend(loc="outside upper center", ncols=min(3, len(models)))
        what = f"{len(models)} models on {counted(len(some), 'benchmark')}"
        asked = how_asked(prompt, [score.said.prompt_is_known for board in some for score in board.scores])
        text = f"Accuracy of {what}, {asked} and read as {mode}, with 95% intervals."
        yield Figure(f"figure5-models-{prompt}-{mode}", f"Models side by side (Figure 5): {asked}, read as {mode}", text, figure)


def _errors(scores: Sequence[Score]) -> np.ndarray:
    """How far the interval goes down and up, in points; nothing where there is none."""
    parts = [score.said.overall for score in scores]
    ends = [part.interval or [part.accuracy, part.accuracy] for part in parts]
    below = [part.accuracy - low for part, (low, _) in zip(parts, ends, strict=True)]
    above = [high - part.accuracy for part, (_, high) in zip(parts, ends, strict=True)]
    return 100 * np.maximum(0.0, np.array([below, above]))


def _several_samples(board: Board) -> Iterator[Figure]:
    """Figure 6."""
    some = [score for score in board.scores if score.said.at.pass_]
    if not some:
        return
    figure, axes = canvas(columns=2, width=4.6)
    for axis, title in zip(axes, ("majority vote (MV@k)", "any of k right (pass@k)"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("samples k")
        axis.set_ylabel("accuracy (%)")
    for place, score in enumerate(some):
        for axis, values in zip(axes, (score.said.at.majority, score.said.at.pass_), strict=True):
            _curve(axis, values, place, score.model)
    chance = {int(k): value for score in some for k, value in score.said.at.chance.items()}
    if chance:
        ks = sorted(chance)
        axes[1].plot(ks, [100 * chance[k] for k in ks], color="#555555", linestyle=":", marker="_", label="by chance alone")
    for axis in axes:
        ks = sorted({int(k) for score in some for k in score.said.at.pass_})
        axis.set_xscale("log", base=2)
        axis.set_xticks(ks, list(map(str, ks)))
        axis.minorticks_off()
    axes[1].legend()
    text = (
        f"Majority votes and pass@k of {', '.join(name(score.model) for score in some)} on {board.name}; bands are 95% intervals over items"
        f"{', and what guessing among the options alone would reach' if chance else ''}."
    )
    yield Figure(f"figure6-samples-{board.slug}", f"Several samples (Figure 6): {board.name}", text, figure)


def _curve(axis: object, values: Mapping[str, Value], place: int, model: str) -> None:
    ks = sorted(map(int, values))
    if not ks:
        return
    found = [values[str(k)] for k in ks]
    axis.plot(ks, [100 * one.value for one in found], label=name(model), **style(place))  # type: ignore[attr-defined]
    if all(one.interval for one in found):
        low, high = ([100 * one.interval[end] for one in found if one.interval] for end in (0, 1))
        axis.fill_between(ks, low, high, color=COLOURS[place % len(COLOURS)], alpha=0.15, linewidth=0)  # type: ignore[attr-defined]
