"""Who is out there, since when silent, and whom to wait for.

Invariant: a peer is *unknown* until first heard of, then *alive* or *suspect*; a suspect is
never waited for, and one message from it makes it alive again. Knows no network: times are
the loop's, handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

PeerState = Literal["unknown", "alive", "suspect"]

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0


@dataclass(slots=True)
class Peer:
    """One peer. ``heard_at`` and ``retry_at`` are loop times in seconds, ``seen_at`` wall time.

    ``listed`` peers are in the peer list: no message changes where they are dialled.
    """

    id: str
    address: str
    state: PeerState = "unknown"
    reason: str = ""
    epoch: int = 0
    round: int = -1
    age: int = 0
    heard_at: float | None = None
    seen_at: float | None = None
    retry_at: float = 0.0
    failures: int = 0
    pushes_sent: int = 0
    pushes_received: int = 0
    refusal: str = ""
    refused_here: str = ""
    listed: bool = False


class PeerTable:
    """All peers of this node, by id, without the node itself."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._peers: dict[str, Peer] = {}

    def __getitem__(self, peer_id: str) -> Peer:
        return self._peers[peer_id]

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._peers

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, peer_id: str) -> Peer | None:
        """Return the peer, or None."""
        return self._peers.get(peer_id)

    def add(self, peer_id: str, address: str) -> Peer | None:
        """Add a peer or update its address; None where the table is full."""
        peer = self._peers.get(peer_id)
        if peer is None:
            if len(self._peers) >= self.limit:
                return None
            peer = self._peers[peer_id] = Peer(peer_id, address)
        peer.address = address
        return peer

    def heard(self, peer: Peer, now: float, wall: float, *, epoch: int | None = None) -> None:
        """A message or an answer came from ``peer``."""
        peer.heard_at, peer.seen_at = now, wall
        peer.failures, peer.retry_at = 0, 0.0
        if epoch is not None:
            peer.epoch = max(peer.epoch, epoch)
        peer.state, peer.reason = "alive", ""

    def failed(self, peer: Peer, now: float, spread: float) -> float:
        """A push failed: return the seconds to wait before the next try.

        ``spread`` in [0, 1) is random: peers that failed together must not come back together.
        """
        peer.failures += 1
        pause = min(BACKOFF_FIRST_S * 2.0 ** min(peer.failures - 1, 16), BACKOFF_MAX_S)
        pause *= 0.5 + spread / 2
        peer.retry_at = now + pause
        return pause

    def candidates(self, among: Iterable[str] | None, now: float) -> list[str]:
        """Return whom a push may go to: not suspect, or due for another try.

        ``among`` restricts the choice; None means everybody.
        """
        pool = self if among is None else [self._peers[peer_id] for peer_id in among]
        return [peer.id for peer in pool if peer.state != "suspect" or peer.retry_at <= now]
