"""Two nodes with one id: the one that began earlier stops, and says what to do.

Each would merge and be sent half of what is meant for both, and their peers refuse the earlier one
as ``stale_epoch``. Invariant: nobody stops because of what others say; only what answers at the
address told, with this id and another epoch, is another node.
"""

from __future__ import annotations

import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gossipnode.errors import NetworkError
from gossipnode.logs import bounded, event
from gossipnode.node.addresses import is_address
from gossipnode.node.world import Receipt
from gossipnode.wire.message import Kind, Message

if TYPE_CHECKING:
    from gossipnode.node.membership.detector import Detector
    from gossipnode.node.membership.membership import Outcome

log = logging.getLogger("gossipnode.node.membership")

# What is said of another node with this id is looked into, and told, this often at most.
CONFIRM_S = 5.0
# One that was told to stop, and not met again for so long, has stopped.
OVER_S = 60.0


class Twins:
    """What ``detector``'s node knows of others with its id."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._node = detector, detector.node
        self.has_lost = False  # this node is the one that stops
        self._asked_at = self._warned_at = self._met_at = -inf

    def forget_what_is_over(self, now: float) -> None:
        """Say of no other node that it has this one's id when it was not met for long."""
        if now > self._met_at + OVER_S:
            self._detector.membership.duplicate_id = ""

    def is_said_to_be(self, address: str) -> None:
        """Look whether a node with this id answers at ``address``, as somebody says."""
        node = self._node
        now, own = node.time(), node.address or ""
        if address == own or not is_address(address, own) or now < self._asked_at + CONFIRM_S:
            return
        self._asked_at = now
        detector = self._detector
        frame = detector.hearsay.frame("ping", node.id)
        then = partial(self._answered, address)
        detector.membership.ask(address, "ping", frame, CONFIRM_S, then)

    def asked(self, message: Message) -> None:
        """A ping of this node's own id has come: from another node, or it would not be here."""
        address = message.address or ""
        if message.epoch > self._node.epoch:
            self.is_said_to_be(address)  # which may be nobody's after all
        else:
            self._found(message.epoch, address)

    def _answered(self, address: str, outcome: Outcome) -> None:
        message = outcome.message if isinstance(outcome, Receipt) else None
        node = self._node
        if message is None or message.kind is not Kind.CONTROL or message.sender != node.id:
            return
        if message.epoch != node.epoch:
            self._found(message.epoch, address)

    def _found(self, epoch: int, address: str) -> None:
        node = self._node
        membership = self._detector.membership
        where = bounded(address or "an unknown address")
        is_known, membership.duplicate_id = where == membership.duplicate_id, where
        self._met_at = node.time()
        if epoch > node.epoch:
            self.has_lost = True
            node.counters.add("duplicate_ids")
            event(log, logging.ERROR, "id.duplicate", id=node.id, other=where, epoch=epoch)
            membership.fail(
                NetworkError(
                    f"another node with the id {node.id} was started later and answers at {where}; "
                    "this one stops. Give each node an id of its own (--id, or a bundle of its "
                    "own), or see that only one of the two is started"
                )
            )
        elif not is_known and node.time() > self._warned_at + CONFIRM_S:
            self._warned_at = node.time()
            node.counters.add("duplicate_ids")
            event(log, logging.WARNING, "id.claimed", id=node.id, other=where, epoch=epoch)
