"""Which checkpoints are kept."""

import jax.numpy as jnp
import pytest

from mede2_jax.train.checkpoint import Checkpoints, saved_bytes
from mede2_jax.train.config import CheckpointConfig
from mede2_jax.train.state import TrainState

EVAL_LOSSES = {1: 0.9, 2: 0.3, 3: None, 4: 0.5, 5: 0.2, 6: 0.8, 7: None, 8: 0.7}


def state(step):
    return TrainState(
        frozen={}, trainable={"a": jnp.full(3, float(step))}, optimizer_state=jnp.zeros(2), step=jnp.int32(step), rng=jnp.zeros(2)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [(1, 1, {5, 8}), (1, 3, {2, 4, 5, 8}), (2, 2, {2, 5, 7, 8}), (3, 0, {6, 7, 8})],
    ids=["one of each", "three best", "two of each", "none of the best"],
)
def test_the_best_are_those_of_the_lowest_loss(last, best, kept, tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep_last=last, keep_best=best))
    for step, loss in EVAL_LOSSES.items():
        checkpoints.save(state(step), {"step": step}, {}, loss)
        checkpoints.wait()
    checkpoints.close()
    assert {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()} == kept


@pytest.mark.slow
@pytest.mark.parametrize(("last", "best", "kept"), [(1, 1, {5, 9}), (1, 3, {2, 4, 5, 9}), (2, 1, {5, 8, 9})])
def test_a_run_that_is_resumed_remembers_its_best(last, best, kept, tmp_path):
    for begin, end in ((1, 6), (6, 9), (9, 10)):
        checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep_last=last, keep_best=best))
        for step in range(begin, end):
            checkpoints.save(state(step), {"step": step}, {}, EVAL_LOSSES.get(step))
            checkpoints.wait()
        checkpoints.close()
    assert {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()} == kept
    again = Checkpoints(tmp_path, CheckpointConfig(keep_last=last, keep_best=best))
    assert again.best == (5, 0.2)
    trainable = again.restore_trainable(5, state(0))
    again.close()
    assert trainable["a"].tolist() == [5.0, 5.0, 5.0]


def test_saving_may_take_as_long_as_so_many_bytes_take(tmp_path):
    """872 GB, a checkpoint of 72B trained in full, at 100 MB/s; Orbax itself ends a save after 20 minutes."""
    assert saved_bytes(state(0)) == 3 * 4 + 2 * 4 + 4 + 2 * 4
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), 872 * 10**9)
    assert checkpoints._manager._checkpointer._async_manager._timeout_secs >= 8720
    checkpoints.close()


@pytest.mark.parametrize("last", [1, 2])
def test_a_step_that_was_saved_before_it_was_evaluated_gets_its_loss(last, tmp_path):
    config = CheckpointConfig(keep_last=last, keep_best=1)
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.save(state(1), {"step": 1}, {}, 0.9)
    checkpoints.save(state(2), {"step": 2}, {}, None)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, config)
    checkpoints.rate(2, 0.25)
    assert checkpoints.best == (2, 0.25)
    for step in (3, 4, 5):
        checkpoints.save(state(step), {"step": step}, {}, 0.5 + step)
        checkpoints.wait()
    assert checkpoints.best == (2, 0.25)
    checkpoints.close()
    kept = {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()}
    assert kept == {2, 5} if last == 1 else {2, 4, 5}
    saved, position = Checkpoints(tmp_path, config).restore(2, state(0))
    assert position == {"step": 2} and int(saved["step"]) == 2


def test_without_evaluations_none_is_the_best_and_only_the_last_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep_last=1, keep_best=3))
    for step in range(1, 5):
        checkpoints.save(state(step), {"step": step}, {}, None)
        checkpoints.wait()
    assert checkpoints.best is None
    checkpoints.close()
    assert {int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()} == {4}


def test_the_latest_is_what_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    for step in (3, 4):
        checkpoints.save(state(step), {"step": step}, {}, None)
    checkpoints.wait()
    saved, position = checkpoints.restore(checkpoints.latest, state(0))
    checkpoints.close()
    assert position == {"step": 4} and int(saved["step"]) == 4 and saved["trainable"]["a"].tolist() == [4.0, 4.0, 4.0]
