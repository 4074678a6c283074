"""The active side's hands: sends frames to peers, and draws conclusions from what comes back.

Invariant: nothing here can stop a node. A peer that does not answer is tried again once, then
suspected; one that refuses is remembered with its reason; all of it is counted. Frames are
repeated as they are: the receiver's ledger makes delivery idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np

from gossipnode.errors import REFUSALS, NetworkError, PeerError
from gossipnode.logs import bounded, event
from gossipnode.node.begun import go_on
from gossipnode.node.counters import Counters
from gossipnode.node.draft import Draft
from gossipnode.node.outbox import Outbox, Parcel
from gossipnode.node.peers import GONE, Peer, PeerState, PeerTable
from gossipnode.node.world import Posted, Receipt, World, result
from gossipnode.wire.frame import Frame
from gossipnode.wire.reply import REASON_CHARS_MAX, Reply

log = logging.getLogger("gossipnode.node")

# Refusals that will not change by trying again: the two nodes do not belong together.
LASTING = frozenset(
    {
        "wrong_swarm",
        "wrong_schema",
        "wrong_algorithm",
        "wrong_graph",
        "not_a_neighbour",
        "unsupported_version",
        "unsupported_message",
        "too_large",
        "stale_epoch",
    }
)

PROBE_TIMEOUT_S = 5.0
# The shortest pause before a frame is sent again, whatever a busy peer asks for.
RETRY_LEAST_S = 0.05
# How much less a push counts than the one after it: the last ten make most of the speed told.
FORGET = 0.9


def _known(code: str) -> str:
    """Return a refusal's code as a label: whatever peers invent is one series, not many."""
    return code if code in REFUSALS else "other"


class Courier:
    """Delivers parcels to ``peers`` through ``world``.

    ``rng`` makes the random numbers that spread repeats. ``insist`` keeps trying peers never
    heard of (fixed neighbours may still be starting). ``on_change(peer)`` is told when a peer's
    state or round changed; ``on_exchange(peer, parcel, receipt)`` gets the answer to an exchange;
    ``on_refusal(peer, code)`` is told of a message that a peer will not have, however often.
    Pushes are ``timed`` for ``bytes_per_s`` where somebody asks for that.
    """

    def __init__(
        self,
        *,
        world: World,
        peers: PeerTable,
        counters: Counters,
        rng: Callable[[], np.random.Generator],
        timeout_s: float,
        insist: bool,
        on_change: Callable[[str], None],
        on_exchange: Callable[[Peer, Parcel, Receipt], Coroutine[Any, Any, None]],
        on_refusal: Callable[[str, str], None],
        room: Mapping[str, int] | None = None,
        room_least: int = 1,
        timed: bool = False,
    ) -> None:
        self.world, self.peers, self.counters = world, peers, counters
        self._make_rng = rng
        self._rng: np.random.Generator | None = None  # most couriers never need one
        self.timeout_s, self.insist = timeout_s, insist
        self.on_change, self.on_exchange, self.on_refusal = on_change, on_exchange, on_refusal
        self.outbox = Outbox(
            self._deliver, lambda _: counters.add("pushes_replaced"), self._post, self._is_over
        )
        self._room, self._room_least = room or {}, room_least
        # Bytes acknowledged, and the seconds they took, the older the less: for ``bytes_per_s``.
        self._timed_bytes = self._timed_s = 0.0
        # Peer -> when what it was sent last left, and the bytes of that; None: nobody asks. In the
        # record of a peer it would cost 120 bytes for each, and most nodes have no use for it.
        self._left: dict[str, tuple[float, int]] | None = {} if timed else None
        self._closing = False
        self._tasks: asyncio.TaskGroup | None = None  # that the last parcel was given
        self._pauses: dict[str, asyncio.Event] = {}
        self._probed: set[str] = set()
        self._trial: str | None = None  # the suspect that is being tried

    def put(self, peer: str, parcel: Parcel, tasks: asyncio.TaskGroup) -> None:
        """Queue ``parcel``. Suspects are tried when they are due, and one at a time.

        A hung peer holds what is on its way to it: that many old models, were all of them tried.
        """
        room = max(self._room.get(peer, 1), self._room_least)
        known = self.peers.get(peer)
        if known is None or known.state in GONE:  # forgotten, perhaps, while the model was coded
            return
        if known.state == "suspect":
            due = known.retry_at <= asyncio.get_running_loop().time()
            if not due or self._trial not in (None, peer):
                return
            self._trial, room = peer, 1
        self._tasks = tasks
        self.outbox.put(peer, parcel, tasks, room)

    def probe(self, peer_id: str, tasks: asyncio.TaskGroup) -> None:
        """Ask whether a peer that was alive still listens, unless it is being asked already."""
        if self.peers.known[peer_id].state == "alive" and peer_id not in self._probed:
            self._probed.add(peer_id)
            tasks.create_task(self._probe(self.peers.known[peer_id]))

    async def _probe(self, peer: Peer) -> None:
        try:
            listening = await self.world.is_listening(peer.address, PROBE_TIMEOUT_S)
        finally:
            self._probed.discard(peer.id)
        if not listening and peer.state == "alive":
            self.peers.failed(peer, asyncio.get_running_loop().time(), self._spread())
            self.suspect(peer.id, "connection refused")

    def _room_for(self, peer_id: str) -> int:
        if self.peers.known[peer_id].state == "suspect":
            return 1
        return max(self._room.get(peer_id, 1), self._room_least)

    def suspect(self, peer_id: str, reason: str, *, keep: bool = False) -> None:
        """Give up on a peer until it is heard of again.

        With ``keep`` what is on its way goes on: the peer may contradict, and will want it.
        """
        peer = self.peers.known[peer_id]
        if peer.state in GONE:
            return  # which says more
        if peer.state != "suspect":
            self.counters.add("peers_suspected")
            event(log, logging.WARNING, "peer.suspected", peer=peer.id, reason=reason)
        self.lose(peer, "suspect", reason, keep=keep)

    def lose(self, peer: Peer, state: PeerState, reason: str, *, keep: bool = False) -> None:
        """Let a peer be in a state in which nobody waits for it."""
        if peer.state != state:
            peer.since = asyncio.get_running_loop().time()
        peer.reason = reason
        self.peers.mark(peer, state)
        if not keep:
            self.outbox.drop(peer.id)
        if self._trial == peer.id:
            self._trial = None
        self.on_change(peer.id)

    def _post(
        self, peer_id: str, parcel: Parcel, answered: Callable[[Posted], None]
    ) -> Posted | None:
        """Send one parcel without a task, where the world can."""
        if isinstance(parcel.frame, Draft):
            return None
        peer = self.peers.known[peer_id]
        posted = self.world.post(peer.address, parcel.frame, self.timeout_s, answered)
        if posted is not None:
            peer.sending = True
            self._sent(peer, parcel, parcel.frame)
        return posted

    def _is_over(self, peer_id: str, posted: Posted | None) -> bool:
        """Take the answer if it is all there is to do, as nearly always; None: it was given up."""
        if posted is not None:
            receipt = posted.outcome
            if not isinstance(receipt, Receipt) or receipt.reply is None:
                return False
            if receipt.reply.status == "refused" or receipt.reply.sender != peer_id:
                return False
            self._replied(
                self.peers.known[peer_id], receipt.reply, asyncio.get_running_loop().time()
            )
        self._end(self.peers.known[peer_id])
        return True

    async def _deliver(self, peer_id: str, parcel: Parcel, posted: Posted | None) -> None:
        """Send one parcel; repeat while that makes sense and nothing newer waits.

        It was sent already where it was ``posted``.
        """
        peer = self.peers.known[peer_id]
        peer.sending = True
        try:
            await self._insist(peer, parcel, posted)
        finally:
            self._end(peer)

    def _end(self, peer: Peer) -> None:
        # Not looked up: what was given up ends a turn later, and the peer may be forgotten then.
        peer.sending = False
        if self._left is not None:
            self._left.pop(peer.id, None)
        if self._trial == peer.id:
            self._trial = None

    async def _insist(self, peer: Peer, parcel: Parcel, posted: Posted | None) -> None:
        while True:
            pause = await self._attempt(peer, parcel, posted)
            posted = None
            if pause is None:
                return
            if peer.pushes_received == peer.received_before:
                await self._pause(peer, pause)
            if peer.pushes_received > peer.received_before:
                continue  # it is there now, and this model is of a round that it still mixes
            if self._closing and peer.state == "unknown":
                return  # it may never start: no reason to stay for it
            if self.outbox.is_full(peer.id, self._room_for(peer.id)):
                self.counters.add("pushes_replaced")
                return

    @property
    def busy(self) -> frozenset[str]:
        """The peers that something is on its way to, or that are being asked."""
        return frozenset(self.outbox.busy) | self._probed

    async def flush(self, seconds: float) -> bool:
        """Let everything leave, but insist on nobody; False if that took too long."""
        self._closing = True
        for peer_id in list(self._pauses):
            if self.peers.known[peer_id].state == "unknown":
                self.wake(peer_id)
        return await self.outbox.flush(seconds)

    def close(self) -> None:
        """Give up all that is under way."""
        self.outbox.close()

    def wake(self, peer_id: str) -> None:
        """End the pause before the next try: the peer was heard of, or it is time to go."""
        if peer_id in self._pauses:
            self._pauses[peer_id].set()

    async def _pause(self, peer: Peer, seconds: float) -> None:
        woken = self._pauses[peer.id] = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await woken.wait()
        except TimeoutError:
            return
        finally:
            del self._pauses[peer.id]

    async def _sealed(self, parcel: Parcel) -> Frame:
        if isinstance(parcel.frame, Draft):
            assert self._tasks is not None
            parcel.frame = await parcel.frame.sealed(self.world.seal, self._tasks)
        return parcel.frame

    def _sent(self, peer: Peer, parcel: Parcel, frame: Frame) -> None:
        self.counters.add("pushes_sent")
        self.counters.add("bytes_sent", frame.nbytes)
        if parcel.saved:
            self.counters.add("bytes_saved", parcel.saved)
        peer.pushes_sent += 1
        peer.received_before = peer.pushes_received
        if self._left is not None:
            self._left[peer.id] = asyncio.get_running_loop().time(), frame.nbytes

    async def _attempt(self, peer: Peer, parcel: Parcel, posted: Posted | None) -> float | None:
        """Send once, unless it was ``posted``: None when done with the parcel.

        Else return the seconds until the next try.
        """
        try:
            if posted is None:
                frame = await self._sealed(parcel)
                self._sent(peer, parcel, frame)
                receipt = await self.world.push(peer.address, frame, self.timeout_s)
            else:
                receipt = result(posted)
        except NetworkError as error:
            return self._failed(peer, str(error))
        except PeerError as error:
            return self._failed(peer, f"answered nonsense: {error.reason}")
        now = asyncio.get_running_loop().time()
        if receipt.message is not None:
            if receipt.message.sender != peer.id:
                self._met_another(peer, receipt.message.sender, now)
                return None
            self.counters.add("pushes_acknowledged")
            self._heard(peer, now)
            await self._merge(peer, parcel, receipt)
            return None
        assert receipt.reply is not None
        return self._replied(peer, receipt.reply, now)

    async def _merge(self, peer: Peer, parcel: Parcel, receipt: Receipt) -> None:
        """Merge the answer to an exchange to its end, even if the peer is given up meanwhile.

        It has merged its half, so ours may not be lost.
        """
        work = self.on_exchange(peer, parcel, receipt)
        try:
            waiting = work.send(None)  # nearly always it is done at once, and needs no task
        except StopIteration:
            return
        assert self._tasks is not None
        # What this raises, the group of tasks gets.
        await asyncio.wait([self._tasks.create_task(go_on(work, waiting))])

    def _time(self, sent_at: float, nbytes: int, now: float) -> None:
        """Take a push that was acknowledged into account for ``bytes_per_s``."""
        self._timed_bytes = FORGET * self._timed_bytes + nbytes
        self._timed_s = FORGET * self._timed_s + now - sent_at

    @property
    def bytes_per_s(self) -> float:
        """Return how fast the last pushes went, to the answer.

        0 where none took any time, or none was timed.
        """
        return self._timed_bytes / self._timed_s if self._timed_s > 0 else 0.0

    def _spread(self) -> float:
        """Draw what keeps the repeats of many apart, in [0, 1)."""
        if self._rng is None:
            self._rng = self._make_rng()
        return self._rng.random()

    def _failed(self, peer: Peer, reason: str) -> float | None:
        self.counters.add("pushes_failed")
        now = asyncio.get_running_loop().time()
        pause = self.peers.failed(peer, now, self._spread())
        event(log, logging.DEBUG, "push.failed", peer=peer.id, reason=reason)
        if peer.state == "unknown" and self.insist:
            if reason != peer.reason:
                event(log, logging.WARNING, "peer.unreachable", peer=peer.id, reason=reason)
            peer.reason = reason
            self.peers.note_trouble(peer)
            return pause
        if peer.state == "alive" and peer.failures == 1:
            return pause  # a connection may break once without meaning anything
        self.suspect(peer.id, reason)
        return None

    def _met_another(self, peer: Peer, sender: str, now: float) -> None:
        """Give up on a peer at whose address another node answers, even if it may be starting."""
        self.counters.add("pushes_failed")
        self.peers.failed(peer, now, self._spread())
        self.suspect(peer.id, f"another node answers there: {bounded(sender, 128)}")

    def _replied(self, peer: Peer, reply: Reply, now: float) -> float | None:
        # One that refuses for good says more than that it is another.
        if reply.sender != peer.id and reply.code not in LASTING:
            self._met_another(peer, reply.sender, now)
            return None
        if reply.status != "refused":
            self.counters.add("pushes_acknowledged")
            peer.age, peer.refusal = reply.age, ""
            if self._left is not None and (left := self._left.pop(peer.id, None)) is not None:
                self._time(*left, now)
            self._heard(peer, now, reply.round)
            return None
        assert reply.code is not None
        self.counters.add("pushes_refused_by_peer", label=("code", _known(reply.code)))
        refusal = f"{bounded(reply.code, 40)}: {bounded(reply.reason or '', REASON_CHARS_MAX)}"
        if refusal != peer.refusal and reply.code != "busy":  # once, not at every push
            event(log, logging.WARNING, "push.refused", peer=peer.id, refusal=refusal)
        peer.refusal = refusal
        self.peers.note_trouble(peer)
        if reply.code == "busy":
            self._heard(peer, now)  # it is there: no reason to give up on it
            return min(max(reply.retry_after_s or 0.1, RETRY_LEAST_S), self.timeout_s)
        if reply.code == "missing_base":
            self._heard(peer, now)  # nor here: it says what it can take
        self.on_refusal(peer.id, reply.code)
        if reply.code in LASTING or reply.code == "draining":
            self.peers.failed(peer, now, self._spread())
            self.suspect(peer.id, refusal)
        return None

    def _heard(self, peer: Peer, now: float, round_: int | None = None) -> None:
        """An answer proves that a peer lives, but not that it will send its model in time."""
        before = peer.state, peer.round
        if round_ is not None:
            peer.tell_round(round_)
        # Suspected for missing a deadline: a message from it must come first.
        if peer.state != "suspect" or peer.failures:
            self.peers.heard(peer, now)
        if (peer.state, peer.round) != before:
            self.on_change(peer.id)
