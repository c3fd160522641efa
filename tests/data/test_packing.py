import time
import tracemalloc

import numpy as np
import pytest

from mede2_jax.data.packing import pack


def check(rows, tokens, patches, row_tokens, row_patches):
    assert sorted(example for row in rows for example in row) == list(range(len(tokens)))
    for row in rows:
        assert sum(tokens[row]) <= row_tokens and sum(patches[row]) <= row_patches


def pair_mixture(count, seed=0):
    """Shared-prompt pairs: 150–1200 tokens, log-normal, most with one to three images of some 64–256 tokens."""
    generator = np.random.default_rng(seed)
    texts = np.clip(generator.lognormal(5.9, 0.5, count), 150, 1200).astype(int)
    units = np.where(generator.random(count) < 0.75, generator.integers(64, 257, count) * generator.integers(1, 4, count), 0)
    return texts + units, units * 4


def text_mixture(count, seed=0):
    """SFT demonstrations: long-tailed reasoning texts."""
    generator = np.random.default_rng(seed)
    tokens = np.clip(generator.lognormal(6.6, 0.6, count), 100, 4096).astype(int)
    return tokens, np.zeros(count, dtype=int)


@pytest.mark.parametrize("mixture", [pair_mixture, text_mixture])
def test_rows_are_at_least_95_percent_full(mixture):
    tokens, patches = mixture(4000)
    row_patches = max(patches.max(), int(np.ceil(1.1 * patches.sum() / tokens.sum() * 4096)))
    rows = pack(tokens, patches, 4096, row_patches)
    check(rows, tokens, patches, 4096, row_patches)
    assert tokens.sum() / (len(rows) * 4096) >= 0.95


def test_random_examples_fit_and_appear_once():
    generator = np.random.default_rng(3)
    for count in (0, 1, 2, 17, 300):
        tokens, patches = generator.integers(1, 101, count), generator.integers(0, 51, count)
        rows = pack(tokens, patches, 100, 50)
        check(rows, tokens, patches, 100, 50)
        assert rows == pack(tokens, patches, 100, 50)


def test_a_case_worked_by_hand():
    # 6+4, 5+5, 3+3+2 tokens: three full rows of 10; by patches, 0 and 1 cannot share
    assert pack([6, 5, 5, 4, 3, 3, 2], [0] * 7, 10, 0) == [[0, 3], [1, 2], [4, 5, 6]]
    assert len(pack([5, 5], [3, 3], 10, 5)) == 2
    assert len(pack([5, 5], [3, 2], 10, 5)) == 1


@pytest.mark.parametrize("row_tokens", [10**7, 500_000_000, 2**31, 10**12, 2**62])
@pytest.mark.parametrize("mixture", [text_mixture, pair_mixture])
def test_a_row_larger_than_all_there_is_takes_no_memory_for_its_room(mixture, row_tokens):
    tokens, patches = mixture(50)
    whole, room = int(tokens.sum()), int(patches.sum())
    tracemalloc.start()
    assert pack(tokens, patches, row_tokens, room) == pack(tokens, patches, whole, room) == [list(range(50))]
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.slow
def test_a_hundred_thousand_examples_take_seconds():
    tokens, patches = pair_mixture(100_000)
    started = time.process_time()
    rows = pack(tokens, patches, 4096, int(1.1 * patches.sum() / tokens.sum() * 4096))
    assert time.process_time() - started < 15
    assert tokens.sum() / (len(rows) * 4096) >= 0.95


def test_each_example_goes_into_the_fullest_row_with_room():
    generator = np.random.default_rng(5)
    for _ in range(20):
        tokens, patches = generator.integers(1, 60, 150), generator.integers(0, 40, 150)
        left: list[list[int]] = []
        for example in np.lexsort((np.arange(150), -np.maximum(tokens / 100, patches / 50))):
            room = [row for row in left if row[0] >= tokens[example] and row[1] >= patches[example]]
            row = min(room, key=lambda row: (row[0], -row[1])) if room else [100, 50]
            left += [] if room else [row]
            row[0] -= tokens[example]
            row[1] -= patches[example]
        rows = pack(tokens, patches, 100, 50)
        assert sorted((100 - sum(tokens[row]), 50 - sum(patches[row])) for row in rows) == sorted(map(tuple, left))
