"""The active side's queue: one frame in flight a peer, and one that waits.

Invariant: a slow peer costs the others nothing and this node one frame: what waits is replaced
by what is newer. Frames to one peer leave in order.
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

    waiting: Parcel | None = None
    task: asyncio.Task[None] | None = None


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

    def put(self, peer: str, parcel: Parcel, tasks: asyncio.TaskGroup) -> None:
        """Queue ``parcel`` for ``peer``; its sending task belongs to ``tasks``."""
        slot = self._slots.setdefault(peer, Slot())
        if slot.waiting is not None:
            self._replaced(peer)
        slot.waiting = parcel
        if slot.task is None:
            self._sending += 1
            self._idle.clear()
            slot.task = tasks.create_task(self._run(peer, slot))

    def has_newer(self, peer: str) -> bool:
        """Whether something waits behind the parcel in flight: no use in repeating that one."""
        slot = self._slots.get(peer)
        return slot is not None and slot.waiting is not None

    async def flush(self, seconds: float) -> bool:
        """Wait until everything has left; False, and the rest given up, after ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for slot in self._slots.values():
                slot.waiting = None
                if slot.task is not None:
                    slot.task.cancel()
            return False
        return True

    async def _run(self, peer: str, slot: Slot) -> None:
        try:
            while slot.waiting is not None:
                parcel, slot.waiting = slot.waiting, None
                await self._send(peer, parcel)
        finally:
            slot.task = None
            self._sending -= 1
            if not self._sending:
                self._idle.set()
