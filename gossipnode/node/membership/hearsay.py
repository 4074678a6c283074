"""What nodes tell each other of third ones, on the back of questions and answers.

Invariant: what others say of a peer can make it a suspect, or take that back; or say that it stops,
until it is heard of. Nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gossipnode.node.membership.rumours import ROWS_MAX, Rumours
from gossipnode.node.peers import GONE, Peer
from gossipnode.wire.fields import U32_MAX
from gossipnode.wire.frame import Frame
from gossipnode.wire.members import Member
from gossipnode.wire.message import Message

if TYPE_CHECKING:
    from gossipnode.node.membership.detector import Detector


class Hearsay:
    """What ``detector`` is told, and what it tells."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._node = detector, detector.node
        self.rumours = Rumours()
        self.incarnation = 0
        self.is_leaving = False

    @property
    def _nodes(self) -> int:
        return len(self._node.peers) + 1

    # -- telling ----------------------------------------------------------------------------------

    def frame(self, word: str, to: str, about: Peer | None = None) -> Frame:
        """Return a word with what is new, what its receiver is thought to be before all else.

        What a peer is thought to be that it is ``about``, too.
        """
        standing = self._detector.standing
        subjects = about, dict.get(self._node.peers.known, to)
        found = [standing.row_of(peer) for peer in subjects if peer is not None]
        rows = [row for row in found if row is not None]
        if self.rumours:
            told = {row.id for row in rows} | {to}
            rows += [row for row in self.rumours.pick(ROWS_MAX) if row.id not in told]
        scalars = self.own_scalars()
        if rows:
            rows.sort(key=lambda row: not standing.is_first_hand(row))
            if own := sum([standing.is_first_hand(row) for row in rows]):
                scalars["own"] = own
        return self._detector.membership.frame(word, rows, scalars=scalars)

    def own_scalars(self) -> dict[str, float]:
        """Return what each message says of this node itself."""
        return {"incarnation": self.incarnation} if self.incarnation else {}

    # -- hearing ----------------------------------------------------------------------------------

    def take(self, peer: Peer | None, message: Message) -> None:
        """Take what a message of ``peer``, or of a stranger, tells of itself and of others."""
        if peer is not None:
            peer.epoch = max(peer.epoch, message.epoch)
            version = message.epoch, count_of(message, "incarnation", U32_MAX)
            peer.said = max(peer.said, version)
        own = count_of(message, "own", len(message.members))
        for number, row in enumerate(message.members):
            if row.id == self._node.id:
                self._hear_of_this_node(row)
            else:
                self._hear(row, message.sender if number < own else None)

    def _hear(self, row: Member, accuser: str | None) -> None:
        """Take a rumour of a peer; ``accuser`` has asked it in vain itself."""
        detector, version = self._detector, (row.epoch, row.incarnation)
        peer = self._node.peers.get(row.id) if row.id in self._node.peers else None
        if peer is None or version < peer.said:
            return
        if self._node.algorithm.needs_graph and row.id not in detector.watched:
            return  # nothing is sent to it, and whoever is told next need not know either
        now, is_newer = self._node.time(), version > peer.said
        peer.said = version
        if row.state == "alive":
            if is_newer:
                self._hear_contradiction(peer, row, now)
            return
        if peer.state in GONE:
            return
        if detector.is_fresh(peer, now, 2 * detector.timeout_s):
            detector.probe(peer, now)  # which tells it, so that it contradicts
            return
        if row.state == "left":  # no alarm; if it lives, its first word brings it back
            detector.left(peer, "others heard it say so")
            return
        is_sure = row.state == "down"
        suspicion = detector.standing.suspicions.get(peer.id)
        if suspicion is None and peer.id not in detector.watched:
            suspicion = detector.standing.suspect(peer, now, "others suspect it")
        if suspicion is not None:
            suspicion.is_sure = suspicion.is_sure or is_sure
            if accuser is not None:
                suspicion.accusers.add(accuser)
        if suspicion is None or (is_sure and not suspicion.failed):
            self.rumours.tell(row, self._nodes)
            detector.doubt(peer, now, accuser, is_sure=is_sure)
        detector.membership.wake()

    def _hear_contradiction(self, peer: Peer, row: Member, now: float) -> None:
        """A peer contradicts: a suspect is taken at its word, one that is gone is asked."""
        detector = self._detector
        self.rumours.tell(row, self._nodes)
        if peer.state in GONE:
            detector.probe(peer, now)
        elif peer.id in detector.standing.suspicions:
            detector.standing.returned(peer, now)
        detector.membership.wake()

    def _hear_of_this_node(self, row: Member) -> None:
        """Contradict whoever thinks that this node is gone."""
        node = self._node
        if row.epoch > node.epoch:
            self._detector.twins.is_said_to_be(row.address)
            return
        if row.state == "alive" or self.is_leaving:
            return
        if row.epoch == node.epoch and row.incarnation >= self.incarnation:
            self.incarnation = min(row.incarnation + 1, U32_MAX)
            node.counters.add("suspicions_refuted")
            self._detector.health.worse()
        mine = Member(node.id, node.address or "", "alive", node.epoch, self.incarnation)
        if self.rumours.tell(mine, self._nodes):
            self._detector.membership.wake()

    def forget(self, ids: Iterable[str]) -> None:
        """Pass nothing on of these nodes."""
        for node_id in ids:
            self.rumours.drop(node_id)


def count_of(message: Message, key: str, most: int) -> int:
    """Return a scalar of a message as a count from 0 to ``most``; 0 where it is not there."""
    return int(min(max(message.scalars.get(key, 0), 0), most))
