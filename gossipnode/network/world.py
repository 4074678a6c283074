"""``DaemonWorld``: lanes and HTTP, a trainer thread, a worker thread, the clock, files.

Invariant: training never waits for the disk or a large merge, nor they for training: each kind of
work has one thread of its own, made when first needed. What is sooner done than handed over is
done on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from gossipnode.config import Config
from gossipnode.configfile import expanded
from gossipnode.errors import NetworkError, PeerError
from gossipnode.network.client import HttpClient
from gossipnode.network.lane import Lane
from gossipnode.network.lanes import Lanes
from gossipnode.network.pending import LaneBrokenError
from gossipnode.network.posted import LanePost
from gossipnode.network.sources import Sources
from gossipnode.network.threads import Hand
from gossipnode.network.trust.words import REASONS
from gossipnode.node.addresses import Reach
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.status import TransferStatus
from gossipnode.node.world import Posted, Receipt, Store
from gossipnode.wire.frame import Frame

if TYPE_CHECKING:
    from gossipnode.network.discovery import Discovery
    from gossipnode.network.trust.trust import Trust

T = TypeVar("T")

NO_TLS = (
    "the address begins with https, but TLS is not set up on this node: reach the peer by http, or "
    "give this node the certificates of the swarm"
)
TLS_ALONE = "the address begins with http, and this node talks to its swarm over TLS alone"


class DaemonWorld:
    """The surroundings of a node in the real world; a ``World`` once it is open."""

    is_paused = False

    def __init__(self, tls: SSLContext | None = None, trust: Trust | None = None) -> None:
        self.store: Store | None = None
        self.lanes: Lanes | None = None  # without them every push is a POST
        self.sources: Sources | None = None  # where the swarm was, or may be, found
        self.nearby: Discovery | None = None
        self._files: FileStore | None = None
        self.meant: Callable[[str], str | None] = lambda _: None  # the id that is at an address
        self._trust = trust
        self.client = HttpClient(
            tls,
            lambda address: self.meant(address),
            lambda: trust.dates if trust else "",
            proves=trust.id_in if trust is not None else None,
        )
        self.is_secure = tls is not None
        self.reach = Reach()
        self._trainer = Hand("train")
        self._worker = Hand("work")
        self._sealer = Hand("seal")

    async def open(self, config: Config, node_id: str) -> None:
        """Make the client, and lock the checkpoint folder if one is wanted.

        Raises ``StorageError``.
        """
        self.client.reach = self.reach
        await self.client.open()
        if config.checkpoint.enabled:
            files = FileStore(data_folder(config, node_id), config.checkpoint.keep, time.time)
            await self.work(files.open)
            self.store = self._files = files

    async def close(self) -> None:
        """Close what is open, without waiting for the threads; harmless twice."""
        if self.lanes is not None:
            await self.lanes.close()
        await self.client.close()
        self._trainer.close()
        self._worker.close()
        self._sealer.close()
        if self._files is not None:
            self._files.close()

    def post(
        self, address: str, frame: Frame, timeout_s: float, answered: Callable[[Posted], None]
    ) -> Posted | None:
        """Send the frame over the lane to ``address`` if one is open; what else takes ``push``."""
        if self.lanes is None or self._refusal_of(address):
            return None
        deadline = asyncio.get_running_loop().time() + timeout_s
        posted = LanePost(answered, partial(self._fall_back, address, frame, deadline))
        return posted if self.lanes.post(address, frame, timeout_s, posted) else None

    async def _fall_back(
        self, address: str, frame: Frame, deadline: float, lane: Lane, error: LaneBrokenError
    ) -> Receipt:
        """POST what was posted over a lane that has broken."""
        assert self.lanes is not None
        self.lanes.fall_back(lane, error)
        return await self._by_post(address, frame, deadline)

    async def _by_post(self, address: str, frame: Frame, deadline: float) -> Receipt:
        if words := self._refusal_of(address):  # perhaps since the push has begun
            raise NetworkError(words)
        left_s = deadline - asyncio.get_running_loop().time()
        return await self.client.push(address, frame, max(left_s, 0.0))

    def _refusal_of(self, address: str) -> str:
        """Return why nothing is sent to an address; empty where it is."""
        if not self.is_secure and address.startswith("https:"):
            return NO_TLS
        if self._trust is not None and not address.startswith("https:"):
            return TLS_ALONE
        shut_out = self._trust.revocations.ids if self._trust is not None else ()
        if shut_out and self.meant(address) in shut_out:
            return f"this node refuses it: {REASONS['revoked']}"
        return ""

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        """Send the frame over the lane to ``address``, or POST it where there is none."""
        if words := self._refusal_of(address):
            raise NetworkError(words)
        if self.lanes is None:
            return await self.client.push(address, frame, timeout_s)
        deadline = asyncio.get_running_loop().time() + timeout_s
        receipt = await self.lanes.push(address, frame, timeout_s)
        if receipt is not None:
            return receipt
        return await self._by_post(address, frame, deadline)

    def transfers(self) -> list[TransferStatus]:
        """Return how far the long bodies are that are POSTed, each under its peer's address."""
        return list(self.client.transfers.status())

    async def is_listening(self, address: str, timeout_s: float) -> bool:
        """Try to connect: a process that died leaves a port that refuses."""
        parts = urlsplit(address)
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except ConnectionRefusedError:
            return False
        except (OSError, TimeoutError, ValueError):
            return True
        writer.close()
        return True

    async def id_at(self, address: str, timeout_s: float) -> str | None:
        """Ask for the id by a connection of its own: no lane that the peer opened counts."""
        if self._refusal_of(address):
            return None
        try:
            return await self.client.id_at(address, timeout_s)
        except (NetworkError, PeerError):
            return None

    async def seeds(self) -> Sequence[str]:
        """Return where somebody of the swarm may be, names resolved anew."""
        found = [] if self.sources is None else await self.sources.find()
        return found if self.nearby is None else [*found, *self.nearby.found()]

    async def train(
        self,
        work: Callable[[], T],
        steps: int,  # noqa: ARG002 - World's
        *,
        brief: bool = False,
    ) -> T:
        """Run ``work`` in the trainer thread or, where it is ``brief``, in the loop's next turn."""
        if brief and not self._trainer.is_busy:
            await asyncio.sleep(0)  # a node that does nothing but train lets the others have theirs
            return work()
        return await self._trainer.do(work)

    async def work(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run ``work`` in the worker thread."""
        return await self._worker.do(work, *arguments)

    async def seal(self, make: Callable[[], Frame]) -> Frame:
        """Make a frame in a thread of its own."""
        return await self._sealer.do(make)

    @property
    def working(self) -> bool:
        """Whether a thread is at work."""
        return self._trainer.is_busy or self._worker.is_busy

    def wall_time(self) -> float:
        """Seconds since 1970."""
        return time.time()


def data_folder(config: Config, node_id: str) -> Path:
    """Return the node's folder: ``node.data_dir``, else its own one in the user's data folder."""
    if config.node.data_dir:
        return expanded(config.node.data_dir)
    from platformdirs import user_data_path

    return user_data_path("gossipnode") / config.swarm.name / node_id
