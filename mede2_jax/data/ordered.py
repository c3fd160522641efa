"""The same work on many records, a few at a time in threads, with the results in order."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_MAX_THREADS = 8
_AHEAD = 8
"""Items in flight per thread; bounds memory."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def in_order(job: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> Iterator[ResultT]:
    """`job` of every item, in the items' order; raises what the first failing job raised."""
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    pending: collections.deque[Future[ResultT]] = collections.deque()
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                while len(pending) < threads * _AHEAD:
                    try:
                        pending.append(pool.submit(job, next(waiting)))
                    except StopIteration:
                        break
                if not pending:
                    return
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
