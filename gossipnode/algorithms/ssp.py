"""Bounded staleness: D-PSGD whose nodes may be a few rounds apart, and mix what they last heard.

Round k on node i, with c_j the round of the last model that came from neighbour j::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i                train, send
    wait until c_j ≥ k − S for all j
    x_i^{k+1} = w_ii x_i^{k+½} + Σ_j w_ij x_j^{c_j+½}

A node that is slow for a while holds up nobody, as long as it is at most S rounds behind. S = 0 is
D-PSGD with its barrier. The fixed point is D-PSGD's, whatever S is, since at rest all half-steps
stay as they are. A neighbour that was never heard of, or whose last model is too old, leaves w_ij
to w_ii; nobody is waited for beyond the deadline.

Letters: x params, W mixing matrix (doubly stochastic, symmetric, the same in every round), τ local
steps, S the staleness allowed. Memory: the last model of each neighbour, and one more of each that
is a round further than may be mixed yet.

Invariant: neighbours that wait for each other are at most S + 1 rounds apart, and what is mixed in
round k is of a round between k − S and k + S.

*Source*: Ho et al., NeurIPS 2013 (stale synchronous parallel), there with parameter servers.
*Differs from the source*: neighbours' models in place of a server's; deadline, skipping ahead after
a long absence: ``lockstep``.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.lockstep import Lockstep, LockstepOptions, OpenRound
from gossipnode.algorithms.vectors import narrowed
from gossipnode.errors import PeerError
from gossipnode.learning.params import add_scaled
from gossipnode.options import Facts, Needs, option


class SspOptions(LockstepOptions):
    """Bounded staleness: rounds on a graph whose nodes may be a few rounds apart."""

    facts = (
        Facts(
            "",
            "D-PSGD that a node may lag behind for a while",
            "1",
            "the last model serves",
            steady="like dpsgd",
            waits=False,
        ),
    )

    name: Literal["ssp"] = "ssp"
    staleness_max: int = option(
        2,
        "Rounds by which a neighbour may be behind without being waited for; 0 waits as dpsgd "
        "does. Costs a model of memory for each neighbour.",
        unit="rounds",
        flag="--staleness-max",
        ge=0,
        le=10_000,
    )

    def needs(self) -> Needs:
        """Return that W must be symmetric and stay, so that the lead has a bound."""
        return Needs(weights="doubly", symmetric=True, static=True)


class SSP(Lockstep):
    """D-PSGD with bounded staleness."""

    Options = SspOptions
    name = "ssp"

    def __init__(self, options: SspOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau, self.S = local_steps, options.staleness_max
        # By neighbour: the round and the last model that may be mixed, and one of a later round.
        self.last: dict[str, tuple[int, Vector]] = {}
        self.ahead: dict[str, tuple[int, Vector]] = {}
        self.orders: dict[str, tuple[int, int]] = {}

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, send, wait for those that are too far behind, mix what is there."""
        await node.train(self.tau)
        half = node.params
        self.send(node, k, {"x": half})
        self.beat = k
        now = self.open[k] = OpenRound()
        await self.wait_for_neighbours(node, now, k)
        del self.open[k]
        self.closed, self.beat = k, -1
        weights = node.row_at(k).weights
        fresh = {j: x for j in weights if (x := self.fresh(j, k)) is not None}
        node.count("missing_models", len(weights) - len(fresh))
        self.alone = not fresh and not any(node.is_expected(j) for j in weights)
        if not fresh:
            return
        mixed = np.zeros(half.shape, np.result_type(np.float32, half))
        for j, x in fresh.items():
            await node.compute(add_scaled, mixed, x, weights[j])
        kept = 1.0 - sum(weights[j] for j in fresh)
        await node.compute(add_scaled, mixed, half, kept)
        await node.commit(after=await node.compute(narrowed, mixed, half), before=half)

    def fresh(self, j: str, k: int) -> Vector | None:
        """Return the last model of ``j`` that may be mixed in round ``k``, if there is one."""
        if j in self.ahead and self.ahead[j][0] <= k + self.S:
            self.last[j] = self.ahead.pop(j)
        c, x = self.last.get(j, (-1, None))
        return x if c >= k - self.S else None

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep the model in place of the sender's last one."""
        j, k = arrival.sender, arrival.round
        if j not in node.row_at(k).weights:
            raise PeerError("not_a_neighbour", "the graph has no edge between us")
        if k > node.round + self.lead_max(node) and not self.has_passed(node, j, node.round):
            raise PeerError("busy", f"round {k} is early, this node is in {node.round}; come again")
        if arrival.order <= self.orders.get(j, (-1, -1)):
            node.count("late_dropped")
            return Answer(Outcome.DROPPED)
        self.orders[j] = arrival.order
        # A later life may begin in an earlier round: what it sends is the news all the same.
        self.heard[j] = k
        late = self.ahead.pop(j, None)
        if k <= node.round + self.S:
            self.last[j] = k, arrival.parts["x"]
        else:
            if late is not None and late[0] <= node.round + self.S:
                self.last[j] = late
            self.ahead[j] = k, arrival.parts["x"]
        self.recheck(node)
        return Answer(Outcome.BUFFERED)

    def may_come(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether ``j`` is too far behind to go on without it, and may yet be heard of."""
        return (
            self.heard.get(j, -1) < k - self.S
            and not self.has_passed(node, j, k)
            and node.is_expected(j)
        )

    def lead_max(self, node: NodeInterface) -> int:
        """Return by how many rounds a neighbour can be ahead."""
        return node.lead_max + self.S

    def has_passed(self, node: NodeInterface, j: str, k: int) -> bool:
        """Whether ``j`` is so far ahead of this node, in round ``k``, that it did not wait."""
        return node.went_on_without(j, k + self.S)
