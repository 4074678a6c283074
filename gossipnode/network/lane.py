"""The lane: one connection between two nodes that carries pushes and answers both ways.

``records`` is its framing, ``pump`` its way out; here frames meet the node, those of the peer in
``arrivals``, our own in ``pending``. A body that is not admitted is read and forgotten, its refusal
goes out at once. Many pushes may be under way, each with its number, and answers in any order.

Invariant: reading never waits for writing, so two nodes that push to each other cannot lock each
other; what a peer can make us hold is bounded by ``UNANSWERED_MAX`` and by what the node admits.
A peer that breaks the framing, or stalls inside a record, loses the lane with a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

from gossipnode.errors import PeerError
from gossipnode.logs import bounded, event
from gossipnode.network.ahead import Ahead
from gossipnode.network.arrivals import Arrivals
from gossipnode.network.partials import Partials
from gossipnode.network.pending import UNANSWERED_MAX, Answer, LaneBrokenError, Pending, Tell
from gossipnode.network.pool import BufferPool
from gossipnode.network.pump import ANSWERS_MAX, Pump
from gossipnode.network.records import (
    READ_BYTES,
    Hello,
    Record,
    RecordReader,
    Type,
    asked_for,
    close_record,
    frame_bytes_max,
    frame_record,
    have_of,
    record_head,
)
from gossipnode.network.stall import StallWatch
from gossipnode.network.taken import taking
from gossipnode.network.transfers import Progress
from gossipnode.network.turns import Breather
from gossipnode.node.inbox import body_bytes_max
from gossipnode.node.node import Node
from gossipnode.node.passive import Delivery
from gossipnode.node.status import TransferStatus
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

log = logging.getLogger("gossipnode.network.lane")

CLOSE_S = 2.0  # from saying that a lane closes to cutting it


class Lane(asyncio.BufferedProtocol):
    """One end of a lane to ``peer``; ``on_closed(lane, reason)`` is told once, at its end.

    ``kept(lane, message)`` tells how much of a body is here that another lane did not bring whole.
    Where the peer ``is_proven``, frames must be its own.
    """

    def __init__(
        self,
        node: Node,
        partials: Partials,
        pool: BufferPool,
        peer: Hello,
        *,
        is_opener: bool,
        is_proven: bool = False,
        on_closed: Callable[[Lane, str], None],
        kept: Callable[[Lane, Message], int],
    ) -> None:
        self.peer, self.is_opener, self._is_proven = peer, is_opener, is_proven
        self.host = self._reason = ""  # where the peer dialled from, as it is counted; why it ended
        self.last_heard = self.last_frame = 0.0
        self._body_began = (0, 0.0)  # at which of its bytes, and when
        self._node, self._partials, self._pool = node, partials, pool
        self._limit = frame_bytes_max(body_bytes_max(node.layout, node.algorithm))
        self._on_closed, self._kept = on_closed, kept
        self._reader = RecordReader(self)
        self._pending = Pending(pool, self.give_up, peer.id if is_proven else None)
        self.is_closing = self._peer_closing = self._is_turned_away = False  # ended, or about to
        self._cut: asyncio.TimerHandle | None = None

    # -- for whoever sends, or looks --------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether another push may be sent."""
        return not self.is_closing and len(self._pending.pushes) < UNANSWERED_MAX

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._pending or self._arrivals) or not self._reader.is_between

    async def push(self, frame: Frame, timeout_s: float, offset: int = 0) -> Receipt:
        """Send one frame, its body from ``offset`` on, and return the answer, a refusal included.

        Raises ``LaneBrokenError``, ``NetworkError`` after ``timeout_s``, or ``PeerError`` where
        the answer is none. Who stops waiting while the frame is half sent breaks the lane.
        """
        return await self._pending.receipt(partial(self.post, frame, timeout_s, offset=offset))

    def post(self, frame: Frame, timeout_s: float, tell: Tell, offset: int = 0) -> int:
        """Begin what ``push`` does, which ``tell`` is told; returns a number for ``give_up``."""
        number = self._ask(frame.nbytes - len(frame.head), timeout_s, tell)
        self.last_frame = self._loop.time() if frame.body else self.last_frame
        record = frame_record(number, frame.nbytes, offset)
        self._pump.frame(number, record + frame.head, frame.body, offset)
        return number

    def give_up(self, number: int) -> str:
        """Wait no longer, and say how far a long frame was: half sent, it ends the lane."""
        if number not in self._pending:
            return ""
        if self._pump.withdraw(number):
            self._pending.withdraw(number)
            return ""
        self._pending.forget(number)
        if not self._pump.is_leaving(number):
            return ""
        how_far = self._pump.progress.words()
        self.abort("a push was given up before all of it was sent")
        return how_far

    async def kept_of(self, frame: Frame, timeout_s: float) -> int:
        """Ask how many bytes of the frame's body the peer has kept; raises as ``push`` does."""
        got = await self._pending.wait(partial(self._ask_kept, frame, timeout_s))
        if not isinstance(got, int) or got >= frame.nbytes - len(frame.head):
            raise PeerError("malformed_frame", "it is not told how much was kept")
        return got

    def transfers(self) -> Iterator[TransferStatus]:
        """Yield how far the long bodies under way are."""
        now = self._loop.time()
        yield from self._pump.progress.status(self.peer.id, "to", now)
        coming = Progress(*self._reader.body_filled, *self._body_began)
        yield from coming.status(self.peer.id, "from", now)

    def surrender(self, message: Message) -> None:
        """If it is the body of ``message`` that arrives, put it aside and end at once."""
        if self._arrivals.is_arriving(message):
            self._put_aside()
            self.abort("the peer goes on over another lane")

    def say(self, word: Type) -> None:
        """Ask for a sign of life (PING) or give one (PONG), unless something waits to leave."""
        if not (self.is_closing or self._pump.waiting):
            self._pump.small(record_head(word, 0, 0))

    def close(self, reason: str) -> None:
        """Send nothing new; let what is under way be answered, then end."""
        if not self.is_closing:
            self.is_closing, self._reason = True, reason
            self._pump.small(close_record(reason))
            self._cut_later()

    def abort(self, reason: str) -> None:
        """End at once."""
        self.is_closing = True
        self._reason = self._reason or reason
        self.transport.abort()

    def turn_away(self, reason: str) -> None:
        """End with a reason, and take nothing more of what is under way."""
        if not self._is_turned_away:
            self._is_turned_away = True
            self._break(PeerError("not_a_neighbour", reason))

    def kill(self, reason: str) -> None:
        """End at once, and give up what has arrived but is not merged."""
        self.abort(reason)
        self._arrivals.cancel()

    async def wait_closed(self) -> None:
        """Wait for the end of the connection and of what arrived through it."""
        await self._ended.wait()
        await self._arrivals.wait()

    # -- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the transport's protocol has been changed to this."""
        self.transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._breather, net = Breather(self.transport, self._loop), self._node.config.network
        unread, rate = partial(self.abort, "the peer does not read"), net.body_rate_min
        self._pump = Pump(self.transport, taking(self.transport, unread, rate))
        self._ahead = Ahead(self._breather, self._pool.hand)
        node, fault = self._node, partial(self.abort, "this node has a fault")
        self._arrivals = Arrivals(
            node, self._pool, self._partials, self.peer.id, self._is_proven, self._answer, fault
        )
        self._watch = StallWatch(
            net.body_timeout_s, lambda: self._reader.bytes_read, self._stalled, net.body_rate_min
        )
        self.last_heard = self.last_frame = self._loop.time()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes go."""
        buffer = self._reader.get_buffer()
        if len(buffer) == READ_BYTES:
            self._breather.begin()
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes."""
        self.last_heard = self._loop.time()
        self._arrivals.may_begin = True
        try:
            self._reader.buffer_updated(nbytes)
        except PeerError as error:
            self._break(error)
        if self._reader.is_between or self._reader.is_deaf:
            self._watch.is_under_way = False
        elif not self._watch.is_under_way:
            self._watch.begun()
        if self._breather.began_at is not None:
            self._breather.end(nbytes)
        if self._ahead.body is not None:
            self._ahead.follow(*self._reader.body_filled)

    def pause_writing(self) -> None:
        """Wait for room."""
        self._pump.pause()

    def resume_writing(self) -> None:
        """Write on."""
        self._pump.resume()
        if self._peer_closing:
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self.is_closing = True
        why = "the connection broke" if exc else "the peer closed the lane"
        self._reason = self._reason or why
        self._watch.stop()
        if self._cut is not None:
            self._cut.cancel()
        self._pump.drop()
        self._pending.arrived()
        self._put_aside()
        self._pending.fail(LaneBrokenError(self._reason))
        self._ended.set()
        self._on_closed(self, self._reason)

    # -- what the reader calls --------------------------------------------------------------------

    def frame_announced(self, record: Record) -> None:
        """Judge a frame by its number and its length."""
        self._watch.is_under_way = False  # of a body before it that was refused, nobody says so
        if record.kind is Type.ANSWER:
            self._pending.announced(record.number, record.length, self._limit)
            return
        if len(self._arrivals.numbers) + self._pump.waiting > 2 * UNANSWERED_MAX:
            raise PeerError("malformed_frame", f"more than {UNANSWERED_MAX} frames are unanswered")
        self._arrivals.announced(record.number, record.length, self._limit)

    def frame_head(self, record: Record, message: Message) -> memoryview | None:
        """Give a body its buffer, or refuse it."""
        self._body_began = (record.offset, self.last_heard)
        try:
            if record.kind is Type.ANSWER:
                body: memoryview | None = self._pending.buffer(record.number, message)
            elif self._pump.answers >= ANSWERS_MAX:
                self._arrivals.refuse(record.number, PeerError("busy", "read the answers"), None)
                return None
            else:
                body = self._arrivals.admit(record.number, message, record.offset)
        except PeerError as error:
            self._answered(record.number, error)
            return None
        if body is not None and self._pool.is_fresh:
            self._ahead.begin(body, record.offset)
        return body

    def frame_refused(self, record: Record, error: PeerError) -> None:
        """Answer a frame whose head is wrong; the framing is intact."""
        if record.kind is Type.ANSWER:
            self._answered(record.number, error)
        else:
            self._arrivals.refuse(record.number, error, None)

    def frame_arrived(self, record: Record, message: Message, body: memoryview) -> None:
        """Hand a whole frame on."""
        self._watch.is_under_way = False
        if record.kind is Type.ANSWER:
            self._pending.arrived()
            self._answered(record.number, (message, body))
        else:
            self.last_frame = self.last_heard if body else self.last_frame
            self._arrivals.arrived(body)

    def small_arrived(self, record: Record, payload: bytes) -> None:
        """Take a reply or a word about the lane itself."""
        self._watch.is_under_way = False
        if record.kind is Type.REPLY:
            self._pending.require(record.number, "a reply to nothing")
            try:
                self._answered(record.number, Reply.decode(payload))
            except PeerError as error:
                self._answered(record.number, error)
        elif record.kind in (Type.PING, Type.ASK):
            if self._pump.waiting > 2 * UNANSWERED_MAX:
                raise PeerError("malformed_frame", "more questions than anybody needs")
            kind = Type.PONG
            if record.kind is Type.ASK:
                kind, payload = Type.HAVE, have_of(self._kept(self, asked_for(payload)))
            self._pump.small(record_head(kind, record.number, len(payload)) + payload)
        elif record.kind is Type.HAVE:
            self._pending.require(record.number, "it was not asked what is there")
            self._answered(record.number, int.from_bytes(payload, "little"))
        elif record.kind is Type.CLOSE:
            reason = bounded(payload.decode("utf-8", "replace"))
            self._reason = self._reason or f"the peer closed the lane: {reason}".rstrip(": ")
            self.is_closing = self._peer_closing = True
            self._cut_later()
            self._settle()

    def _ask(self, body_bytes: int, timeout_s: float, tell: Tell) -> int:
        if self.is_closing or len(self._pending.pushes) >= UNANSWERED_MAX:
            raise LaneBrokenError("the lane is closing or full")
        return self._pending.add(body_bytes, timeout_s, tell)

    def _ask_kept(self, frame: Frame, timeout_s: float, tell: Tell) -> int:
        number = self._ask(0, timeout_s, tell)
        self._pump.small(record_head(Type.ASK, number, len(frame.head)) + frame.head)
        return number

    def _answered(self, number: int, answer: Answer | PeerError) -> None:
        self._pending.answered(number, answer)
        if self._peer_closing:
            self._settle()

    def _put_aside(self) -> None:
        """Let go of the body that was arriving: nobody brings it to its end here."""
        self._arrivals.broke(self._reader.body_filled[0])
        self._reader.forget_all()
        self._ahead.follow(*self._reader.body_filled)

    def _answer(self, number: int, delivery: Delivery) -> None:
        if self._ended.is_set():
            return
        frame = delivery.frame
        if frame is None:
            payload = delivery.reply.encode()
            self._pump.small(record_head(Type.REPLY, number, len(payload)) + payload)
        else:
            record = record_head(Type.ANSWER, number, frame.nbytes)
            self._pump.frame(-1 - number, record + frame.head, frame.body)
        if self._peer_closing:
            self._settle()

    # -- the lane itself --------------------------------------------------------------------------

    def _stalled(self) -> None:
        error = PeerError("body_timeout", "the frame came too slowly")
        self._arrivals.give_up(error)
        self._break(error)

    def _break(self, error: PeerError) -> None:
        """End with a reason: what comes now has no meaning.

        It is read and forgotten until the peer closes too: bytes that wait unread would turn the
        end of the connection into a reset, which may overtake the reason.
        """
        event(log, logging.DEBUG, "lane.fault", peer=bounded(self.peer.id), reason=error.reason)
        self._watch.ended()
        self._pending.arrived()
        self._arrivals.give_up()
        self._reader.forget_all()
        self._ahead.follow(*self._reader.body_filled)
        if not self.is_closing:
            self._pump.small(close_record(str(error)))
        self.is_closing = True
        self._reason = self._reason or f"broken: {error}"
        self._pending.fail(LaneBrokenError(self._reason))
        self._pump.finish()
        self._cut_later()

    def _settle(self) -> None:
        """Close the connection, as the peer wants, if nothing is under way any more."""
        if (
            not self._ended.is_set()
            and not (self._pending or self._arrivals)
            and self._pump.is_empty
        ):
            self.transport.close()

    def _cut_later(self) -> None:
        if self._cut is None:
            self._cut = self._loop.call_later(CLOSE_S, self.transport.abort)
