"""Self-agreement against arithmetic that is written out, and against published examples."""

import math
import random

import pytest

from mede2_jax.statistics.agreement import agreement


def test_cohen():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p = 35/50; chance = 25/50 · 30/50 + 25/50 · 20/50 = 1/2; (0.7 − 0.5) / 0.5
    items = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    found = agreement(items)
    assert (found.items, found.kind) == (50, "Cohen")
    assert math.isclose(found.percent, 0.7) and math.isclose(found.kappa, 0.4)


def test_fleiss():
    # Four judgments of three items with 4, 2 and 0 yes: pairs that agree 6/6, 2/6, 6/6; share of yes 1/2, chance 1/2.
    items = [(True,) * 4, (True, False, True, False), (False,) * 4]
    found = agreement(items)
    assert found.kind == "Fleiss" and math.isclose(found.percent, 7 / 9) and math.isclose(found.kappa, (7 / 9 - 1 / 2) / (1 / 2))


def test_complete_agreement_is_one_and_chance_is_about_zero():
    assert agreement([(True,) * 3, (False,) * 3]).kappa == 1.0
    rng = random.Random(0)
    for repeats in (2, 5):
        items = [tuple(rng.random() < 0.7 for _ in range(repeats)) for _ in range(4000)]
        assert abs(agreement(items).kappa) < 0.03


def test_where_all_say_the_same_of_everything_kappa_is_undefined():
    for repeats in (2, 3):
        found = agreement([(True,) * repeats] * 5)
        assert (found.percent, found.kappa) == (1.0, None)


@pytest.mark.parametrize("items", [[], [(True,), (False,)]])
def test_nothing_to_compare(items):
    assert agreement(items) is None
