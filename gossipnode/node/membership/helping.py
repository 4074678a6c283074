"""What a node answers to questions of who is there: for itself, and for those it can ask.

Invariant: whoever asks is alive; a stranger's question is answered and changes nothing, and nobody
makes this node dial an address that it did not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gossipnode.errors import PeerError
from gossipnode.node.addresses import is_address
from gossipnode.node.membership.membership import Handler
from gossipnode.node.peers import GONE, Peer
from gossipnode.wire.frame import Frame
from gossipnode.wire.members import Member
from gossipnode.wire.message import Kind, Message

if TYPE_CHECKING:
    from gossipnode.node.membership.detector import Detector

# Helping others costs a ping each; more at once than this is no honest need.
HELPED_MAX = 64
HELP_S_MAX = 10.0
CLAIMS_MAX = 64


class Helping:
    """The answers of ``detector``'s node."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._node = detector, detector.node
        self._helping = 0
        # Where listed peers say they are, if that is not where the list has them.
        self._claims: dict[str, str] = {}
        self.words: Mapping[tuple[Kind, str], Handler] = {
            (Kind.CONTROL, "ping"): self._pinged,
            (Kind.CONTROL, "ping_req"): self._asked_to_ping,
            (Kind.CONTROL, "leave"): self._left,
        }

    def _sender_of(self, message: Message) -> Peer | None:
        """Return the peer that asks, with what it tells taken; None for a stranger.

        Raises ``PeerError`` (stale_epoch) for one that has been started anew since.
        """
        node = self._node
        if message.sender not in node.peers:
            self._detector.hearsay.take(None, message)
            return None
        peer = node.peers.known[message.sender]
        if message.epoch < peer.epoch:
            raise PeerError("stale_epoch", f"a later life of it is known: epoch {peer.epoch}")
        address = message.address or ""
        if address != peer.address and is_address(address, node.address or ""):
            if not peer.listed:
                node.passive.moved(peer, address)  # peers.toml may not be wrong
            elif len(self._claims) < CLAIMS_MAX or peer.id in self._claims:
                self._claims[peer.id] = address
        self._detector.hearsay.take(peer, message)
        return peer

    async def _pinged(self, message: Message) -> Frame:
        if message.sender == self._node.id:
            self._detector.twins.asked(message)
            return self._answer("ack", message)
        if (later := self._later_life(message)) is not None:
            return self._detector.membership.frame("nack", [later])
        peer = self._sender_of(message)
        if peer is not None:
            self._detector.alive(peer, self._node.time())
        return self._answer("ack", message)

    def _later_life(self, message: Message) -> Member | None:
        """Return where the sender lives now, if it has been started anew; None if it has not."""
        peers, sender = self._node.peers, message.sender
        peer = peers.known[sender] if sender in peers else None
        if peer is None or message.epoch >= peer.epoch:
            return None
        address = self._claims.get(sender, peer.address)
        return Member(sender, address, "alive", peer.epoch, 0)

    async def _left(self, message: Message) -> Frame:
        peer = self._sender_of(message)
        if peer is not None:
            peer.over = message.epoch
            self._detector.left(peer, "it said so")
        return self._answer("ack", message)

    async def _asked_to_ping(self, message: Message) -> Frame:
        """Ping a peer for another one; whom this node does not know, it does not dial."""
        detector, node = self._detector, self._node
        asker = self._sender_of(message)
        target = message.members[0] if message.members else None
        if asker is None or target is None or target.id not in node.peers:
            return self._answer("nack", message)
        detector.alive(asker, node.time())
        peer = node.peers.known[target.id]
        if peer.state in GONE:
            return self._answer("nack", message, about=peer)
        if self._helping >= HELPED_MAX:
            raise PeerError("busy", "too many ask this node to ping others")
        timeout_s = float(message.scalars.get("timeout_s", detector.timeout_s))
        self._helping += 1
        try:
            await asyncio.sleep(0)  # from here on in a task, as a timeout needs one
            is_there = await self._reaches(peer, min(max(timeout_s, 0.0), HELP_S_MAX))
        finally:
            self._helping -= 1
        return self._answer("ack" if is_there else "nack", message)

    async def _reaches(self, peer: Peer, timeout_s: float) -> bool:
        """Whether a peer answers this node in time; later it is a sign of life all the same."""
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def tell(is_there: bool) -> None:
            if not over.done():
                over.set_result(is_there)

        self._detector.ask_for(peer, tell)
        try:
            async with asyncio.timeout(timeout_s):
                return await over
        except TimeoutError:
            return False

    def _answer(self, word: str, message: Message, about: Peer | None = None) -> Frame:
        return self._detector.hearsay.frame(word, message.sender, about)
