"""What replies cost, and when a run stops."""

import asyncio
import contextlib
import re

import pytest

from mede2_jax.config import UserError
from mede2_jax.data.records import Message
from mede2_jax.engines.chat import ChatRequest
from mede2_jax.engines.paid.cost import BudgetExhausted, Meter, Price, find_price
from mede2_jax.engines.paid.most import Most, gemini_picture, most_tokens, openai_picture
from mede2_jax.engines.paid.outcome import Outcome

PRICE = Price(name="m", input=2.0, output=10.0)
MOST = Most(1000, 1000)
"""Of which a request costs up to 0.012 US dollars."""


def paid(prompt, response):
    return Outcome(text="x", prompt_tokens=prompt, response_tokens=response)


async def reply(meter, outcome, most=MOST):
    async with meter.holding(most) as hold:
        return meter.add(outcome, hold)


def test_a_reply_costs_its_tokens():
    meter = Meter(PRICE, None)
    assert asyncio.run(reply(meter, paid(1_000_000, 500_000))) == 2.0 + 5.0
    assert asyncio.run(reply(meter, paid(1000, 10))) == pytest.approx(0.002 + 0.0001)
    totals = meter.totals
    assert (totals.paid, totals.prompt_tokens, totals.response_tokens) == (2, 1_001_000, 500_010)
    assert totals.cost == pytest.approx(7.0021)


def test_a_request_waits_for_those_under_way_and_gets_what_they_leave():
    async def run():
        meter, order = Meter(PRICE, 0.030), []

        async def ask(name, seconds, response):
            async with meter.holding(MOST) as hold:
                order.append(name)
                await asyncio.sleep(seconds)
                meter.add(paid(1000, response), hold)

        await asyncio.gather(ask("a", 0.05, 100), ask("b", 0.2, 100), ask("c", 0.0, 100))
        return meter, order

    meter, order = asyncio.run(run())
    assert order == ["a", "b", "c"] and meter.totals.cost == pytest.approx(3 * 0.003)


def test_nothing_under_way_and_too_little_left_is_the_end():
    async def run():
        meter = Meter(PRICE, 0.020)
        await reply(meter, paid(1000, 900))
        await reply(meter, paid(1000, 1000))

    with pytest.raises(BudgetExhausted, match=r"is reached \(0.0110 spent, and the next request may cost up to 0.0120 \(at most 1,000"):
        asyncio.run(run())


@pytest.mark.parametrize(("prompt", "response", "at_most"), [(None, 10, 0.002), (10, None, 0.010), (None, None, 0.012), (10, 10, 0.0)])
def test_what_a_reply_does_not_say_counts_at_its_most(prompt, response, at_most):
    meter = Meter(PRICE, 0.0125)
    asyncio.run(reply(meter, paid(prompt, response)))
    assert meter.totals.at_most == pytest.approx(at_most) and meter.totals.uncounted == (at_most > 0)
    assert meter.totals.cost == pytest.approx(((prompt or 0) * 2 + (response or 0) * 10) / 1e6)


def test_what_was_set_aside_is_free_again_when_an_attempt_fails():
    async def run():
        meter = Meter(PRICE, 0.0125)
        for _ in range(3):
            with contextlib.suppress(ZeroDivisionError):
                async with meter.holding(MOST):
                    raise ZeroDivisionError
        async with meter.holding(MOST) as hold:
            hold.keep()
        await reply(meter, paid(1, 1))

    with pytest.raises(BudgetExhausted, match=r"0.0000 spent|cannot hold one"):
        asyncio.run(run())


def test_nothing_may_be_asked_for_nothing():
    with pytest.raises(BudgetExhausted, match="max_cost=0 US dollars cannot hold one request"):
        asyncio.run(reply(Meter(PRICE, 0.0), paid(1, 1)))


def test_a_model_that_costs_nothing_needs_no_budget():
    assert asyncio.run(reply(Meter(Price(name="m", input=0, output=0), 0.0), paid(1, 1))) == 0.0


# Pictures, by the vendors' pages: a bound may be more than these, never less.


@pytest.mark.parametrize(
    ("size", "documented"), [((300, 300), 258), ((960, 540), 6 * 258), ((768, 768), 258), ((1536, 1536), 4 * 258), ((4000, 3000), 4 * 258)]
)
def test_a_picture_for_gemini(size, documented):
    assert documented <= gemini_picture(*size) <= max(24 * 258, 1120)
    assert gemini_picture(*size) == gemini_picture(*reversed(size)) >= 1120  # of Gemini 3, whatever the size


@pytest.mark.parametrize(
    ("model", "size", "documented"),
    [
        ("gpt-4o", (1024, 1024), 765),
        ("gpt-4o", (2048, 4096), 1105),
        ("gpt-4o-2024-08-06", (512, 512), 255),
        ("openai/gpt-4o", (8000, 6000), 765),
        ("gpt-4o-mini", (1024, 1024), 2833 + 4 * 5667),
    ],
)
def test_a_picture_for_models_that_count_tiles(model, size, documented):
    assert openai_picture(model, *size) == documented


@pytest.mark.parametrize(
    ("model", "size", "documented"),
    [
        ("gpt-4.1-mini", (1024, 1024), 1659),  # 1.62 for each of 1,024 patches
        ("gpt-4.1-nano", (1800, 2400), 3779),  # 2.46 for each of 1,536, the most
        ("gpt-5", (1024, 1024), 630),
        ("qwen2.5-vl", (3584, 3584), 16384),  # a token for 28 × 28 pixels
        ("internvl3", (448, 448), 13 * 256),
    ],
)
def test_a_picture_for_other_models(model, size, documented):
    assert documented <= openai_picture(model, *size) <= 8 * documented


@pytest.mark.parametrize("text", ["a" * 500, "ß" * 300, "胸腔积液" * 50, "😀" * 80, " \n" * 200, "\ud800"])
def test_the_bound_of_a_prompt_is_no_less_than_its_bytes(text):
    request = ChatRequest("q", (Message(role="user", content=text),), (), 1, 0, {"type": "object"})
    most = most_tokens(request, "gemini", "m", 77)
    assert most.response == 77 and most.prompt >= len(text.encode("utf-8", "surrogatepass")) + len('{"type": "object"}')


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
