"""Messages kept apart by beat and sender, for algorithms that need each one and not their sum.

``lockstep`` adds up what arrives and forgets it; hubs, relays and all-reduces cannot. A *beat* is
(round, phase). Whoever waits for a beat names those it waits for, and gets what came of them
within the deadline; those that did not send are suspected, so that nobody is waited for twice.

Invariant: a beat that was taken is over: what comes for it later is dropped and counted. Of
beats that nobody waits for yet, never more than ``room`` messages of each sender are kept, so that
one that sends too much takes no place from the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.waiting import wait_for
from gossipnode.errors import PeerError

Beat = tuple[int, int]
# As far ahead as a peer can be without that its message of this beat is lost: see ``take``.
ANY_LEAD = 2**63


@dataclass(slots=True)
class Waiting:
    """What is waited for; it is over when ``complete`` is set."""

    beat: Beat
    senders: Collection[str]
    lead: int
    watched: str = ""  # one that was missing when that was looked at last
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class Mailbox:
    """One node's mailbox; of messages that come early it keeps ``room`` of each sender."""

    def __init__(self, options: LockstepOptions, room: int = 2) -> None:
        self.deadline_s, self.start_deadline_s = options.deadline_s, options.start_deadline_s
        self.room = room
        self.box: dict[Beat, dict[str, Arrival]] = {}
        self.over: Beat = (-1, 0)  # the last beat that was taken
        # sender -> order and beat of the last message that it made, of those that have come
        self.heard: dict[str, tuple[tuple[int, int], Beat]] = {}
        self.waiting: Waiting | None = None
        self.started: float | None = None

    def put(self, node: NodeInterface, arrival: Arrival, room: int | None = None) -> Answer:
        """Keep a message, or drop one that comes too late; a new life's takes an old one's place.

        ``room`` is for this sender, by default the mailbox's. Raises ``PeerError`` (busy) where
        there is none left: its sender tries again.
        """
        beat, sender = (arrival.round, arrival.phase), arrival.sender
        if beat <= self.over:
            self._note(node, arrival)
            node.count("late_dropped")
            return Answer(Outcome.DROPPED)
        kept = self.box.get(beat, {}).get(sender)
        if kept is not None and arrival.order[0] <= kept.order[0]:
            return Answer(Outcome.DUPLICATE)
        room = self.room if room is None else room
        if kept is None and not self._is_awaited(beat) and self._early(sender) >= room:
            raise PeerError("busy", f"round {beat[0]} is early, this node is in {node.round}")
        self.box.setdefault(beat, {})[sender] = arrival
        self._note(node, arrival)
        return Answer(Outcome.BUFFERED)

    def has(self, beat: Beat) -> bool:
        """Whether anything has come for a beat that is not over."""
        return beat in self.box

    async def take(
        self,
        node: NodeInterface,
        beat: Beat,
        senders: Collection[str],
        *,
        within: float | None = None,
        lead: int = 1,
        blame: bool = True,
    ) -> dict[str, Arrival]:
        """Wait for the messages of a beat, close it, and return what came, in order of senders.

        ``within`` are the seconds to wait, by default the deadline, and longer for those never
        heard of. Whoever is more than ``lead`` rounds ahead has sent what it will have sent. With
        ``blame``, those missing at the end are suspected. Counts those that did not come as
        ``missing_models``.
        """
        assert self.waiting is None, "one waits at a time"
        if self.started is None:
            self.started = node.time()
        self.waiting = Waiting(beat, senders, lead)
        try:
            self.recheck(node)
            await self._wait(node, self.waiting, within, blame=blame)
        finally:
            self.waiting = None
        self.skip(node, (beat[0], beat[1] + 1), keep=beat)
        came = self.box.pop(beat, {})
        found = {sender: came[sender] for sender in senders if sender in came}
        node.count("missing_models", len(senders) - len(found))
        return found

    async def _wait(
        self, node: NodeInterface, waiting: Waiting, within: float | None, *, blame: bool
    ) -> None:
        """Return when nobody is left to wait for, or time is up."""
        assert self.started is not None
        until = node.time() + (self.deadline_s if within is None else within)
        if within is None and any(node.is_unknown(j) for j in self.missing(node)):
            until = max(until, self.started + self.start_deadline_s)
        missing, k = partial(self.missing, node), waiting.beat[0]
        await wait_for(node, waiting.complete, until, missing, k, what="message", blame=blame)

    def missing(self, node: NodeInterface) -> Iterator[str]:
        """Yield those whose message of the awaited beat may still come."""
        for j in self.waiting.senders if self.waiting is not None else ():
            if self._may_come(node, j):
                yield j

    def recheck(self, node: NodeInterface) -> None:
        """End the wait if nobody is left to wait for."""
        waiting = self.waiting
        # One that is missing settles it, and the one of the last time most often still is: else n
        # arrivals would look at n senders each.
        if waiting is None or (waiting.watched and self._may_come(node, waiting.watched)):
            return
        waiting.watched = next(self.missing(node), "")
        if not waiting.watched:
            waiting.complete.set()

    def interrupt(self) -> None:
        """End the wait, if there is one, with what has come so far."""
        if self.waiting is not None:
            self.waiting.complete.set()

    def skip(self, node: NodeInterface, beat: Beat, keep: Beat | None = None) -> None:
        """Go on at ``beat``: what came for earlier ones, but for ``keep``, is of no use."""
        self.over = max(self.over, (beat[0], beat[1] - 1))
        for old in [b for b in self.box if b <= self.over and b != keep]:
            node.count("late_dropped", len(self.box.pop(old)))

    def furthest(self, senders: Iterable[str]) -> int:
        """Return the last round that any of ``senders`` has sent for; -1 if none has."""
        return max((self.heard[j][1][0] for j in senders if j in self.heard), default=-1)

    def _note(self, node: NodeInterface, arrival: Arrival) -> None:
        """Remember how far a sender is; one that began a new life may have gone back."""
        known = self.heard.get(arrival.sender)
        if known is None or arrival.order >= known[0]:
            self.heard[arrival.sender] = arrival.order, (arrival.round, arrival.phase)
        self.recheck(node)

    def _may_come(self, node: NodeInterface, j: str) -> bool:
        """Whether a message of the awaited beat, which is not here, may come from ``j``.

        Messages of one sender come in order, so a later one means that this one will not.
        """
        assert self.waiting is not None
        beat = self.waiting.beat
        return (
            j not in self.box.get(beat, {})
            and not self._is_past(j, beat)
            and node.peer_round(j) <= beat[0] + self.waiting.lead
            and node.is_expected(j)
        )

    def _is_past(self, sender: str, beat: Beat) -> bool:
        known = self.heard.get(sender)
        return known is not None and known[1] > beat

    def _is_awaited(self, beat: Beat) -> bool:
        return self.waiting is not None and self.waiting.beat == beat

    def _early(self, sender: str) -> int:
        return sum(sender in came for b, came in self.box.items() if not self._is_awaited(b))
