"""P-SGD: local steps, then the exact mean of all nodes, round by round, without a server.

Round k on node i::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i        train
    x_i^{k+1} = (1/n) Σ_j x_j^{k+½}          all-reduce

What D-PSGD is compared with: the same on a complete graph with W = J, to the bit the same on every
node. The graph is not used, but its neighbours tell who has gone on without a node.

Letters: x params, τ local steps. How the mean is found, and what happens where somebody is missing:
``all_reduce``.

*Source*: Zinkevich et al., NIPS 2010; Dekel et al., JMLR 13, 2012.
"""

from __future__ import annotations

from typing import Literal

from gossipnode.algorithms.all_reduce import ROOM, AllReduce
from gossipnode.algorithms.base import Answer, Arrival, NodeInterface
from gossipnode.algorithms.lockstep import Lockstep, LockstepOptions
from gossipnode.options import Facts, Needs, option


class AllReduceOptions(LockstepOptions):
    """P-SGD by all-reduce: the exact mean of all nodes each round."""

    facts = (
        Facts(
            "ring",
            "exact mean, even load; slow where n is large",
            "2",
            "repeated by all to all",
            steady="little",
        ),
        Facts(
            "naive",
            "exact mean in one step, n(n−1) messages",
            "n−1 in all",
            "means differ for a round",
            steady="little",
        ),
        Facts(
            "server",
            "exact mean through one node",
            "n−1 at the hub",
            "repeated by all to all",
            steady="little",
        ),
    )

    name: Literal["allreduce"] = "allreduce"
    form: Literal["ring", "naive", "server"] = option(
        "ring",
        "ring: 2(n-1) steps along the peer list, each of 1/n of the model; at most 128 nodes. "
        "naive: everybody sends to everybody. server: through `hub`. The graph is not used.",
        flag="--form",
    )
    hub: str = option("", "server: the node that adds up. Empty: the first of the peer list.")

    def needs(self) -> Needs:
        """Return that a peer list is needed, and no W."""
        return Needs(ignores_graph=True)

    def unsound(self, codec: str) -> str:
        """Tell that sums of what was left out are no mean."""
        del codec
        return (
            "its nodes add up chunks of whole models, which each hop would change once more; "
            "choose powersgd, whose factors can be added up, or federated for any codec"
        )

    def round_s_max(self, training_s: float) -> float:
        """Return training and three waits: the first, the rest, and everybody's."""
        return super().round_s_max(training_s) + 2 * self.deadline_s


class AllReduceSGD(Lockstep):
    """Synchronous SGD by exact averaging."""

    Options = AllReduceOptions
    name = "allreduce"
    roles = frozenset({"sum"})
    pieces = frozenset({"range"})
    talks_to_all = True

    def __init__(self, options: AllReduceOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau = local_steps
        self.reduce = AllReduce(options, options.form, options.hub)
        self.room = ROOM[options.form]

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, and take the mean."""
        await node.train(self.tau)
        half = node.params
        mean = await self.reduce.mean(node, k, half)
        self.alone = mean.count == 1
        await node.commit(after=mean.vector, before=half)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Hand the all-reduce what came."""
        return self.reduce.receive(node, arrival)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Look whether anybody is left to wait for."""
        self.note_leader(node, peer)
        self.reduce.mailbox.recheck(node)
