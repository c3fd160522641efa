"""How an attempt to get an answer may end, and waiting for one."""

from __future__ import annotations

from mede2_jax.config import UserError

ATTEMPTS = 4
"""Failures of one request, in a time in which other requests are answered, before it is given up."""
SAY_AFTER = 2.0
"""Seconds of failure before the user hears of it."""


class MalformedReply(Exception):
    """A reply that is not what was asked for."""


class Refused(Exception):
    """The server cannot answer this request, now or later.

    Args:
        reason: Why, on one line.
        said: All that the server said, where it is an error of the OpenAI protocol.
        parameter: The field of the request that it names.
        is_policy: It is able to, and will not: what is asked is against its rules.
    """

    def __init__(self, reason: str, said: str = "", parameter: str = "", *, is_policy: bool = False) -> None:
        super().__init__(reason)
        self.said, self.parameter, self.is_policy = said, parameter, is_policy
        self.cost = 0.0
        """US dollars that attempts have cost all the same."""


class Failed(Exception):
    """An attempt that failed.

    Args:
        reason: Why.
        is_down: The server could not be reached, or broke the connection.
        counts: How much of it is the request's own fault.
        rest: Seconds that the server asks to be left alone.
        is_well: The reply was whole, there was just no answer in it.
        may_cost: It broke off after it was sent: the server may have done its work.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_down: bool = False,
        counts: int = 1,
        rest: float | None = None,
        is_well: bool = False,
        may_cost: bool = False,
    ) -> None:
        super().__init__(reason)
        self.is_down, self.counts, self.rest, self.is_well, self.may_cost = is_down, counts, rest, is_well, may_cost


class ServersGone(UserError):
    """No server has answered for too long."""
