"""A push over an open lane that takes no task, timer or turn of the loop of its own.

Invariant: ``answered`` is called once, unless the push is given up before; where the lane breaks,
or the answer takes a thread to be verified, a task sees to the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gossipnode.network.lane import Lane
from gossipnode.network.pending import Answer, LaneBrokenError, receipt_from
from gossipnode.node.world import Posted, Receipt
from gossipnode.wire.frame import Frame
from gossipnode.wire.reply import Reply


class LanePost:
    """A ``Posted``. ``broken(lane, error)`` is another way for a frame whose lane has ended."""

    __slots__ = ("_answered", "_broken", "_lane", "_number", "_task", "outcome")

    def __init__(
        self,
        answered: Callable[[Posted], None],
        broken: Callable[[Lane, LaneBrokenError], Coroutine[Any, Any, Receipt]],
    ) -> None:
        self._answered, self._broken = answered, broken
        self.outcome: Receipt | Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def send(self, lane: Lane, frame: Frame, timeout_s: float) -> None:
        """Begin, over a usable ``lane``."""
        self._lane = lane
        self._number = lane.post(frame, timeout_s, self._take)

    def cancel(self) -> None:
        """Give it up: nobody is told."""
        self._answered = _nobody  # which may hold this: no cycle
        if self._task is not None:
            self._task.cancel()
        else:
            self._lane.give_up(self._number)

    def _take(self, got: Answer | Exception) -> None:
        if isinstance(got, Reply):
            self.outcome = Receipt(reply=got)
            self._answered(self)
        elif isinstance(got, LaneBrokenError):
            self._finish_later(self._broken(self._lane, got))
        elif isinstance(got, Exception):
            self._settle(got)
        else:
            self._finish_later(receipt_from(got))

    def _finish_later(self, rest: Coroutine[Any, Any, Receipt]) -> None:
        self._task = asyncio.get_running_loop().create_task(self._finish(rest))

    async def _finish(self, rest: Coroutine[Any, Any, Receipt]) -> None:
        try:
            outcome: Receipt | Exception = await rest
        except Exception as error:  # noqa: BLE001 - a bug of ours among them: for who asks
            outcome = error
        self._settle(outcome)

    def _settle(self, outcome: Receipt | Exception) -> None:
        self.outcome = outcome
        self._answered(self)


def _nobody(_: Posted) -> None:
    """Hear of what was given up."""
