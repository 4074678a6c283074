"""Lockstep: rounds on a graph, each a weighted sum over the neighbourhood, with a deadline.

The half that all synchronous algorithms share: who is sent to and waited for in round k, and what
becomes of models that come early, late or never. A subclass's ``step`` says what is sent and what
is done with the sums::

    mixed_r = Σ_j w_ij v_j,r        for each role r, w of round k, j = i included

Where the graph changes, W is that of round k, and so are the neighbours: sent to are those whom
column i of it names, waited for those in row i. A neighbour whose model does not come in time
leaves its w_ij to w_ii: the row still sums to one.

A round may have several ``phases``, each with its own barrier. Counted through, k·phases + phase,
they are the *beats* by which models are kept apart.

Memory: one accumulator Σ w_ij v_j a role and a round, whatever the degree. In lockstep a neighbour
is at most one round ahead, so two are open at most; on a directed graph a sender can be further
ahead, by the length of the way back to it. Where the graph changes there may be no such bound: a
model that comes too early is asked to come again.

Where an algorithm carries more than params from round to round (trackers, corrections, also the
averages of ``swarm_metrics``), a model that is missed leaves an error in it for ever, and so does a
member that is none any more. Such an algorithm is ``restarting``, or its averages are: whoever
misses one names a round so far ahead that all will have heard of it, each message says so on, and
there everybody's auxiliary state begins anew; once for one that stays away (``Absent``).

Invariant: all parts of a message go into the sums, or none does; what has been summed is never
summed again.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from gossipnode.algorithms.base import (
    Algorithm,
    Answer,
    Arrival,
    NodeInterface,
    Outcome,
    Sent,
    Vector,
)
from gossipnode.algorithms.dynamic_average import DynamicAverage, Told, reading_of
from gossipnode.algorithms.lockstep_options import LockstepOptions, SharingOptions
from gossipnode.algorithms.members import Absent, are_others, members_of
from gossipnode.algorithms.vectors import add_weighted, add_weighted_and_check
from gossipnode.algorithms.waiting import CLOCK_S, PROBE_EVERY_S, wait_for
from gossipnode.errors import PeerError
from gossipnode.learning.params import add_scaled, stays_finite

__all__ = ["Lockstep", "LockstepOptions", "OpenRound", "SharingOptions"]

# The scalar that names the round in which all begin anew.
RESTART = "restart"
# How much longer than n rounds a word may take where each round has another graph. Worst are three
# nodes in random pairs: more than n rounds for every second word, half as many with each one more.
CHANGING_ROUNDS = 24


@dataclass(slots=True)
class OpenRound:
    """What has arrived for one round: Σ w_ij v_j by role over ``arrived``, and Σ of those w_ij.

    ``told`` is the same of the numbers that are shared besides, if any are.
    """

    acc: dict[str, Vector] = field(default_factory=dict)
    mass: float = 0.0
    bound: float = 0.0  # on the magnitude of every element of the sums
    arrived: set[str] = field(default_factory=set)
    awaited: str = ""  # one that was missing when that was looked at last
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    told: Told | None = None


class Lockstep(Algorithm):
    """A synchronous algorithm. Waits have the deadlines given, in seconds."""

    needs_graph = True
    restarting: ClassVar[bool] = False
    phases: int = 1

    def __init__(self, options: LockstepOptions) -> None:
        self.deadline_s, self.start_deadline_s = options.deadline_s, options.start_deadline_s
        self.started = 0.0
        self.open: dict[int, OpenRound] = {}  # by beat
        self.closed = -1  # the last beat that was mixed here: what comes for it is late
        self.beat = -1  # the one that is waited for
        self.mixing: OpenRound | None = None  # what ``combine`` holds and will mix
        self.heard: dict[str, int] = {}  # neighbour -> beat of its last model
        self.restarted = -1
        self.restart_at = -1  # the round in which all begin anew, or the last in which they did
        self.alone = False  # whether the last round had neighbours and heard none of them
        self.waited = False  # whether the round under way had anybody to wait for
        self.first = 0  # the round in which this life began
        self.members, self.absent = "", Absent()  # of whom the state is that goes on, and not
        self.leader: str | None = None  # of those that went on without us, the one furthest ahead
        # Accumulating may leave the loop for the worker thread; a round is closed between adds.
        self.lock = asyncio.Lock()
        shares = isinstance(options, SharingOptions) and options.swarm_metrics
        self.average = DynamicAverage() if shares else None
        self.begins_anew = self.restarting or shares

    @abstractmethod
    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k``: send, combine, and commit what came of it."""

    def begin_anew(self) -> None:
        """Forget all that is carried from round to round besides the params."""

    async def late(self, node: NodeInterface, arrival: Arrival, w: float, delta: int) -> Answer:
        """Take a model whose round was closed ``delta`` rounds ago; ``w`` was its weight."""
        del arrival, w, delta
        node.count("late_dropped")
        return Answer(Outcome.DROPPED)

    async def run(self, node: NodeInterface) -> None:
        """Run rounds until the budget is used up."""
        self.started = node.time()
        self.first = node.round
        self.closed = node.round * self.phases - 1
        if are_others(self.members, node.ids):
            self.ask_for_restart(node, node.round)
        self.members = members_of(node.ids)
        while self.catch_up(node):
            began, self.waited = node.time(), False
            if self.restart_is_due(node.round):
                self.restart(node)
            await self.step(node, node.round)
            await node.end_round()
            if self.alone and not self.waited:
                # Nobody to wait for and, it may be, no steps: rounds would follow one another
                # without giving way and, where time is virtual, without end.
                await node.sleep(PROBE_EVERY_S if node.time() - began < CLOCK_S else 0.0)

    def send(self, node: NodeInterface, k: int, parts: Mapping[str, Sent], phase: int = 0) -> None:
        """Push ``parts`` to whom round ``k`` names; a round may name nobody."""
        neighbours = node.out_neighbours_at(k)
        scalars: dict[str, float] = {RESTART: self.restart_at} if self.restart_at > k else {}
        if self.average is not None and not phase:
            scalars |= self.average.tell(reading_of(node))
        if neighbours:
            node.push(neighbours, parts, scalars=scalars, phase=phase)

    async def combine(
        self, node: NodeInterface, k: int, own: Mapping[str, Vector], phase: int = 0
    ) -> dict[str, Vector]:
        """Wait for the models of round ``k``, close it, and return Σ_j w_ij v_j of each role.

        The sums are the caller's, but where nothing came they are the vectors of ``own``.
        """
        beat = self.beat = k * self.phases + phase
        now = self.mixing = self.open_round(node, beat)
        await self.wait_for_neighbours(node, now, k)
        async with self.lock:
            self.closed, self.beat, self.mixing = beat, -1, None
            for old in [b for b in self.open if b <= beat]:
                passed = self.open.pop(old)
                if old < beat:  # a round that was skipped: its models have nowhere to go
                    node.count("late_dropped", len(passed.arrived))
        missing = frozenset(node.row_at(k).weights) - now.arrived
        self.alone = bool(missing) and not now.arrived
        node.count("missing_models", len(missing))
        if self.begins_anew and self.absent.leaves_error(node, k, missing):
            self.ask_for_restart(node, k)
        if self.average is not None and not phase:
            self.average.mix(now.told or Told(), reading_of(node))
        mixed = dict(own)
        for role, acc in now.acc.items():
            # The weights of those that did not come stay here: 1 − Σ_arrived w_ij ≥ w_ii.
            await node.compute(add_scaled, acc, own[role], 1.0 - now.mass)
            mixed[role] = acc
        return mixed

    async def wait_for_neighbours(self, node: NodeInterface, now: OpenRound, k: int) -> None:
        """Return when all models of round k are there, or the deadline is."""
        self.recheck(node)
        missing = list(self.missing(node, now, k))
        self.waited = bool(missing)
        unknown = [j for j in missing if node.is_unknown(j)]
        for j in unknown:
            if node.was_there(j, k, self.first):
                node.vouch_for(j)
        until = node.time() + self.deadline_s
        if any(node.is_unknown(j) for j in unknown):
            # Never heard of: it may still be starting, so that a swarm may start in any order.
            until = max(until, self.started + self.start_deadline_s)
        await wait_for(node, now.complete, until, partial(self.missing, node, now, k), k)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Add w_ij·v_j to the sums of its round, or treat it as late."""
        j, k = arrival.sender, arrival.round
        if arrival.phase >= self.phases:
            raise PeerError("unsupported_message", f"a round has {self.phases} phases here")
        beat = k * self.phases + arrival.phase
        self.note_leader(node, j)
        if k > node.round + self.lead_max(node) and not self.has_passed(node, j, node.round):
            raise PeerError("busy", f"round {k} is early, this node is in {node.round}; come again")
        w = node.row_at(k).weights.get(j)
        if w is None:
            raise PeerError("not_a_neighbour", "the graph has no edge between us")
        if self.begins_anew and RESTART in arrival.scalars:
            restart_at = int(arrival.scalars[RESTART])
            if restart_at <= k + self.word_rounds(node):
                self.restart_at = max(self.restart_at, restart_at)
        async with self.lock:
            if self.is_timely(node, beat):
                answer = await self.accumulate(node, arrival, w, beat)
                self.heard[j] = max(beat, self.heard.get(j, -1))
                self.recheck(node)
                return answer
        self.heard[j] = max(beat, self.heard.get(j, -1))
        return await self.late(node, arrival, w, max(1, self.closed // self.phases + 1 - k))

    def ask_for_restart(self, node: NodeInterface, k: int) -> None:
        """Name the round in which all begin anew, unless one is named already."""
        if self.begins_anew and self.restart_at <= k:
            self.restart_at = k + self.word_rounds(node)

    def word_rounds(self, node: NodeInterface) -> int:
        """Return in how many rounds a word reaches everybody.

        It goes an edge a round, and no way is longer than n − 1, where the graph stays.
        """
        return node.nodes + (CHANGING_ROUNDS if node.graph_changes else 0)

    def restart(self, node: NodeInterface) -> None:
        """Begin anew in all that a loss leaves an error in."""
        self.absent = Absent()
        if self.restarting:
            self.begin_anew()
            node.count("restarts")
        if self.average is not None:
            self.average.begin_anew()
            node.count("metrics_resyncs")

    def restart_is_due(self, k: int) -> bool:
        """Whether round ``k`` is the first of this life in or after the one that was named."""
        if not self.restarted < self.restart_at <= k:
            return False
        self.restarted = self.restart_at
        return True

    async def accumulate(
        self, node: NodeInterface, arrival: Arrival, w: float, beat: int
    ) -> Answer:
        """Set acc ← acc + w·v for each role; refuses what would not be finite, changing nothing."""
        now = self.open_round(node, beat)
        if arrival.sender in now.arrived:
            return Answer(Outcome.DUPLICATE)
        sums, bound = {}, now.bound + abs(w) * arrival.extent
        for role, v in arrival.parts.items():
            # What no sum can exceed need not be looked for in it: that would be one more pass.
            is_sure = stays_finite(bound, v.dtype)
            acc = now.acc.get(role)
            # The sum lands in the arriving buffer, which then becomes the accumulator: a refusal
            # leaves the old sum as it was, and no further memory is needed.
            add = add_weighted if is_sure else add_weighted_and_check
            if not await node.compute(add, v, acc, w):
                raise PeerError("not_finite", "mixing would give a value that is not finite")
            sums[role] = v
        now.acc, now.bound = sums, bound
        now.mass += w
        now.arrived.add(arrival.sender)
        if self.average is not None and not beat % self.phases:
            if now.told is None:
                now.told = Told()
            now.told.add(arrival.scalars, w)
        return Answer(Outcome.BUFFERED)

    def lead_max(self, node: NodeInterface) -> int:
        """Return by how many rounds one that sends here can be ahead."""
        return node.lead_max

    def has_passed(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether ``j`` is so far ahead of this node, in round ``k``, that it did not wait."""
        return node.went_on_without(j, k)

    def next_beat(self, node: NodeInterface) -> int:
        """Return the first beat that can still be mixed."""
        return max(self.closed + 1, node.round * self.phases)

    def is_timely(self, node: NodeInterface, beat: int) -> bool:
        """Whether a model of this beat still has a sum to go into."""
        first = self.next_beat(node)
        if beat < first:
            return False
        if beat in self.open or beat == first:
            return True
        return sum(1 for b in self.open if b > beat) < self.early_max(node)

    def early_max(self, node: NodeInterface) -> int:
        """Return of how many beats models may have come early: as lockstep needs, and a round."""
        return self.phases * (node.lead_max + 1)

    def open_round(self, node: NodeInterface, beat: int) -> OpenRound:
        """Return the sums of a beat.

        Besides the one under way there is room for ``early_max``. The oldest of them makes room:
        its time has passed if the neighbours have gone on that far.
        """
        if beat in self.open:
            return self.open[beat]
        now = self.open[beat] = OpenRound()
        first = self.next_beat(node)
        ahead = sorted(b for b in self.open if b != first)
        for old in ahead[: -self.early_max(node)]:
            evicted = self.open.pop(old)
            evicted.complete.set()
            if evicted is not self.mixing:
                node.count("late_dropped", len(evicted.arrived))
        return now

    def missing(self, node: NodeInterface, now: OpenRound, k: int) -> Iterator[str]:
        """Yield the neighbours whose model of round k may still come.

        Models of one neighbour arrive in order, so a later one means that this one will not
        come; and a neighbour further ahead than lockstep allows has mixed without us. Where the
        graph changes the senders of this round may all be far ahead, and tell us nothing; then
        one that did tell stands for them.
        """
        if self.leader is not None and self.has_passed(node, self.leader, k):
            return
        for j in node.row_at(k).weights:
            if j not in now.arrived and self.may_come(node, j, k):
                yield j

    def may_come(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether a model of round k, which has not arrived, may come from neighbour ``j``."""
        return (
            self.heard.get(j, -1) <= self.beat
            and not self.has_passed(node, j, k)
            and node.is_expected(j)
        )

    def recheck(self, node: NodeInterface) -> None:
        """Complete the round that is waited for if nobody is left to wait for."""
        now, k = self.open.get(self.beat), self.beat // self.phases
        if now is None or now.complete.is_set():
            return
        # One that is missing settles it, and the one of the last time most often still is: else d
        # arrivals would look at d neighbours each.
        j = now.awaited
        if self.leader is None and j and j not in now.arrived and self.may_come(node, j, k):
            return
        now.awaited = next(self.missing(node, now, k), "")
        if not now.awaited:
            now.complete.set()

    def swarm_means(self) -> tuple[float, float, float] | None:
        """Return the swarm's mean loss, steps per second and samples, as far as known here."""
        return None if self.average is None else self.average.x

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the restart that is still to come: the next life owes it, too."""
        facts: dict[str, Any] = {"restart_at": self.restart_at, "restarted": self.restarted}
        facts |= {"members": self.members, "absent": self.absent.state()}
        if self.average is not None:
            facts["average"] = self.average.state()
        return {}, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up the restart that an earlier life has heard of."""
        del arrays
        self.restart_at = facts.get("restart_at", -1)
        self.restarted = facts.get("restarted", -1)
        self.members = facts.get("members", "")
        self.absent = Absent(facts.get("absent", ()))
        if self.average is not None:
            self.average.restore(facts.get("average", {}))

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """A peer was suspected, or is further than we thought: maybe nobody is left."""
        self.note_leader(node, peer)
        self.recheck(node)

    def note_leader(self, node: NodeInterface, j: str) -> None:
        """Remember who is furthest ahead of those that went on without us."""
        if not node.graph_changes or not self.has_passed(node, j, node.round):
            return
        if self.leader is None or node.peer_round(j) > node.peer_round(self.leader):
            self.leader = j

    def catch_up(self, node: NodeInterface) -> bool:
        """Go on in the neighbours' round if they have gone on without us; False at the end."""
        neighbours = [self.leader] if self.leader else node.row_at(node.round).weights
        gone = [node.peer_round(j) for j in neighbours if self.has_passed(node, j, node.round)]
        self.leader = None
        if gone:
            node.skip_to(max(gone))
            self.closed = max(gone) * self.phases - 1
            # What is carried here is of the round that was left, even if nobody has missed us.
            self.ask_for_restart(node, max(gone))
        return node.budget_left
