"""Turns: what moves a large body gives the loop back before anybody would notice.

libuv reads a connection up to 32 times in a row as long as its buffer comes back full, and a write
to a peer that keeps up never blocks. Where the kernel has to find fresh memory, 1 MiB can take
10 ms, so that was up to 0.7 s in which nothing else ran. Invariant: bytes are neither lost nor
reordered, and a pause lasts no longer than what else waits for the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from gossipnode.network.records import READ_BYTES

# What one connection may take at once: the lag that it adds for all others.
TURN_S = 0.004


class Turns:
    """Gives one who asks a turn, then all others of the loop, then the next who asks.

    What strangers may ask for costs up to a millisecond each, and the loop would otherwise serve
    all who have come since it looked last before it looks again at the lanes: 20 of them made a
    push wait for 12 ms. Invariant: first come, first served; without others nobody waits.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False

    async def take(self) -> None:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        if not self._is_taken:
            self._is_taken = True
            loop.call_soon(self._next)
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # who waits may have been cancelled
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._is_taken = False


class Breather:
    """Lets others have their turn while ``transport`` delivers more than a turn's worth.

    ``began_at`` is when the first large read of this turn began, nearly always None: none has.
    """

    def __init__(self, transport: asyncio.ReadTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        # A plain read that does not fill its buffer has nothing behind it. Of TLS one never does,
        # and up to 8 MiB may be: 25 ms of deciphering.
        is_secure = transport.get_extra_info("ssl_object") is not None
        self._followed_bytes = 1 if is_secure else READ_BYTES
        self.began_at: float | None = None
        self._paused = self._held = False

    def hold(self) -> None:
        """Read no more until ``release``; harmless twice."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            if self._transport.is_reading():
                self._transport.pause_reading()

    def release(self) -> None:
        """Read on after ``hold``; harmless twice."""
        if self._held:
            self._held = False
            if not self._paused and not self._transport.is_closing():
                self._transport.resume_reading()

    def begin(self) -> None:
        """Say that a read of up to ``READ_BYTES`` begins; of shorter ones nobody need say so."""
        if self.began_at is None:
            self.began_at = time.monotonic()
            self._loop.call_soon(self._next_turn)

    def end(self, nbytes: int) -> None:
        """Say that ``nbytes`` came; stop until the next turn if more wait and this one was long."""
        if nbytes < self._followed_bytes or self.began_at is None:
            return
        is_over = time.monotonic() - self.began_at > TURN_S
        if is_over and not self._transport.is_closing() and self._transport.is_reading():
            self._paused = True
            self._transport.pause_reading()

    def _next_turn(self) -> None:
        self.began_at = None
        if self._paused:
            self._paused = False
            if not self._held and not self._transport.is_closing():
                self._transport.resume_reading()
