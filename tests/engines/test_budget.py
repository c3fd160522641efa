"""What a run may cost: `max_cost` is never passed, whatever replies take, and is used up as far as that allows."""

import contextlib
import re

import pytest
from gemini_server import Drop, GeminiServer, empty, error
from paying import ask, engine, request, words

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatReply, Sampling
from mede2_jax.engines.paid.cache import Cache
from mede2_jax.engines.paid.cost import BudgetExhausted, Totals


def test_a_budget_stops_the_run_and_keeps_what_was_paid(tmp_path):
    # A reply: 2 tokens of prompt and 93 + 7 of response.
    cost = (2 * 1.25 + 100 * 10.0) / 1e6
    path = tmp_path / "c.sqlite"
    with GeminiServer(say=words(93), seconds=0.01) as server:
        chat, replies = engine(server, Sampling(max_tokens=100), cache=path, max_cost=20.5 * cost, concurrency=4), []
        said = rf"^max_cost=0.0205\d* US dollars is reached \({20 * cost:.4f} spent, .*; what was answered is kept: raise"
        with chat, pytest.raises(BudgetExhausted, match=said):
            replies.extend(chat.answer(map(request, range(100))))
        assert len(replies) == 20 and all(isinstance(reply, ChatReply) for reply in replies)
        assert len(server.bodies) == len(replies) and chat.spent == pytest.approx(len(replies) * cost) and chat.spent <= 20.5 * cost
        with Cache(path) as cache:
            assert cache._file.execute("SELECT count(*), sum(cost) FROM outcomes").fetchone() == (len(replies), pytest.approx(chat.spent))
        rest, usage = ask(server, map(request, range(100)), sampling=Sampling(max_tokens=100), cache=path)
    assert len(rest) == 100 and usage.cached == len(replies) and set(server.delivered.values()) == {1}


MIXTURES = {
    "short ones first": lambda number: 50 if number < 32 else 8000,
    "long ones first": lambda number: 8000 if number < 3 else 50,
    "every eighth is long": lambda number: 8000 if number % 8 == 5 else 50,
    "all are long": lambda number: 8000,
    "all are short": lambda number: 50,
}


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 16, 100])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_budget_is_never_passed(concurrency, mixture):
    """Whatever the replies before were like: a thinking model's differ as much as this."""
    most, max_cost = (8192 * 10.0 + 300 * 1.25) / 1e6, 0.35

    def say(body, texts, images):
        return " ".join(["so"] * (MIXTURES[mixture](int(texts[0].split()[1])) - 7))

    replies = []
    with GeminiServer(say=say, seconds=0.002) as server:
        chat = engine(server, Sampling(max_tokens=8192), max_cost=max_cost, concurrency=concurrency)
        with chat, contextlib.suppress(BudgetExhausted):
            replies.extend(chat.answer(map(request, range(250))))
        paid = server.billed
    assert chat.spent == pytest.approx(paid) and len(replies) == len(server.bill) == len(server.bodies)
    assert max_cost - most < paid <= max_cost or (len(replies) == 250 and paid <= max_cost), "the budget is used, and not passed"


def test_the_line_of_a_spent_budget_has_the_final_sum():
    """Not that of the moment in which the first of many requests found too little left."""
    with GeminiServer(say=words(993), seconds=0.05) as server:
        chat = engine(server, Sampling(max_tokens=1000), max_cost=0.055, concurrency=16)
        with chat, pytest.raises(BudgetExhausted) as error:
            list(chat.answer(map(request, range(60))))
        assert f"({server.billed:.4f} spent, and the next request may cost up to 0.0104 (at most " in str(error.value)
    assert chat.usage.answered == 5


def test_what_a_budget_has_room_for_runs_at_the_same_time():
    """Throughput is that without a budget while there is enough; at its end fewer run, and none waits for ever."""
    with GeminiServer(say=words(93), seconds=0.1) as server:
        chat = engine(server, Sampling(max_tokens=100), max_cost=1.0, concurrency=16)
        with chat:
            assert len(list(chat.answer(map(request, range(64))))) == 64
    assert server.peak == 16
    with GeminiServer(say=words(13), seconds=0.05) as server:
        # Room for four at their most, of which each takes a tenth.
        chat = engine(server, Sampling(max_tokens=200), max_cost=0.0105, concurrency=16)
        with chat:
            assert len(list(chat.answer(map(request, range(40))))) == 40
    assert server.peak == 4


@pytest.mark.parametrize("max_tokens", [1, 50, 400, 8192, 65536])
def test_a_budget_that_cannot_hold_one_request_says_what_one_may_cost(max_tokens):
    most, tokens = (max_tokens * 10.0 + 294 * 1.25) / 1e6, f"at most 294 tokens of prompt, max_tokens={max_tokens:,} of reply"
    with GeminiServer() as server:
        chat = engine(server, Sampling(max_tokens=max_tokens), max_cost=most * 0.99, concurrency=16)
        said = rf"cannot hold one request, which may cost up to {most:.4f} \({tokens}\)"
        with chat, pytest.raises(BudgetExhausted, match=said + "; raise --max_cost, or lower --max_tokens$"):
            list(chat.answer(map(request, range(10))))  # texts of one length: any of them may be the first
        assert not server.bodies and chat.spent == 0.0


def test_an_attempt_that_may_be_on_the_bill_stays_in_the_budget():
    """Its connection broke: the API may have done its work. Ten of them are not sent again and again from the same money."""

    def faults(number, body):
        raise Drop

    with GeminiServer(faults=faults) as server:
        chat = engine(server, Sampling(max_tokens=100), max_cost=0.0045, concurrency=2)
        said = r"\(0.0000 spent, up to 0.0041 for 3 attempts of which nobody here knows the cost, and the next"
        with chat, pytest.raises(BudgetExhausted, match=said):
            list(chat.answer(map(request, range(10))))
    assert len(server.bodies) == 3 and chat.usage.at_most <= 0.0045


def test_a_budget_of_nothing_still_gives_what_is_known(tmp_path):
    with GeminiServer() as server:
        ask(server, map(request, range(5)), cache=tmp_path / "c.sqlite")
        replies, _ = ask(server, map(request, range(5)), cache=tmp_path / "c.sqlite", max_cost=0.0)
        assert len(replies) == 5
        with pytest.raises(BudgetExhausted):
            ask(server, map(request, range(6)), cache=tmp_path / "c.sqlite", max_cost=0.0)
    assert len(server.bodies) == 5


@pytest.mark.parametrize("concurrency", [1, 16])
def test_what_is_known_is_given_whatever_stands_before_it(tmp_path, concurrency):
    with GeminiServer() as server:
        ask(server, map(request, range(50, 90)), cache=tmp_path / "c.sqlite")
        got = []
        with (
            engine(server, cache=tmp_path / "c.sqlite", max_cost=0.0, concurrency=concurrency) as chat,
            pytest.raises(BudgetExhausted, match="cannot hold one request"),
        ):
            got.extend(reply.request.id for reply in chat.answer(map(request, range(100))))
    assert sorted(got) == sorted(f"q{number}" for number in range(50, 90)) and len(server.bodies) == 40


def test_an_api_that_gives_more_than_it_may_is_told_of_and_held_to_that():
    """Each reply is ten times as long: after the first one as much is set aside, so that one alone may pass the budget."""
    lines = []

    def faults(number, body):
        return server.reply(body) | {"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 993}}

    with GeminiServer(faults=faults) as server:
        chat = engine(server, Sampling(max_tokens=100), max_cost=0.05, concurrency=1, notify=lines.append)
        with chat, pytest.raises(BudgetExhausted, match=r"max_tokens=993 of reply\)"):
            list(chat.answer(map(request, range(40))))
        assert chat.spent == pytest.approx(server.billed) and server.billed <= 0.05 and len(server.bodies) == 4
    assert [line for line in lines if "gives more than max_tokens=100 (a reply of 993): from now on as much is set aside" in line]


def test_what_nobody_knows_the_cost_of_is_told_at_the_end():
    lines = []

    def faults(number, body):
        if number == 1:
            raise Drop

    with GeminiServer(faults=faults) as server, engine(server, notify=lines.append, concurrency=1) as chat:
        assert len(list(chat.answer(map(request, range(4))))) == 4
    (line,) = [line for line in lines if "nobody here knows the cost" in line]
    assert line.startswith("1 attempt of which nobody here knows the cost: up to $") and line.endswith(" more than what is counted")


def test_each_engine_of_a_run_tells_of_its_own_and_knows_what_the_others_learned():
    """The first reply does not say what it took, and the second, to another engine, is longer than was allowed."""
    lines, totals = [], Totals()

    def faults(number, body):
        reply = server.reply(body)
        usage = {1: {"promptTokenCount": 4, "candidatesTokenCount": 993}}.get(number, {})
        return {**reply, "usageMetadata": usage} if number in (0, 1, 3) else None

    with GeminiServer(faults=faults) as server:
        for number in range(1, 5):
            with engine(server, Sampling(max_tokens=100), notify=lines.append, concurrency=1, totals=totals) as chat:
                list(chat.answer([request(number)]))
    ends = [line for line in lines if "nobody here knows the cost" in line]
    assert len(ends) == 2 and ends[0].startswith("1 attempt ") and ends[1].startswith("1 attempt "), lines
    first, second = (float(re.search(r"up to \$([\d.]+) more", line)[1]) for line in ends)
    assert second > 5 * first  # as much as the longest reply took is set aside from then on


def test_a_model_without_a_price(tmp_path):
    lines = []
    with GeminiServer(model="gemini-9") as server:
        with pytest.raises(
            UserError, match=r"max_cost=1, but there is no price of 'gemini-9' in the package's prices of .*; add it to a file"
        ):
            engine(server, max_cost=1.0)
        (reply,), usage = ask(server, [request(1)], notify=lines.append)
        assert (reply.usage.cost, usage.cost) == (0.0, 0.0) and reply.usage.response_tokens > 0
        assert (
            len(lines) == 1
            and "no price of 'gemini-9' in the package's prices" in lines[0]
            and lines[0].endswith(": costs are not counted")
        )
        (tmp_path / "p.yaml").write_text("as_of: 2026-11-01\nmodels:\n- {name: gemini-9, input: 1000000, output: 0}\n")
        (reply,), usage = ask(server, [request(2)], prices=tmp_path / "p.yaml", max_cost=500)
        assert reply.usage.cost == usage.cost == 2.0


def test_of_an_api_that_does_not_say_what_it_took_each_reply_counts_as_the_most_it_may_take():
    def faults(number, body):
        return {"candidates": [{"content": {"parts": [{"text": "yes"}]}, "finishReason": "STOP"}]}

    with GeminiServer(faults=faults) as server:
        (reply,), usage = ask(server, [request(1)])
        assert (reply.completions[0].text, reply.prompt_tokens, usage.uncounted) == ("yes", 0, 1)
        lines, replies = [], []
        chat = engine(server, max_cost=0.0212, concurrency=4, notify=lines.append)
        with chat, pytest.raises(BudgetExhausted, match=r"0.0000 spent, up to 0.0175 for 4 attempts of which nobody here knows the cost"):
            replies.extend(chat.answer(map(request, range(9))))
    assert len(replies) == 4 and len(server.bodies) == 5
    assert len(lines) == 1 and "does not say how many tokens a reply took: for max_cost it counts as the most" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 16, 100])
def test_a_budget_is_kept_whatever_goes_wrong(concurrency):
    """Replies that come to nobody are on the bill, those without a word too, and errors are not."""

    def faults(number, body):
        if number % 6 == 1:
            return empty(body)
        if number % 6 == 2:
            server.bill.append({"promptTokenCount": 2, "thoughtsTokenCount": body["generationConfig"]["maxOutputTokens"]})
            raise Drop
        if number % 6 == 3:
            return error(500, "INTERNAL", "oops")
        if number % 6 == 4:
            return 200, {}, b"no JSON"
        return None

    replies, max_cost = [], 0.5
    with GeminiServer(say=words(50), faults=faults) as server:
        chat = engine(server, Sampling(max_tokens=1000), max_cost=max_cost, concurrency=concurrency)
        with chat, pytest.raises(BudgetExhausted, match="is reached"):
            replies.extend(chat.answer(map(request, range(400))))
        assert 0.5 * max_cost < server.billed <= max_cost
    # What was billed and what may have been: nothing of it is given away twice.
    assert chat.usage.cost + chat.usage.at_most <= max_cost < chat.usage.cost + chat.usage.at_most + 0.0105
    assert len(replies) == chat.usage.answered + chat.usage.failed > 30
