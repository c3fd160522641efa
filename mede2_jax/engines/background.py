"""Requests are sent while replies are consumed: an event loop in a thread of its own works on many at a time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any

from mede2_jax.config import UserError
from mede2_jax.engines.chat import ChatFailure, ChatReply, ChatRequest

Answer = Callable[[ChatRequest], Coroutine[Any, Any, ChatReply | ChatFailure]]


class Background:
    """An event loop that runs until `stop`.

    Args:
        name: Of its thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Waits for what a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancels what is under way, then runs `close`, then ends the loop."""
        self.run(self._close(close))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def answer(
        self, requests: Iterable[ChatRequest], answer: Answer, most: int, *, finishes: bool = False
    ) -> Iterator[ChatReply | ChatFailure]:
        """As `ChatEngine.answer`.

        Args:
            requests: What is asked.
            answer: Answers one; several run at a time.
            most: Samples of requests that are taken ahead.
            finishes: What is under way is finished and given out before a UserError (or a fault of the requests) is raised; it ends
                by itself. Without, it is cancelled, and only what is finished already is given out.
        """
        waiting = iter(requests)
        under_way: dict[Future[ChatReply | ChatFailure], int] = {}
        done: queue.SimpleQueue[Future[ChatReply | ChatFailure]] = queue.SimpleQueue()
        fault: BaseException | None = None
        try:
            while True:
                try:
                    while fault is None and sum(under_way.values()) < most and (request := next(waiting, None)) is not None:
                        future = asyncio.run_coroutine_threadsafe(answer(request), self._loop)
                        under_way[future] = request.n
                        future.add_done_callback(done.put)
                except Exception as error:
                    fault = error
                if fault is not None and not (finishes and under_way):
                    raise fault
                if not under_way:
                    return
                future = done.get()
                del under_way[future]
                if (ended_by := future.exception()) is None:
                    yield future.result()
                elif finishes and isinstance(ended_by, UserError):
                    fault = fault or ended_by
                else:
                    raise ended_by
        except Exception:
            # What has been answered is given out before the fault, whose ever it is.
            yield from (future.result() for future in under_way if future.done() and future.exception() is None)
            raise
        finally:
            for future in under_way:
                future.cancel()

    async def _close(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await close()
        await self._loop.shutdown_default_executor()
