"""Self-agreement against arithmetic that is written out, and against published examples."""

import math
import random

import numpy as np
import pytest

from mede2_jax.statistics.agreement import agreement, kappa_interval


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


def test_items_of_different_numbers_of_judgments():
    # Fleiss and Cuzick: of 4 items, yes of all 3/3, 1/2, 0/3, 2/4; n p q: 0, 0.5, 0, 1; share of yes 6/12, mean number 3.
    items = [(True,) * 3, (True, False), (False,) * 3, (True, True, False, False)]
    found = agreement(items)
    assert found.kind == "Fleiss" and math.isclose(found.kappa, 1 - 1.5 / (4 * 2 * 0.25))
    assert math.isclose(found.percent, (1 + 0 + 1 + 2 / 6) / 4)


def test_two_judgments_each_by_different_people_are_fleisss():
    items = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    share = 55 / 100
    found = agreement(items, same_judges=False)
    assert found.kind == "Fleiss" and math.isclose(found.kappa, (0.7 - share**2 - (1 - share) ** 2) / (2 * share * (1 - share)))


@pytest.mark.parametrize("kind", ["Cohen", "Fleiss"])
def test_an_interval_is_between_percentiles_of_resampled_items(kind):
    items = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    found = kappa_interval(items, kind, seed=3, resamples=2000)
    draws, kappas = np.random.default_rng(3).integers(50, size=(2000, 50)), []
    for draw in draws:
        kappas.append(agreement([items[place] for place in draw], same_judges=kind == "Cohen").kappa)
    assert np.allclose([found.low, found.high], np.percentile(kappas, [2.5, 97.5]), atol=1e-12)


def test_clusters_that_are_all_alike_widen_an_interval():
    items = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    apart, together = kappa_interval(items, "Cohen"), kappa_interval(items * 4, "Cohen", clusters=list(range(50)) * 4)
    assert math.isclose(apart.low, together.low, abs_tol=1e-12) and math.isclose(apart.high, together.high, abs_tol=1e-12)
    assert kappa_interval(items * 4, "Cohen").low > apart.low


def test_no_interval_where_there_is_none():
    assert kappa_interval([(True, True)], "Cohen") is None
    assert kappa_interval([(True, True)] * 30, "Cohen") is None
    assert kappa_interval([(True, True)] * 2 + [(False, False)], "Cohen") is None  # in a tenth of the draws all say the same
