"""An asyncio event loop in virtual time: instead of waiting for the next timer, it is there.

Theory of operation. asyncio asks its selector to wait until the next timer is due. This one waits
for nothing: it adds the time it was asked to wait to its clock and returns. Tasks, timers, locks
and timeouts are asyncio's own and cannot tell the difference. With no socket and no thread,
the order of events depends on the program alone.

Invariant: the clock moves only when every task waits, and never backwards.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(RuntimeError):
    """Every task waits for something that never comes: the scenario would hang for ever."""


class _ClockSelector(selectors.BaseSelector):
    """Advances ``now`` in place of waiting. What is registered (asyncio's wake-up) never fires."""

    def __init__(self) -> None:
        self.now = 0.0
        self._map: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, -1, events, data)
        self._map[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._map.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StuckError("every task waits for something that never comes")
        if timeout > 0:
            self.now += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time()`` is virtual seconds from 0."""

    def __init__(self) -> None:
        self._clock = _ClockSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._clock.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` to its end in virtual time; raises ``StuckError`` where it would never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
