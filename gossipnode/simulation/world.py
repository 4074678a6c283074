"""One simulated node's surroundings: modelled wires, modelled computing, a disk that can lose.

Invariant: this is all that differs between the simulator and the daemon; the node above is the
same object.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gossipnode.errors import NetworkError
from gossipnode.node.world import Receipt, Snapshot, Store
from gossipnode.wire.frame import Frame

if TYPE_CHECKING:
    from gossipnode.simulation.swarm import SimulatedSwarm

T = TypeVar("T")

# Where virtual clocks on the wall begin: some morning in 2023, so that times look like times.
WALL_START_S = 1.7e9


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
        self._paused: asyncio.Event | None = None  # set when the pause is over

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        """Carry the frame over the modelled wire, and the answer back."""
        await self.until_resumed()
        fault = None
        try:
            receipt = await self.swarm.wires.carry(self.name, name_of(address), frame, timeout_s)
        except TimeoutError:
            fault = NetworkError(f"timed out after {timeout_s:g} s")
        except NetworkError as error:
            fault = error
        # What the wires brought meanwhile is read once the process goes on.
        await self.until_resumed()
        if fault is not None:
            raise fault
        return receipt

    @property
    def is_paused(self) -> bool:
        """Whether the process is stopped."""
        return self._paused is not None

    def pause(self) -> None:
        """Stop: neither train nor answer."""
        if self._paused is None:
            self._paused = asyncio.Event()

    def resume(self) -> None:
        """Go on."""
        if self._paused is not None:
            self._paused.set()
            self._paused = None

    async def until_resumed(self) -> None:
        """Wait while there is a pause."""
        while self._paused is not None:
            await self._paused.wait()

    async def is_listening(self, address: str, timeout_s: float) -> bool:
        """Ask over the wire and back; one that is cut either way answers nothing."""
        receiver, network = name_of(address), self.swarm.network
        seconds = network.answer(self.name, receiver, 0).seconds
        seconds += network.answer(receiver, self.name, 0).seconds
        await asyncio.sleep(min(seconds, timeout_s))
        return seconds > timeout_s or receiver not in self.swarm.down

    async def train(self, work: Callable[[], T], steps: int) -> T:
        """Compute now, and let it have taken ``steps`` local steps of virtual time."""
        result = work()
        await asyncio.sleep(self.step_s * steps)
        await self.until_resumed()
        return result

    async def work(self, work: Callable[..., T], *arguments: Any) -> T:
        """Compute now, in no time; a write is safe only when the disk has had its time."""
        result = work(*arguments)
        if isinstance(self.store, SimulatedStore) and self.store.unsynced is not None:
            await asyncio.sleep(self.store.sync_s)
            self.store.sync()
        return result

    def wall_time(self) -> float:
        """Virtual seconds since 1970, off by the skew."""
        return WALL_START_S + self.swarm.time + self.clock_skew_s


class SimulatedStore:
    """A disk in memory. What was written is lost in a crash until ``sync`` was called."""

    def __init__(self, keep: int, sync_s: float = 0.0) -> None:
        self.keep, self.sync_s = keep, sync_s
        self.unsynced: Snapshot | None = None
        self.durable: list[Snapshot] = []
        self.wall_time: Callable[[], float] = lambda: 0.0  # its machine's, once it is in one
        # What the swarm noted when the next snapshot was taken, and the newest durable one.
        self.note: Any = None
        self.known: Any = None
        self._unsynced_note: Any = None
        self._epoch = 0

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
        self.known, self._epoch = None, 0

    def load(self) -> Snapshot | None:
        """Return a copy of the newest durable snapshot."""
        return copy.deepcopy(self.durable[-1]) if self.durable else None

    def next_epoch(self) -> int:
        """Return the next life's number: the time, unless the clock was set back."""
        self._epoch = max(self._epoch + 1, int(self.wall_time() * 1000))
        return self._epoch


def name_of(address: str) -> str:
    """Return the node behind a simulated address, ``http://NAME:1``."""
    return address.removeprefix("http://").rpartition(":")[0]


def address_of(name: str) -> str:
    """Return the address of a simulated node."""
    return f"http://{name}:1"
