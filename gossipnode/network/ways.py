"""One way to a peer: the lane at its address, when to try for another, and the large frame on it.

Invariant: a large frame whose lane broke goes on over the next one where the peer has kept its
beginning, and from its beginning where the peer has not.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from gossipnode.logs import bounded, event
from gossipnode.network.lane import Lane
from gossipnode.network.partials import RESUME_BYTES_MIN
from gossipnode.node.counters import Counters
from gossipnode.node.world import Receipt
from gossipnode.wire.frame import Frame

log = logging.getLogger("gossipnode.network.lanes")


def is_large(frame: Frame) -> bool:
    """Whether a frame's body is worth going on with where its lane breaks."""
    return frame.nbytes - len(frame.head) >= RESUME_BYTES_MIN


@dataclass(slots=True)
class Way:
    """How to reach one address."""

    lane: Lane | None = None
    opening: asyncio.Task[Lane | None] | None = None
    opened_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    # The head of a large frame that was not answered, and how much of it the peer has had.
    unfinished: bytes = b""
    reached: int = 0

    async def push(self, lane: Lane, frame: Frame, timeout_s: float, counters: Counters) -> Receipt:
        """Push over ``lane``; a large frame goes on where another lane broke.

        Raises what ``Lane.push`` does.
        """
        counters.add("lane_pushes")
        if not is_large(frame):
            return await lane.push(frame, timeout_s)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        offset = 0
        if self.unfinished == frame.head:
            offset = await lane.kept_of(frame, timeout_s)
        else:
            self.unfinished, self.reached = frame.head, 0
        if offset:
            counters.add("lane_resumes")
            who = bounded(lane.peer.id)
            event(log, logging.DEBUG, "lane.resumed", peer=who, offset=offset)
        if offset > self.reached:
            self.reached, self.failures = offset, 0  # a link that breaks, but leads there
        receipt = await lane.push(frame, deadline - loop.time(), offset)
        code = receipt.reply.code if receipt.reply is not None else None
        if offset and code in ("malformed_frame", "checksum_mismatch"):
            # It was not ours that was kept there, or it is no longer.
            receipt = await lane.push(frame, deadline - loop.time())
        if code != "busy":
            self.unfinished, self.reached = b"", 0
        return receipt
