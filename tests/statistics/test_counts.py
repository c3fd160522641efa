"""Printed percentages as counts, in the published tables that have to hold or not to hold."""

import math
import random
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest

from mede2_jax.statistics.counts import WAYS, fitting_counts, possible_counts

ROUNDED = {"half even", "half up"}
# MedXpertQA-MM: Reasoning of 1,446, Understanding of 554, all 2,000, as a table prints them, and the counts.
BY_TYPE = {
    "GPT-4o": ("40.73 48.19 42.80", (589, 267, 856)),
    "QvQ-Max": ("35.20 38.99 36.25", (509, 216, 725)),
    "Gemini-2.5-Pro": ("61.69 69.13 63.75", (892, 383, 1275)),
    "InternVL3-38B": ("26.90 29.24 27.55", (389, 162, 551)),
    "Qwen2.5-VL-7B": ("19.99 22.56 20.70", (289, 125, 414)),
    "Qwen2.5-VL-7B +I": ("24.48 26.90 25.15", (354, 149, 503)),
    "Qwen2.5-VL-7B +II": ("25.80 28.52 26.55", (373, 158, 531)),
    "InternVL3-8B": ("21.09 23.83 21.85", (305, 132, 437)),
    "InternVL3-8B +I": ("26.14 28.52 26.80", (378, 158, 536)),
    "InternVL3-8B +II": ("25.93 31.05 27.35", (375, 172, 547)),
    "Qwen2.5-VL-32B": ("26.00 30.86 27.35", (376, 171, 547)),
    "Qwen2.5-VL-72B": ("27.10 31.58 28.35", (392, 175, 567)),
}
CUT = {"Qwen2.5-VL-32B": (1,), "Qwen2.5-VL-72B": (0, 1)}
"""Rows that hold only if decimals are cut, and the cells where that shows."""
# Treatment of 448, Basic Science of 353, Diagnosis of 1,199; Reasoning, Understanding; all.
BY_TASK = {
    "32B": ("28.13 25.78 27.61 26.07 30.87 27.40", (126, 91, 331, 377, 171, 548)),
    "32B +I": ("33.03 30.31 32.19 31.60 33.21 32.05", (148, 107, 386, 457, 184, 641)),
    "32B +II": ("35.93 32.57 32.86 33.54 33.39 33.50", (161, 115, 394, 485, 185, 670)),
    "72B": ("30.36 24.08 28.86 27.11 31.59 28.35", (136, 85, 346, 392, 175, 567)),
    "72B +I": ("40.40 41.93 38.62 39.21 40.61 39.60", (181, 148, 463, 567, 225, 792)),
    "72B +II": ("41.52 42.49 39.45 39.63 42.60 40.45", (186, 150, 473, 573, 236, 809)),
}
OF_150 = {
    **{"59.33": 89, "70.67": 106, "60.00": 90, "80.67": 121, "63.33": 95, "70.00": 105, "68.00": 102, "71.33": 107, "55.33": 83},
    **{"61.33": 92, "56.00": 84, "57.33": 86, "62.00": 93, "66.00": 99, "69.33": 104},
}
OF_286 = {
    **{"40.91": 117, "52.10": 149, "41.96": 120, "66.08": 189, "48.25": 138, "50.35": 144, "45.10": 129, "51.40": 147, "36.71": 105},
    **{"43.36": 124, "48.95": 140, "36.36": 104, "38.81": 111},
}


def only(printed, total, **more):
    """The one count of a cell."""
    (found,) = possible_counts(printed, total, **more)
    return found.count


@pytest.mark.parametrize("model", BY_TYPE)
def test_reasoning_and_understanding_add_up(model):
    printed, counts = BY_TYPE[model]
    reasoning, understanding, whole = zip(printed.split(), (1446, 554, 2000), strict=True)
    assert fitting_counts([reasoning, understanding], whole) == [counts]
    for place, cell in enumerate((reasoning, understanding, whole)):
        (found,) = possible_counts(*cell)
        assert ("cut" in found.ways and not found.ways & ROUNDED) == (place in CUT.get(model, ())), cell


@pytest.mark.parametrize("model", BY_TASK)
def test_tasks_add_up_as_types_do(model):
    printed, counts = BY_TASK[model]
    cells = list(zip(printed.split(), (448, 353, 1199, 1446, 554, 2000), strict=True))
    assert fitting_counts(cells[:3], cells[5]) == [(*counts[:3], counts[5])]
    assert fitting_counts(cells[3:5], cells[5]) == [counts[3:]]


@pytest.mark.parametrize(("printed", "count"), OF_150.items())
def test_counts_of_150(printed, count):
    assert only(printed, 150) == count


@pytest.mark.parametrize(("printed", "count"), OF_286.items())
def test_counts_of_286(printed, count):
    assert only(printed, 286) == count


def test_a_subset_that_was_sampled():
    assert fitting_counts([("52.78", 144), ("65.45", 55)], ("56.28", 199)) == [(76, 36, 112)]
    assert [only("23.55", 2000), only("23.80", 2000)] == [471, 476]


def test_rows_that_do_not_hold():
    assert possible_counts("28.80", 1446) == ()
    assert [only("30.20", 2000), only("35.92", 554)] == [604, 199]
    assert only("28.01", 1446) == 604 - 199
    assert fitting_counts([("28.80", 1446), ("35.92", 554)], ("30.20", 2000)) == []
    # One decimal, 24.2 of all, where the parts make 23.8.
    assert [count.count for count in possible_counts("23.3", 1446) if count.ways & ROUNDED] == [337]
    assert only("25.1", 554) == 139
    assert fitting_counts([("23.3", 1446), ("25.1", 554)], ("24.2", 2000)) == []
    assert (337, 139, 476) in fitting_counts([("23.3", 1446), ("25.1", 554)], ("23.8", 2000))
    assert only("24.20", 2000) == 484


def test_another_denominator():
    for printed, count in {"28.47": 82, "32.99": 95, "34.03": 98}.items():
        assert possible_counts(printed, 286) == ()
        assert only(printed, 288) == count
    assert possible_counts("33.45", 286) == possible_counts("33.45", 288) == ()


def test_a_zero_that_fills_a_column():
    assert possible_counts("54.60", 150) == ()
    (found,) = possible_counts("54.60", 150, decimals=1)
    assert (found.count, found.ways) == (82, {"cut"})
    assert possible_counts("33.90", 286) == ()
    assert only("33.90", 286, decimals=1) == only("33.9", 286) == 97


@pytest.mark.parametrize(
    ("printed", "total", "count", "ways"),
    [
        ("28.13", 448, 126, {"half up"}),  # 28.125
        ("28.12", 448, 126, {"half even", "cut"}),
        ("33.03", 448, 148, {"cut"}),  # 33.0357
        ("35.93", 448, 161, {"cut"}),  # 35.9375
        ("32.57", 353, 115, {"cut"}),  # 32.5779
        ("2", 40, 1, {"half even", "cut"}),  # 2.5
        ("3", 40, 1, {"half up"}),
        ("8", 40, 3, {"half even", "half up"}),  # 7.5
        ("7", 40, 3, {"cut"}),
        ("0", 200, 1, {"half even", "cut"}),  # 0.5
        ("1", 200, 1, {"half up"}),
        ("100.00", 7, 7, {"half even", "half up", "cut"}),
        ("0.00", 7, 0, {"half even", "half up", "cut"}),
    ],
)
def test_how_decimals_end(printed, total, count, ways):
    assert {found.count: found.ways for found in possible_counts(printed, total)}[count] == ways


def test_decimals_are_those_that_are_printed():
    assert [count.count for count in possible_counts("62", 150)] == [93, 94]  # 62.67 is cut
    assert [count.count for count in possible_counts("62.0", 150)] == [93]
    assert [count.count for count in possible_counts("50", 1000) if count.ways & ROUNDED] == list(range(495, 505 + 1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_every_count_is_found_by_what_is_printed_of_it(seed):
    """Against Python's decimal arithmetic, and for all counts of the total."""
    draw = random.Random(seed)
    total, decimals = draw.choice([1, 3, 8, 64, 150, 199, 286, 448, 625, 1600, 2000]), draw.randint(0, 4)
    shown = {}
    for count in range(total + 1):
        share = Fraction(100 * count, total)
        for way, rounding in zip(WAYS, (ROUND_HALF_EVEN, ROUND_HALF_UP, ROUND_FLOOR), strict=True):
            # Twenty digits more than are printed, cut, and a last one for what is left: on the same side of every tie.
            exact = Decimal(math.floor(share * 10**24) * 10 + ((share * 10**24).denominator > 1)).scaleb(-25)
            text = str(exact.quantize(Decimal(1).scaleb(-decimals), rounding=rounding))
            shown.setdefault(text, {}).setdefault(count, set()).add(way)
    for text, counts in shown.items():
        assert {found.count: set(found.ways) for found in possible_counts(text, total)} == counts
    gaps = {f"{number / 10**decimals:.{decimals}f}" for number in range(0, 100 * 10**decimals + 1, 7)} - shown.keys()
    assert not any(possible_counts(text, total) for text in gaps)


@pytest.mark.parametrize("printed", ["", "-1", "+5.00", "62.", ".5", "62,00", "62%", " 62", "1e1", "٦٢", "nan", "62.00\n", "1000", "–"])
def test_what_is_no_percentage(printed):
    with pytest.raises(ValueError, match="is no printed percentage: expected digits"):
        possible_counts(printed, 150)


def test_more_than_all_is_impossible():
    assert possible_counts("100.01", 150) == ()
    assert possible_counts("250", 150) == ()


def test_what_cannot_be_asked():
    with pytest.raises(ValueError, match="0 is no number of items"):
        possible_counts("50", 0)
    for printed, decimals in (("54.61", 1), ("54.60", 3), ("54.60", -1), ("54", 1)):
        with pytest.raises(ValueError, match=f"'{printed}' has not {decimals} decimals and zeros after them"):
            possible_counts(printed, 150, decimals=decimals)
    with pytest.raises(ValueError, match="parts of 100, 40 items are no whole of 150"):
        fitting_counts([("50", 100), ("50", 40)], ("50", 150))
