"""A node that holds mass: it trains, hands out, takes in and leaves without any of it being lost.

What push-sum in rounds and push-sum at random have in common. Invariant: u and w change together,
under ``turn``, and a checkpoint never sees one without the other.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from gossipnode.algorithms.base import Algorithm, Arrival, NodeInterface, Vector
from gossipnode.algorithms.mass import (
    NOTHING,
    Mass,
    Sums,
    check_scalars,
    given,
    lifted,
    parts_of,
    scalars_of,
    sums_of,
    taken,
)
from gossipnode.errors import PeerError
from gossipnode.options import AlgorithmOptions, option


class MassOptions(AlgorithmOptions):
    """How mass begins, and when there is too little of it."""

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


class MassHolder(Algorithm):
    """The mass of one node, and what is done with it."""

    roles = frozenset({"u", "sum"})
    bundles = (frozenset({"u"}), frozenset({"u", "sum"}))
    keeps_first = True

    def hold(self, options: MassOptions, local_steps: int) -> None:
        """Begin with all the mass that a node has at the start, or with none."""
        self.tau = local_steps
        self.mass_least = options.mass_least
        self.mass = Mass(0.0 if options.joining else 1.0, joined=options.joining)
        self.tried: Counter[str] = Counter()  # hand-outs since a peer was last heard of
        self.left = False  # handed all over
        self.turn = asyncio.Lock()

    def begin(self, node: NodeInterface) -> None:
        """Note the life in which the sums begin."""
        self.mass.since = self.mass.since or node.epoch

    def patience(self, node: NodeInterface) -> int:
        """Return how many hand-outs after the first a peer's answer may take."""
        del node
        return 0

    async def train(self, node: NodeInterface) -> None:
        """Set u ← u − η Σ g(z), which is z ← z − η Σ g(z)/w with the w of when that is done."""
        if self.tau and self.mass.w < self.mass_least:
            node.count("rounds_without_mass")
        elif self.tau:
            before = node.params
            after = await node.trained(before, self.tau)
            async with self.turn:
                z = node.params
                stepped = await node.compute(lifted, z, before, after, self.mass.w)
                await node.commit(stepped, before=z, steps=self.tau)

    def may_be_handed(self, node: NodeInterface, j: str) -> bool:
        """Whether mass goes to ``j``: not to suspects, nor for long to one that tells nothing.

        That is as long as its answer may take, where both are in lockstep: until it is suspected a
        silent one could get most of the mass, and the steps of the others be many times as long.
        """
        return node.is_expected(j) and not self.is_silent(node, j)

    def is_silent(self, node: NodeInterface, j: str) -> bool:
        """Whether ``j`` is yet to be heard of, for longer than its answer may take."""
        return node.is_unknown(j) and self.tried[j] > self.patience(node)

    async def hand_out(self, node: NodeInterface, shares: Mapping[str, float]) -> None:
        """Set σ_j ← σ_j + p_ji·(u, w) for each j, and take the same from u and w."""
        if not shares:
            return
        mass = self.mass
        async with self.turn:
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

    async def take(self, node: NodeInterface, arrivals: Iterable[Arrival]) -> bool:
        """Add what the sums have grown by to u and w; False where that is nothing."""
        async with self.turn:
            return not self.left and await self._take(node, arrivals)

    async def take_waiting(self, node: NodeInterface, arrivals: Collection[Arrival]) -> None:
        """Take what has waited; what gives no finite params is left: its sender has gone on."""
        try:
            await self.take(node, arrivals)
        except PeerError:
            for arrival in arrivals:  # the others are not to blame
                try:
                    await self.take(node, [arrival])
                except PeerError:
                    node.count("waiting_refused")

    def check_presence(self) -> None:
        """Raise ``PeerError`` (draining) where this node has left: what it took would be lost."""
        if self.left:
            raise PeerError("draining", "this node has handed over what it had")

    async def _take(self, node: NodeInterface, arrivals: Iterable[Arrival]) -> bool:
        news: dict[str, tuple[Sums, Sums]] = {}
        newest = {a.sender: a for a in sorted(arrivals, key=lambda a: a.order)}
        for j, arrival in newest.items():
            check_scalars(arrival)
            sums = await node.compute(sums_of, arrival.parts["u"], arrival)
            found = self.mass.news(j, sums, self.patience(node))
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

    async def leave(self, node: NodeInterface, peers: Iterable[str]) -> None:
        """Hand all to one of ``peers``; the node ends when that is acknowledged, or time is up."""
        heirs = [j for j in peers if node.is_expected(j) and not node.is_unknown(j)]
        if heirs and self.mass.w > 0.0:
            self.left = True
            await self.hand_out(node, {heirs[0]: 1.0})
            self.push(node, heirs[:1])

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the mass and the sums of all edges."""
        arrays, facts = self.mass.state()
        return arrays, {**super().state()[1], **facts}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the mass and the sums of an earlier life."""
        super().restore(arrays, facts)
        self.mass = Mass.restored(arrays, facts)
