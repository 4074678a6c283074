"""Pushes of one end of a lane that wait for their answer, by number.

Invariant: a number is used again only after the peer has answered it, so an answer always finds
the push that it is for, even one that nobody waits for any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gossipnode.errors import PeerError
from gossipnode.wire.message import Message
from gossipnode.wire.reply import Reply

Answer = Reply | tuple[Message, memoryview]


@dataclass(slots=True)
class _Push:
    answer: asyncio.Future[Answer] | None  # None once nobody waits
    body_bytes: int


class Pending:
    """The pushes under way. Numbers are 32 bits and go round."""

    def __init__(self) -> None:
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

    def body_bytes(self, number: int) -> int | None:
        """Return how long the pushed body is, None where nobody waits for the answer."""
        push = self._pushes.get(number)
        return None if push is None or push.answer is None else push.body_bytes

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
