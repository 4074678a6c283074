"""D-PSGD: synchronous rounds on a graph, with a deadline instead of an endless barrier.

Round k on node i, adapt-then-combine (``atc``)::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i        train
    x_i^{k+1} = Σ_j w_ij x_j^{k+½}           send the half-step, mix

combine-then-adapt (``cta``) sends before it trains, so that the two overlap::

    x_i^{k+1} = Σ_j w_ij x_j^k − η Σ_{s<τ} g_i(x_i^k)

Where the graph changes, W is that of round k, and so are the neighbours: sent to are those whom
column i of it names, waited for those in row i.

A neighbour whose model does not come in time leaves its w_ij to w_ii: the row still sums to
one. Its model, when it comes, is merged with weight w_ij·s(δ), δ rounds behind, or dropped.

Letters: x params, W mixing matrix (doubly stochastic), τ local steps, s staleness function.
Memory: one accumulator Σ w_ij x_j a round, whatever the degree. In lockstep a neighbour is at
most one round ahead, so two are open at most; on a directed graph a sender can be further ahead,
by the length of the way back to it. Where the graph changes there may be no such bound: a model
that comes too early is asked to come again.

*Source*: Lian et al., NeurIPS 2017 (arXiv 1705.09056), and Sayed 2014 for ``atc``.
*Differs from the source*: deadline, late models, and skipping ahead after a long absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from gossipnode.algorithms.base import Algorithm, Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.staleness import staleness_function
from gossipnode.config import DpsgdOptions
from gossipnode.errors import PeerError
from gossipnode.learning.params import add_scaled, all_finite, weighted_sum_into

PROBE_EVERY_S = 0.5
# Timers may fire early by what a clock cannot tell apart.
CLOCK_S = 1e-6


@dataclass(slots=True)
class OpenRound:
    """What has arrived for one round: Σ w_ij x_j over ``arrived``, and the sum of those w_ij."""

    acc: Vector | None = None
    mass: float = 0.0
    arrived: set[str] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)


class DPSGD(Algorithm):
    """Synchronous decentralized parallel SGD, both forms."""

    name = "dpsgd"
    needs_graph = True

    def __init__(self, options: DpsgdOptions, local_steps: int) -> None:
        self.tau = local_steps
        self.form = options.form
        self.deadline_s = options.deadline_s
        self.start_deadline_s = options.start_deadline_s
        self.merge_late = options.late == "merge"
        self.s = staleness_function(options.staleness, options.staleness_a, options.staleness_b)
        self.started = 0.0
        self.open: dict[int, OpenRound] = {}
        self.closed = -1  # the last round that was mixed here: what comes for it is late
        self.mixing: OpenRound | None = None  # what ``combine`` holds and will mix
        self.heard: dict[str, int] = {}  # neighbour -> round of its last model
        self.alone = False  # whether the last round had neighbours and heard none of them
        self.first = 0  # the round in which this life began
        self.leader: str | None = None  # of those that went on without us, the one furthest ahead
        # Accumulating may leave the loop for the worker thread; a round is closed between adds.
        self.lock = asyncio.Lock()

    async def run(self, node: NodeInterface) -> None:
        """Run rounds until the budget is used up."""
        self.started = node.time()
        self.first = node.round
        self.closed = node.round - 1
        step = self.adapt_then_combine if self.form == "atc" else self.combine_then_adapt
        while self.catch_up(node):
            began = node.time()
            await step(node, node.round)
            await node.end_round()
            if self.alone and node.time() - began < CLOCK_S:
                # Nobody to wait for, and nothing to do: rounds would pass until the budget is gone.
                await node.sleep(PROBE_EVERY_S)

    async def adapt_then_combine(self, node: NodeInterface, k: int) -> None:
        """Train, send the half-step, mix."""
        await node.train(self.tau)
        half = node.params
        self.send(node, half, k)
        await self.combine(node, half, k)

    async def combine_then_adapt(self, node: NodeInterface, k: int) -> None:
        """Send, then train and mix at the same time: both changes start from the same x."""
        x = node.params
        self.send(node, x, k)
        async with asyncio.TaskGroup() as both:
            both.create_task(node.train(self.tau))
            both.create_task(self.combine(node, x, k))

    def send(self, node: NodeInterface, x: Vector, k: int) -> None:
        """Push x to whom round k names; a round may name nobody."""
        neighbours = node.out_neighbours_at(k)
        if neighbours:
            node.push(neighbours, {"x": x})

    async def combine(self, node: NodeInterface, x: Vector, k: int) -> None:
        """Wait for the models of round k, then apply the change from x to Σ_j w_ij x_j."""
        now = self.mixing = self.open_round(node, k)
        await self.wait_for_neighbours(node, now, k)
        async with self.lock:
            self.closed = k
            for old in [r for r in self.open if r <= k]:
                passed = self.open.pop(old)
                if old < k:  # a round that was skipped: its models have nowhere to go
                    node.count("late_dropped", len(passed.arrived))
            if now.acc is not None:
                # The weights of those that did not come stay here: 1 − Σ_arrived w_ij ≥ w_ii.
                await node.compute(add_scaled, now.acc, x, 1.0 - now.mass)
                await node.commit(after=now.acc, before=x)
        missing = len(node.row_at(k).weights) - len(now.arrived)
        self.alone = missing > 0 and not now.arrived
        node.count("missing_models", missing)

    async def wait_for_neighbours(self, node: NodeInterface, now: OpenRound, k: int) -> None:
        """Return when all models of round k are there, or the deadline is."""
        self.recheck(node, k)
        missing = list(self.missing(node, now, k))
        for j in missing:
            if node.is_unknown(j) and node.was_there(j, k, self.first):
                node.vouch_for(j)
        until = node.time() + self.deadline_s
        if any(node.is_unknown(j) for j in missing):
            # Never heard of: it may still be starting, so that a swarm may start in any order.
            until = max(until, self.started + self.start_deadline_s)
        while not await node.wait(now.complete, min(PROBE_EVERY_S, until - node.time())):
            missing = list(self.missing(node, now, k))
            if node.stopping:
                return
            if node.time() >= until - CLOCK_S:
                for j in missing:
                    node.suspect(j, f"no model of round {k} within the deadline")
                return
            # A process that died says so at once, when asked: no need to wait out the deadline.
            node.probe(missing)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Add w_ij·x_j to the sum of its round, or treat it as late."""
        j, k, x_j = arrival.sender, arrival.round, arrival.parts["x"]
        w = node.row_at(k).weights.get(j)
        if w is None:
            raise PeerError("not_a_neighbour", "the graph has no edge between us")
        self.note_leader(node, j)
        if k > node.round + node.lead_max and not node.went_on_without(j, node.round):
            raise PeerError("busy", f"round {k} is early, this node is in {node.round}; come again")
        async with self.lock:
            if self.is_timely(node, k):
                answer = await self.accumulate(node, k, j, w, x_j)
                self.heard[j] = k
                self.recheck(node, node.round)
                return answer
        self.heard[j] = k
        if not self.merge_late:
            node.count("late_dropped")
            return Answer(Outcome.DROPPED)
        delta = max(1, self.closed + 1 - k)
        await node.merge(x_j, w * self.s(delta), arrival.age)
        node.count("late_merged")
        return Answer(Outcome.LATE)

    async def accumulate(
        self, node: NodeInterface, k: int, j: str, w: float, x_j: Vector
    ) -> Answer:
        """Set acc ← acc + w·x_j for round k; refuses what would not be finite, changing nothing."""
        now = self.open_round(node, k)
        if j in now.arrived:
            return Answer(Outcome.DUPLICATE)
        acc = np.zeros_like(x_j) if now.acc is None else now.acc
        # The sum lands in the arriving buffer, which then becomes the accumulator: a refusal
        # leaves the old sum as it was, and no further memory is needed.
        await node.compute(weighted_sum_into, x_j, acc, w)
        if not await node.compute(all_finite, x_j):
            raise PeerError("not_finite", "mixing would give a value that is not finite")
        now.acc = x_j
        now.mass += w
        now.arrived.add(j)
        return Answer(Outcome.BUFFERED)

    def is_timely(self, node: NodeInterface, k: int) -> bool:
        """Whether a model of round k still has a sum to go into."""
        newer = sum(1 for r in self.open if r > k)
        is_open = k in self.open or k == node.round or newer <= node.lead_max
        return is_open and k > max(self.closed, node.round - 1)

    def open_round(self, node: NodeInterface, k: int) -> OpenRound:
        """Return the sums of round k.

        Besides the round under way there is room for as many as lockstep needs, and one. The
        oldest of them makes room: its time has passed if the neighbours have gone on that far.
        """
        now = self.open.setdefault(k, OpenRound())
        ahead = sorted(r for r in self.open if r != node.round)
        for old in ahead[: -1 - node.lead_max]:
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
        if self.leader is not None and node.went_on_without(self.leader, k):
            return
        for j in node.row_at(k).weights:
            if (
                j not in now.arrived
                and self.heard.get(j, -1) <= k
                and not node.went_on_without(j, k)
                and node.is_expected(j)
            ):
                yield j

    def recheck(self, node: NodeInterface, k: int) -> None:
        """Complete round k if nobody is left to wait for."""
        now = self.open.get(k)
        # The first that is missing settles it: else d arrivals would look at d neighbours each.
        if now is not None and next(self.missing(node, now, k), None) is None:
            now.complete.set()

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """A peer was suspected, or is further than we thought: maybe nobody is left."""
        self.note_leader(node, peer)
        self.recheck(node, node.round)

    def note_leader(self, node: NodeInterface, j: str) -> None:
        """Remember who is furthest ahead of those that went on without us."""
        if not node.graph_changes or not node.went_on_without(j, node.round):
            return
        if self.leader is None or node.peer_round(j) > node.peer_round(self.leader):
            self.leader = j

    def catch_up(self, node: NodeInterface) -> bool:
        """Go on in the neighbours' round if they have gone on without us; False at the end."""
        neighbours = [self.leader] if self.leader else node.row_at(node.round).weights
        gone = [node.peer_round(j) for j in neighbours if node.went_on_without(j, node.round)]
        self.leader = None
        if gone:
            node.skip_to(max(gone))
            self.closed = max(gone) - 1
        return node.budget_left
