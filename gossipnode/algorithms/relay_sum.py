"""RelaySum (RelaySGD): sums travel through a tree, so that every node's model counts alike.

Round k on node i, N_i its neighbours in a spanning tree of the graph::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i                                            train
    m_{i→j}^k = x_i^{k+½} + Σ_{l∈N_i, l≠j} m_{l→i}^{k−1}                         send to each j
    c_{i→j}^k = 1         + Σ_{l∈N_i, l≠j} c_{l→i}^{k−1}
    x_i^{k+1} = (Σ_j m_{j→i}^k + (n − Σ_j c_{j→i}^k)·x_i^{k+½})/n                average

A half-step moves on by an edge a round, and after as many rounds as the tree is wide, each average
is of one half-step of each node: x_i^{k+1} = (1/n) Σ_j x_j^{k−d_ij+1+½}, d_ij edges away (its own:
the present one). The weights are exactly uniform, so that uneven data leave no bias at rest.

For a message that is lost the neighbour's last one serves, sum and count, for up to n rounds: what
a sum is of may be as old in any case, and at rest it says the same. Later its share is left to the
node's own half-step, as is that of nodes not heard of yet.

Letters: x params, m relayed sum, c its count, n nodes, τ local steps. Memory: one sum of each tree
neighbour besides what is being sent; a hub of a star holds n.

*Source*: Vogels et al., NeurIPS 2021 (RelaySum, RelaySGD).
*Differs from the source*: the tree is the graph's, by breadth-first search from the first node;
deadlines, and skipping ahead after a long absence. For what is lost the source fills in a model of
the node's own, or divides by the count: with losses that go on, either pulls the mean about.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.mailbox_rounds import MailboxRounds
from gossipnode.algorithms.members import are_others, members_of
from gossipnode.algorithms.vectors import narrowed, widened
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs

# The scalar that tells of how many half-steps a sum is.
COUNT = "count"


class RelaySumOptions(LockstepOptions):
    """RelaySum: uniform averages over a spanning tree of the graph."""

    facts = (
        Facts(
            "",
            "no bias from uneven data, on a tree",
            "1",
            "the last sum serves",
            steady="more than dpsgd",
        ),
    )

    name: Literal["relay_sum"] = "relay_sum"

    def needs(self) -> Needs:
        """Return that the graph must go both ways and stay; it needs no W."""
        return Needs(symmetric=True, static=True)


class RelaySum(MailboxRounds):
    """SGD with RelaySum over a spanning tree."""

    Options = RelaySumOptions
    name = "relay_sum"
    roles = frozenset({"sum"})

    def __init__(self, options: RelaySumOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau = local_steps
        # What came last, by tree neighbour: sum, count and round.
        self.m: dict[str, Vector] = {}
        self.c: dict[str, int] = {}
        self.of: dict[str, int] = {}
        self.members = ""  # of whom the sums are

    def neighbours(self, node: NodeInterface) -> tuple[str, ...]:
        """Return the neighbours in the tree."""
        return node.tree_neighbours

    def resume(self, node: NodeInterface) -> None:
        """Forget what an earlier life had in another tree: its counts add up to too many here."""
        self.keep(() if are_others(self.members, node.ids) else self.neighbours(node))
        self.members = members_of(node.ids)

    def skipped(self, node: NodeInterface) -> None:
        """Forget what is too old by now."""
        self.keep_since(node.round - node.nodes)

    async def step(self, node: NodeInterface, k: int, neighbours: Sequence[str]) -> None:
        """Train, relay, and average what was relayed to here."""
        await node.train(self.tau)
        half = node.params
        sums = await node.compute(_relayed, half, [self.m.get(j) for j in neighbours])
        for j, m in zip(neighbours, sums, strict=True):
            c = 1 + sum(self.c[peer] for peer in self.c if peer != j)
            node.push([j], {"sum": m}, scalars={COUNT: c})
        came = await self.mailbox.take(node, (k, 0), neighbours)
        self.alone = not came
        for j, arrival in came.items():
            self.m[j], self.c[j], self.of[j] = arrival.parts["sum"], int(arrival.scalars[COUNT]), k
        self.keep_since(k - node.nodes)
        if self.m:
            own = max(node.nodes - sum(self.c.values()), 1)
            total = own + sum(self.c.values())
            after = await node.compute(_average, half, list(self.m.values()), own, total)
            await node.commit(after=after, before=half)

    def keep(self, neighbours: Collection[str]) -> None:
        """Forget the sums of all but ``neighbours``."""
        for j in self.m.keys() - set(neighbours):
            del self.m[j], self.c[j], self.of[j]

    def keep_since(self, k: int) -> None:
        """Forget the sums of rounds before ``k``."""
        self.keep([j for j in self.m if self.of[j] >= k])

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep a sum for its round."""
        if arrival.sender not in node.tree_neighbours:
            raise PeerError("not_a_neighbour", "the spanning tree has no edge between us")
        count = arrival.scalars.get(COUNT, 0)
        if arrival.phase or not 1 <= count < node.nodes or count != int(count):
            raise PeerError("unsupported_message", "a sum needs its count, from 1 to n - 1")
        return self.mailbox.put(node, arrival)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the sums that are to be relayed."""
        facts = {"c": dict(self.c), "of": dict(self.of), "members": self.members}
        return {f"m/{j}": m for j, m in self.m.items()}, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Relay what came in an earlier life."""
        self.of, self.members = dict(facts.get("of", {})), facts.get("members", "")
        self.c = {j: facts["c"][j] for j in self.of}
        self.m = {j: arrays[f"m/{j}"] for j in self.of}


def _relayed(half: Vector, sums: Sequence[Vector | None]) -> list[Vector]:
    """Return for each of ``sums`` half + Σ of the others; None stands for one that is missing."""
    found, before = [], widened(half)
    after = np.zeros_like(before)
    for m in sums:
        found.append(before.copy())
        if m is not None:
            before += m
    # Sums from both ends rather than one total less each: a hub's total would drown a leaf's.
    for out, m in zip(reversed(found), reversed(sums), strict=True):
        out += after
        if m is not None:
            after += m
    return [narrowed(out, half) for out in found]


def _average(half: Vector, sums: Sequence[Vector], own: int, total: int) -> Vector:
    """Return (Σ sums + own·half)/total."""
    found = widened(half)
    found *= own
    for m in sums:
        found += m
    found /= total
    return narrowed(found, half)
