"""Similarity against sets of word runs, built the plain way."""

import random

import numpy as np
import pytest

from mede2_jax.pair.similarity import similarities


def plain(one, other):
    """The definition: runs of three words as sets."""

    def runs(text):
        words = text.casefold().replace(".", " ").replace(",", " ").split()
        words += [""] * (3 - len(words)) if words else []
        return set(zip(words, words[1:], words[2:], strict=False))

    first, second = runs(one), runs(other)
    return len(first & second) / len(first | second) if first | second else 1.0


def test_it_is_the_jaccard_index_of_runs_of_three_words():
    rng = random.Random(0)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 60))) for _ in range(40)] + ["", "w1", "w1 w2", "w1 w2 w3"]
    expected = [[plain(one, other) for other in texts] for one in texts]
    np.testing.assert_allclose(similarities(texts), expected, atol=1e-6)


def test_case_and_punctuation_do_not_count():
    assert similarities(["The left lung. Is it white?", "the LEFT lung is it, white"])[0, 1] == 1.0


def test_scripts_without_spaces_have_runs_of_characters():
    found = similarities(["左侧可见细线影", "左侧可见粗线影", "心影增大"])
    # 左侧可 侧可见 | 可见细 见细线 细线影 against the same two and 可见粗 见粗线 粗线影
    assert found[0, 1] == pytest.approx(2 / 8) and found[0, 2] == 0.0


def test_one_text_and_no_words():
    assert similarities(["alone"]).tolist() == [[1.0]]
    assert similarities(["", "…"]).tolist() == [[1.0, 1.0], [1.0, 1.0]]
