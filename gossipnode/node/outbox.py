"""The active side's queue: one frame in flight a peer, and few that wait.

Invariant: a slow peer costs the others nothing and this node a few frames: what waits is
replaced by what is newer, once there is more than lockstep can want. Frames to one peer leave
in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from gossipnode.algorithms.base import Purpose, Vector
from gossipnode.node.draft import Draft
from gossipnode.node.world import Posted
from gossipnode.wire.frame import Frame


@dataclass(slots=True)
class Parcel:
    """One frame on its way, and what an exchange needs when the answer comes.

    A long frame is a draft until it leaves. ``saved`` are the bytes by which it is shorter than
    with raw vectors, without codec or low rank.
    """

    frame: Frame | Draft
    purpose: Purpose
    own: Vector
    own_age: int
    saved: int = 0


@dataclass(slots=True)
class Slot:
    """What waits for one peer, and what sends to it while there is something."""

    waiting: list[Parcel]
    tasks: asyncio.TaskGroup
    posted: Posted | None = None
    task: asyncio.Task[None] | None = None
    begun: bool = False
    # What was posted and is not over: the task is to go on with it.
    rest: tuple[Parcel, Posted] | None = None


class Outbox:
    """Sends parcels to peers, which cost memory only while something waits or is on its way.

    ``send(peer, parcel, None)`` sees to errors and repeats itself; it runs in a task. Where
    ``post(peer, parcel, answered)`` can begin without one, ``is_over(peer, posted)`` says after
    the answer whether that was all; if not, ``send(peer, parcel, posted)`` goes on. ``posted`` is
    None for what was given up.
    """

    def __init__(
        self,
        send: Callable[[str, Parcel, Posted | None], Awaitable[None]],
        replaced: Callable[[str], None],
        post: Callable[[str, Parcel, Callable[[Posted], None]], Posted | None],
        is_over: Callable[[str, Posted | None], bool],
    ) -> None:
        self._send, self._replaced = send, replaced
        self._post, self._is_over = post, is_over
        self._slots: dict[str, Slot] = {}
        self._sending = 0
        self._flushed: asyncio.Event | None = None  # made by whoever waits for it

    def put(self, peer: str, parcel: Parcel, tasks: asyncio.TaskGroup, room: int = 1) -> None:
        """Queue ``parcel``; at most ``room`` wait, the oldest goes. ``tasks`` owns the sending."""
        slot = self._slots.get(peer)
        if slot is None:
            slot = self._slots[peer] = Slot([], tasks)
            self._sending += 1
            self._begin(peer, slot, parcel)
            return
        while len(slot.waiting) >= room:
            del slot.waiting[0]
            self._replaced(peer)
        slot.waiting.append(parcel)

    def _begin(self, peer: str, slot: Slot, parcel: Parcel) -> None:
        """Send, without a task where that can be done."""
        slot.posted = self._post(peer, parcel, partial(self._answered, peer, slot, parcel))
        if slot.posted is None:
            slot.waiting.insert(0, parcel)
            slot.task = slot.tasks.create_task(self._run(peer, slot))

    def _answered(self, peer: str, slot: Slot, parcel: Parcel, posted: Posted) -> None:
        """Go on with what waits or, where the answer is not the end of it, with the same."""
        slot.posted = None
        try:
            is_over = self._is_over(peer, posted)
        except Exception as error:  # noqa: BLE001 - a bug of ours: it ends the node, as in a task
            slot.task = slot.tasks.create_task(_raise(error))
            self._end(peer, slot)
            return
        if not is_over:
            slot.rest = parcel, posted
            slot.task = slot.tasks.create_task(self._run(peer, slot))
        elif slot.waiting:
            self._begin(peer, slot, slot.waiting.pop(0))
        else:
            self._end(peer, slot)

    @property
    def busy(self) -> tuple[str, ...]:
        """The peers that something is on its way to."""
        return tuple(self._slots)

    def is_full(self, peer: str, room: int = 1) -> bool:
        """Whether ``room`` parcels wait behind the one in flight: no use in repeating that one."""
        slot = self._slots.get(peer)
        return slot is not None and len(slot.waiting) >= room

    def drop(self, peer: str) -> None:
        """Give up what waits for a peer and what is on its way: it holds a model of memory."""
        slot = self._slots.pop(peer, None)
        if slot is None:
            return
        slot.waiting.clear()
        if slot.posted is not None or slot.rest is not None:
            self._is_over(peer, None)
            slot.rest = None
        if slot.posted is not None:
            slot.posted.cancel()
            self._end(peer, slot)
        # A task cancelled before its first step would never see to what its end owes; one
        # that has not begun finds nothing to do and ends by itself.
        elif slot.begun and slot.task is not None and slot.task is not asyncio.current_task():
            slot.task.cancel()

    def close(self) -> None:
        """Give up everything."""
        for peer in list(self._slots):
            self.drop(peer)

    async def flush(self, seconds: float) -> bool:
        """Wait until everything has left; False, and the rest given up, after ``seconds``."""
        self._flushed = asyncio.Event()
        if not self._sending:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._flushed.wait()
        except TimeoutError:
            self.close()
            return False
        return True

    async def _run(self, peer: str, slot: Slot) -> None:
        slot.begun = True
        try:
            if slot.rest is not None:
                (parcel, posted), slot.rest = slot.rest, None
                await self._send(peer, parcel, posted)
            while slot.waiting:
                await self._send(peer, slot.waiting.pop(0), None)
        finally:
            self._end(peer, slot)

    def _end(self, peer: str, slot: Slot) -> None:
        if self._slots.get(peer) is slot:
            del self._slots[peer]
        self._sending -= 1
        if not self._sending and self._flushed is not None:
            self._flushed.set()


async def _raise(error: Exception) -> None:
    raise error
