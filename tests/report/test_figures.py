"""Figures: which there are, and that names in them are names."""

import json

import pytest

from mede2_jax.report.curves import read_metrics, training_figure
from mede2_jax.report.drawing import LONGEST, Figure, canvas, name, plain_text, saved
from mede2_jax.report.figures import score_figures, size_of
from mede2_jax.report.scores import Board, Score, ScoreFile


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("7B", (7.0, "")),
        ("7B +Stage-I", (7.0, "+Stage-I")),
        ("Qwen2.5-VL-72B-Instruct", (72.0, "Qwen2.5-VL Instruct")),
        ("internvl3-1.5b", (1.5, "internvl3")),
        ("runs/dpo", None),
        ("7B or 32B", None),
        ("A7Bx", None),
    ],
)
def test_sizes_in_names(model, expected):
    assert size_of(model) == expected


def scored(model, accuracy, task="medxpertqa_mm", samples=1):
    at = {"pass": {"1": {"value": accuracy}, "2": {"value": accuracy, "interval": [0.1, 0.9]}}} if samples > 1 else {}
    part = {"items": 10, "samples": 10 * samples, "correct": int(10 * samples * accuracy), "accuracy": accuracy, "interval": [0.1, 0.9]}
    said = {"task": task, "title": task, "mode": "mede2", "prompt": "mede2", "overall": part, "at": at}
    return Score(model, None, ScoreFile.model_validate(said), said, ())


def board(*scores):
    said = scores[0].said
    return Board(said.task, said.title, said.prompt, said.mode, scores)


def drawn(*boards):
    with plain_text():
        return {figure.name: figure for figure in score_figures(boards)}


def test_which_figures_there_are():
    assert drawn(board(scored("a", 0.5))) == {}, "one model, one sample"
    assert list(drawn(board(scored("a", 0.5), scored("b", 0.6)))) == ["figure5-models-mede2-mede2"]
    sizes = drawn(board(scored("7B", 0.5), scored("32B", 0.6)))
    assert list(sizes) == ["figure4-size-medxpertqa_mm-mede2-mede2", "figure5-models-mede2-mede2"]
    assert list(drawn(board(scored("a", 0.5, samples=2)))) == ["figure6-samples-medxpertqa_mm-mede2-mede2"]


def lines_of(figure, axes=0):
    return {line.get_label(): [round(float(value), 2) for value in line.get_ydata()] for line in figure.canvas.axes[axes].get_lines()}


def test_the_papers_sizes_stand_beside_ours_for_its_benchmark_only():
    scores = [scored("7B", 0.5), scored("32B", 0.6)]
    lines = lines_of(drawn(board(*scores))["figure4-size-medxpertqa_mm-mede2-mede2"])
    assert lines["paper, base"] == [20.7, 27.4, 28.35] and lines["paper, +Stage-II"] == [26.55, 33.5, 40.45]
    other = drawn(board(*(scored(one.model, 0.5, task="medqa") for one in scores)))
    assert not any("paper" in label for label in lines_of(other["figure4-size-medqa-mede2-mede2"]))


def test_names_are_no_formulas_and_are_not_hidden():
    assert name("_x") == " _x" and name("a\nb\x1b") == "a b\\x1b" and len(name("x" * 100)) == LONGEST
    with plain_text():
        figures = list(score_figures([board(scored("$\\frac{$", 0.5), scored("_b <i>", 0.6))]))
        first, again = saved(figures[0]), saved(figures[0])
    assert first == again and first["png"].startswith(b"\x89PNG") and b"<i>" not in first["svg"]


def test_a_figure_is_the_same_whenever_it_is_drawn():
    def one():
        with plain_text():
            figure, (axes,) = canvas()
            axes.plot([1, 2], [1, 2], label="x")
            axes.legend()
            return saved(Figure("f", "F", "text", figure))

    assert one() == one()


def test_training_curves(tmp_path):
    for run, steps in (("sft", 3), ("dpo", 4)):
        (tmp_path / run).mkdir()
        records = [{"step": n, "loss": 1 / n, **({"margin": n} if run == "dpo" else {})} for n in range(1, steps + 1)]
        text = "".join(json.dumps(record) + "\n" for record in records) + ('{"step": 5, "lo' if run == "dpo" else "")
        (tmp_path / run / "metrics.jsonl").write_text(text)
    assert len(read_metrics(tmp_path / "dpo")) == 4, "the last line was torn"
    with plain_text():
        figure = training_figure([str(tmp_path / "sft"), f"stage II={tmp_path / 'dpo'}"])
    assert [[cell.text for cell in row] for row in figure.table.rows] == [
        ["sft", "loss", "1", "0.3333", "3"],
        ["stage II", "loss", "1", "0.25", "4"],
        ["stage II", "margin", "1", "4", "4"],
    ]
    assert lines_of(figure).keys() == {"sft: loss", "stage II: loss"} and lines_of(figure, 1).keys() == {"stage II: margin"}
