"""What once crashed a parser, and some inputs of each that are almost right: all are taken, or refused in one line."""

import pytest
from fuzz_run import CRASHES, mutated, outcome
from fuzz_targets import TARGETS

INPUTS = 60
"""Of each parser, the same on every machine; some take a twentieth of a second each."""


@pytest.mark.parametrize("path", sorted(CRASHES.iterdir()), ids=lambda path: path.name)
def test_what_crashed_once_does_so_no_more(path):
    kind, text = outcome(TARGETS[path.name.rpartition("-")[0]](), path.read_bytes())
    assert kind in ("accepted", "refused"), text


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_taken(name):
    target = TARGETS[name]()
    kinds = [outcome(target, seed) for seed in target.seeds]
    assert all(kind in ("accepted", "refused") for kind, _ in kinds), kinds
    if name != "api_error":
        assert any(kind == "accepted" for kind, _ in kinds), kinds


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_taken_or_refused_in_one_line(name):
    target = TARGETS[name]()
    for number in range(INPUTS):
        kind, text = outcome(target, mutated(target, 0, number))
        assert kind in ("accepted", "refused"), (number, kind, text)


def test_inputs_follow_from_the_seed():
    target = TARGETS["records"]()
    assert [mutated(target, 3, number) for number in range(20)] == [mutated(target, 3, number) for number in range(20)]
    assert len({mutated(target, seed, 5) for seed in range(20)}) > 10
