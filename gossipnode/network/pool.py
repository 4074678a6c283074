"""Memory for bodies that arrive: bounded while they arrive, used again when nobody holds it.

A body becomes the node's: it may be merged into, become the params, and be held by a push or a
checkpoint long after. So the pool lends memory through an *owner*, an array without memory of its
own that every view of the body keeps alive; when the last of them is gone the owner is, and its
weak reference gives the memory back. Nobody need say when he is done, and nobody can be done too
early.

Why at all: the kernel fills a fresh page with zeros when it is first touched. A fresh 100 MB cost
25 ms of that where it gives small pages, about as long as they take to arrive, and 4 ms with huge
ones; a fresh 340 KB, which malloc returns to the kernel each time, 0.1 ms. Invariant: at most
``IDLE_BLOCKS_MAX`` blocks wait unused, and those only of ``RECYCLED_BYTES_MIN`` or more: below,
malloc keeps them itself.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import PeerError
from gossipnode.network.threads import Hand

# One is enough for a body to take the place of the params while the old ones become idle.
IDLE_BLOCKS_MAX = 1
RECYCLED_BYTES_MIN = 2**16


class _Lent(np.ndarray[Any, np.dtype[Any]]):
    """The owner: a view of a block, alive as long as any view of it."""


class BufferPool:
    """Lends buffers for bodies; at most ``inflight_bytes_max`` arrive at once, one body always."""

    def __init__(self, inflight_bytes_max: int) -> None:
        self.inflight_bytes_max = inflight_bytes_max
        self.inflight_bytes = 0
        self.recycled = 0
        self.hand = Hand("pages")  # for whoever has the kernel find the pages of a fresh buffer
        self.is_fresh = False  # whether the buffer lent last was never filled before
        # A body may die in any thread. Appending, popping and clearing are atomic, so no lock is
        # held when the garbage collector comes in between.
        self._idle: deque[NDArray[Any]] = deque(maxlen=IDLE_BLOCKS_MAX)
        self._lent: dict[int, weakref.ref[_Lent]] = {}
        # What holds memory that it can do without gives it back for this many bytes.
        self.make_room: Callable[[int], None] = lambda _nbytes: None

    @property
    def idle_bytes(self) -> int:
        """Bytes that wait to be used again."""
        return sum(block.nbytes for block in tuple(self._idle))

    @property
    def lent_blocks(self) -> int:
        """Blocks that somebody holds and that will come back."""
        return len(self._lent)

    def take(self, nbytes: int) -> memoryview:
        """Return a writable buffer, its content arbitrary; call ``arrived`` once it is full.

        Raises ``PeerError("busy")`` where too many bytes are arriving already, or none are left.
        """
        self.arrives_again(nbytes)
        self.make_room(0)
        self.is_fresh = True
        try:
            if nbytes < RECYCLED_BYTES_MIN:
                return np.empty(nbytes, np.uint8).data
            return self._lend(self._idle_block(nbytes))
        except MemoryError:
            self.arrived(nbytes)
            raise PeerError("busy", "there is no memory for the body now; come again") from None

    def arrives_again(self, nbytes: int) -> None:
        """Say that a buffer which was put aside is filled further; else as ``take``."""
        if self.inflight_bytes and self.inflight_bytes + nbytes > self.inflight_bytes_max:
            raise PeerError("busy", "too many bodies are arriving at once; come again")
        self.inflight_bytes += nbytes

    def arrived(self, nbytes: int) -> None:
        """Say that a buffer of ``take`` is full, or will never be."""
        self.inflight_bytes -= nbytes
        assert self.inflight_bytes >= 0

    def trim(self) -> None:
        """Give idle memory back to the system."""
        self._idle.clear()

    def _idle_block(self, nbytes: int) -> NDArray[Any]:
        try:
            block = self._idle.popleft()
        except IndexError:
            return np.empty(nbytes, np.uint8)
        if block.nbytes != nbytes:  # the layout has another size: that block is of no more use
            return np.empty(nbytes, np.uint8)
        self.recycled += 1
        self.is_fresh = False
        return block

    def _lend(self, block: NDArray[Any]) -> memoryview:
        owner = block.view(_Lent)
        key = id(owner)

        def back(_: weakref.ref[_Lent]) -> None:
            self._lent.pop(key, None)
            self._idle.append(block)

        self._lent[key] = weakref.ref(owner, back)
        return owner.data
