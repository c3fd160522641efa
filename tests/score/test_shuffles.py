"""What the order of options does to a score, on tables that are written out."""

import pytest

from mede2_jax.score.config import ScoreConfig
from mede2_jax.score.shuffles import described, over_orders
from mede2_jax.score.summary import Table
from mede2_jax.score.verdicts import Sample
from mede2_jax.scoring.reading import Reading
from mede2_jax.tasks.catalogue import find_task
from mede2_jax.tasks.item import Item

OPTIONS = {letter: letter * 3 for letter in "ABCD"}


def samples(name, answers_by_seed, right="A"):
    return [
        Sample(
            name, at, Reading(read, "x"), "unparsed" if read is None else "correct" if read == right else "wrong", "stop", seed, "ABCD", at
        )
        for seed, answers in answers_by_seed.items()
        for at, read in enumerate(answers)
    ]


def table(**items):
    return Table(find_task("medqa"), [Item(name, "?", "A", OPTIONS) for name in items], [samples(name, one) for name, one in items.items()])


@pytest.mark.parametrize(
    ("answers", "changed"),
    [
        ({1: ["A"], 2: ["A"], 3: ["A"]}, False),
        ({1: ["A"], 2: ["A"], 3: ["B"]}, True),
        ({1: [None], 2: ["A"]}, True),  # nothing read is another answer
        ({1: [None], 2: [None]}, False),
        ({1: ["A", "A", "B"], 2: ["B", "A", "A"]}, False),  # the most frequent one counts, not chance
        ({1: ["A", "A", "B"], 2: ["B", "B", "A"]}, True),
        ({1: ["A", "B"], 2: ["B", "C"]}, False),  # B is among the most frequent in both
        ({1: ["A", "B"], 2: ["B", "C"], 3: ["C", "A"]}, True),  # none is in all three
    ],
)
def test_an_answer_changes_where_no_most_frequent_one_is_in_every_order(answers, changed):
    assert over_orders(table(q=answers), ScoreConfig())["answers"] == {"items": 1, "changed": int(changed), "share": float(changed)}


def test_accuracy_by_order_and_its_spread():
    found = over_orders(
        table(q1={1: ["A"], 2: ["A"]}, q2={1: ["A"], 2: ["B"]}, q3={1: [None], 2: ["B"]}, q4={1: ["A"], 2: ["C"]}), ScoreConfig()
    )
    assert {seed: (one["correct"], one["items"], one["unparsed"]) for seed, one in found["by_seed"].items()} == {
        "1": (3, 4, 1),
        "2": (1, 4, 0),
    }
    # 3/4 and 1/4: mean 1/2; each a quarter away, so the deviation is √(2 · (1/4)² / 1).
    assert found["spread"] == {"mean": 0.5, "standard_deviation": pytest.approx(0.35355339), "lowest": 0.25, "highest": 0.75}
    assert found["answers"] == {"items": 4, "changed": 3, "share": 0.75}
    assert described(found) == (
        "over 2 orders of the options: 25.00 to 75.00, standard deviation 35.36 points; "
        "the read answer of 3 of 4 items changes with the order"
    )


def test_open_items_and_items_of_one_order_have_no_answer_that_changes():
    open_item = Item("o", "?", "a mass")
    some = Table(find_task("medqa"), [open_item], [samples("o", {1: ["x"], 2: ["y"]})])
    assert over_orders(some, ScoreConfig())["answers"] == {"items": 0, "changed": 0, "share": None}
    one = over_orders(table(q={5: ["A", "B"]}), ScoreConfig())
    assert one["answers"]["items"] == 0 and one["spread"]["standard_deviation"] is None
    assert described(one) == "one order of the options: several seeds show how much it decides"
    with_own = over_orders(table(q={None: ["A"], 2: ["B"]}), ScoreConfig())
    assert list(with_own["by_seed"]) == ["as it is", "2"] and with_own["answers"]["changed"] == 1
