"""One simulated node's surroundings: modelled wires, modelled computing, a disk that can lose.

Invariant: this is all that differs between the simulator and the daemon; the node above is the
same object.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gossipnode.node.active import finish
from gossipnode.node.world import Posted, Receipt, Snapshot, Store, result
from gossipnode.wire.frame import Frame

if TYPE_CHECKING:
    from gossipnode.simulation.swarm import SimulatedSwarm

T = TypeVar("T")

# Where virtual clocks on the wall begin: some morning in 2023, so that times look like times.
WALL_START_S = 1.7e9
# Where the name is in an address.
NAME = slice(len("http://"), -len(":1"))


class SimulatedWorld:
    """The ``World`` of one node in virtual time.

    ``step_s`` is what a local step takes; ``clock_skew_s`` what the wall clock is off by.
    """

    def __init__(self, swarm: SimulatedSwarm, name: str, store: Store | None) -> None:
        self.swarm, self.name, self.store = swarm, name, store
        self.step_s = 0.0
        self.clock_skew_s = 0.0
        if isinstance(store, SimulatedStore):
            store.wall_time = self.wall_time
        self.is_paused = False  # whether the process is stopped
        self._held: list[Callable[[], object]] = []  # what is to be called when it goes on

    def post(
        self, address: str, frame: Frame, timeout_s: float, answered: Callable[[Posted], None]
    ) -> Posted:
        """Carry the frame over the modelled wire, and the answer back."""
        receiver = name_of(address)
        return self.swarm.wires.carry(self.name, receiver, frame, timeout_s, answered)

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        """Post the frame and wait for the answer."""
        over: asyncio.Future[Posted] = self.swarm.wires.loop.create_future()
        posted = self.post(address, frame, timeout_s, partial(_settle, over))
        try:
            await over
        finally:
            posted.cancel()
        return result(posted)

    def pause(self) -> None:
        """Stop: neither train nor answer."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self.is_paused = False
        held, self._held = self._held, []
        for then in held:
            self.swarm.wires.loop.call_soon(then)

    async def until_resumed(self) -> None:
        """Wait while there is a pause."""
        while self.is_paused:
            over = self.swarm.wires.loop.create_future()
            self.once_resumed(partial(finish, over))
            await over

    def once_resumed(self, then: Callable[[], object]) -> None:
        """Call ``then`` when the pause is over; there may be another one by then."""
        self._held.append(then)

    async def is_listening(self, address: str, timeout_s: float) -> bool:
        """Ask over the wire and back; one that is cut either way answers nothing."""
        receiver, network = name_of(address), self.swarm.network
        seconds = network.answer(self.name, receiver, 0).seconds
        seconds += network.answer(receiver, self.name, 0).seconds
        await asyncio.sleep(min(seconds, timeout_s))
        return seconds > timeout_s or receiver not in self.swarm.down

    async def id_at(self, address: str, timeout_s: float) -> str | None:
        """Ask over the wire and back, as above."""
        name, network = name_of(address), self.swarm.network
        seconds = network.answer(self.name, name, 0).seconds
        seconds += network.answer(name, self.name, 0).seconds
        await asyncio.sleep(min(seconds, timeout_s))
        return None if seconds > timeout_s or name in self.swarm.down else name

    async def seeds(self) -> Sequence[str]:
        """Return the addresses that the swarm gave to those who know nobody."""
        return [address_of(name) for name in self.swarm.seeds if name != self.name]

    async def train(
        self,
        work: Callable[[], T],
        steps: int,
        *,
        brief: bool = False,  # noqa: ARG002 - what it takes is modelled
    ) -> T:
        """Compute now, and let it have taken ``steps`` local steps of virtual time."""
        result = work()
        if seconds := self.step_s * steps:
            await asyncio.sleep(seconds)
        if self.is_paused:
            await self.until_resumed()
        return result

    async def work(self, work: Callable[..., T], *arguments: Any) -> T:
        """Compute now, in no time; a write is safe only when the disk has had its time."""
        result = work(*arguments)
        if isinstance(self.store, SimulatedStore) and self.store.unsynced is not None:
            await asyncio.sleep(self.store.sync_s)
            self.store.sync()
        return result

    async def seal(self, make: Callable[[], Frame]) -> Frame:
        """Make a frame now, in no time."""
        return make()

    def wall_time(self) -> float:
        """Virtual seconds since 1970, off by the skew."""
        return WALL_START_S + self.swarm.time + self.clock_skew_s


class SimulatedStore:
    """A disk in memory. What was written is lost in a crash until ``sync`` was called."""

    def __init__(self, keep: int, sync_s: float = 0.0) -> None:
        self.keep, self.sync_s = keep, sync_s
        self.unsynced: Snapshot | None = None
        self.durable: list[Snapshot] = []
        self.skipped: list[str] = []  # nothing is ever damaged here
        self.wall_time: Callable[[], float] = lambda: 0.0  # its machine's, once it is in one
        # What the swarm noted when the next snapshot was taken, and the newest durable one.
        self.note: Any = None
        self.known: Any = None
        self._unsynced_note: Any = None
        self._epoch = 0
        self.small: dict[str, bytes] = {}  # durable at once

    def save(self, snapshot: Snapshot) -> None:
        """Write; the memory of arrays that go on changing is copied."""
        self.unsynced = Snapshot(
            {name: array.copy() for name, array in snapshot.arrays.items()},
            copy.deepcopy(snapshot.facts),
        )
        self._unsynced_note = self.note

    def sync(self) -> None:
        """Make what was written survive."""
        if self.unsynced is not None:
            self.durable = [*self.durable, self.unsynced][-self.keep :]
            self.unsynced, self.known = None, self._unsynced_note

    def crash(self) -> None:
        """Lose what was not synced."""
        self.unsynced = None

    def wipe(self) -> None:
        """Be another disk, an empty one."""
        self.durable.clear()
        self.small.clear()
        self.known, self._epoch = None, 0

    def load(self) -> Snapshot | None:
        """Return a copy of the newest durable snapshot."""
        return copy.deepcopy(self.durable[-1]) if self.durable else None

    def write_small(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self.small[name] = data

    def read_small(self, name: str) -> bytes | None:
        """Return a small file."""
        return self.small.get(name)

    def put_aside(self, name: str) -> None:
        """Forget a small file that is damaged."""
        del self.small[name]

    def next_epoch(self) -> int:
        """Return the next life's number: the time, unless the clock was set back."""
        self._epoch = max(self._epoch + 1, int(self.wall_time() * 1000))
        return self._epoch


def name_of(address: str) -> str:
    """Return the node behind a simulated address, ``http://NAME:1``."""
    return address[NAME]


def address_of(name: str) -> str:
    """Return the address of a simulated node."""
    return f"http://{name}:1"


def _settle(over: asyncio.Future[Posted], posted: Posted) -> None:
    """End the wait for what was posted, unless whoever waited was cancelled at this very time."""
    if not over.done():
        over.set_result(posted)
