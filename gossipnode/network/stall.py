"""A look now and then at a record under way: does it come fast enough, and will it ever end?

Invariant: between two records there is nothing to look at; a timer that is left over from the last
one finds nothing, and is not set again. So a record that comes at once, as nearly all do, neither
sets a timer nor stops one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossipnode.network.pending import CLOCK_S

# How long a mean is taken over which may not be below the least rate.
STALL_S = 10.0


class StallWatch:
    """Calls ``stalled`` once where a record takes more than ``limit_s`` or comes too slowly.

    ``bytes_read`` tells how many bytes have come in all, ``rate_min`` is in bytes a second. Whether
    a record ``is_under_way`` is looked at in each read, so it is an attribute.
    """

    def __init__(
        self,
        limit_s: float,
        bytes_read: Callable[[], int],
        stalled: Callable[[], None],
        rate_min: float,
    ) -> None:
        self._rate_min = rate_min
        self._limit_s, self._bytes_read, self._stalled = limit_s, bytes_read, stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.is_under_way = False
        self._deadline = self._due = 0.0  # of the record, and when to look at it next
        self._before = 0

    def begun(self) -> None:
        """Say that a record is under way; harmless if that is known."""
        if not self.is_under_way:
            self.is_under_way = True
            now = self._loop.time()
            self._deadline = now + self._limit_s
            self._wait(now)

    def ended(self) -> None:
        """Say that it has come to its end."""
        self.is_under_way = False

    def stop(self) -> None:
        """Look no more; harmless twice."""
        self.is_under_way = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, now: float) -> None:
        self._before = self._bytes_read()
        self._due = min(self._deadline, now + STALL_S)
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        if not self.is_under_way:
            return
        if now + CLOCK_S < self._due:  # it was set for a record before this one
            self._timer = self._loop.call_at(self._due, self._look)
        elif now + CLOCK_S < self._deadline and self._is_fast_enough():
            self._wait(now)
        else:
            self.is_under_way = False
            self._stalled()

    def _is_fast_enough(self) -> bool:
        return self._bytes_read() - self._before >= self._rate_min * STALL_S
