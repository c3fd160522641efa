"""Closed answers and open ones where no owner has a rule, and how much of the right answer a reply holds."""

import random

import pytest

from mede2_jax.scoring.modes import judge, mede2, official
from mede2_jax.scoring.texts import SharedWords, closed_rule, open_rule, shared_words


@pytest.mark.parametrize(
    ("reply", "truth", "outcome"),
    [
        ("Yes", "yes", "correct"),
        ("yes, there is a large effusion", "Yes", "correct"),
        ("No.", "yes", "wrong"),
        ("<think> no … </think> <answer> Yes </answer>", "yes", "correct"),
        ("It cannot be seen here", "yes", "unparsed"),
        ("yes or no", "yes", "unparsed"),
        ("", "no", "unparsed"),
        ("The right lung.", "right lung", "correct"),
        ("Answer: the heart", "lung", "wrong"),
        ("是", "是", "correct"),
        ("left", ("left", "left side"), "correct"),
        ("Left Side", ("left", "left side"), "correct"),
    ],
)
def test_closed_answers_are_compared_as_ours_are(reply, truth, outcome):
    rule = closed_rule(truth)
    assert official(reply, truth, rule).outcome == outcome
    assert mede2(reply, truth, rule).outcome == outcome


@pytest.mark.parametrize(
    ("reply", "truth", "outcome"),
    [
        ("The Pleural effusion.", "pleural effusion", "correct"),
        ("There is a pleural effusion", "pleural effusion", "wrong"),
        ("in the canals of Hering", "In the canals of hering.", "correct"),
        (" \n ", "x", "unparsed"),
        ("?!", "?!", "wrong"),
        ("effusion", ("fluid", "Effusion"), "correct"),
    ],
)
def test_an_open_answer_is_right_if_the_whole_reply_is_the_right_text(reply, truth, outcome):
    assert official(reply, truth, open_rule()).outcome == outcome


def test_the_third_step_reads_prose_and_a_thought_is_none_of_it():
    verdict = judge("mede2", "<think> effusion? </think> There is fluid on the right side", "effusion", open_rule())
    assert verdict.reading.answer == "There is fluid on the right side" and verdict.reading.step == "whole reply"
    assert judge("mede2", "<think> effusion", "effusion", open_rule()).reading.answer is None
    assert judge("mede2", "<answer> effusion </answer>", "effusion", open_rule()).reading.step == "answer tag"


@pytest.mark.parametrize(
    ("said", "truth", "recall", "f1", "llava_med"),
    [
        # Each by hand; words of the reply : words of the right answer.
        ("effusion on the right", "right pleural effusion", 2 / 3, 2 * 2 / (3 + 3), 2 / 3),  # "the" is no word
        ("Right pleural effusion.", "right pleural effusion", 1, 1, 1),
        ("nothing", "right lung", 0, 0, 0),
        ("lung lung lung", "right lung", 1 / 2, 2 / (3 + 2), 3 / 4),  # three of three said, and one missing
        ("left", "left left", 1 / 2, 2 / (1 + 2), 1),  # a set there
        ("", "lung", 0, 0, 0),
        (None, "lung", 0, 0, 0),
        ("k b c", ("b", "x y"), 1, 2 / (3 + 1), 1),
        ("x", ("x y z", "x q"), 1 / 2, 2 / (1 + 2), 1 / 2),
    ],
)
def test_shared_words(said, truth, recall, f1, llava_med):
    found = shared_words(said, truth)
    assert (found.recall, found.f1, found.recall_llava_med) == pytest.approx((recall, f1, llava_med))


def test_shared_words_of_any_texts_lie_between_none_and_all():
    source = random.Random(5)
    words = ["lung", "the", "2.5", "left", "?", "</think>", "肺", "a"]
    for _ in range(500):
        said, truth = (" ".join(source.choices(words, k=source.randint(0, 6))) for _ in range(2))
        found = shared_words(said, truth)
        assert isinstance(found, SharedWords)
        assert 0 <= found.recall <= found.recall_llava_med <= 1 and 0 <= found.f1 <= 1
        closed, whole = closed_rule(truth), open_rule()
        assert closed.is_right(closed.read(said), truth) <= (closed.read(said).answer is not None)
        assert whole.is_right(whole.read(said), truth) <= (found.f1 == 1)
