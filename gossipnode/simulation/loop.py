"""An asyncio event loop in virtual time: instead of waiting for the next timer, it is there.

Theory of operation. Where asyncio's loop asks its selector to wait until the next timer is due,
this one sets its clock to that timer's instant and goes on. Tasks, futures, locks and timeouts
are asyncio's own and cannot tell the difference. With no socket and no thread, the order of
events depends on the program alone: timers fire in the order of their instants, those of the
same instant in the order in which they were set.

Invariant: the clock moves only when every task waits, never backwards, and no timer fires before
its instant.
"""

# ruff: noqa: SLF001 - a loop and its handles are one thing in two classes

from __future__ import annotations

import asyncio
import gc
import heapq
import selectors
from abc import ABC, abstractmethod
from asyncio.events import Handle, TimerHandle
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

# Fewer timers than this are not looked through for cancelled ones.
SWEEP_MIN = 4096


class StuckError(RuntimeError):
    """Every task waits for something that never comes: the scenario would hang for ever."""


class _NoSelector(selectors.BaseSelector):
    """Holds what asyncio registers (its wake-up for threads and signals) and never looks at it."""

    def __init__(self) -> None:
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, -1, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, _timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        raise AssertionError("nothing waits for files in virtual time")

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map


class Happening(ABC):
    """What happens at an instant, as a handle is run then, but which nobody cancels.

    It costs half of a handle, since it has no context of its own. An error that it raises ends the
    run, as one of a bug ought to.
    """

    __slots__ = ()
    _cancelled = False

    def cancelled(self) -> bool:
        """Say that it stands."""
        return False

    @abstractmethod
    def _run(self) -> None:
        """Be what happens."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` is virtual seconds from 0."""

    # asyncio's own, which its run_forever and the rest of it go on using.
    _ready: deque[Handle | Happening]
    _stopping: bool

    def __init__(self) -> None:
        self.now = 0.0  # what ``time`` returns
        # Tuples, which compare in C: a simulation sets two or three timers for every message.
        self._timers: list[tuple[float, int, TimerHandle | Happening]] = []
        self._timers_set = 0
        self._sweep_at = SWEEP_MIN
        super().__init__(_NoSelector())

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run ``callback`` after ``delay`` seconds."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run ``callback`` when the clock shows ``when``, or at once where that has passed."""
        handle = TimerHandle(when, callback, args, self, context)
        self.happen_at(when, handle)
        if len(self._timers) > self._sweep_at:
            self._sweep()
        return handle

    def happen_at(self, when: float, what: TimerHandle | Happening) -> None:
        """Run ``what`` when the clock shows ``when``, or at once where that has passed."""
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, what))

    def _sweep(self) -> None:
        """Throw out the cancelled timers, which otherwise stay until their instant."""
        self._timers[:] = [timer for timer in self._timers if not timer[2].cancelled()]
        heapq.heapify(self._timers)
        self._sweep_at = max(SWEEP_MIN, 2 * len(self._timers))

    def _run_once(self) -> None:
        """Run what is ready now; where nothing is, go to the next timer's instant first."""
        ready, timers = self._ready, self._timers
        if not ready and not self._stopping:
            self.now = max(self.now, self._next_instant())
        while timers and timers[0][0] <= self.now:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _next_instant(self) -> float:
        """Return when the next timer that still stands is due."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise StuckError("every task waits for something that never comes")
        return timers[0][0]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in virtual time; raises ``StuckError`` where it would never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for reference cycles a hundred times more rarely.

    A simulation makes objects all the time, thousands of nodes stay, and next to nothing of it
    is in cycles: looking took an eighth of its time.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(100 * thresholds[0], *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
