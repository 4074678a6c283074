"""Push-sum at random: no rounds, no barrier; train, hand half of what one has to a random peer.

Active, every period Δ(1 ± jitter), on node i with mass w_i (1 at the start) and u_i = w_i·z_i::

    u_i ← u_i − η Σ_{s<τ} g_i(z_i)
    keep (u_i, w_i)/2, hand (u_i, w_i)/2 to a random peer or fixed neighbour

Passive, whenever (δ_u, δ_w) comes::

    u_i ← u_i + δ_u        w_i ← w_i + δ_w        z_i = u_i/w_i

Nobody waits and nobody answers, and yet Σu and Σw stay what they are, whatever the wires do: what
travels are running sums (``mass``). Without local steps all z become the mean of the first ones,
where plain one-way gossip drifts.

Letters: z params, w mass, τ local steps, Δ period. Memory: two float64 vectors for each peer
ever met: with random peers, of small swarms.

*Source*: Kempe, Dobra, Gehrke, FOCS 2003, uniform gossip; gradients as in SGP (arXiv 1811.10792).
*Differs from the source*: running sums in place of what is handed over; no common clock.
"""

from __future__ import annotations

from typing import Literal

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome
from gossipnode.algorithms.mass_holder import MassHolder, MassOptions
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs, option


class PushSumGossipOptions(MassOptions):
    """Push-sum at random: one-way gossip that preserves the mean."""

    default_graph = "random"
    facts = (
        Facts(
            "",
            "gossip one way, and yet the exact mean",
            "2, 1 in float64",
            "sum and mass are kept exactly",
            steady="none",
        ),
    )

    name: Literal["push_sum_gossip"] = "push_sum_gossip"
    period_s: float = option(
        1.0, "Time between two pushes (Δ).", unit="s", flag="--period-s", gt=0, le=86_400
    )
    jitter: float = option(
        0.1, "Largest deviation of the period, as a share of it.", ge=0.0, le=0.5
    )

    def needs(self) -> Needs:
        """Return that any graph that stays will do, and none; each node divides what it has."""
        return Needs(graph=False, rounds=False, weights="column")

    def round_s_max(self, training_s: float) -> float:
        """Return training and a period."""
        return training_s + 2.0 * self.period_s


class PushSumGossip(MassHolder):
    """Asynchronous stochastic gradient push."""

    Options = PushSumGossipOptions
    name = "push_sum_gossip"
    cumulative = True

    def __init__(self, options: PushSumGossipOptions, local_steps: int) -> None:
        self.hold(options, local_steps)
        self.period_s, self.jitter = options.period_s, options.jitter

    async def run(self, node: NodeInterface) -> None:
        """Train and hand out once a period; in the end hand over all, if there was more to do."""
        # A random phase: nodes started together must not push in step.
        due = node.time() + node.rng.uniform(0.0, self.period_s)
        while node.budget_left:
            await node.sleep(due - node.time())
            if node.stopping:
                break  # all goes to one that is there, not half of it to anybody
            await self.train(node)
            peer = node.sample_peer()
            if peer is not None:
                if self.mass.w >= self.mass_least and self.may_be_handed(node, peer):
                    await self.hand_out(node, {peer: 0.5})
                self.push(node, [peer])
            self.mass.rounds += 1
            await node.end_round()
            stretch = 1.0 + self.jitter * node.rng.uniform(-1.0, 1.0)
            due = max(due + self.period_s * stretch, node.time())
        if node.stopping and not 0 < node.rounds <= node.round:
            drawn, heard = node.sample_peer(), [j for j in self.mass.seen if node.knows(j)]
            await self.leave(node, heard if drawn is None else [drawn, *heard])

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take what the sums have grown by, unless this node has left."""
        self.check_presence()
        if not node.knows(arrival.sender):  # whom nobody can find again must leave no vector here
            raise PeerError("not_a_neighbour", "the sender is no peer, and there is no room for it")
        took = await self.take(node, [arrival])
        return Answer(Outcome.MERGED if took else Outcome.DUPLICATE)
