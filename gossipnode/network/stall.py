"""A look now and then at a record under way: does it come fast enough, and will it ever end?

Invariant: between two records there is nothing to look at, and no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# The least that a record under way brings in this time: 1.6 kB/s, a tenth of a good modem.
STALL_S = 10.0
STALL_BYTES = 2**14


class StallWatch:
    """Calls ``stalled`` once where a record takes more than ``limit_s`` or comes too slowly.

    ``bytes_read`` tells how many bytes have come in all.
    """

    def __init__(
        self, limit_s: float, bytes_read: Callable[[], int], stalled: Callable[[], None]
    ) -> None:
        self._limit_s, self._bytes_read, self._stalled = limit_s, bytes_read, stalled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._before = 0

    def begun(self) -> None:
        """Say that a record is under way; harmless if that is known."""
        if self._timer is None:
            self._deadline = self._loop.time() + self._limit_s
            self._wait(self._limit_s)

    def ended(self) -> None:
        """Say that it has come to its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, left_s: float) -> None:
        self._before = self._bytes_read()
        self._timer = self._loop.call_later(min(left_s, STALL_S), self._look)

    def _look(self) -> None:
        self._timer = None
        left_s = self._deadline - self._loop.time()
        if left_s > 0 and self._bytes_read() - self._before >= STALL_BYTES:
            self._wait(left_s)
        else:
            self._stalled()
