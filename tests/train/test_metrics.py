"""The table at the end of a run."""

import pytest
from rich.console import Console

from mede2_jax.train.metrics import closing_table


def shown(history):
    """The tables' lines, as words without borders."""
    console = Console(width=100)
    with console.capture() as capture:
        console.print(closing_table(history))
    return [" ".join(line.translate(str.maketrans("", "", "│┃")).split()) for line in capture.get().splitlines()]


def steps(count):
    return [{"step": step, "loss": 1.0 / step, "margin": 0.5 * step} for step in range(1, count + 1)]


def evaluation(step, loss):
    return {"step": step, "eval_loss": loss, "eval_margin": 10.0 * step}


def test_training_is_averaged_and_evaluations_stand_apart():
    lines = shown([*steps(8), evaluation(2, 0.7), evaluation(4, 0.4), evaluation(8, 0.6)])
    assert "run summary" in lines and "evaluation" in lines
    assert "metric first 2 steps last 2 steps" in lines and "loss 0.7500 0.1339" in lines and "margin 0.7500 3.7500" in lines
    assert "metric first: step 2 last: step 8 lowest loss: step 4" in lines
    assert "eval_loss 0.7000 0.6000 0.4000" in lines and "eval_margin 20.0000 80.0000 40.0000" in lines


def test_one_evaluation_is_one_column():
    lines = shown([*steps(1), evaluation(1, 0.7)])
    assert "metric first 1 step last 1 step" in lines
    assert "metric first, last, lowest loss: step 1" in lines and "eval_loss 0.7000" in lines


def test_the_last_evaluation_is_often_the_best():
    lines = shown([*steps(4), evaluation(2, 0.7), evaluation(4, 0.6)])
    assert "metric first: step 2 last, lowest loss: step 4" in lines


@pytest.mark.parametrize("history", [[], steps(3)])
def test_without_evaluation_there_is_no_table_for_it(history):
    assert "evaluation" not in shown(history)
