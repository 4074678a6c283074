"""Fresh memory for a large body, found by a thread before the bytes come.

The kernel fills a page with zeros when it is first touched, and may have to look for it: for a
huge page that took 10 ms in the mean and 54 ms at most here, inside one read of half a megabyte. So
a thread asks for the pages piece by piece, ahead of the reading, which waits where it has caught
up. Invariant: this changes no byte, and where the kernel does not know the request (Linux before
5.14, other systems) nothing waits and all is as without it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from asyncio import Future
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from gossipnode.network.threads import Hand
from gossipnode.network.turns import Breather

# Bodies below are there before anybody would notice: 16 MiB are 8 huge pages.
AHEAD_BYTES_MIN = 2**24
# One request: long enough that handing it over costs nothing, short enough to begin soon.
PIECE_BYTES = 2**24
_MADV_POPULATE_WRITE = 23


class Ahead:
    """Keeps the pages of the body that arrives ahead of the reading, which ``breather`` stops.

    ``hand`` is the thread that asks for them, ``body`` the one to ``follow``, nearly always None.
    """

    def __init__(self, breather: Breather, hand: Hand) -> None:
        self._breather, self._hand = breather, hand
        self.body: memoryview | None = None
        self._ready = 0  # up to this byte of the body nothing has to wait for the kernel

    def begin(self, body: memoryview, start: int) -> None:
        """Say that ``body`` is filled from its byte ``start`` on, and is fresh."""
        if len(body) >= AHEAD_BYTES_MIN:
            self.body, self._ready = body, start
            self._ask()

    def follow(self, filled: int, total: int) -> None:
        """Say how much of the body is there, of how much; of none, where none arrives."""
        if self.body is None:
            return
        if not total:
            self.body = None
            self._breather.release()
        elif filled >= self._ready:
            self._breather.hold()

    def _ask(self) -> None:
        body = self.body
        assert body is not None
        stop = min(self._ready + PIECE_BYTES, len(body))
        if stop > self._ready:
            done = self._hand.do(populate, body, self._ready, stop)
            done.add_done_callback(partial(self._found, body, stop))

    def _found(self, body: memoryview, stop: int, done: Future[bool]) -> None:
        if done.cancelled() or body is not self.body:
            return
        self._ready = stop if done.result() else len(body)
        self._ask()
        self._breather.release()


def populate(body: memoryview, start: int, stop: int) -> bool:
    """Have the kernel find the pages of ``body[start:stop]``; False where it cannot be asked."""
    madvise = _madvise()
    if madvise is None:
        return False
    address = int(np.frombuffer(body, np.uint8).__array_interface__["data"][0])
    page = mmap.PAGESIZE
    first, last = (address + start) // page * page, (address + stop) // -page * -page
    return madvise(first, last - first, _MADV_POPULATE_WRITE) == 0


@lru_cache(maxsize=1)
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found = ctypes.CDLL(None).madvise  # which lets other threads run meanwhile
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found.restype = ctypes.c_int
    return found
