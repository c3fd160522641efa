import json
import time

import numpy as np
import pytest
from data_builders import pairs, write_image

from mede2_jax.config import UserError
from mede2_jax.data import loader as data_loader
from mede2_jax.data.dataset import open_dataset
from mede2_jax.data.loader import make_loader
from mede2_jax.data.rows import BatchShape
from mede2_jax.data.source import DataConfig


@pytest.fixture(scope="module")
def dataset(processor, tmp_path_factory):
    path = pairs(tmp_path_factory.mktemp("loader"), 23)
    return open_dataset(DataConfig(path=path, row_tokens=160), "dpo", processor, show_progress=False)


def loader(dataset, **options):
    settings = {"rows_per_step": 2, "accumulation": 2, "epochs": 2, "seed": 5} | options
    return make_loader(dataset, dataset.shape, **settings)


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def indices(element):
    pair = element["response_pair"]
    return sorted(pair[pair >= 0].tolist())


def test_every_example_once_an_epoch_in_a_new_order(dataset):
    with loader(dataset) as steps:
        elements = list(steps)
    per_epoch = -(-len(dataset.rows) // 4)
    assert steps.steps_per_epoch == per_epoch and steps.total_steps == len(elements) == 2 * per_epoch
    for epoch in (elements[:per_epoch], elements[per_epoch:]):
        seen = sorted(index for element in epoch for index in indices(element))
        assert seen == sorted([*range(23), *range(23)])  # chosen and rejected
    assert not same(elements[0], elements[per_epoch])
    shape = dataset.shape
    assert elements[0]["tokens"].shape == (2, 2, shape.tokens) and elements[0]["positions"].shape == (2, 2, 3, shape.tokens)
    assert elements[0]["patches"].shape == (2, 2, shape.patches, 1176)


def test_the_last_step_is_filled_with_padding(dataset):
    count = len(dataset.rows)
    with loader(dataset, rows_per_step=count - 1, accumulation=1, epochs=1, shuffle=False) as steps:
        first, last = list(steps)
    assert last["response_weight"][0, 0].sum() > 0 and last["response_weight"][0, 1:].sum() == 0
    assert (last["key_end"][0, 1:] == 0).all() and (last["scored_response"][0, 1:] == -1).all()
    assert np.array_equal(first["tokens"][0, 0], dataset.row(0, dataset.shape)["tokens"])


def test_order_depends_on_the_seed_only(dataset):
    with loader(dataset) as one, loader(dataset) as two, loader(dataset, seed=6) as other:
        first = next(one)
        assert same(first, next(two)) and not same(first, next(other))


def test_processes_share_each_global_batch(dataset):
    """Any rows of each, neighbours or not."""
    mine, yours = [0, 3], [1, 2]
    with loader(dataset, rows_per_step=4) as whole, loader(dataset, rows_per_step=4, columns=mine) as left:
        right = loader(dataset, rows_per_step=4, columns=yours)
        for full, a, b in zip(whole, left, right, strict=True):
            assert same({name: value[:, mine] for name, value in full.items()}, a)
            assert same({name: value[:, yours] for name, value in full.items()}, b)


def test_state_is_json_and_resumes_exactly(dataset):
    with loader(dataset) as steps:
        expected = list(steps)
    for stop in (0, 1, 3, len(expected) - 1, len(expected)):
        with loader(dataset) as steps:
            for _ in range(stop):
                next(steps)
            state = json.loads(json.dumps(steps.get_state()))
        with loader(dataset) as resumed:
            next(resumed)  # wherever it was
            resumed.set_state(state)
            rest = list(resumed)
            assert len(rest) == len(expected) - stop and all(map(same, rest, expected[stop:]))


@pytest.mark.slow
def test_workers_give_the_same_batches_and_resume(dataset):
    with loader(dataset) as steps:
        expected = list(steps)
    with loader(dataset, workers=2, buffer=2) as parallel:
        assert all(map(same, (next(parallel) for _ in range(3)), expected))
        state = parallel.get_state()
        assert json.loads(json.dumps(state)) == state
        next(parallel)
        parallel.set_state(state)
        rest = list(parallel)
    assert len(rest) == len(expected) - 3 and all(map(same, rest, expected[3:]))
    with loader(dataset) as threads:
        threads.set_state(state)
        assert same(next(threads), expected[3])


def test_resuming_reads_no_image_of_the_past(dataset, monkeypatch):
    with loader(dataset, shuffle=False, epochs=1, accumulation=1, rows_per_step=1) as steps:
        state = steps.get_state() | {"step": steps.total_steps - 1}
        read = []
        monkeypatch.setattr(type(dataset), "row", lambda self, row, shape, reference: read.append(row) or {"row": np.array([row])})
        steps.set_state(state)
        assert next(steps)["row"].ravel().tolist() == [steps.total_steps - 1]
    assert read == [steps.total_steps - 1]


def test_memory_is_bounded_by_the_buffer(dataset, monkeypatch):
    started = []
    monkeypatch.setattr(type(dataset), "row", lambda self, row, shape, reference: started.append(row) or {"row": np.array([row])})
    with loader(dataset, epochs=1000, buffer=3, accumulation=1) as steps:
        for count in range(1, 20):
            next(steps)
            assert len(started) <= 2 * count + 3 + 2


@pytest.mark.parametrize("rows_per_step", [64, 8])
def test_one_of_many_processes_has_its_own_rows_ahead_and_no_others(dataset, monkeypatch, rows_per_step):
    """A step of the whole job has 64 times as many rows as one of its processes."""
    started, own, accumulation = [], rows_per_step // 8, 4
    monkeypatch.setattr(data_loader, "_build_row", lambda row, **_: started.append(row) or {"row": np.array([row])})
    options = {"epochs": 1000, "accumulation": accumulation, "rows_per_step": rows_per_step, "columns": range(own), "buffer": 1}
    with loader(dataset, **options) as steps:
        for taken in range(1, 10):
            next(steps)
            assert len(started) <= (taken + 1) * own * accumulation + 4  # those of the next step, and one in the hands of each thread


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_what_is_ahead(dataset, tmp_path, monkeypatch, workers):
    (tmp_path / "started").touch()

    def build(row, **_):
        with (tmp_path / "started").open("ab", buffering=0) as file:
            file.write(b".")
        return {"row": np.array([row])}

    monkeypatch.setattr(data_loader, "_build_row", build)
    with loader(dataset, epochs=1000, accumulation=4, rows_per_step=6, workers=workers, buffer=1) as steps:
        for taken in range(1, 5):
            next(steps)
            time.sleep(0.2)
            started = (tmp_path / "started").stat().st_size
            assert started <= (taken + 1) * 24 + 5 * workers  # rounded up twice, and what each makes, hands over and takes


def test_a_state_of_other_data_is_refused(dataset):
    state = loader(dataset).get_state()
    with pytest.raises(UserError, match="seed: 5 then, 7 now"):
        loader(dataset, seed=7).set_state(state)
    with pytest.raises(UserError, match="digest: old then"):
        loader(dataset).set_state(state | {"digest": "old"})


def test_a_larger_shape_and_the_reference(dataset):
    shape = dataset.shape.union(BatchShape(dataset.shape.tokens + 64, 0, 0, 40, 1176))
    reference = np.stack([np.arange(23), -np.arange(23)], axis=1).astype(np.float32)
    with make_loader(dataset, shape, rows_per_step=2, reference=reference) as steps:
        element = next(steps)
    assert element["tokens"].shape[-1] == shape.tokens and element["response_pair"].shape[-1] == 40
    pair, role = element["response_pair"], element["response_role"]
    real = pair >= 0
    assert np.array_equal(element["response_reference"][real], np.where(role == 0, pair, -pair)[real])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_fault_inside_a_worker_is_the_same_one_line(processor, tmp_path, workers):
    path = pairs(tmp_path, 4)
    dataset = open_dataset(DataConfig(path=path, row_tokens=160), "dpo", processor, show_progress=False)
    write_image(tmp_path / "images" / "1_0.png", 70, 60)
    whole = (tmp_path / "images" / "1_0.png").read_bytes()
    (tmp_path / "images" / "1_0.png").write_bytes(whole[: len(whole) // 2])
    with loader(dataset, workers=workers) as steps, pytest.raises(UserError) as caught:
        list(steps)
    assert str(caught.value).startswith(f"{path}:2: image 'images/1_0.png' is truncated or damaged")
    assert "\n" not in str(caught.value)
