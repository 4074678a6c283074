"""The passive side of a lane: pushes on their way from their header to their answer.

Invariant: the header is admitted before its body has a buffer; whatever is reserved, in the node
and in the pool, is given back on every path; each frame is answered once, unless the lane ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from gossipnode.errors import PeerError
from gossipnode.network.partials import Partials
from gossipnode.network.pool import BufferPool
from gossipnode.network.proven import require_sender
from gossipnode.node.begun import go_on
from gossipnode.node.inbox import Admission
from gossipnode.node.node import Node
from gossipnode.node.passive import Delivery
from gossipnode.wire.message import Message

# A delivery that was begun without a task, and what it waits for.
_Begun = tuple[Coroutine[Any, Any, Delivery], Any] | None


@dataclass(slots=True)
class _Body:
    """The body that is arriving, or has; whoever has ``begun`` to deliver it, releases it."""

    number: int
    admission: Admission
    buffer: memoryview
    begun: bool = False


class Arrivals:
    """What ``peer`` pushes to ``node`` over one lane; large bodies that it cuts are put aside.

    Where the peer ``is_proven``, it sends frames of its own alone. ``numbers`` are those of the
    frames that were let in and are not answered yet. ``answer(number, delivery)``
    sends what became of one; ``fault()`` hears of a bug of ours.
    """

    def __init__(
        self,
        node: Node,
        pool: BufferPool,
        partials: Partials,
        peer: str,
        is_proven: bool,
        answer: Callable[[int, Delivery], None],
        fault: Callable[[], None],
    ) -> None:
        self._node, self._pool, self._answer, self._fault = node, pool, answer, fault
        self._partials, self._peer, self._is_proven = partials, peer, is_proven
        self._loop = asyncio.get_running_loop()
        self.numbers: set[int] = set()
        self._body: _Body | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Set anew by each read: of what comes with it one push is delivered at once, and none
        # before an earlier one. However many a peer sends, the loop is not away for long.
        self.may_begin = True

    def __len__(self) -> int:
        """Return how many were let in and are not answered yet."""
        return len(self.numbers)

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def announced(self, number: int, length: int, limit: int) -> None:
        """Judge a frame of ``length`` bytes; raises ``PeerError`` where the lane must end."""
        if number in self.numbers:
            raise PeerError("malformed_frame", f"number {number} is not answered yet")
        if length > limit:
            error = PeerError("too_large", f"{length} bytes; the layout allows {limit}")
            self.refuse(number, error, None)
            raise error

    def admit(self, number: int, message: Message, offset: int = 0) -> memoryview | None:
        """Return a buffer for the body, or refuse it at once.

        With an ``offset`` it is the buffer that the body's beginning is in already.
        """
        try:
            if self._is_proven:
                require_sender(message.sender, self._peer)
            admission = self._node.admit(message)
        except PeerError as error:
            # Of whom it claims to be, nothing is noted.
            self.refuse(number, error, self._peer if self._is_proven else message.sender)
            return None
        try:
            if offset:
                buffer = self._partials.take(self._peer, message, offset)
            else:
                if message.parts:  # the peer has begun something else; a ping is nothing of that
                    self._partials.drop(self._peer)
                buffer = self._pool.take(admission.body_bytes)
        except PeerError as error:
            self._node.release(admission)
            self.refuse(number, error, message.sender)
            return None
        self.numbers.add(number)
        self._body = _Body(number, admission, buffer)
        return buffer

    def arrived(self, body: memoryview) -> None:
        """Deliver the body that was arriving."""
        arriving, self._body = self._body, None
        assert arriving is not None
        self._pool.arrived(len(body))
        if not self.may_begin or self._tasks:
            self._deliver_later(arriving, body)
            return
        self.may_begin, arriving.begun = False, True
        work = self._node.deliver(arriving.admission, body)
        try:
            # Next to always it is done at once, and needs no task.
            waiting = work.send(None)
        except StopIteration as end:
            self.numbers.discard(arriving.number)
            self._answer(arriving.number, end.value)
        except PeerError as error:
            self.refuse(arriving.number, error, arriving.admission.message.sender)
        except Exception as error:  # noqa: BLE001 - a bug of ours
            self._report(error)
        else:
            self._deliver_later(arriving, body, (work, waiting))

    def refuse(self, number: int, error: PeerError, sender: str | None) -> None:
        """Answer that a push is not taken."""
        self.numbers.discard(number)
        self._answer(number, Delivery(self._node.refuse(error, sender)))

    def give_up(self, error: PeerError | None = None) -> None:
        """Release the body that is arriving, if there is one, and refuse it if there is a why."""
        arriving, self._body = self._body, None
        if arriving is not None:
            self._pool.arrived(arriving.admission.body_bytes)
            self.numbers.discard(arriving.number)
            self._node.release(arriving.admission)
            if error is not None:
                self.refuse(arriving.number, error, arriving.admission.message.sender)

    def is_arriving(self, message: Message) -> bool:
        """Whether it is the body of ``message`` that is arriving."""
        return self._body is not None and self._body.admission.message == message

    def broke(self, filled: int) -> None:
        """Release the body that was arriving; put aside the ``filled`` bytes that are there."""
        arriving = self._body
        self.give_up()
        if arriving is not None:
            self._partials.keep(self._peer, arriving.admission.message, arriving.buffer, filled)

    def cancel(self) -> None:
        """Give up what has arrived but is not merged."""
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> None:
        """Wait until all that has arrived is merged or refused."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _deliver_later(self, arrived: _Body, body: memoryview, begun: _Begun = None) -> None:
        task = self._loop.create_task(self._deliver(arrived, body, begun))
        self._tasks.add(task)
        task.add_done_callback(partial(self._delivered, arrived))

    async def _deliver(self, arrived: _Body, body: memoryview, begun: _Begun) -> None:
        number, admission, arrived.begun = arrived.number, arrived.admission, True
        try:
            delivery = await (
                self._node.deliver(admission, body) if begun is None else go_on(*begun)
            )
        except PeerError as error:
            self.refuse(number, error, admission.message.sender)
            return
        self.numbers.discard(number)
        self._answer(number, delivery)

    def _delivered(self, arrived: _Body, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not arrived.begun:  # cancelled before its first step
            self._node.release(arrived.admission)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(error)

    def _report(self, error: BaseException) -> None:
        self._loop.call_exception_handler(
            {"message": "a push could not be delivered", "exception": error}
        )
        self._fault()
