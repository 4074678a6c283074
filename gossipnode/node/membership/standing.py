"""How each peer stands with this node: suspicions, and what they make of the peer table.

Invariant: a suspicion is lifted by any sign of life of the peer itself; it becomes *down* only
after its time, and only where this node has asked and got no answer since it began.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from gossipnode.logs import event
from gossipnode.node.membership.rumours import Rumours
from gossipnode.node.peers import GONE, Peer
from gossipnode.wire.members import Member, MemberState

if TYPE_CHECKING:
    from gossipnode.node.node import Node

log = logging.getLogger("gossipnode.node.membership")

# Pauses between two pings to a peer that is down: the first, and at most. One that is back is used
# again after that at the latest, if it does not speak first, and costs a ping each time until then.
RETRY_S, RETRY_S_MAX = 2.0, 5.0


@dataclass(slots=True)
class Suspicion:
    """One peer that may be gone, since ``began``.

    ``is_mine``: only for this the peer table has it as a suspect. ``accusers`` are the others who
    have asked it in vain; ``failed`` is whether this node has, since; ``is_sure`` whether somebody
    has waited long enough already.
    """

    peer: Peer
    began: float
    is_mine: bool
    why: str
    accusers: set[str] = field(default_factory=set)
    failed: bool = False
    is_sure: bool = False


@dataclass(slots=True)
class Retry:
    """When a peer that is down is asked again, and the pause after that."""

    due: float
    pause_s: float = RETRY_S


class Standing:
    """The suspicions of ``node``, and the peers it has lost; what is new goes to ``rumours``."""

    def __init__(self, node: Node, rumours: Rumours) -> None:
        self._node, self._rumours = node, rumours
        self.suspicions: dict[str, Suspicion] = {}
        self.retries: dict[str, Retry] = {}

    def row_of(self, peer: Peer) -> Member | None:
        """Return what this node thinks of a peer; None where there is nothing to tell."""
        if peer.id in self.suspicions:
            return self._row(peer, "suspect")
        if peer.state == "down" or peer.state == "left":
            return self._row(peer, peer.state)
        return None

    def is_first_hand(self, row: Member) -> bool:
        """Whether this node has asked in vain itself, as ``row`` says."""
        if row.state == "suspect":
            suspicion = self.suspicions.get(row.id)
            return suspicion is not None and suspicion.failed
        return row.state == "down" and row.id in self.retries

    def suspect(self, peer: Peer, now: float, why: str) -> Suspicion:
        """Take no more notice of a peer until it is heard of, and say so; harmless twice."""
        suspicion = self.suspicions.get(peer.id)
        if suspicion is None:
            is_mine = peer.state != "suspect"
            suspicion = self.suspicions[peer.id] = Suspicion(peer, now, is_mine, why)
            if is_mine:
                self._node.courier.suspect(peer.id, why, keep=True)
            # Pings find out whether it is there, not models. But a neighbour that lives waits for
            # each of them, and is sent them one at a time as long as it may.
            if not self._node.algorithm.needs_graph:
                peer.retry_at = inf
            self._rumours.tell(self._row(peer, "suspect"), self._nodes)
        return suspicion

    def accuse(self, peer: Peer, now: float, why: str) -> Suspicion:
        """Suspect a peer that did not answer this node itself, and say that it is so."""
        suspicion = self.suspect(peer, now, why)
        if not suspicion.failed:
            suspicion.failed, suspicion.why = True, why
            self._rumours.drop(peer.id)  # told anew: now it confirms what others say
            self._rumours.tell(self._row(peer, "suspect"), self._nodes)
        return suspicion

    def give_up(self, suspicion: Suspicion, now: float) -> None:
        """Take a suspect for what the suspicion says."""
        peer = suspicion.peer
        del self.suspicions[peer.id]
        why = f"{suspicion.why}; suspected for {now - suspicion.began:.1f} s"
        if others := len(suspicion.accusers):
            why += f"; {others} other{'s' if others > 1 else ''} found the same"
        self._node.counters.add("peers_down")
        event(log, logging.WARNING, "peer.down", peer=peer.id, reason=why)
        self._node.courier.lose(peer, "down", why)
        self.retries[peer.id] = Retry(now + RETRY_S)
        self._rumours.tell(self._row(peer, "down"), self._nodes)

    def left(self, peer: Peer, why: str) -> None:
        """Take a peer for one that has stopped in good order."""
        self.suspicions.pop(peer.id, None)
        self.retries.pop(peer.id, None)
        if peer.state == "left":
            return
        self._node.counters.add("peers_left")
        event(log, logging.INFO, "peer.left", peer=peer.id, reason=why)
        self._node.courier.lose(peer, "left", why)
        self._rumours.tell(self._row(peer, "left"), self._nodes)

    def returned(self, peer: Peer, now: float) -> None:
        """Take a peer for alive: it has given a sign of life, or contradicted."""
        node = self._node
        if peer.has_ended:
            return
        suspicion = self.suspicions.pop(peer.id, None)
        was_gone = peer.state in GONE
        # Whoever waits for a neighbour's first model must not take a ping for it.
        is_new = peer.state == "unknown" and not node.algorithm.needs_graph
        if was_gone or is_new or (suspicion is not None and suspicion.is_mine):
            node.peers.heard(peer, now)
            node.courier.wake(peer.id)
            node.courier.on_change(peer.id)
        elif suspicion is not None:
            peer.retry_at = now  # a suspect of the courier's, as before
        if suspicion is not None or was_gone:
            self._tell_return(peer, was_gone)

    def forget_what_is_over(self) -> None:
        """Notice who was heard of by models meanwhile, and who is no peer any more."""
        known = self._node.peers.known
        for suspicion in tuple(self.suspicions.values()):
            peer = suspicion.peer
            if dict.get(known, peer.id) is not peer:
                del self.suspicions[peer.id]
            elif peer.state == "alive":
                del self.suspicions[peer.id]
                self._tell_return(peer, was_gone=False)
        for peer_id in tuple(self.retries):
            lost: Peer | None = dict.get(known, peer_id)
            if lost is None:
                del self.retries[peer_id]
            elif lost.state != "down":
                self._tell_return(lost, was_gone=True)

    def due(self, now: float, most: int) -> Iterator[Peer]:
        """Yield at most so many peers that are down and are to be asked again."""
        for peer_id, retry in tuple(self.retries.items()):
            if retry.due <= now and most > 0:
                most -= 1
                retry.due = now + retry.pause_s
                retry.pause_s = min(1.5 * retry.pause_s, RETRY_S_MAX)
                yield self._node.peers.known[peer_id]

    def _tell_return(self, peer: Peer, was_gone: bool) -> None:
        """Say no more that it is away; where it tells more of itself than is said, pass that on."""
        said = self._rumours.of(peer.id)
        if said is not None and said.state != "alive":
            self._rumours.drop(peer.id)
        if was_gone:
            self._node.counters.add("peers_returned")
            self.retries.pop(peer.id, None)
            for retry in self.retries.values():
                retry.due, retry.pause_s = 0.0, RETRY_S  # a wire is mended, perhaps: look at all
            self._rumours.tell(self._row(peer, "alive"), self._nodes)

    @property
    def _nodes(self) -> int:
        return len(self._node.peers) + 1

    def _row(self, peer: Peer, state: MemberState) -> Member:
        return Member(peer.id, peer.address, state, *peer.said)
