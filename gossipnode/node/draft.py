"""A long frame before it leaves: its checksum is a pass over all of its memory.

Of a gigabyte that takes 50 ms, in which the loop would do nothing else; so a thread makes the
frame, and only when it is about to leave, for what waits may be replaced by what is newer. It is a
thread of its own: a checkpoint or a measurement may keep the worker for seconds.
Invariant: it is made once for all peers, and goes on being made when one of them is given up. Its
memory must not change until it has left, as that of a frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gossipnode.wire.frame import Frame

Seal = Callable[[Callable[[], Frame]], Coroutine[Any, Any, Frame]]


class Draft:
    """What ``make()`` makes a frame of; it may be called in any thread."""

    __slots__ = ("_making", "make")

    def __init__(self, make: Callable[[], Frame]) -> None:
        self.make = make
        self._making: asyncio.Task[Frame] | None = None

    async def sealed(self, seal: Seal, tasks: asyncio.TaskGroup) -> Frame:
        """Return the frame, made by ``seal`` in a task of ``tasks`` unless it is there already."""
        if self._making is None:
            self._making = tasks.create_task(seal(self.make))
        await asyncio.wait([self._making])  # which leaves it alone where this is cancelled
        return self._making.result()
