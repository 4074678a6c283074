"""A thread of one's own: work goes in from the event loop, a future comes back to it.

What an executor of the standard library does beside that (a lock, a condition and a second future
for each piece of work, kept in step with the first) costs 30 us a call, which a node pays at every
round. Invariant: one piece at a time, in order; the thread is made at the first one, and keeps
nothing of a piece that is done.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple):
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    work: Callable[..., Any]
    arguments: tuple[Any, ...]


class Hand:
    """Does pieces of work in a thread called ``name``. Constructing starts nothing.

    The thread does not keep the process alive: what is to be finished is to be awaited.
    """

    def __init__(self, name: str) -> None:
        self.is_busy = False
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def do(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Have ``work(*arguments)`` done; the future has its result, or what it raised.

        A future that is cancelled before its turn has come is passed over.
        """
        if self._closed:
            raise RuntimeError(f"the thread {self._name} does no more work")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(loop, future, work, arguments))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return future

    def close(self) -> None:
        """Cancel what has not begun, without waiting for what has; harmless twice."""
        self._closed = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                job.future.cancel()
        self._jobs.put(None)

    def _run(self) -> None:
        while self._next():
            pass

    def _next(self) -> bool:
        """Wait for a piece and do it; False at the end. What it held is gone on return."""
        job = self._jobs.get()
        if job is None:
            return False
        if not job.future.cancelled():
            self.is_busy = True
            try:
                result, error = job.work(*job.arguments), None
            except BaseException as raised:  # noqa: BLE001 - whoever awaits it gets it
                result, error = None, raised
            self.is_busy = False
            try:
                job.loop.call_soon_threadsafe(_finish, job.future, result, error)
            except RuntimeError:
                return not job.loop.is_closed()  # nobody is left to be told
        return True


def _finish(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
