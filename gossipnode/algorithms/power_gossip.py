"""PowerGossip: along each edge the difference of two models, by its largest directions.

Round k on node i, with each neighbour j, for every matrix X of the params; i < j by their ids::

    X_i ← X_i − η Σ_{s<τ} g_i                      train
    send X_i·V,  receive X_j·V                     even exchanges; odd ones send Xᵀ·V
    p = X_j·V − X_i·V = (X_j − X_i)·V              the same at both ends
    X_i ← X_i + w_ij·p·Vᵀ,   X_j ← X_j − w_ij·p·Vᵀ
    V ← orthonormalised(p)                         for the other side, next

V has r orthonormal columns that both ends know: two exchanges are a step of power iteration on
X_j − X_i. p·Vᵀ is a projection of that, so there is neither γ to tune nor a copy of a neighbour's
model to keep. Vectors, and matrices with r(m + n) ≥ ½mn, are sent whole; where all are, this is
D-PSGD. What i adds j takes away: Σ_i X_i stays what it is.

Both ends must have the same V. Each message tells a digest of it and of the exchange's number, and
the digest before. A message that one end alone gets is added there and not at the other (neither
can know in time: the two generals). The next message of the other still has the old digest: then
the term is taken back, both ends are where they were, and the sum is what it was. Other digests
(a life that went back to a checkpoint) are of ends that have lost each other: nothing is exchanged,
and in the next round both begin with a V that the ids and the round draw. Only what such a life
had exchanged since its checkpoint, and what nobody took back before the end, changes the sum.

Letters: X params, W mixing matrix (symmetric, doubly stochastic), V basis, p projected difference,
r rank, τ local steps. Memory: three or four factors an edge, r·m or r·n numbers each.

*Source*: Vogels, Karimireddy and Jaggi, NeurIPS 2020 (PowerGossip).
*Differs from the source*: r directions at once in place of several exchanges of one direction a
round; digests and what is taken back; deadlines, and skipping ahead after a long absence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.low_rank_edge import (
    Edge,
    Term,
    applied,
    basis_dtype,
    begun,
    exchanged,
    message_sizes,
    packed,
    projected,
    unpacked,
)
from gossipnode.algorithms.mailbox_rounds import MailboxRounds
from gossipnode.codecs.base import Tensor
from gossipnode.codecs.matrices import Split, split
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs, option

# The scalars that tell which V a message is made with, and which was before the last exchange.
DIGEST, BEFORE = "digest", "before"


class PowerGossipOptions(LockstepOptions):
    """PowerGossip: low-rank differences along the edges."""

    facts = (
        Facts(
            "",
            "little to send: a few directions of each edge's difference, and no γ",
            "r/m or r/n of each matrix",
            "taken back next round",
            steady="like dpsgd",
        ),
    )

    name: Literal["power_gossip"] = "power_gossip"
    rank: int = option(
        2,
        "Directions of each difference that a round sends (r): r rows or r columns of a matrix. "
        "Matrices too small for that are sent whole.",
        unit="columns",
        flag="--rank",
        ge=1,
        le=1024,
    )

    def needs(self) -> Needs:
        """Return that what one end adds the other takes away, with the same weight."""
        return Needs(weights="doubly", symmetric=True, static=True)


class PowerGossip(MailboxRounds):
    """SGD with PowerGossip on a graph that stays."""

    Options = PowerGossipOptions
    name = "power_gossip"
    roles = frozenset({"p"})

    def __init__(self, options: PowerGossipOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau, self.rank = local_steps, options.rank
        self.edges: dict[str, Edge] = {}  # by neighbour
        self._kept: tuple[Mapping[str, Vector], Mapping[str, Any]] | None = None
        self._split: tuple[Sequence[Tensor], Split] | None = None

    def resume(self, node: NodeInterface) -> None:
        """Take up the edges of an earlier life, where their bases have as many directions."""
        if self._kept is not None and self._kept[1].get("rank") == self.rank:
            parted = self.split(node.tensors)
            self.edges = unpacked(*self._kept, parted, basis_dtype(node.params.dtype))
        self._kept = None

    async def step(self, node: NodeInterface, k: int, neighbours: Sequence[str]) -> None:
        """Train, send each neighbour its projection, and add what both then know."""
        parted = self.split(node.tensors)
        await node.train(self.tau)
        half, dtype = node.params, basis_dtype(node.params.dtype)
        E = {j: self.edges.get(j) or begun(parted, node.id, j, k, dtype) for j in neighbours}
        sent = dict(
            zip(E, await node.compute(projected, half, parted, list(E.values())), strict=True)
        )
        for j, edge in E.items():
            before = {} if edge.before is None else {BEFORE: edge.before}
            scalars, saved = {DIGEST: edge.digest, **before}, half.nbytes - sent[j].nbytes
            node.push([j], {"p": sent[j]}, scalars=scalars, version=edge.t, saved=saved)
        came = await self.mailbox.take(node, (k, 0), neighbours)
        self.alone = not came
        terms: list[tuple[float, Term]] = []
        for j, arrival in came.items():
            # What j takes away if i < j, i takes away if j < i.
            w = node.row.weights[j] * (1.0 if node.id < j else -1.0)
            E[j], found = await self.meet(node, E[j], sent[j], arrival, parted)
            terms += [(w * share, term) for share, term in found]
        if terms:
            after = await node.compute(applied, half, parted, terms)
            await node.commit(after=after, before=half)
        self.edges = E

    async def meet(
        self, node: NodeInterface, edge: Edge, sent: Vector, arrival: Arrival, parted: Split
    ) -> tuple[Edge, list[tuple[float, Term]]]:
        """Return the edge after a neighbour's message, and what is to be added of which term."""
        theirs, digest = arrival.parts["p"], arrival.scalars[DIGEST]
        if digest == edge.digest and theirs.size == sent.size:
            lo, hi = (sent, theirs) if node.id < arrival.sender else (theirs, sent)
            after = await node.compute(exchanged, lo, hi, edge, parted)
            if after is None or after.last is None:  # out of range, for both ends alike
                return edge, []
            return after, [(1.0, after.last)]
        if edge.last is not None and digest == edge.before:
            # The last exchange was ours alone.
            node.count("taken_back")
            return edge.taken_back(), [(-1.0, edge.last)]
        if arrival.scalars.get(BEFORE) == edge.digest:
            return edge, []  # the last exchange was theirs alone: they take it back
        node.count("resyncs")
        dtype = basis_dtype(sent.dtype)
        return begun(parted, node.id, arrival.sender, arrival.round + 1, dtype), []

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Keep a projection for its round."""
        if arrival.sender not in node.row.weights:
            raise PeerError("not_a_neighbour", "the graph has no edge between us")
        if arrival.phase or DIGEST not in arrival.scalars:
            raise PeerError("unsupported_message", "a projection needs the digest of its basis")
        size = arrival.parts["p"].size
        if not self.size_fits("p", size, node.tensors):
            raise PeerError("wrong_schema", f"{size} numbers are no projection with this rank")
        return self.mailbox.put(node, arrival)

    def size_fits(self, role: str, size: int, tensors: Sequence[Tensor]) -> bool:
        """Whether a projection has ``size`` numbers, from one side or the other."""
        del role
        return size in message_sizes(self.split(tensors))

    def split(self, tensors: Sequence[Tensor]) -> Split:
        """Return which tensors are sent projected."""
        if self._split is None or self._split[0] is not tensors:
            self._split = tensors, split(tensors, self.rank)
        return self._split[1]

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what both ends of each edge know."""
        if self._kept is not None:
            return dict(self._kept[0]), dict(self._kept[1])
        arrays, facts = packed(self.edges)
        return arrays, {"rank": self.rank, **facts}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up the edges of an earlier life, when the layout is known."""
        self._kept = arrays, facts
