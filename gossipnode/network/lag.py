"""How late the event loop is: a timer that looks at the clock when it fires.

What is late is everything: a push that is answered, a deadline, a probe. Invariant: looking costs
ten wake-ups a second and a dozen numbers of memory, whatever the loop does; between ``start`` and
``stop`` there is one timer, else none.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

# 128 idle nodes on a machine wake up 1,280 times a second for it: some 2 % of a core.
INTERVAL_S = 0.1
BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class LoopLag:
    """A histogram of how late a timer fires; ``counts[i]`` were at most ``BOUNDS_S[i]`` late.

    The last entry of ``counts`` is of those beyond all bounds; ``total_s`` is the sum, ``max_s``
    the worst. Constructing does nothing; ``start`` in the running loop.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self.interval_s = interval_s
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = self.max_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @property
    def count(self) -> int:
        """How often it has fired."""
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound in seconds and how many were no later."""
        return zip(BOUNDS_S, accumulate(self.counts), strict=False)

    def start(self) -> None:
        """Begin to look."""
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        """Look no more; harmless twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, lag_s: float) -> None:
        """Enter one lag in seconds."""
        self.counts[bisect_left(BOUNDS_S, lag_s)] += 1
        self.total_s += lag_s
        self.max_s = max(self.max_s, lag_s)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop's own time, which may be that of the start of this turn: it reckons from there.
        self._due = loop.time() + self.interval_s
        self._timer = loop.call_later(self.interval_s, self._fired, loop)

    def _fired(self, loop: asyncio.AbstractEventLoop) -> None:
        # Both loops run on the monotonic clock, but only this tells how late it is by now.
        self.add(max(time.monotonic() - self._due, 0.0))
        self._arm(loop)
