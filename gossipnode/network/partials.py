"""Bodies that were cut off on their way, kept for a while so that they can be continued.

A gigabyte over a link that breaks every minute would never arrive if each break began it anew. So
what has come of a large body stays, under the id of the peer whose lane broke, until that peer
goes on, sends something else, or ``KEPT_S`` have passed. Invariant: one partial body a peer; what
is kept counts against the same budget as what arrives, and gives way to it; only the very message
that was cut off is continued, at the very byte, and its checksum is over the whole.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gossipnode.errors import PeerError
from gossipnode.network.pool import BufferPool
from gossipnode.wire.message import Message

# Bodies from here on are worth a round trip to continue: 64 MiB take 5 s at 100 Mbit/s.
RESUME_BYTES_MIN = 2**26
# Longer than a push may take by default, so that the repeat of one that timed out finds it.
KEPT_S = 60.0


@dataclass(slots=True)
class _Partial:
    message: Message
    body: memoryview
    filled: int
    timer: asyncio.TimerHandle


class Partials:
    """The partial bodies of one node, by the id of the peer that sent them."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._kept: dict[str, _Partial] = {}  # the oldest first
        self._closed = False
        pool.make_room = self.make_room

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept_bytes(self) -> int:
        """Memory of the bodies that are kept."""
        return sum(len(partial.body) for partial in self._kept.values())

    def keep(self, peer: str, message: Message, body: memoryview, filled: int) -> None:
        """Keep the first ``filled`` bytes of ``body``, if it is large and there is room for it.

        The pool no longer counts it as arriving.
        """
        if self._closed or len(body) < RESUME_BYTES_MIN or not filled:
            return
        self.drop(peer)
        self.make_room(len(body))
        pool = self._pool
        held = pool.inflight_bytes + self.kept_bytes
        if held and held + len(body) > pool.inflight_bytes_max:
            return
        timer = asyncio.get_running_loop().call_later(KEPT_S, self.drop, peer)
        self._kept[peer] = _Partial(message, body, filled, timer)

    def bytes_of(self, peer: str, message: Message) -> int:
        """Return how many bytes of ``message``'s body are here, from its first one on."""
        partial = self._kept.get(peer)
        return partial.filled if partial is not None and partial.message == message else 0

    def take(self, peer: str, message: Message, offset: int) -> memoryview:
        """Return the body to go on with at ``offset``; it counts as arriving again.

        Raises ``PeerError``: ``malformed_frame`` where that is not what was cut off, ``busy``.
        """
        partial = self._kept.get(peer)
        if partial is None or partial.message != message or partial.filled != offset:
            raise PeerError("malformed_frame", f"nothing is here that goes on at byte {offset}")
        self._pool.arrives_again(len(partial.body))
        self.drop(peer)
        return partial.body

    def drop(self, peer: str) -> None:
        """Free what is kept of ``peer``, if anything is."""
        partial = self._kept.pop(peer, None)
        if partial is not None:
            partial.timer.cancel()

    def make_room(self, nbytes: int) -> None:
        """Free the oldest until ``nbytes`` more fit the budget, or nothing is kept."""
        pool = self._pool
        while (
            self._kept and pool.inflight_bytes + self.kept_bytes + nbytes > pool.inflight_bytes_max
        ):
            self.drop(next(iter(self._kept)))

    def close(self) -> None:
        """Free everything and keep nothing any more; harmless twice."""
        self._closed = True
        for peer in tuple(self._kept):
            self.drop(peer)
