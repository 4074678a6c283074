"""What leaves through a lane: records in order, a frame's body from the memory where it lies.

Invariant: a record that has begun is written to its end before another begins; replies overtake
frames that have not begun. Nothing is joined or copied but small records, and no more than one
piece of a frame is handed to the transport before that has room again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from gossipnode.network.stall import StallWatch
from gossipnode.network.transfers import SHOWN_BYTES_MIN, Progress
from gossipnode.network.turns import TURN_S

# One write, about what a socket takes: the transport tries to send it at once, and rests until the
# socket has room for what is left. asyncio's own transport copies that before Python 3.12.
WRITE_BYTES = 2**22
# With TLS, what is written is first enciphered as a whole into fresh memory, twice its length: of
# 4 MiB that took up to 50 ms.
SECURE_WRITE_BYTES = 2**18
# Below this, one copy is cheaper than a second system call: 64 KiB are copied in 5 us.
JOINED_BYTES_MAX = 2**16
# Models that may wait for the peer to read them, before more of its frames are taken.
ANSWERS_MAX = 4


class Pump:
    """Writes to ``transport``; ``pause`` and ``resume`` are what the transport says of its room.

    ``unread`` watches how the other end takes what is written.
    """

    def __init__(self, transport: asyncio.WriteTransport, unread: StallWatch) -> None:
        self._transport, self._unread = transport, unread
        is_secure = transport.get_extra_info("ssl_object") is not None
        self._write_bytes = SECURE_WRITE_BYTES if is_secure else WRITE_BYTES
        self._small: list[bytes] = []
        self._frames: deque[tuple[int, bytes, list[memoryview], int]] = deque()
        self._pieces: deque[bytes | memoryview] = deque()  # of the frame that has begun
        self._begun: int | None = None
        self._long = (0, 0, 0.0)  # the body that has begun: all its bytes, its first one, when
        self._paused = False
        self._turn: asyncio.Handle | None = None
        self._finishing = self._ended = False

    @property
    def is_empty(self) -> bool:
        """Whether everything has been handed to the transport."""
        return not (self._small or self._frames or self._pieces)

    @property
    def waiting(self) -> int:
        """Records that have not begun."""
        return len(self._small) + len(self._frames)

    @property
    def answers(self) -> int:
        """Frames that have not begun and are answers: their keys are below 0."""
        return sum([entry[0] < 0 for entry in self._frames]) if self._frames else 0

    def small(self, record: bytes) -> None:
        """Write a record as soon as the frame under way has left."""
        if self._finishing:
            return
        if self._pieces or self._paused or self._small or self._turn is not None:
            self._small.append(record)
            self._go()
        else:  # as nearly always
            self._transport.write(record)

    @property
    def progress(self) -> Progress:
        """How far the body is that is leaving."""
        left = sum(map(len, self._pieces)) + self._transport.get_write_buffer_size()
        total, offset, began_at = self._long if left else (0, 0, 0.0)
        return Progress(max(total - left, 0), total, offset, began_at)

    def frame(self, key: int, head: bytes, body: list[memoryview], offset: int = 0) -> None:
        """Write a frame's record, ``head`` being all that comes before the body's ``offset``.

        The body's memory must not change until it has left.
        """
        if not self._finishing:
            self._frames.append((key, head, body, offset))
            self._go()

    def withdraw(self, key: int) -> bool:
        """Take the frame ``key`` back; False if it has begun."""
        for entry in self._frames:
            if entry[0] == key:
                self._frames.remove(entry)
                return True
        return False

    def is_leaving(self, key: int) -> bool:
        """Whether the frame ``key`` has begun and may not have left as a whole."""
        return self._begun == key and (
            bool(self._pieces) or self._transport.get_write_buffer_size() > 0
        )

    def pause(self) -> None:
        """Stop: the transport is full."""
        self._paused = True
        self._unread.begun()

    def resume(self) -> None:
        """Go on."""
        self._paused = False
        self._unread.ended()
        self._go()

    def finish(self) -> None:
        """Write what has begun and the small records, then say that no more comes."""
        if not self._finishing:
            self._finishing = True
            self._frames.clear()
            self._go()

    def drop(self) -> None:
        """Forget everything: the connection is gone."""
        self._paused = True
        self._unread.stop()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._small.clear()
        self._frames.clear()
        self._pieces.clear()

    def _go(self) -> None:
        if self._turn is not None:
            return
        began_at = 0.0
        while not self._paused:
            if self._pieces:
                if began_at and time.monotonic() - began_at > TURN_S:
                    self._turn = asyncio.get_running_loop().call_soon(self._next_turn)
                    return
                began_at = began_at or time.monotonic()
                piece = self._pieces.popleft()
                self._transport.write(piece)
            elif self._small:
                records, self._small = self._small, []
                self._transport.write(b"".join(records))
            elif self._frames:
                self._begin(*self._frames.popleft())
            else:
                if self._finishing and not self._ended:
                    self._ended = True
                    if self._transport.can_write_eof():  # TLS cannot: the peer sees the CLOSE
                        self._transport.write_eof()
                return

    def _next_turn(self) -> None:
        self._turn = None
        self._go()

    def _begin(self, key: int, head: bytes, body: list[memoryview], offset: int) -> None:
        """Cut the frame into pieces; the loop of ``_go`` writes them."""
        self._begun, total = key, sum(map(len, body))
        self._long = (0, 0, 0.0)
        if len(head) + total <= JOINED_BYTES_MAX and not offset:
            self._pieces.append(b"".join((head, *body)))
            return
        # The head alone: the receiver admits it while the body is on its way.
        self._pieces.append(head)
        if total >= SHOWN_BYTES_MIN:
            self._long = (total, offset, asyncio.get_running_loop().time())
        for view in body:
            skipped = min(offset, len(view))
            offset -= skipped
            for start in range(skipped, len(view), self._write_bytes):
                self._pieces.append(view[start : start + self._write_bytes])
