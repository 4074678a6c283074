"""The passive side of a lane: pushes on their way from their header to their answer.

Invariant: the header is admitted before its body has a buffer; whatever is reserved, in the node
and in the pool, is given back on every path; each frame is answered once, unless the lane ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gossipnode.errors import PeerError
from gossipnode.network.pool import BufferPool
from gossipnode.node.inbox import Admission
from gossipnode.node.node import Node
from gossipnode.node.passive import Delivery
from gossipnode.wire.message import Message


@dataclass(slots=True)
class _Body:
    """The body that is arriving."""

    number: int
    admission: Admission


class Arrivals:
    """What one peer pushes to ``node`` over one lane.

    ``answer(number, delivery)`` sends what became of it; ``fault()`` hears of a bug of ours.
    """

    def __init__(
        self,
        node: Node,
        pool: BufferPool,
        answer: Callable[[int, Delivery], None],
        fault: Callable[[], None],
    ) -> None:
        self._node, self._pool, self._answer, self._fault = node, pool, answer, fault
        self._loop = asyncio.get_running_loop()
        self._numbers: set[int] = set()
        self._body: _Body | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many were let in and are not answered yet."""
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def admit(self, number: int, message: Message) -> memoryview | None:
        """Return a buffer for the body, or refuse it at once."""
        try:
            admission = self._node.admit(message)
        except PeerError as error:
            self.refuse(number, error, message.sender)
            return None
        try:
            buffer = self._pool.take(message.body_bytes)
        except PeerError as error:
            self._node.release(admission)
            self.refuse(number, error, message.sender)
            return None
        self._numbers.add(number)
        self._body = _Body(number, admission)
        return buffer

    def arrived(self, body: memoryview) -> None:
        """Deliver the body that was arriving."""
        arriving, self._body = self._body, None
        assert arriving is not None
        self._pool.arrived(len(body))
        task = self._loop.create_task(self._deliver(arriving, body))
        self._tasks.add(task)
        task.add_done_callback(self._delivered)

    def refuse(self, number: int, error: PeerError, sender: str | None) -> None:
        """Answer that a push is not taken."""
        self._numbers.discard(number)
        self._answer(number, Delivery(self._node.refuse(error, sender)))

    def give_up(self, error: PeerError | None = None) -> None:
        """Release the body that is arriving, if there is one, and refuse it if there is a why."""
        arriving, self._body = self._body, None
        if arriving is not None:
            self._pool.arrived(arriving.admission.body_bytes)
            self._numbers.discard(arriving.number)
            self._node.release(arriving.admission)
            if error is not None:
                self.refuse(arriving.number, error, arriving.admission.message.sender)

    def cancel(self) -> None:
        """Give up what has arrived but is not merged."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until all that has arrived is merged or refused."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _deliver(self, arrived: _Body, body: memoryview) -> None:
        number, admission = arrived.number, arrived.admission
        try:
            delivery = await self._node.deliver(admission, body)
        except PeerError as error:
            self.refuse(number, error, admission.message.sender)
            return
        self._numbers.discard(number)
        self._answer(number, delivery)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler(
                {"message": "a push could not be delivered", "exception": error, "task": task}
            )
            self._fault()
