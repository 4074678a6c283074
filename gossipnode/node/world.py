"""What a node needs from the world: a network, two threads, a clock on the wall, a disk.

The daemon gives it HTTP, a trainer thread and files; the simulator gives it modelled ones in
virtual time. Invariant: everything else in ``node/`` is the same code in both, on asyncio
primitives; monotonic time is the running loop's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

T = TypeVar("T")

# Vector work above this leaves the loop: 4 MiB take some 0.2 ms, not much longer than handing them
# over and waking up for the answer does, after which they are in another core's cache.
INLINE_BYTES_MAX = 2**22

JSON = Any
"""A value that the json module reads back as it wrote it."""


@dataclass(slots=True)
class Receipt:
    """What a peer answered to a push: a ``reply``, or for an exchange a ``message`` with arrays."""

    reply: Reply | None = None
    message: Message | None = None
    arrays: list[np.ndarray[Any, np.dtype[Any]]] = field(default_factory=list)


class Posted(Protocol):
    """A push on its way; ``outcome`` is the answer, or what ``World.push`` would raise."""

    outcome: Receipt | Exception | None

    def cancel(self) -> None:
        """Give it up: nobody is told."""


@dataclass(slots=True)
class Snapshot:
    """All that a checkpoint holds: named arrays of any shape, and facts as JSON."""

    arrays: dict[str, np.ndarray[Any, np.dtype[Any]]]
    facts: dict[str, JSON]


class Store(Protocol):
    """Where checkpoints live. Every method blocks: call it in the worker.

    ``skipped`` names the files that ``load`` found damaged.
    """

    skipped: list[str]

    def save(self, snapshot: Snapshot) -> None:
        """Write durably, or raise ``StorageError`` and leave the older ones as they were."""

    def load(self) -> Snapshot | None:
        """Return the newest sound snapshot; None if there is none at all.

        Raises ``StorageError`` where there are some but none is sound.
        """

    def next_epoch(self) -> int:
        """Return a boot epoch greater than every one before, durably."""

    def write_small(self, name: str, data: bytes) -> None:
        """Write a small file beside the checkpoints durably, whole or not at all."""

    def read_small(self, name: str) -> bytes | None:
        """Return the small file of that name; None if there is none."""

    def put_aside(self, name: str) -> None:
        """Rename a small file that is damaged, so that nothing reads it again."""


class World(Protocol):
    """The node's surroundings, handed in."""

    store: Store | None
    # Whether the process stands still, as only a modelled one can tell of itself.
    is_paused: bool

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        """Deliver one frame to ``address`` and return the answer, a refusal included.

        Raises ``NetworkError`` when nobody answers, or ``PeerError`` when the answer is none.
        """

    def post(
        self, address: str, frame: Frame, timeout_s: float, answered: Callable[[Posted], None]
    ) -> Posted | None:
        """Begin what ``push`` does, and call ``answered`` at the end; takes no task.

        None, and nothing is sent, where only ``push`` can.
        """

    async def is_listening(self, address: str, timeout_s: float) -> bool:
        """Return False where the machine at ``address`` says that nobody listens there.

        No answer within ``timeout_s`` proves nothing: True.
        """

    async def id_at(self, address: str, timeout_s: float) -> str | None:
        """Return the id of the node that answers where one dials ``address``; None: nobody does."""

    async def seeds(self) -> Sequence[str]:
        """Return addresses at which somebody of the swarm may be, as of now; often none."""

    async def train(self, work: Callable[[], T], steps: int, *, brief: bool = False) -> T:
        """Run ``steps`` local steps, one call at a time; off the loop unless they are ``brief``."""

    async def work(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a merge, a checkpoint or a measurement off the loop, one call at a time."""

    async def seal(self, make: Callable[[], Frame]) -> Frame:
        """Make a long frame off the loop, behind nothing but others."""

    def wall_time(self) -> float:
        """Seconds since 1970, for people; never for deadlines."""


def result(posted: Posted) -> Receipt:
    """Return the answer to what was posted and is over; raises as ``World.push`` does."""
    assert posted.outcome is not None, "it is still on its way"
    if isinstance(posted.outcome, Exception):
        raise posted.outcome
    return posted.outcome
