"""The lanes of a node: one to each peer, whoever opened it, used by both.

A lane is found by the peer's address, as pushes are addressed: the one that was dialled, or the
one that the peer said was its own when it dialled us. So a node that cannot be dialled is reached
through the lane that it opened. Invariant: a lane is an improvement, never a condition: where
there is none, none can be had, or one breaks, the push goes by ``POST /v1/push``, and a new lane
is tried later.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ssl import SSLContext, SSLError
from typing import TYPE_CHECKING

import numpy as np

from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import bounded, event
from gossipnode.network import alive
from gossipnode.network.gate import counted_as
from gossipnode.network.http import BaseRequest, Response, StreamResponse
from gossipnode.network.lane import Lane
from gossipnode.network.partials import Partials
from gossipnode.network.pending import LaneBrokenError
from gossipnode.network.pool import BufferPool
from gossipnode.network.posted import LanePost
from gossipnode.network.records import Hello
from gossipnode.network.trust.words import StrangerError, words_of
from gossipnode.network.upgrade import LaneRefusedError, dial, feed, hand_over
from gossipnode.network.ways import Way, is_large
from gossipnode.node.addresses import Reach, is_address
from gossipnode.node.node import Node
from gossipnode.node.status import TransferStatus
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Message

if TYPE_CHECKING:
    from gossipnode.network.trust.trust import Trust

log = logging.getLogger("gossipnode.network.lanes")

# Each costs a connection here and there; a swarm of 1,000 nodes fits below the usual 1,024 files.
LANES_MAX = 900
# Connecting, and the answer to the upgrade. A proxy that swallows it costs one push this much.
OPEN_S = 5.0
# Where there is no lane to be had, and where the peer cannot now (starting, or stopping).
FALLBACK_S = 60.0
UNAVAILABLE_S = 1.0
# A lane that ended before this is tried again after a pause, which doubles each time.
YOUNG_S = 10.0
PAUSE_S = 0.5
PAUSE_S_MAX = 60.0
# For the peers' answers when this node closes; then the lanes are cut.
SHUTDOWN_S = 1.0


class Lanes:
    """All lanes of ``node``. Constructing does nothing; close it in the loop that used it.

    Those to ``https`` addresses are opened with ``tls``; with ``trust``, ids are proved, and
    ``meant`` tells which one belongs to an address.
    """

    def __init__(
        self,
        node: Node,
        tls: SSLContext | None = None,
        trust: Trust | None = None,
        meant: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self.tls, self._trust, self._meant = tls, trust, meant
        self.pool = BufferPool(node.config.network.inflight_bytes_max)
        self.partials = Partials(self.pool)
        self._node, self._counters = node, node.counters
        self.reach: Reach | None = None
        # Without a frame either way a lane is closed, and idle memory given back.
        self._idle_s = node.config.network.lane_idle_s
        self._per_address_max = node.config.network.connections_per_address_max
        self._ways: dict[str, Way] = {}
        self._lanes: set[Lane] = set()
        self._rng = np.random.default_rng()  # for pauses alone, which no run repeats
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._lanes)

    def to(self, address: str) -> Lane | None:
        """Return the lane to ``address`` that a push could take now."""
        way = self._ways.get(address)
        if way is None or way.lane is None:
            return None
        if self._trust is not None and self._is_anothers(address, way.lane):
            way.lane = None  # it was there, or said so, before anybody knew whose address that is
            return None
        return way.lane if way.lane.is_usable else None

    def _is_anothers(self, address: str, lane: Lane) -> bool:
        """Whether a lane's peer is not who is now known to be there; of two, who answered is."""
        meant = self._meant(address)
        return meant not in (None, lane.peer.id) and (meant != "" or not lane.is_opener)

    @property
    def transports(self) -> set[object]:
        """The connections that are lanes."""
        return {lane.transport for lane in self._lanes}

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt | None:
        """Push over the lane to ``address``, which is opened if need be; None: there is none.

        A large frame whose lane breaks goes on over the next one, as long as that gets further.
        Raises ``NetworkError`` where nobody listens, and what ``Lane.push`` does but for a
        broken lane.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        stuck = 0
        while stuck < 2:
            lane = self.to(address)
            if lane is None:
                try:
                    async with asyncio.timeout_at(deadline):
                        lane = await self._open(address)
                except TimeoutError:
                    raise NetworkError(f"timed out after {timeout_s:g} s") from None
            if lane is None or _waits(lane, frame):
                break
            way = self._ways.setdefault(address, Way())  # it may have been forgotten meanwhile
            reached = way.reached
            try:
                return await way.push(lane, frame, deadline - loop.time(), self._counters)
            except LaneBrokenError as error:
                self._broke(lane, error)
            if not way.unfinished:
                break
            stuck = 0 if way.reached > reached else stuck + 1
        self._counters.add("lane_fallbacks")
        return None

    def post(self, address: str, frame: Frame, timeout_s: float, posted: LanePost) -> bool:
        """Send by ``posted`` over the lane to ``address``; False where there is none open.

        So also for a large frame: ``push`` sees to it that it goes on where a lane has broken.
        """
        lane = self.to(address)
        if lane is None or (is_large(frame) if frame.body else _waits(lane, frame)):
            return False
        self._counters.add("lane_pushes")
        posted.send(lane, frame, timeout_s)
        return True

    def fall_back(self, lane: Lane, error: LaneBrokenError) -> None:
        """Take note that what was posted goes another way."""
        self._broke(lane, error)
        self._counters.add("lane_fallbacks")

    def _broke(self, lane: Lane, error: LaneBrokenError) -> None:
        self._counters.add("lanes_broken")
        event(log, logging.DEBUG, "lane.broken", peer=bounded(lane.peer.id), reason=str(error))

    def transfers(self) -> list[TransferStatus]:
        """Return how far the long bodies under way are."""
        return [transfer for lane in self._lanes for transfer in lane.transfers()]

    def accept(
        self, request: BaseRequest, hello: Hello, proven: str | None = None
    ) -> StreamResponse:
        """Make the connection, of the id ``proven`` where there is trust, a lane; ``PeerError``."""
        node = self._node
        if proven is not None and hello.id != proven:
            raise PeerError(
                "not_a_neighbour", f"the certificate is of {proven}, not of {bounded(hello.id)}"
            )
        if hello.swarm != node.config.swarm.name:
            raise PeerError("wrong_swarm", f"this is swarm {node.config.swarm.name}")
        if hello.id == node.id:
            raise PeerError("not_a_neighbour", f"{node.id} is this node's own id")
        if hello.address is not None and not is_address(hello.address, node.address or ""):
            raise PeerError("malformed_frame", "Gossipnode-Address is none that is dialled")
        if self._closed or not node.ready:
            code = "busy" if node.state in ("created", "starting") else "draining"
            raise PeerError(code, f"this node is {node.state}")
        if len(self._lanes) >= LANES_MAX:
            raise PeerError("busy", f"{LANES_MAX} lanes are open already")
        host = counted_as(request.remote or "")
        if sum(lane.host == host for lane in self._lanes) >= self._per_address_max:
            raise PeerError("busy", f"{self._per_address_max} lanes of this address are open")
        lane = self._new(hello, is_opener=False)
        lane.host = host
        hand_over(request, self._hello(), lane)
        # Who names another's address would be sent what is that one's.
        is_own = proven is None or self._meant(hello.address or "") in (None, proven)
        self._enrol(lane, hello.address if is_own else None, "lanes_accepted")
        # Not sent: the connection is no longer the server's.
        return Response(status=101)

    def cut(self) -> None:
        """End the lanes of peers that count no longer, with the reason."""
        assert self._trust is not None
        for lane in tuple(self._lanes):
            try:
                self._trust.peer_of(lane.transport)
            except StrangerError as error:
                event(log, logging.WARNING, "lane.cut", peer=lane.peer.id, reason=error.words)
                lane.turn_away(error.words)

    async def close(self) -> None:
        """Let what is under way be answered, then end all lanes; harmless twice."""
        self._closed = True
        self.partials.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        opening = [way.opening for way in self._ways.values() if way.opening is not None]
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        lanes = list(self._lanes)
        for lane in lanes:
            lane.close("this node is stopping")
        ending = asyncio.gather(*(lane.wait_closed() for lane in lanes))
        try:
            async with asyncio.timeout(SHUTDOWN_S):
                await asyncio.shield(ending)
        except TimeoutError:
            for lane in lanes:
                lane.kill("this node is stopping")
            await ending
        self.pool.hand.close()
        self.pool.trim()

    def _kept(self, asker: Lane, message: Message) -> int:
        """Return how much of a body is here that the asker's peer began to send on another lane.

        That lane may be broken without this end knowing it.
        """
        for lane in tuple(self._lanes):
            if lane is not asker and lane.peer.id == asker.peer.id:
                lane.surrender(message)
        return self.partials.bytes_of(asker.peer.id, message)

    # -- opening ----------------------------------------------------------------------------------

    async def _open(self, address: str) -> Lane | None:
        """Return a new lane, or None where it is not the time for one or none can be had."""
        loop = asyncio.get_running_loop()
        way = self._ways.setdefault(address, Way())
        self._look_later()
        if self._closed or loop.time() < way.retry_at:
            return None
        if way.opening is None:
            is_full = way.lane is not None and not way.lane.is_closing
            if is_full or len(self._lanes) >= LANES_MAX:
                return None
            way.opening = loop.create_task(self._dial(address, way))
            way.opening.add_done_callback(lambda task: _opened(way, task))
        return await asyncio.shield(way.opening)

    async def _dial(self, address: str, way: Way) -> Lane | None:
        try:
            async with asyncio.timeout(OPEN_S):
                transport, hello, rest = await dial(
                    address, self._hello(), self.tls, self._meant(address), self.reach
                )
        except SSLError as error:
            raise NetworkError(words_of(error, self._trust.dates if self._trust else "")) from None
        except (LaneRefusedError, TimeoutError) as error:
            self._refused(address, way, error)
            return None
        except socket.gaierror:
            raise NetworkError("the name does not resolve") from None
        except ConnectionRefusedError:
            raise NetworkError("connection refused") from None
        except OSError as error:
            raise NetworkError((error.strerror or type(error).__name__).lower()) from None
        except ValueError:
            raise NetworkError("the address cannot be dialled") from None
        if self._trust is not None:
            try:
                proven = self._trust.peer_of(transport)
            except StrangerError as error:
                transport.abort()
                raise NetworkError(error.words) from None
            if hello.id != proven:
                transport.abort()
                raise NetworkError(f"its certificate is of {proven}, not of {bounded(hello.id)}")
        lane = self._new(hello, is_opener=True)
        transport.set_protocol(lane)
        lane.connection_made(transport)
        self._enrol(lane, address, "lanes_opened")
        feed(lane, rest)
        transport.resume_reading()
        return self.to(address)

    def _refused(self, address: str, way: Way, error: LaneRefusedError | TimeoutError) -> None:
        unavailable = isinstance(error, LaneRefusedError) and error.status == 503
        pause_s = UNAVAILABLE_S if unavailable else FALLBACK_S
        way.retry_at = asyncio.get_running_loop().time() + self._jittered(pause_s)
        self._counters.add("lanes_refused")
        reason = str(error) or f"no answer within {OPEN_S:g} s"
        level = logging.DEBUG if unavailable else logging.INFO
        event(log, level, "lane.refused", address=bounded(address), reason=reason)

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.5 + self._rng.random())

    def _hello(self) -> Hello:
        return Hello(self._node.config.swarm.name, self._node.id, self._node.address)

    # -- the table --------------------------------------------------------------------------------

    def _new(self, hello: Hello, *, is_opener: bool) -> Lane:
        return Lane(
            self._node,
            self.partials,
            self.pool,
            hello,
            is_opener=is_opener,
            is_proven=self._trust is not None,
            on_closed=self._ended,
            kept=self._kept,
        )

    def _enrol(self, lane: Lane, address: str | None, counter: str) -> None:
        self._lanes.add(lane)
        self._counters.add(counter)
        where = bounded(address or "none")
        event(log, logging.DEBUG, "lane.opened", peer=bounded(lane.peer.id), address=where)
        self._look_later()
        if address is None:
            return
        way = self._ways.setdefault(address, Way())
        way.opened_at = asyncio.get_running_loop().time()
        other, way.lane = way.lane, lane
        if other is not None and not other.is_closing:
            self._choose(way, other, lane)

    def _choose(self, way: Way, old: Lane, new: Lane) -> None:
        """Keep one of two lanes: both nodes opened one at once, or a peer opened another.

        Both ends keep that of the smaller id; among one opener's, the new one. Only the opener
        closes the other, so that it is closed once, and after what is under way on it. Whoever
        names an address that another id answered at, when it was dialled, gets no pushes.
        """
        is_claim = old.is_opener and old.peer.id != new.peer.id
        if is_claim or self._opener(old) < self._opener(new):
            way.lane = old
        loser = new if way.lane is old else old
        if loser.is_opener:
            loser.close("there is another lane")

    def _opener(self, lane: Lane) -> str:
        return self._node.id if lane.is_opener else lane.peer.id

    def _ended(self, lane: Lane, reason: str) -> None:
        self._lanes.discard(lane)
        self._counters.add("lanes_closed")
        event(log, logging.DEBUG, "lane.closed", peer=bounded(lane.peer.id), reason=reason)
        now = asyncio.get_running_loop().time()
        for way in self._ways.values():
            if way.lane is lane:
                way.lane = None
                is_young = now - way.opened_at < YOUNG_S
                way.failures = way.failures + 1 if is_young else 0
                if way.failures > 1:
                    pause_s = min(PAUSE_S * 2.0 ** (way.failures - 2), PAUSE_S_MAX)
                    way.retry_at = now + self._jittered(pause_s)

    def _tick(self) -> None:
        """Look after all lanes: keep alive, or end, and forget ways that lead nowhere."""
        self._timer, now = None, asyncio.get_running_loop().time()
        for lane in tuple(self._lanes):
            alive.look_after(lane, now, self._idle_s)
        if all(now - lane.last_frame > self._idle_s for lane in self._lanes):
            self.pool.trim()
        for address, way in tuple(self._ways.items()):
            if way.lane is None and way.opening is None and now > way.retry_at + PAUSE_S_MAX:
                del self._ways[address]
        if self._lanes or self._ways:
            self._look_later()

    def _look_later(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(alive.TICK_S, self._tick)


def _waits(lane: Lane, frame: Frame) -> bool:
    """Whether a word about who is there would wait behind a long body: by POST it need not."""
    return not frame.body and any(lane.transfers())


def _opened(way: Way, task: asyncio.Task[Lane | None]) -> None:
    way.opening = None
    if not task.cancelled():
        task.exception()  # whoever waited has seen it; perhaps nobody waits any more
