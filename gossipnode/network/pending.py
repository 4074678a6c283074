"""Pushes of one end of a lane that wait for their answer, by number.

Invariant: a number is used again only after the peer has answered it, so an answer always finds
the push that it is for, even one that nobody waits for any more; whoever waits is told once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network.frames import receipt_of
from gossipnode.network.pool import BufferPool
from gossipnode.network.proven import require_sender
from gossipnode.node.world import Receipt
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

# Frames of one side that wait for their answer. A node has one push under way a peer; the rest
# is for those that were given up and whose answers are still to come.
UNANSWERED_MAX = 32
# uvloop's clock stands still within a turn, and its timers fire up to half of this too early.
CLOCK_S = 0.001

Answer = Reply | tuple[Message, memoryview] | int
Tell = Callable[[Answer | Exception], None]


class LaneBrokenError(NetworkError):
    """The lane ended before the answer came: the frame may be sent again, another way."""


@dataclass(slots=True)
class _Push:
    tell: Tell | None  # None once nobody waits
    body_bytes: int
    timeout_s: float
    deadline: float


async def receipt_from(answer: Answer) -> Receipt:
    """Return what the answer to a push says; raises ``PeerError`` where it is none."""
    if isinstance(answer, Reply):
        return Receipt(reply=answer)
    if isinstance(answer, int):
        raise PeerError("malformed_frame", "a push was answered with a number")
    return await receipt_of(*answer)


def _own(answer: Answer | PeerError, proven: str) -> Answer | PeerError:
    """Return the answer, or what is wrong with it where it is not ``proven``'s own."""
    if isinstance(answer, PeerError | int):
        return answer
    sender = answer.sender if isinstance(answer, Reply) else answer[0].sender
    try:
        require_sender(sender, proven, "answer")
    except PeerError as error:
        return error
    return answer


class Pending:
    """The pushes under way, and questions. Numbers are 32 bits and go round.

    Bodies of answers are lent by ``pool``; one arrives at a time. ``give_up(number)`` sees to the
    end of a push whose answer nobody waits for any more, and says how far it was. Where the peer is
    ``proven``, answers in another's name are none. One timer serves all, and an answer leaves it
    alone: setting and stopping one for each push costs more than it looking in vain.
    """

    def __init__(
        self, pool: BufferPool, give_up: Callable[[int], str], proven: str | None = None
    ) -> None:
        self._pool, self._give_up, self._proven = pool, give_up, proven
        self._loop = asyncio.get_running_loop()
        self._arriving_bytes = 0
        self.pushes: dict[int, _Push] = {}
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when that fires

    def __len__(self) -> int:
        return len(self.pushes)

    def __contains__(self, number: int) -> bool:
        return number in self.pushes

    def add(self, body_bytes: int, timeout_s: float, tell: Tell) -> int:
        """Return the number of a new push; ``tell`` gets its answer, or why there is none."""
        while True:
            self._number = (self._number + 1) % 2**32
            if self._number not in self.pushes:
                break
        loop = self._loop
        deadline = loop.time() + timeout_s
        self.pushes[self._number] = _Push(tell, body_bytes, timeout_s, deadline)
        if self._timer is None or deadline < self._due:
            self._look_at(loop, deadline)
        return self._number

    async def wait(self, begin: Callable[[Tell], int]) -> Answer:
        """Begin a push and wait for its answer; whatever ends the waiting gives the push up."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def tell(answer: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        number = begin(tell)
        try:
            return await future
        finally:
            self._give_up(number)

    async def receipt(self, begin: Callable[[Tell], int]) -> Receipt:
        """Begin a push, wait for its answer and return what that says."""
        return await receipt_from(await self.wait(begin))

    def require(self, number: int, problem: str) -> None:
        """Raise ``PeerError`` with the problem where there is no such push."""
        if number not in self.pushes:
            raise PeerError("malformed_frame", problem)

    def announced(self, number: int, length: int, limit: int) -> None:
        """Judge an answer of ``length`` bytes; raises ``PeerError`` where the lane must end."""
        self.require(number, "an answer to nothing")
        if length > limit:
            raise PeerError("too_large", f"an answer of {length} bytes")

    def buffer(self, number: int, message: Message) -> memoryview:
        """Return where the body of an answer goes, or raise ``PeerError``; then ``arrived``."""
        push = self.pushes.get(number)
        if push is None or push.tell is None:
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
        push = self.pushes.pop(number, None)
        if push is not None and push.tell is not None:
            push.tell(answer if self._proven is None else _own(answer, self._proven))

    def forget(self, number: int) -> None:
        """Wait no longer; the number stays taken until the peer has answered."""
        self.pushes[number].tell = None

    def withdraw(self, number: int) -> None:
        """Take back a push that the peer has never heard of."""
        del self.pushes[number]

    def fail(self, error: Exception) -> None:
        """End all waiting with ``error``."""
        pushes, self.pushes = self.pushes, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for push in pushes.values():
            if push.tell is not None:
                push.tell(error)

    def _look_at(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time() + CLOCK_S
        for number, push in tuple(self.pushes.items()):
            if push.tell is not None and push.deadline <= now:
                tell, push.tell = push.tell, None
                how_far = self._give_up(number)
                tell(NetworkError(f"timed out after {push.timeout_s:.3g} s{how_far}"))
        waiting = [push.deadline for push in self.pushes.values() if push.tell is not None]
        if waiting:
            self._look_at(loop, min(waiting))
