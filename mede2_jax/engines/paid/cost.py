"""What a run costs, and where it stops."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

import pydantic

from mede2_jax.config import Config, UserError, describe_validation_error, read_yaml
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
    prompt_tokens: int = 0
    response_tokens: int = 0
    cost: float = 0.0
    """US dollars."""


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


class Meter:
    """Counts, and stops at a budget.

    Args:
        price: The model's; None: not known.
        max_cost: US dollars that may be spent; None: any.
    """

    def __init__(self, price: Price | None, max_cost: float | None) -> None:
        self.price, self.max_cost, self.totals = price, max_cost, Totals()
        self._held = 0.0

    @contextlib.contextmanager
    def holding(self, prompt_tokens: int) -> Iterator[None]:
        """Sets aside what a request is likely to cost while it is under way: what the others did on average, its prompt at least.

        Raises:
            BudgetExhausted: There is too little left.
        """
        totals = self.totals
        likely = max(totals.cost / totals.paid if totals.paid else 0.0, self.cost(prompt_tokens, 0))
        if self.max_cost is not None and totals.cost + self._held + likely > self.max_cost:
            raise BudgetExhausted(
                f"max_cost={self.max_cost:g} US dollars is reached ({totals.cost:.4f} spent, {self._held:.4f} under way, the next request "
                f"about {likely:.4f}); what was answered is kept: raise --max_cost to go on"
            )
        self._held += likely
        try:
            yield
        finally:
            self._held -= likely

    def add(self, outcome: Outcome) -> float:
        """Counts a reply, and returns what it cost."""
        prompt, response = outcome.prompt_tokens or 0, outcome.response_tokens or 0
        cost = self.cost(prompt, response)
        totals = self.totals
        totals.paid += 1
        totals.prompt_tokens += prompt
        totals.response_tokens += response
        totals.cost += cost
        return cost

    def cost(self, prompt_tokens: int, response_tokens: int) -> float:
        """US dollars; 0 if the price is not known."""
        if self.price is None:
            return 0.0
        return (prompt_tokens * self.price.input + response_tokens * self.price.output) / 1e6
