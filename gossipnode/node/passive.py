"""The passive side: what happens to a push from its header to its answer.

Invariant: whatever arrives ends in exactly one outcome or one refusal, and each is counted; the
memory reserved for a body is given back on every path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from gossipnode.algorithms.base import Outcome, Purpose, Sent, Vector
from gossipnode.codecs.base import Coded
from gossipnode.errors import PeerError
from gossipnode.logs import bounded, event
from gossipnode.node.addresses import is_address
from gossipnode.node.draft import Draft
from gossipnode.node.inbox import KINDS, Admission
from gossipnode.node.outbox import Parcel
from gossipnode.node.peers import Peer, is_absurd
from gossipnode.node.world import INLINE_BYTES_MAX, Receipt
from gossipnode.wire.frame import Frame, encode
from gossipnode.wire.message import ALL, Kind, Message, Part, Role
from gossipnode.wire.reply import Reply, Status

if TYPE_CHECKING:
    from gossipnode.node.node import Node

log = logging.getLogger("gossipnode.node")

BUSY_RETRY_S = 0.1
# Answers are kept for whoever did not get his and asks again. Each holds the params of then, so
# of large ones there is one.
ANSWERS_KEPT, ANSWERS_BYTES = 16, 4 * 2**20
# Senders whose last refusal is remembered, so that repeating it fills no log.
REFUSED_KEPT = 1024
STALE = "stale_epoch"
# What is asked about nodes, and carries no model.
ABOUT_NODES = frozenset({Kind.CONTROL, Kind.VIEW})
# Made once: asking an enumeration for its value takes as long as counting.
LABELS: dict[Outcome, tuple[str, Status]] = {o: ("outcome", o.value) for o in Outcome}


@dataclass(slots=True)
class Delivery:
    """What an arriving push is answered: a reply, and for an exchange a frame in its place."""

    reply: Reply
    frame: Frame | None = None


class PassiveSide:
    """Receives for one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        # How a message becomes a frame. The simulator can do without bytes.
        self.encode: Callable[[Message, Sequence[Vector]], Frame] = encode
        self._answered: dict[tuple[str, int, int], Frame] = {}
        self._answered_bytes = 0
        self._answering: set[tuple[str, int, int]] = set()  # exchanges whose answer is being made
        self._refused: dict[str, str] = {}  # sender -> code, or reason, of its last refusal

    def admit(self, message: Message) -> Admission:
        """Let a body come after seeing its header, or raise ``PeerError``."""
        if not self.node.ready:
            code = "busy" if self.node.state in ("created", "starting") else "draining"
            raise PeerError(code, f"this node is {self.node.state}")
        membership = self.node.membership
        if membership is not None and message.kind in ABOUT_NODES:
            membership.admit(message)
            return Admission(message, 0, False, 0)
        self._check_round(message)
        return self.node.inbox.admit(message)

    def _check_round(self, message: Message) -> None:
        """Refuse a round from which there is no going on: the next ones would fit no message."""
        if is_absurd(message.round, self.node.round):
            raise PeerError("malformed_frame", f"nobody can be in round {message.round}")

    async def deliver(self, admission: Admission, body: memoryview | Sequence[Vector]) -> Delivery:
        """Check, merge and answer; releases the admission. Raises ``PeerError``.

        ``body`` is writable memory or, where there never were bytes, the vectors themselves.
        """
        node, message = self.node, admission.message
        if node.membership is not None and message.kind in ABOUT_NODES:
            answered = await node.membership.answer(message)
            if isinstance(answered, Reply):
                return Delivery(answered)
            return Delivery(self.reply(Outcome.MERGED), answered)
        if message.kind is not Kind.EXCHANGE_REQUEST:
            return await self._take(admission, body)
        identity = _identity(message)
        if identity in self._answering:  # a repeat; of a duplicate's answer nobody merges his half
            node.inbox.release(admission)
            raise PeerError("busy", "the answer is still being made; come again")
        self._answering.add(identity)
        try:
            return await self._take(admission, body)
        finally:
            self._answering.discard(identity)

    async def _take(self, admission: Admission, body: memoryview | Sequence[Vector]) -> Delivery:
        """Check, merge and answer a model."""
        node, message, held = self.node, admission.message, admission.held_bytes
        try:
            if not node.inbox.mark(message):
                node.counters.add("pushes_merged", label=LABELS[Outcome.DUPLICATE])
                again = self._answered.get(_identity(message))
                return Delivery(self.reply(Outcome.DUPLICATE), again)
            try:
                if isinstance(body, memoryview):
                    arrival = await node.inbox.open(message, body, held, node.compute)
                else:
                    arrival = await node.inbox.opened(message, body, held, node.compute)
                self._heard(message, arrival.age)
                answer = await node.algorithm.receive(node, arrival)
            except BaseException:
                node.inbox.unmark(message)
                raise
            node.inbox.settle(message)
        finally:
            node.inbox.release(admission)
        self._count(admission.body_bytes, answer.outcome)
        frame = None
        if answer.reply is not None:
            made = self.frame(answer.reply, Purpose.EXCHANGE_REPLY, answer.reply_age)
            frame = await node.world.seal(made.make) if isinstance(made, Draft) else made
            node.counters.add("bytes_sent", frame.nbytes)
            self._remember(message, frame)
        return Delivery(self.reply(answer.outcome), frame)

    def _remember(self, message: Message, frame: Frame) -> None:
        """Keep the answer for a repeat: else half of an exchange is lost with its answer."""
        answered = self._answered
        answered[_identity(message)] = frame
        self._answered_bytes += frame.nbytes
        while len(answered) > 1 and (
            len(answered) > ANSWERS_KEPT or self._answered_bytes > ANSWERS_BYTES
        ):
            self._answered_bytes -= answered.pop(next(iter(answered))).nbytes

    async def exchanged(self, peer: Peer, parcel: Parcel, receipt: Receipt) -> None:
        """Merge what a peer answered to an exchange; checked like any other arrival."""
        node, message = self.node, receipt.message
        assert message is not None
        try:
            if message.sender != peer.id:
                raise PeerError("not_a_neighbour", f"asked {peer.id}, another node answered")
            self._check_round(message)
            # Neither a full inbox nor draining may refuse it: the other half is merged already.
            _, body_bytes, held = node.inbox.check(message)
            if not node.inbox.mark(message):
                return
            try:
                arrival = await node.inbox.opened(message, receipt.arrays, held, node.compute)
                arrival.own, arrival.own_age = parcel.own, parcel.own_age
                answer = await node.algorithm.receive(node, arrival)
            except BaseException:
                node.inbox.unmark(message)
                raise
            node.inbox.settle(message)
        except PeerError as error:
            self.refuse(error, peer.id)
            return
        self._count(body_bytes, answer.outcome)
        peer.tell_round(message.round)
        peer.age = arrival.age

    def refuse(self, error: PeerError, sender: str | None) -> Reply:
        """Count and log a refusal, and return what to answer."""
        node = self.node
        node.counters.add("pushes_refused", label=("code", error.code))
        is_new = self._note_refusal(error, sender or "")
        event(
            log,
            logging.WARNING if is_new else logging.DEBUG,
            "push.refused_here",
            sender=bounded(sender or "unknown", 128),
            code=error.code,
            reason=error.reason,
        )
        reply = self.reply(Outcome.DROPPED)
        reply.status, reply.code, reply.reason = "refused", error.code, error.reason
        reply.retry_after_s = BUSY_RETRY_S if error.code == "busy" else None
        return reply

    def _note_refusal(self, error: PeerError, sender: str) -> bool:
        """Keep the refusal with the peer; False if it is a repetition, which no log needs."""
        if error.code in ("busy", "draining"):
            return False
        peer = self.node.peers.get(sender)
        if peer is not None:
            peer.refused_here = str(error)
            self.node.peers.note_trouble(peer)
        # A reason that is stale_epoch's names the later life: two that go on are told of once.
        what = str(error) if error.code == STALE else error.code
        if self._refused.get(sender) == what:
            return False
        self._refused[sender] = what
        while len(self._refused) > REFUSED_KEPT:
            del self._refused[next(iter(self._refused))]
        return True

    def reply(self, outcome: Outcome) -> Reply:
        """Return the answer for an outcome, with this node's clock."""
        node = self.node
        return Reply(LABELS[outcome][1], node.id, node.round, node.age)

    def frame(
        self,
        parts: Mapping[str, Sent],
        purpose: Purpose,
        age: int,
        scalars: Mapping[str, float] | None = None,
        *,
        phase: int = 0,
        index: Mapping[str, Any] = ALL,
        version: int = 0,
        base_version: int | None = None,
    ) -> Frame | Draft:
        """Return ``parts`` as the next frame of this node; their memory is not copied.

        What is long is a draft.
        """
        node = self.node
        node.seq += 1
        arrays, described = _described(parts, index)
        message = Message(
            kind=KINDS[purpose],
            swarm=node.config.swarm.name,
            schema=node.layout.schema,
            algorithm=node.algorithm.called,
            sender=node.id,
            epoch=node.epoch,
            seq=node.seq,
            round=node.round,
            phase=phase,
            graph=node.place.graph,
            degree=len(node.out_neighbours_at(node.round)) or None,
            age=age,
            scalars=dict(scalars or {}),
            address=None if node.algorithm.needs_graph else node.address,
            version=version,
            base_version=base_version,
            parts=tuple(described),
        )
        if message.body_bytes > INLINE_BYTES_MAX and self.encode is encode:
            return Draft(partial(encode, message, arrays))
        return self.encode(message, arrays)

    def _count(self, body_bytes: int, outcome: Outcome) -> None:
        counters = self.node.counters
        counters.add("pushes_received")
        counters.add("bytes_received", body_bytes)
        counters.add("pushes_merged", label=LABELS[outcome])

    def _heard(self, message: Message, age: int) -> None:
        node = self.node
        peer = node.peers.get(message.sender)
        if peer is None and not node.algorithm.needs_graph:
            peer = self._learn(message)
        if peer is not None:
            if not peer.listed and message.address not in (None, peer.address):
                self.moved(peer, message.address or "")
            peer.tell_round(message.round)
            peer.age, peer.refused_here = age, ""
            # What a later life sends is no news of an earlier one that goes on beside it.
            if self._refused and STALE not in self._refused.get(peer.id, STALE):
                del self._refused[peer.id]
            peer.pushes_received += 1
            node.peers.heard(peer, node.time(), epoch=message.epoch)
            node.courier.wake(peer.id)

    def moved(self, peer: Peer, address: str) -> None:
        """Take a learnt peer's word for where it is now; peers.toml may not be wrong."""
        node = self.node
        if is_address(address, node.address or ""):
            peer.address = address
            if node.membership is not None and node.membership.shuffle is not None:
                node.membership.shuffle.meet(peer.id, address, hearsay=False)

    def _learn(self, message: Message) -> Peer | None:
        """A newcomer says where it can be reached: from now on it is pushed to as well."""
        node = self.node
        if message.address is None or not is_address(message.address, node.address or ""):
            return None
        return self.meet(message.sender, message.address)

    def meet(self, peer_id: str, address: str) -> Peer | None:
        """Take in a peer that was not known; None where there is no place for it."""
        node = self.node
        if node.membership is not None and node.membership.shuffle is not None:
            peer = node.membership.shuffle.meet(peer_id, address, hearsay=False)
        else:
            peer = node.peers.add(peer_id, address)
        if peer is not None:
            event(log, logging.INFO, "peer.joined", peer=peer.id, address=bounded(peer.address))
        return peer


def _described(
    parts: Mapping[str, Sent], index: Mapping[str, Any]
) -> tuple[list[Vector], list[Part]]:
    """Return what goes along of each of ``parts``, and what the message says of it."""
    arrays: list[Vector] = []
    described = []
    for role, part in parts.items():
        if isinstance(part, Coded):
            arrays.append(part.data)
            described.append(_coded_part(role, part, index))
        else:
            arrays.append(part)
            described.append(Part.of(cast("Role", role), part, index))
    return arrays, described


def _coded_part(role: str, part: Coded, index: Mapping[str, Any]) -> Part:
    return Part(
        cast("Role", role),
        part.dtype,
        part.size,
        part.nbytes,
        part.codec,
        index,
        bits=part.bits,
        scale=part.scale,
        zero=part.zero,
        norm=part.norm,
        seed=part.seed,
    )


def _identity(message: Message) -> tuple[str, int, int]:
    return message.sender, message.epoch, message.seq
