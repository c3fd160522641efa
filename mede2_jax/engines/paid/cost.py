"""What a run costs, and where it stops."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Self

import pydantic

from mede2_jax.config import Config, UserError, counted, describe_validation_error, read_yaml
from mede2_jax.engines.paid.most import Most
from mede2_jax.engines.paid.outcome import Outcome

Dollars = Annotated[float, pydantic.Field(ge=0.0, allow_inf_nan=False)]
PRICES = Path(__file__).with_name("prices.yaml")
_VERSION = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{3})$")


class Price(Config):
    """US dollars per million tokens."""

    name: str
    """As the API calls the model."""
    input: Dollars
    output: Dollars
    """Thoughts are output."""


class Prices(Config):
    """A file of prices."""

    as_of: datetime.date
    """When they were looked up."""
    models: tuple[Price, ...]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        names = [price.name for price in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"field 'models' names {twice[0]!r} twice; keep one")
        return self


class BudgetExhausted(UserError):
    """`max_cost` is reached: nothing more is asked."""


@dataclasses.dataclass
class Totals:
    """What an engine has done so far."""

    answered: int = 0
    """Requests with an answer, from the cache or not."""
    cached: int = 0
    """Outcomes that came from the cache, or from the same request asked a moment before."""
    paid: int = 0
    """Whole replies of the API, those without an answer among them."""
    failed: int = 0
    """Requests without an answer."""
    broken: int = 0
    """Attempts that broke off after they were sent: nobody here knows whether they are on the bill."""
    uncounted: int = 0
    """Replies (of `paid`) that do not say how many tokens they took."""
    prompt_tokens: int = 0
    response_tokens: int = 0
    cost: float = 0.0
    """US dollars."""
    at_most: float = 0.0
    """US dollars that broken attempts and uncounted replies have cost besides, at most."""
    longest: int = 0
    """Tokens of the longest reply: more than were allowed, where an API does not keep to that."""

    @property
    def unknown(self) -> int:
        """Attempts of which nobody here knows the cost."""
        return self.broken + self.uncounted


def find_price(model: str, path: Path | None) -> tuple[Price | None, datetime.date]:
    """A model's price, None if it is not listed, and the date of the list.

    Args:
        model: As the API calls it.
        path: The file; None: the package's own.

    Raises:
        UserError: The file cannot be read, or is no such file.
    """
    path = path or PRICES
    try:
        prices = Prices.model_validate(read_yaml(Prices, path))
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {describe_validation_error(error)}") from None
    known = {price.name: price for price in prices.models}
    name = model.removeprefix("models/")
    return known.get(name) or known.get(_VERSION.sub("", name)), prices.as_of


@dataclasses.dataclass
class Hold:
    """What is set aside for one attempt."""

    most: Most
    cost: float
    """US dollars that it may cost at most."""
    kept: float = 0.0
    """What stays set aside when it has ended, since nobody here knows whether it is on the bill."""

    def keep(self) -> None:
        """The attempt broke off after it was sent."""
        self.kept = self.cost


class Meter:
    """Counts, and stops before a budget is passed. All methods are called in one event loop.

    Before a request is sent, what it may cost at most is set aside; of that, what it did not cost is free again when its reply is
    there. Where that much is not left, it waits for those under way; and where none is, the budget is used up.

    Args:
        price: The model's; None: not known.
        max_cost: US dollars that may be spent; None: any.
        totals: What has been spent before, of the same budget; it is counted on. None: nothing.
    """

    def __init__(self, price: Price | None, max_cost: float | None, totals: Totals | None = None) -> None:
        self.price, self.max_cost = price, max_cost
        self.totals = Totals() if totals is None else totals
        self._held, self._under_way = 0.0, 0
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def holding(self, most: Most) -> AsyncIterator[Hold]:
        """Sets aside what an attempt may cost, for as long as it is under way.

        Raises:
            BudgetExhausted: There is too little left, and nothing under way that could leave some of its own.
        """
        most = most._replace(response=max(most.response, self.totals.longest))
        hold = Hold(most, self.cost(*most))
        while self.max_cost is not None and self.totals.cost + self.totals.at_most + self._held + hold.cost > self.max_cost:
            if not self._under_way:
                raise self._exhausted(hold)
            await self._freed.wait()
        self._held, self._under_way = self._held + hold.cost, self._under_way + 1
        try:
            yield hold
        finally:
            self._under_way -= 1
            self._held = self._held - hold.cost if self._under_way else 0.0
            self.totals.at_most += hold.kept
            self._freed.set()
            self._freed = asyncio.Event()

    def add(self, outcome: Outcome, hold: Hold) -> float:
        """Counts a reply, and returns what it cost. What it does not say of itself counts at its most, beside that."""
        prompt, response = outcome.prompt_tokens or 0, outcome.response_tokens or 0
        cost = self.cost(prompt, response)
        unsaid = self.cost(
            hold.most.prompt if outcome.prompt_tokens is None else 0, hold.most.response if outcome.response_tokens is None else 0
        )
        hold.kept += unsaid
        totals = self.totals
        totals.paid += 1
        totals.uncounted += outcome.prompt_tokens is None or outcome.response_tokens is None
        totals.prompt_tokens += prompt
        totals.response_tokens += response
        totals.longest = max(totals.longest, response)
        totals.cost += cost
        return cost

    def cost(self, prompt_tokens: int, response_tokens: int) -> float:
        """US dollars; 0 if the price is not known."""
        if self.price is None:
            return 0.0
        return (prompt_tokens * self.price.input + response_tokens * self.price.output) / 1e6

    def _exhausted(self, hold: Hold) -> BudgetExhausted:
        """Nothing is under way, so these are the final sums."""
        totals, most = self.totals, hold.most
        needs = f"may cost up to {hold.cost:.4f} (at most {most.prompt:,} tokens of prompt, max_tokens={most.response:,} of reply)"
        if not totals.paid and not totals.broken:
            return BudgetExhausted(
                f"max_cost={self.max_cost:g} US dollars cannot hold one request, which {needs}; raise --max_cost, or lower --max_tokens"
            )
        spent = f"{totals.cost:.4f} spent"
        if totals.at_most:
            unknown = counted(totals.unknown, "attempt")
            spent += f", up to {totals.at_most:.4f} for {unknown} of which nobody here knows the cost"
        return BudgetExhausted(
            f"max_cost={self.max_cost:g} US dollars is reached ({spent}, and the next request {needs}); "
            "what was answered is kept: raise --max_cost to go on"
        )
