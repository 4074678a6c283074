"""Push-sum and stochastic gradient push: exact means on directed graphs, without doubling back.

Round k on node i, ``sgp``, with mass w_i (1 at the start) and u_i = w_i·z_i::

    u_i ← u_i − η Σ_{s<τ} g_i          gradients at z_i, so z_i moves by −η Σ g_i / w_i
    u_i ← Σ_j p_ij u_j                 hand out p_ji of (u_i, w_i), take in what the others hand out
    w_i ← Σ_j p_ij w_j
    z_i = u_i/w_i                      the params: evaluated, served, kept

P need only be column-stochastic: each node divides what *it* has, p_ji = 1/(1 + out-degree) or
column i of W, so that no receiver need be asked and any strongly connected digraph will do. Where P
is doubly stochastic, w = 1 and this is D-PSGD. With τ = 0 it is push-sum: all z become the mean.

``overlap_sgp`` waits only for the messages of round k − lag, and takes in what comes when it comes.

What travels are sums of all that was ever handed over on an edge (``mass``), so that no message
is needed: whatever is lost, late, doubled or forgotten in a crash, the next one makes it good.

- Nothing is handed to a suspect. What a machine that never comes back had is gone with it: the mass
  of the others is less by that, and their z stays the mean of what they have.
- A node with less than ``mass_least`` neither trains, for g/w would be large, nor hands out.
- Who joins begins with w = 0, and gets its mass from those that send to it. Who is asked to
  stop hands all it has to a neighbour; its checkpoint has w = 0, and a later life joins again.

Letters: z params, w mass, P what is handed out, τ local steps, η step size. Memory: two float64
vectors an edge, σ here and seen there.

*Source*: Kempe, Dobra, Gehrke, FOCS 2003 (push-sum); Assran, Loizou, Ballas, Rabbat, ICML 2019
(arXiv 1811.10792: SGP and its overlap).
*Differs from the source*: running sums in place of what is handed over, after Hadjicostis et al.
2016; deadlines, joining and leaving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.lockstep import Lockstep, LockstepOptions
from gossipnode.algorithms.mass import (
    NOTHING,
    Mass,
    Sums,
    given,
    lifted,
    parts_of,
    scalars_of,
    sums_of,
    taken,
)
from gossipnode.config import Facts, Needs, option


class PushSumOptions(LockstepOptions):
    """Stochastic gradient push: for directed graphs, and for wires that lose messages."""

    default_graph = "one_peer_exponential"
    facts = (
        Facts("sgp", "directed graphs, changing ones, bad wires", "2, 1 in float64", "none"),
        Facts("overlap_sgp", "the same without waiting for messages", "2, 1 in float64", "none"),
    )

    name: Literal["push_sum"] = "push_sum"
    form: Literal["sgp", "overlap_sgp"] = option(
        "sgp",
        "sgp: a round waits for its messages. overlap_sgp: it waits for those of lag_rounds rounds "
        "before, so that communication and training overlap.",
        flag="--form",
    )
    lag_rounds: int = option(
        1,
        "overlap_sgp: by how many rounds a message may be behind. More: less waiting, but more of "
        "the mass is on its way, and the rest takes longer steps.",
        unit="rounds",
        ge=1,
        le=64,
    )
    mass_least: float = option(
        0.05,
        "Mass below which a node neither trains nor hands out. Mean mass is 1; the step of a node "
        "with mass w is 1/w times as long.",
        ge=1e-6,
        le=0.5,
    )
    joining: bool = option(
        False,
        "Begin without mass, as a node that joins a swarm that runs, or replaces a machine whose "
        "disk is lost. A checkpoint's mass is kept.",
    )

    def needs(self) -> Needs:
        """Return that each node divides what it has; rows need not add to anything."""
        return Needs(weights="column")


class PushSum(Lockstep):
    """SGP and overlap SGP; without local steps, push-sum averaging."""

    Options = PushSumOptions
    name = "push_sum"
    roles = frozenset({"u", "sum"})
    bundles = (frozenset({"u"}), frozenset({"u", "sum"}))

    def __init__(self, options: PushSumOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau = local_steps
        self.lag = options.lag_rounds if options.form == "overlap_sgp" else 0
        self.cumulative = self.lag > 0  # in sgp each round has its message
        self.mass_least = options.mass_least
        self.mass = Mass(0.0 if options.joining else 1.0)
        self.waiting: dict[int, list[Arrival]] = {}  # by round: what came before its round closed
        self.tried: Counter[str] = Counter()  # hand-outs of this life

    async def run(self, node: NodeInterface) -> None:
        """Run rounds; in the end take what is there, and leave if there was more to do."""
        self.mass.since = self.mass.since or node.epoch
        await super().run(node)
        if self.lag and not node.stopping:
            await self.wait_for(node, node.round - 1)
        async with self.lock:
            await self.take(node, [a for came in self.waiting.values() for a in came])
            self.waiting.clear()
        if node.stopping and not 0 < node.rounds <= node.round:
            await self.leave(node)

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, hand out, take in."""
        await self.train(node)
        shares = node.shares_at(k) if self.mass.w >= self.mass_least else {}
        takers = {j: p for j, p in shares.items() if self.may_be_handed(node, j)}
        await self.hand_out(node, takers)
        self.push(node, node.out_neighbours_at(k))
        await self.take_in(node, k)
        self.mass.rounds += 1

    async def train(self, node: NodeInterface) -> None:
        """Set u ← u − η Σ g(z), which is z ← z − η Σ g(z)/w with the w of when that is done."""
        if self.tau and self.mass.w < self.mass_least:
            node.count("rounds_without_mass")
        elif self.tau:
            before = node.params
            after = await node.trained(before, self.tau)
            async with self.lock:
                z = node.params
                stepped = await node.compute(lifted, z, before, after, self.mass.w)
                await node.commit(stepped, before=z, steps=self.tau)

    def may_be_handed(self, node: NodeInterface, j: str) -> bool:
        """Whether mass goes to ``j``: not to suspects, nor for long to one never heard of.

        That is as long as its answer may take, where both are in lockstep.
        """
        if node.is_unknown(j):
            return self.tried[j] <= self.lead_max(node)
        return node.is_expected(j)

    async def hand_out(self, node: NodeInterface, shares: Mapping[str, float]) -> None:
        """Set σ_j ← σ_j + p_ji·(u, w) for each j, and take the same from u and w."""
        if not shares:
            return
        mass = self.mass
        async with self.lock:
            before = node.params
            z, w, sent = await node.compute(given, before, mass.w, mass.sent, shares)
            if z is not before:
                await node.commit(z, before)
            mass.w = w  # without a pause since the params have changed: a checkpoint sees both
            mass.sent.update(sent)
        self.tried.update(shares.keys())

    def push(self, node: NodeInterface, peers: Iterable[str]) -> None:
        """Send each peer its sums, grown or not: what an earlier message held is in them."""
        z, mass = node.params, self.mass
        for j in peers:
            sums = mass.sent.get(j, NOTHING)
            scalars = scalars_of(sums, mass.since)
            node.push([j], parts_of(sums, z.dtype, z.size), scalars=scalars)

    async def take_in(self, node: NodeInterface, k: int) -> None:
        """Wait for round k − lag, then take what is there of the rounds up to k.

        Who has handed out nearly all it had waits for round k.
        """
        lag = self.lag if self.mass.w >= self.mass_least else 0
        await self.wait_for(node, k - lag)
        async with self.lock:
            self.closed = k - lag
            due = [self.waiting.pop(r) for r in sorted(self.waiting) if r <= k]
            await self.take(node, [arrival for came in due for arrival in came])

    async def wait_for(self, node: NodeInterface, k: int) -> None:
        """Return when the messages of round ``k`` are there, or the deadline is."""
        if k < 0:
            return
        self.beat = k
        now = self.open_round(node, k)
        await self.wait_for_neighbours(node, now, k)
        self.beat = -1
        self.open = {r: o for r, o in self.open.items() if r > k}
        senders = node.row_at(k).weights
        missing = [j for j in senders if self.heard.get(j, -1) < k]
        self.alone = 0 < len(missing) == len(senders)
        node.count("missing_models", len(missing))

    def may_come(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether something newer may come; any message of round k or later has all of it."""
        return self.heard.get(j, -1) < k and super().may_come(node, j, k)

    async def accumulate(
        self, node: NodeInterface, arrival: Arrival, w: float, beat: int
    ) -> Answer:
        """Keep a message until its round closes, so that each round is what P says."""
        del w
        now = self.open_round(node, beat)
        if arrival.sender in now.arrived:
            return Answer(Outcome.DUPLICATE)
        sums_of(arrival)  # refuses what it cannot read
        now.arrived.add(arrival.sender)
        self.waiting.setdefault(beat, []).append(arrival)
        return Answer(Outcome.BUFFERED)

    async def late(self, node: NodeInterface, arrival: Arrival, w: float, delta: int) -> Answer:
        """Take a message at once: after its round, or in overlap."""
        del w, delta
        async with self.lock:
            took = await self.take(node, [arrival])
        self.recheck(node)
        if not self.lag:
            node.count("late_merged" if took else "late_dropped")
        landed = Outcome.MERGED if self.lag else Outcome.LATE
        return Answer(landed if took else Outcome.DUPLICATE)

    async def take(self, node: NodeInterface, arrivals: Iterable[Arrival]) -> bool:
        """Add what the sums have grown by to u and w; False where that is nothing."""
        news: dict[str, tuple[Sums, Sums]] = {}
        newest = {a.sender: a for a in sorted(arrivals, key=lambda a: a.order)}
        for j, arrival in newest.items():
            found = self.mass.news(j, sums_of(arrival), self.lead_max(node))
            if found is not None and found[0].w >= found[1].w:
                news[j] = found
            elif found is not None:
                node.count("mass_owed")  # the sender went back to a checkpoint
        if not news:
            return False
        before = node.params
        z, w = await node.compute(taken, before, self.mass.w, news)
        if z is not before:
            await node.commit(z, before)
        self.mass.w = w
        self.mass.seen.update((j, new) for j, (new, _) in news.items())
        return True

    async def leave(self, node: NodeInterface) -> None:
        """Hand all to one neighbour; the node ends when that is acknowledged, or time is up."""
        heirs = [
            j
            for j in node.out_neighbours_at(node.round)
            if node.is_expected(j) and not node.is_unknown(j)
        ]
        if heirs and self.mass.w > 0.0:
            await self.hand_out(node, {heirs[0]: 1.0})
            self.push(node, heirs[:1])

    def is_timely(self, node: NodeInterface, beat: int) -> bool:
        """Whether a message is to wait for its round; in overlap none is."""
        return not self.lag and super().is_timely(node, beat)

    def lead_max(self, node: NodeInterface) -> int:
        """Return by how many rounds a sender can be ahead: each step of the way adds the lag."""
        return node.lead_max * (1 + self.lag)

    def has_passed(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether ``j`` is further ahead than that."""
        return super().has_passed(node, j, k + node.lead_max * self.lag)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the mass and the sums of all edges."""
        arrays, facts = self.mass.state()
        return arrays, {**super().state()[1], **facts}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the mass and the sums of an earlier life."""
        super().restore(arrays, facts)
        self.mass = Mass.restored(arrays, facts)
