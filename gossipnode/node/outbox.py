"""The active side's queue: one frame in flight a peer, and few that wait.

Invariant: a slow peer costs the others nothing and this node a few frames: what waits is
replaced by what is newer, once there is more than lockstep can want. Frames to one peer leave
in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gossipnode.algorithms.base import Purpose, Vector
from gossipnode.wire.frame import Frame


@dataclass(slots=True)
class Parcel:
    """One frame on its way, and what an exchange needs when the answer comes."""

    frame: Frame
    purpose: Purpose
    own: Vector
    own_age: int


@dataclass(slots=True)
class Slot:
    """What waits for one peer, and the task that sends to it while there is something."""

    waiting: deque[Parcel] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None
    begun: bool = False


class Outbox:
    """Sends parcels with ``send(peer, parcel)``, which must see to errors and repeats itself."""

    def __init__(
        self,
        send: Callable[[str, Parcel], Awaitable[None]],
        replaced: Callable[[str], None],
    ) -> None:
        self._send, self._replaced = send, replaced
        self._slots: dict[str, Slot] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._sending = 0

    def put(self, peer: str, parcel: Parcel, tasks: asyncio.TaskGroup, room: int = 1) -> None:
        """Queue ``parcel``; at most ``room`` wait, the oldest goes. ``tasks`` owns the sending."""
        slot = self._slots.setdefault(peer, Slot())
        while len(slot.waiting) >= room:
            slot.waiting.popleft()
            self._replaced(peer)
        slot.waiting.append(parcel)
        if slot.task is None:
            self._sending += 1
            self._idle.clear()
            slot.task = tasks.create_task(self._run(peer, slot))

    def is_full(self, peer: str, room: int = 1) -> bool:
        """Whether ``room`` parcels wait behind the one in flight: no use in repeating that one."""
        slot = self._slots.get(peer)
        return slot is not None and len(slot.waiting) >= room

    def drop(self, peer: str) -> None:
        """Give up what waits for a peer and what is on its way: it holds a model of memory."""
        slot = self._slots.pop(peer, None)
        if slot is not None:
            slot.waiting.clear()
            # A task cancelled before its first step would never see to what its end owes; one
            # that has not begun finds nothing to do and ends by itself.
            if slot.begun and slot.task is not None and slot.task is not asyncio.current_task():
                slot.task.cancel()

    async def flush(self, seconds: float) -> bool:
        """Wait until everything has left; False, and the rest given up, after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for slot in self._slots.values():
                slot.waiting.clear()
                if slot.task is not None:
                    slot.task.cancel()
            return False
        return True

    async def _run(self, peer: str, slot: Slot) -> None:
        slot.begun = True
        try:
            while slot.waiting:
                await self._send(peer, slot.waiting.popleft())
        finally:
            slot.task, slot.begun = None, False
            self._sending -= 1
            if not self._sending:
                self._idle.set()
