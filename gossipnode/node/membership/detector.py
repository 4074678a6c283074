"""Who does not answer: peers are pinged, in the manner of SWIM.

Invariant: nothing is concluded from one question alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gossipnode.node.membership.membership import IDLE_S, Handler
from gossipnode.wire.frame import Frame
from gossipnode.wire.message import Kind, Message

if TYPE_CHECKING:
    from gossipnode.node.membership.membership import Membership


class Detector:
    """The part of ``membership`` that finds out who has stopped answering."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.words: Mapping[tuple[Kind, str], Handler] = {(Kind.CONTROL, "ping"): self._pinged}

    def tick(self, now: float) -> float:
        """Ask nobody yet."""
        return now + IDLE_S

    async def leave(self) -> None:
        """Go without a word."""

    async def _pinged(self, message: Message) -> Frame:  # noqa: ARG002 - a handler's
        return self.membership.frame("ack")
