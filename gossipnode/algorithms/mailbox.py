"""Messages kept apart by beat and sender, for algorithms that need each one and not their sum.

``lockstep`` adds up what arrives and forgets it; hubs, relays and all-reduces cannot. A *beat* is
(round, phase). Whoever waits for a beat names those it waits for, and gets what came of them
within the deadline; those that did not send are suspected, so that nobody is waited for twice.

Invariant: a beat that was taken is over: what comes for it later is dropped and counted. Never
more than ``room`` messages are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome
from gossipnode.algorithms.lockstep import CLOCK_S, PROBE_EVERY_S, LockstepOptions
from gossipnode.errors import PeerError

Beat = tuple[int, int]


class Mailbox:
    """One node's mailbox; ``room`` is how many messages it keeps at most."""

    def __init__(self, options: LockstepOptions, room: int) -> None:
        self.deadline_s, self.start_deadline_s = options.deadline_s, options.start_deadline_s
        self.room = room
        self.box: dict[Beat, dict[str, Arrival]] = {}
        self.over: Beat = (-1, 0)  # the last beat that was taken
        self.heard: dict[str, Beat] = {}  # sender -> beat of its last message
        self.awaited: tuple[Beat, Collection[str]] | None = None
        self.complete = asyncio.Event()
        self.started: float | None = None

    def put(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep a message, or drop one that comes too late.

        Raises ``PeerError`` (busy) where there is no room: its sender tries again.
        """
        beat, sender = (arrival.round, arrival.phase), arrival.sender
        if beat <= self.over:
            self.note(node, sender, beat)
            node.count("late_dropped")
            return Answer(Outcome.DROPPED)
        kept = self.box.get(beat, {})
        if sender in kept:
            return Answer(Outcome.DUPLICATE)
        is_awaited = self.awaited is not None and self.awaited[0] == beat
        if not is_awaited and sum(map(len, self.box.values())) >= self.room:
            raise PeerError("busy", f"round {beat[0]} is early, this node is in {node.round}")
        self.box.setdefault(beat, {})[sender] = arrival
        self.note(node, sender, beat)
        return Answer(Outcome.BUFFERED)

    def note(self, node: NodeInterface, sender: str, beat: Beat) -> None:
        """Remember how far a sender is: its messages come in order."""
        self.heard[sender] = max(beat, self.heard.get(sender, (-1, 0)))
        self.recheck(node)

    async def take(
        self, node: NodeInterface, beat: Beat, senders: Collection[str]
    ) -> dict[str, Arrival]:
        """Wait for the messages of a beat, close it, and return what came, in order of senders.

        Counts those that did not come as ``missing_models``.
        """
        if self.started is None:
            self.started = node.time()
        self.awaited = (beat, senders)
        self.complete.clear()
        self.recheck(node)
        await self._wait(node, beat)
        self.awaited, self.over = None, beat
        for old in [b for b in self.box if b < beat]:
            node.count("late_dropped", len(self.box.pop(old)))
        came = self.box.pop(beat, {})
        found = {sender: came[sender] for sender in senders if sender in came}
        node.count("missing_models", len(senders) - len(found))
        return found

    async def _wait(self, node: NodeInterface, beat: Beat) -> None:
        """Return when nobody is left to wait for, or the deadline is; suspect who is missing."""
        assert self.started is not None
        until = node.time() + self.deadline_s
        if any(node.is_unknown(j) for j in self.missing(node)):
            until = max(until, self.started + self.start_deadline_s)
        while not await node.wait(self.complete, min(PROBE_EVERY_S, until - node.time())):
            missing = self.missing(node)
            if node.stopping:
                return
            if node.time() >= until - CLOCK_S:
                for j in missing:
                    node.suspect(j, f"no message of round {beat[0]} within the deadline")
                return
            node.probe(missing)

    def missing(self, node: NodeInterface) -> list[str]:
        """Return those whose message of the awaited beat may still come."""
        if self.awaited is None:
            return []
        beat, senders = self.awaited
        came = self.box.get(beat, {})
        return [
            j
            for j in senders
            if j not in came
            and self.heard.get(j, (-1, 0)) <= beat
            and node.peer_round(j) <= beat[0] + 1
            and node.is_expected(j)
        ]

    def recheck(self, node: NodeInterface) -> None:
        """End the wait if nobody is left to wait for."""
        if self.awaited is not None and not self.missing(node):
            self.complete.set()

    def skip(self, beat: Beat) -> None:
        """Go on at ``beat``: what came for earlier ones is of no use any more."""
        self.over = max(self.over, (beat[0], beat[1] - 1))
        for old in [b for b in self.box if b <= self.over]:
            del self.box[old]

    def furthest(self, senders: Iterable[str]) -> int:
        """Return the last round that any of ``senders`` has sent for; -1 if none has."""
        return max((self.heard[j][0] for j in senders if j in self.heard), default=-1)
