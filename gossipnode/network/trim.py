"""Memory that crowds of connections leave behind, given back to the system.

Each connection with TLS has a buffer of 256 KiB (uvloop's), of which little is ever touched, and
glibc keeps what has been freed where something younger lies behind it: after a flood of 600
connections 200 MB of addresses, and 30 MB of pages, that a call returns in 5 ms. Python's own
allocator is no part of it. Invariant: without a crowd nothing is done, and no more than once in
``REST_S``, however often a crowd comes and goes.
"""

from __future__ import annotations

import asyncio
import ctypes

# Fewer leave no more than 2 MB.
CROWD = 64
# A crowd is over when so much is left of it; and what comes after its end is waited for.
LEFT = 0.25
REST_S = 5.0


def give_back() -> bool:
    """Return freed memory to the system; False where the C library has no way to."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


class Crowd:
    """Told of the number of connections whenever it changes, gives memory back after a crowd."""

    def __init__(self, rest_s: float = REST_S) -> None:
        self._most, self._rest_s = 0, rest_s
        self._timer: asyncio.TimerHandle | None = None

    def now(self, count: int) -> None:
        """Take note of how many there are."""
        self._most = max(self._most, count)
        if self._most >= CROWD and count <= LEFT * self._most:
            self._most = count
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._rest_s, self._over)

    def close(self) -> None:
        """Do nothing any more; harmless twice."""
        if self._timer is not None:
            self._timer.cancel()

    def _over(self) -> None:
        self._timer = None
        give_back()
