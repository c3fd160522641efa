"""What was wanted and did not come. It stands in the manifest alone, so that it is kept there until it is tried again."""

from __future__ import annotations

import abc
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import pydantic

from mede2_jax.outputs.manifest import by_reason


class Failure(pydantic.BaseModel, abc.ABC):
    """Records that did not come, as the manifest has them. A command adds which, and what is to be known when they are tried again."""

    model_config = pydantic.ConfigDict(frozen=True)

    reason: str

    @property
    @abc.abstractmethod
    def items(self) -> Sequence[Hashable]:
        """Names of the records."""

    def only(self, items: Sequence[Hashable]) -> Failure:
        """The same of some of them; a failure of one record is only ever asked for that."""
        return self


FailureT = TypeVar("FailureT", bound=Failure)


class Failures(Generic[FailureT]):
    """The failures of a file, each of a record that is not there: of this run, and of runs before that it has not come to, or will not.

    Args:
        before: Of the runs before.
        is_open: Whether a record could be in the file, and is not; what has come since is no failure any more.
    """

    def __init__(self, before: Iterable[FailureT] = (), is_open: Callable[[Hashable], bool] = lambda _: True) -> None:
        self._before = {item: failure for failure in before for item in failure.items if is_open(item)}
        self._now: dict[Hashable, FailureT] = {}

    def __bool__(self) -> bool:
        return bool(self._before or self._now)

    @property
    def now(self) -> list[FailureT]:
        """Those of this run."""
        return _grouped(self._now)

    def get(self, item: Hashable) -> FailureT | None:
        """What is known of a record that did not come."""
        return self._now.get(item) or self._before.get(item)

    def listed(self) -> list[FailureT]:
        """All."""
        return _grouped(self._before) + _grouped(self._now)

    def settle(self, items: Iterable[Hashable], failure: FailureT | None) -> None:
        """Takes note of what came of records: `failure`, or that they are there."""
        for item in items:
            self._before.pop(item, None)
            self._now.pop(item, None)
            if failure is not None:
                self._now[item] = failure

    def count_without(self, items: Iterable[Hashable]) -> int:
        """How many records of runs before failed that are not among `items`."""
        return len(self._before.keys() - items) if self._before else 0

    def by_reason(self, *, now: bool = False) -> dict[str, int]:
        """Records that failed (`now`: in this run), by reason; reasons that differ in numbers only are one."""
        return by_reason((failure.reason, len(failure.items)) for failure in (self.now if now else self.listed()))


def _grouped(failures: dict[Hashable, FailureT]) -> list[FailureT]:
    """Each failure once, with the records that it is still of."""
    items: dict[int, tuple[FailureT, list[Hashable]]] = {}
    for item, failure in failures.items():
        items.setdefault(id(failure), (failure, []))[1].append(item)
    return [failure if len(failure.items) == len(open) else failure.only(open) for failure, open in items.values()]  # type: ignore[misc]
