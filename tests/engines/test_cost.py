"""What replies cost, and when a run stops."""

import contextlib
import re

import pytest

from mede2_jax.config import UserError
from mede2_jax.engines.paid.cost import BudgetExhausted, Meter, Price, find_price
from mede2_jax.engines.paid.outcome import Outcome

PRICE = Price(name="m", input=2.0, output=10.0)


def paid(prompt, response):
    return Outcome(text="x", prompt_tokens=prompt, response_tokens=response)


def test_a_reply_costs_its_tokens():
    meter = Meter(PRICE, None)
    assert meter.add(paid(1_000_000, 500_000)) == 2.0 + 5.0
    assert meter.add(paid(1000, 10)) == pytest.approx(0.002 + 0.0001)
    totals = meter.totals
    assert (totals.paid, totals.prompt_tokens, totals.response_tokens) == (2, 1_001_000, 500_010)
    assert totals.cost == pytest.approx(7.0021)


def test_the_budget_counts_what_is_under_way():
    meter = Meter(PRICE, 0.0100)
    meter.add(paid(1000, 0))  # 0.002, so a request costs 0.002 on average
    said = r"max_cost=0.01 .* \(0.0020 spent, 0.0080 under way, the next request about 0.0020\)"
    with contextlib.ExitStack() as under_way:
        for _ in range(4):
            under_way.enter_context(meter.holding(10))
        with pytest.raises(BudgetExhausted, match=said):
            under_way.enter_context(meter.holding(10))
    with meter.holding(10):  # what was set aside is free again
        pass


def test_before_the_first_reply_the_prompt_says_what_a_request_costs():
    with pytest.raises(BudgetExhausted), Meter(PRICE, 0.001).holding(1000):
        pass


def test_nothing_may_be_asked_for_nothing():
    with pytest.raises(BudgetExhausted), Meter(PRICE, 0.0).holding(1):
        pass


def test_a_model_that_costs_nothing_needs_no_budget():
    with Meter(Price(name="m", input=0, output=0), 0.0).holding(1000):
        pass


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gemini-2.5-pro", (1.25, 10.0)),
        ("models/gemini-2.5-pro", (1.25, 10.0)),
        ("gemini-2.5-flash-001", (0.3, 2.5)),
        ("gpt-4o", (2.5, 10.0)),
        ("gpt-4o-2024-08-06", (2.5, 10.0)),
        ("gpt-4o-2024-05-13", (5.0, 15.0)),
        ("gpt-4o-audio", None),
        ("gemini-2.5", None),
    ],
)
def test_the_packages_prices(model, expected):
    price, as_of = find_price(model, None)
    assert (price and (price.input, price.output)) == expected
    assert as_of.year >= 2026


def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "p.yaml").write_text("as_of: 2026-11-01\nmodels:\n- {name: mine, input: 0, output: 3}\n")
    assert find_price("mine", tmp_path / "p.yaml")[0] == Price(name="mine", input=0, output=3)
    assert find_price("gpt-4o", tmp_path / "p.yaml")[0] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("models: []", "as_of"),
        ("as_of: 2026-11-01\nmodels:\n- {name: a, input: -1, output: 3}", "models.0.input: Input should be greater than or equal to 0"),
        ("as_of: 2026-11-01\nmodels:\n- {name: a, input: 1, output: 3}\n- {name: a, input: 1, output: 3}", "names 'a' twice; keep one"),
        ("as_of: 2026-11-01\nmodel: []", "unknown key 'model'"),
        ("as_of: [", "not valid YAML"),
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path, text, expected):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(expected)) as error:
        find_price("a", tmp_path / "p.yaml")
    assert str(tmp_path / "p.yaml") in str(error.value) and "\n" not in str(error.value)
