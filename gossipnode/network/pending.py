"""Pushes of one end of a lane that wait for their answer, by number.

Invariant: a number is used again only after the peer has answered it, so an answer always finds
the push that it is for, even one that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network.pool import BufferPool
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

# Frames of one side that wait for their answer. A node has one push under way a peer; the rest
# is for those that were given up and whose answers are still to come.
UNANSWERED_MAX = 32

Answer = Reply | tuple[Message, memoryview] | int


@dataclass(slots=True)
class _Push:
    answer: asyncio.Future[Answer] | None  # None once nobody waits
    body_bytes: int


async def in_time(answer: asyncio.Future[Answer], timeout_s: float) -> Answer:
    """Wait for ``answer``; raises ``NetworkError`` after ``timeout_s``."""
    # A third of the price of asyncio.timeout, which a small push would feel.
    timer = asyncio.get_running_loop().call_later(timeout_s, _expire, answer, timeout_s)
    try:
        return await answer
    finally:
        timer.cancel()


def _expire(answer: asyncio.Future[Answer], timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(NetworkError(f"timed out after {timeout_s:.3g} s"))


class Pending:
    """The pushes under way, and questions. Numbers are 32 bits and go round.

    Bodies of answers are lent by ``pool``; one arrives at a time.
    """

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self._arriving_bytes = 0
        self._pushes: dict[int, _Push] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._pushes)

    def __contains__(self, number: int) -> bool:
        return number in self._pushes

    def add(self, body_bytes: int) -> tuple[int, asyncio.Future[Answer]]:
        """Return the number of a new push, and its answer to wait for."""
        while True:
            self._number = (self._number + 1) % 2**32
            if self._number not in self._pushes:
                break
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pushes[self._number] = _Push(answer, body_bytes)
        return self._number, answer

    def buffer(self, number: int, message: Message) -> memoryview:
        """Return where the body of an answer goes, or raise ``PeerError``; then ``arrived``."""
        push = self._pushes.get(number)
        if push is None or push.answer is None:
            raise PeerError("unsupported_message", "nobody waits for this answer")
        size = message.body_bytes
        if size > push.body_bytes:
            problem = f"an answer of {size} bytes to a push of {push.body_bytes}"
            raise PeerError("too_large", problem)
        body = self._pool.take(size)
        self._arriving_bytes = size
        return body

    def arrived(self) -> None:
        """Say that the body of an answer is there, or will never be; harmless if none was due."""
        self._pool.arrived(self._arriving_bytes)
        self._arriving_bytes = 0

    def answered(self, number: int, answer: Answer | PeerError) -> None:
        """Give the answer to whoever waits for it."""
        push = self._pushes.pop(number, None)
        if push is None or push.answer is None or push.answer.done():
            return
        if isinstance(answer, PeerError):
            push.answer.set_exception(answer)
        else:
            push.answer.set_result(answer)

    def forget(self, number: int) -> None:
        """Wait no longer; the number stays taken until the peer has answered."""
        self._pushes[number].answer = None

    def withdraw(self, number: int) -> None:
        """Take back a push that the peer has never heard of."""
        del self._pushes[number]

    def fail(self, error: Exception) -> None:
        """End all waiting with ``error``."""
        pushes, self._pushes = self._pushes, {}
        for push in pushes.values():
            if push.answer is not None and not push.answer.done():
                push.answer.set_exception(error)
