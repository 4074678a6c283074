"""The active side's queue: one frame in flight a peer, and few that wait.

Invariant: a slow peer costs the others nothing and this node a few frames: what waits is
replaced by what is newer, once there is more than lockstep can want. Frames to one peer leave
in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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

    waiting: list[Parcel]
    task: asyncio.Task[None] | None = None
    begun: bool = False


class Outbox:
    """Sends parcels with ``send(peer, parcel)``, which must see to errors and repeats itself.

    A peer costs memory only while something waits for it or is on its way.
    """

    def __init__(
        self,
        send: Callable[[str, Parcel], Awaitable[None]],
        replaced: Callable[[str], None],
    ) -> None:
        self._send, self._replaced = send, replaced
        self._slots: dict[str, Slot] = {}
        self._sending = 0
        self._flushed: asyncio.Event | None = None  # made by whoever waits for it

    def put(self, peer: str, parcel: Parcel, tasks: asyncio.TaskGroup, room: int = 1) -> None:
        """Queue ``parcel``; at most ``room`` wait, the oldest goes. ``tasks`` owns the sending."""
        slot = self._slots.get(peer)
        if slot is None:
            slot = self._slots[peer] = Slot([parcel])
            self._sending += 1
            slot.task = tasks.create_task(self._run(peer, slot))
            return
        while len(slot.waiting) >= room:
            del slot.waiting[0]
            self._replaced(peer)
        slot.waiting.append(parcel)

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
        self._flushed = asyncio.Event()
        if not self._sending:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._flushed.wait()
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
                await self._send(peer, slot.waiting.pop(0))
        finally:
            if self._slots.get(peer) is slot:
                del self._slots[peer]
            self._sending -= 1
            if not self._sending and self._flushed is not None:
                self._flushed.set()
