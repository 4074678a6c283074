"""PowerSGD: synchronous SGD whose all-reduces are of thin factors, with error feedback.

Round k on node i, for each matrix m × n of the model; x, and Q of shape n × r, are to the bit the
same on all nodes::

    Δ_i ← what τ local steps make of x, less x
    M_i ← Δ_i + e_i
    P ← (1/N) Σ_j M_j Q              first all-reduce
    P ← orthonormalised(P)
    Q ← (1/N) Σ_j M_jᵀ P             second all-reduce; the next round's Q
    x ← x + P Qᵀ
    e_i ← M_i − P Pᵀ M_i

A tensor is a matrix of its first extent and the product of the others, where r(m + n) < ½mn; what
is in no such matrix goes as it is along with P, and leaves no error.

x stays the same on all nodes since all add the same: P is orthonormalised, and PQᵀ multiplied, in
one order on every machine. It must, for no such round brings models together that differ. So each
node tells with P a *mark* of its x and Q; where the mean of them is not its own, as after a loss at
the very end of an all-reduce or when a node comes back, the round is *whole*, as one of P-SGD: all
take the mean of x + Δ_j, by all to all, with e_i = 0 and a Q that is drawn anew. No node need know
whose is wrong. Whole, too, is a round in which others take part than in the last, or than there
were at P: e_i has also what nodes differ by, which cancels in the mean of all and in no other.

Letters: x params, τ local steps, r rank, N nodes, e_i error, 0 at first. What happens where
somebody is missing: ``all_reduce``. Memory: three models more while a round is computed, one (e_i)
between rounds.

*Source*: Vogels, Karimireddy, Jaggi, NeurIPS 2019, algorithms 1 and 2.
*Differs from the source*: local steps; e_i is what P leaves out of this node's own M_i. Its mean is
the same, but what nodes differ by where their data do, and P holds, is not added up in e_i for
ever. Momentum is the node's own and before compression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gossipnode.algorithms.all_reduce import RING_MAX, AllReduce, Mean
from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.lockstep import Lockstep, LockstepOptions
from gossipnode.algorithms.mailbox import Mailbox
from gossipnode.algorithms.thin_factors import (
    bases_of,
    error_left,
    first_q,
    left_factors,
    mark_of,
    moved,
    owed,
    right_factors,
)
from gossipnode.codecs.base import Tensor
from gossipnode.codecs.matrices import Split, sizes, split
from gossipnode.options import Facts, Needs, option

# The phases of the three: P up to its end, then Q up to its, and the whole models last, so that who
# is there is known to be past the others.
P_END, Q_END, WHOLE = 126, 254, 255
# Messages that wait for one peer: see ``all_reduce.ROOM``; three all-reduces have more.
ROOM = {"ring": RING_MAX, "naive": 4, "server": 5}

LOSS = "repeated by all to all, then models are averaged"


class PowerSGDOptions(LockstepOptions):
    """PowerSGD: the exact mean of all nodes' thin factors each round, with error feedback."""

    facts = (
        Facts("ring", "all-reduce of low rank, even load", "2r(m+n)/mn", LOSS, steady="little"),
        Facts(
            "naive",
            "the same in two steps, n(n−1) messages each",
            "(n−1)r(m+n)/mn",
            LOSS,
            steady="little",
        ),
        Facts(
            "server",
            "the same through one node",
            "as ring; n−1 times at the hub",
            LOSS,
            steady="little",
        ),
    )

    name: Literal["powersgd"] = "powersgd"
    form: Literal["ring", "naive", "server"] = option(
        "ring",
        "ring: along the peer list, each message 1/n of the factors; at most 64 nodes. naive: "
        "everybody sends to everybody. server: through `hub`. The graph is not used.",
        flag="--form",
    )
    rank: int = option(
        2,
        "r: columns of the factors. More: more bytes, less error.",
        unit="columns",
        flag="--rank",
        ge=1,
        le=1024,
    )
    hub: str = option("", "server: the node that adds up. Empty: the first of the peer list.")

    def needs(self) -> Needs:
        """Return that a peer list is needed, and no W."""
        return Needs(ignores_graph=True)

    def round_s_max(self, training_s: float) -> float:
        """Return training and the waits of two all-reduces, one of which may be the first."""
        return super().round_s_max(training_s) + 5 * self.deadline_s

    def unsound(self, codec: str) -> str:
        """Tell that this is a way to make differences smaller itself."""
        del codec
        return (
            "it has its own, by low rank, whose factors all nodes add up; leave [codec] out and "
            "set algorithm.rank, or choose federated for a codec"
        )


class PowerSGD(Lockstep):
    """Synchronous SGD by exact averaging of low-rank factors."""

    Options = PowerSGDOptions
    name = "powersgd"
    roles = frozenset({"sum"})
    pieces = frozenset({"range"})
    talks_to_all = True

    def __init__(self, options: PowerSGDOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau, self.rank, self.room = local_steps, options.rank, ROOM[options.form]
        self.mailbox = Mailbox(options, room=4)
        box, form, hub = self.mailbox, options.form, options.hub
        self.left = AllReduce(options, form, hub, everybody=P_END, mailbox=box)
        self.whole = AllReduce(options, "naive", first=WHOLE, everybody=WHOLE, mailbox=box)
        self.right = AllReduce(options, form, hub, first=P_END + 1, everybody=Q_END, mailbox=box)
        self.split: Split | None = None
        self.Q: Vector | None = None  # the factors one after the other; None: drawn
        self.e: Vector | None = None  # None: zero
        self.count: int | None = None  # how many took part in the last round

    def parted(self, tensors: Sequence[Tensor]) -> Split:
        """Return which tensors are matrices here, and tell the all-reduces what that makes."""
        if self.split is None:
            self.split = split(tensors, self.rank)
            left, self.right.size = sizes(self.split.matrices)
            self.left.size = self.split.plain_size + left
            # The two stand for one of a model. Counted is it with the second: a round that is
            # whole has no such, and saves nothing.
            self.right.stands_for = sum([tensor.size for tensor in tensors]) - self.left.size
        return self.split

    def size_fits(self, role: str, size: int, tensors: Sequence[Tensor]) -> bool:
        """Whether these may be factors P with what is in no matrix, or factors Q."""
        del role
        self.parted(tensors)
        return size in (self.left.size, self.right.size)

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, and take the mean of what the factors hold."""
        parted, x = self.parted(node.tensors), node.params
        half = await node.trained(x, self.tau)
        M = await node.compute(owed, half, x, self.e)
        Q = first_q(parted.matrices, x) if self.Q is None else self.Q
        first = await node.compute(left_factors, M, Q, x, parted)
        mark = await node.compute(mark_of, x, Q)
        P = await self.left.mean(node, k, first, {"mark": mark})
        self.alone = P.count == 1
        if P.numbers["mark"] != mark or P.count != (self.count or P.count):
            await self.meet(node, k, x, half)
            return
        bases = await node.compute(bases_of, P.vector, parted)
        own = await node.compute(right_factors, M, bases, x, parted)
        Q_mean = await self.right.mean(node, k, own) if own.size else Mean(own, P.count)
        if Q_mean.count != P.count:
            await self.meet(node, k, x, half)
            return
        self.count, self.Q = P.count, Q_mean.vector
        plain = P.vector[: parted.plain_size]
        after = await node.compute(moved, x, plain, bases, self.Q, parted)
        self.e = await node.compute(error_left, M, bases, own, parted) if own.size else None
        await node.commit(after=after, before=x, steps=self.tau)

    async def meet(self, node: NodeInterface, k: int, x: Vector, half: Vector) -> None:
        """Be a whole round: take the mean of x + Δ, and begin anew from there."""
        node.count("restarts")
        mean = await self.whole.mean(node, k, half)
        self.Q, self.e, self.count = None, None, mean.count
        self.alone = mean.count == 1
        await node.commit(after=mean.vector, before=x, steps=self.tau)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Hand the all-reduce of its phase what came."""
        self.parted(node.tensors)
        phase = arrival.phase
        reduce = self.left if phase <= P_END else self.right if phase <= Q_END else self.whole
        if phase == P_END and self.left.formed == arrival.round:
            # The sender waits for our P, and we, who have all of P already, for its Q.
            self.right.give_up(arrival.round)
        return reduce.receive(node, arrival)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Look whether anybody is left to wait for."""
        self.note_leader(node, peer)
        self.mailbox.recheck(node)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return Q and e."""
        arrays, facts = super().state()
        own = {"Q": self.Q, "e": self.e}
        arrays |= {name: array for name, array in own.items() if array is not None}
        return arrays, {**facts, "rank": self.rank, "count": self.count}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the Q and e of an earlier life; of another rank, with e alone."""
        super().restore(arrays, facts)
        self.e, self.count = arrays.get("e"), facts.get("count")
        self.Q = arrays.get("Q") if facts.get("rank") == self.rank else None
