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

- Nothing is handed to a suspect, nor to who has told no new round for longer than lockstep allows:
  else a silent one would get most of the mass until it is suspected. What a machine that never
  comes back had is gone with it: the mass of the others is less by that, and their z stays the mean
  of what they have.
- A node with less than ``mass_least`` neither trains, for g/w would be large, nor hands out.
- Who joins begins with w = 0, and gets its mass from those that send to it. Who is asked to
  stop hands all it has to a neighbour; its checkpoint has w = 0, and a later life joins again.

Letters: z params, w mass, P what is handed out, τ local steps, η step size. Memory: two float64
vectors an edge, σ here and seen there, and in ``sgp`` the messages of rounds that are open.

*Source*: Kempe, Dobra, Gehrke, FOCS 2003 (push-sum); Assran, Loizou, Ballas, Rabbat, ICML 2019
(arXiv 1811.10792: SGP and its overlap).
*Differs from the source*: running sums in place of what is handed over, after Hadjicostis et al.
2016; deadlines, joining and leaving.
"""

from __future__ import annotations

from typing import Literal

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome
from gossipnode.algorithms.lockstep import Lockstep, LockstepOptions, OpenRound
from gossipnode.algorithms.mass import check_scalars
from gossipnode.algorithms.mass_holder import MassHolder, MassOptions
from gossipnode.options import Facts, Needs, option


class PushSumOptions(LockstepOptions, MassOptions):
    """Stochastic gradient push: for directed graphs, and for wires that lose messages."""

    default_graph = "one_peer_exponential"
    facts = (
        Facts(
            "sgp",
            "directed graphs, changing ones, bad wires",
            "2, 1 in float64",
            "sum and mass are kept exactly",
            steady="like dpsgd",
        ),
        Facts(
            "overlap_sgp",
            "the same without waiting for messages",
            "2, 1 in float64",
            "sum and mass are kept exactly",
            steady="more than dpsgd",
            waits=False,
        ),
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

    def needs(self) -> Needs:
        """Return that each node divides what it has; rows need not add to anything."""
        return Needs(weights="column")


class PushSum(MassHolder, Lockstep):
    """SGP and overlap SGP; without local steps, push-sum averaging."""

    Options = PushSumOptions
    name = "push_sum"

    def __init__(self, options: PushSumOptions, local_steps: int) -> None:
        Lockstep.__init__(self, options)
        self.hold(options, local_steps)
        self.lag = options.lag_rounds if options.form == "overlap_sgp" else 0
        self.cumulative = self.lag > 0  # in sgp each round has its message
        self.over = False  # no more rounds in this life
        # By peer: the round it told last, and this node's round when it was handed something then.
        self.told: dict[str, tuple[int, int]] = {}
        # By round and sender: what came before its round closed.
        self.waiting: dict[int, dict[str, Arrival]] = {}

    async def run(self, node: NodeInterface) -> None:
        """Run rounds; in the end take what is there, and leave if there was more to do."""
        await super().run(node)
        if self.lag and not node.stopping:
            await self.wait_for(node, node.round - 1)
        self.over = True
        await self.take_waiting(node, self.due(max(self.waiting, default=0)))
        if node.stopping and not 0 < node.rounds <= node.round:
            await self.leave(node, node.out_neighbours_at(node.round))

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, hand out, take in."""
        await self.train(node)
        shares = node.shares_at(k) if self.mass.w >= self.mass_least else {}
        takers = {j: p for j, p in shares.items() if self.may_be_handed(node, j)}
        await self.hand_out(node, takers)
        self.push(node, node.out_neighbours_at(k))
        await self.take_in(node, k)
        self.mass.rounds += 1

    async def take_in(self, node: NodeInterface, k: int) -> None:
        """Wait for round k − lag, then take what is there of the rounds up to k.

        Who has handed out nearly all it had waits for round k.
        """
        lag = self.lag if self.mass.w >= self.mass_least else 0
        await self.wait_for(node, k - lag)
        async with self.lock:
            self.closed = k - lag
            due = self.due(k)
        await self.take_waiting(node, due)

    def due(self, k: int) -> list[Arrival]:
        """Return the messages of the rounds up to ``k``, which wait no longer."""
        rounds = [self.waiting.pop(r) for r in sorted(self.waiting) if r <= k]
        return [arrival for came in rounds for arrival in came.values()]

    def open_round(self, node: NodeInterface, beat: int) -> OpenRound:
        """Return a round; of those that make room the newest message of each sender is kept."""
        before = set(self.open)
        now = super().open_round(node, beat)
        for old in sorted(before - self.open.keys()):
            later = min((r for r in self.open if r > old), default=old)
            kept = self.waiting.setdefault(later, {})
            for j, arrival in self.waiting.pop(old, {}).items():
                # The sums of a newer one hold all of an older one's.
                if j not in kept or kept[j].order < arrival.order:
                    kept[j] = arrival
        return now

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

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep or take a message, unless this node has left."""
        self.check_presence()
        return await super().receive(node, arrival)

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
        check_scalars(arrival)
        now.arrived.add(arrival.sender)
        self.waiting.setdefault(beat, {})[arrival.sender] = arrival
        return Answer(Outcome.BUFFERED)

    async def late(self, node: NodeInterface, arrival: Arrival, w: float, delta: int) -> Answer:
        """Take a message at once: after its round, or in overlap."""
        del w, delta
        took = await self.take(node, [arrival])
        self.recheck(node)
        if not self.lag:
            node.count("late_merged" if took else "late_dropped")
        landed = Outcome.MERGED if self.lag else Outcome.LATE
        return Answer(landed if took else Outcome.DUPLICATE)

    def is_timely(self, node: NodeInterface, beat: int) -> bool:
        """Whether a message is to wait for its round; in overlap none is, nor after the last."""
        return not self.lag and not self.over and super().is_timely(node, beat)

    def is_silent(self, node: NodeInterface, j: str) -> bool:
        """Whether ``j`` has told no other round for longer than its answer may take."""
        told, first = self.told.get(j, (-1, 0))
        if not self.tried[j] or told != node.peer_round(j):
            self.told[j], self.tried[j] = (node.peer_round(j), node.round), 0
        # Its answer to the first may have told the same round again.
        return self.tried[j] > 1 and node.round - first > self.patience(node)

    def patience(self, node: NodeInterface) -> int:
        """Return how far ahead of an answer lockstep can be."""
        return self.lead_max(node)

    def lead_max(self, node: NodeInterface) -> int:
        """Return by how many rounds a sender can be ahead: each step of the way adds the lag."""
        return node.lead_max * (1 + self.lag)

    def has_passed(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether ``j`` is further ahead than that."""
        return super().has_passed(node, j, k + node.lead_max * self.lag)
