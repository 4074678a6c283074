"""Gossip-PGA: D-PSGD with an exact mean of all nodes every H-th round.

Round k on node i::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i(x_i)
    x_i^{k+1} = Σ_j w_ij x_j^{k+½}           as a rule
    x_i^{k+1} = (1/n) Σ_j x_j^{k+½}          where k + 1 is a multiple of H         pga
                                             H rounds after the last time           aga

With H = 1 this is P-SGD, with H = ∞ D-PSGD. ``aga`` adapts H to the loss F, seldom where it is
large, often where it is small, after ``warm_up`` means with the first H::

    H ← ⌈H_init · F_init / F⌉,  1 ≤ H ≤ H_max

F is a running mean of each node's training loss, F_init its value at the end of the warm-up; both
go along with the all-reduce, so that all nodes compute H from the same numbers: the means over
those that know a loss. If they still
disagree, as after a restart, the first to take a mean takes the others along: whoever gets a
message of an all-reduce of round k ≥ its own takes part in it.

Letters: x params, W mixing matrix (doubly stochastic), τ local steps, H period, F loss.

*Source*: Chen et al., ICML 2021 (Gossip-PGA and Gossip-AGA).
*Differs from the source*: F_init is one number of the whole swarm, and H has an upper limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from gossipnode.algorithms.all_reduce import ROOM, AllReduce, Mean
from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.dpsgd import DPSGD, DpsgdOptions
from gossipnode.algorithms.lockstep_options import LockstepOptions
from gossipnode.algorithms.staleness import MergeOptions, no_ages
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs, option

# Share of the running loss that one round replaces.
NEWS = 0.1
# Of what one tells, were it larger, the swarm's sums would never be finite again.
LOSS_MAX = 1e100


class GossipPgaOptions(LockstepOptions, MergeOptions):
    """Gossip-PGA: D-PSGD, and an exact mean now and then."""

    facts = (
        Facts(
            "pga",
            "less bias on sparse graphs",
            "1, and 2 every H rounds",
            "the mean drifts",
            steady="like dpsgd",
        ),
        Facts(
            "aga",
            "the same, oftener as the loss falls",
            "1, and 2 now and then",
            "the mean drifts",
            steady="like dpsgd",
        ),
    )

    name: Literal["gossip_pga"] = "gossip_pga"
    form: Literal["pga", "aga"] = option(
        "pga", "pga: a mean every H rounds. aga: H follows the loss.", flag="--form"
    )
    every: int = option(
        16, "H (aga: the first H): rounds from mean to mean; 0: never.", unit="rounds", ge=0
    )
    every_max: int = option(256, "aga: the largest H.", unit="rounds", ge=1)
    warm_up: int = option(4, "aga: means before H is adapted.", unit="means", ge=1)
    reduction: Literal["ring", "naive", "server"] = option(
        "ring", "How the mean is found: see allreduce."
    )
    hub: str = option("", "server: the node that adds up. Empty: the first of the peer list.")

    def needs(self) -> Needs:
        """Return that rows must add to one; columns too, if the mean is to be the data's."""
        return Needs(weights="row")

    @model_validator(mode="after")
    def _counts_rounds(self) -> GossipPgaOptions:
        no_ages(self, "gossip_pga")
        return self

    def round_s_max(self, training_s: float) -> float:
        """Return training and the waits of an all-reduce."""
        return super().round_s_max(training_s) + 2 * self.deadline_s


class GossipPGA(DPSGD):
    """D-PSGD (adapt, then combine) with periodic global averaging."""

    Options = GossipPgaOptions  # type: ignore[assignment]  # it is D-PSGD's but for the form
    name = "gossip_pga"
    roles = frozenset({"x", "sum"})
    bundles = (frozenset({"x"}), frozenset({"sum"}))
    pieces = frozenset({"range"})
    talks_to_all = True

    def __init__(self, options: GossipPgaOptions, local_steps: int) -> None:
        shared = options.model_dump(include={*LockstepOptions.model_fields} - {"name"})
        merging = options.model_dump(include={*MergeOptions.model_fields} - {"name"})
        super().__init__(DpsgdOptions(**shared, **merging), local_steps)
        self.reduce = AllReduce(options, options.reduction, options.hub)
        self.room = ROOM[options.reduction]
        self.adapts = options.form == "aga"
        self.H_init = self.H = options.every
        self.H_max, self.warm_up = options.every_max, options.warm_up
        self.F: float | None = None
        self.F_init: float | None = None
        self.means = 0
        self.due: int | None = None  # the round of the next mean; None: not yet known
        self.reduced = -1  # the round of the last one

    async def step(self, node: NodeInterface, k: int) -> None:
        """Train, then mix with the neighbours or, where that is due, with all."""
        await node.train(self.tau)
        self.note_loss(node)
        half = before = node.params
        if not self.is_due(k):
            self.send(node, k, {"x": half})
            before = await self.mix_unless_due(node, k, half)
        if self.is_due(k):  # maybe only since another node has begun
            mean = await self.reduce.mean(node, k, half, self.numbers())
            self.closed, self.alone, self.waited = k, mean.count == 1, mean.count > 1
            self.look_ahead(k, mean)
            await node.commit(after=mean.vector, before=before)

    async def mix_unless_due(self, node: NodeInterface, k: int, x: Vector) -> Vector:
        """Apply the change to Σ_j w_ij x_j, unless the mean of all is to be taken after all.

        Returns what the params are then: word of a mean may come while they change.
        """
        mixed = (await self.combine(node, k, {"x": x}))["x"]
        if mixed is x or self.is_due(k):
            return x
        await node.commit(after=mixed, before=x)
        return node.params

    def is_due(self, k: int) -> bool:
        """Whether round ``k`` ends with the mean of all."""
        if self.due is None or (self.due < k and not self.adapts):
            self.due = (k // self.H + 1) * self.H - 1 if self.H else -1
        return self.H > 0 and k >= self.due >= 0

    def look_ahead(self, k: int, mean: Mean) -> None:
        """Set H and the round of the next mean from what all nodes know alike."""
        self.means, self.reduced = self.means + 1, k
        told = mean.numbers.get("told", 0.0)
        if self.adapts and told > 0:
            F, F_init = mean.numbers["loss"] / told, mean.numbers["first"] / told
            if is_loss(F) and is_loss(F_init):
                is_warm = self.means > self.warm_up
                self.F, self.F_init = F, F_init if is_warm else F
                if is_warm:
                    self.H = next_period(self.H_init, self.F_init, self.F, self.H_max)
        self.due = k + self.H

    def note_loss(self, node: NodeInterface) -> None:
        """Let the running loss follow that of the last local steps, where that is a number."""
        if node.loss is not None and is_loss(node.loss):
            self.F = node.loss if self.F is None else self.F + NEWS * (node.loss - self.F)

    def numbers(self) -> dict[str, float]:
        """Return what goes along with the vector: F and F_init, and whether they are known."""
        if not self.adapts:
            return {}
        if self.F is None or not is_loss(self.F):
            return {"loss": 0.0, "first": 0.0, "told": 0.0}
        return {
            "loss": self.F,
            "first": self.F if self.F_init is None else self.F_init,
            "told": 1.0,
        }

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Hand a neighbour's model to D-PSGD, the rest to the all-reduce; take part in both."""
        if "x" in arrival.parts:
            if arrival.index["kind"] != "all":
                raise PeerError("unsupported_message", "pieces are of sums: models come whole")
            return await super().receive(node, arrival)
        self.reduce.check(node, arrival)
        k = arrival.round
        if self.adapts and node.round <= k and k > self.reduced:
            # No mean is farther off than H_max, whatever one absurd message says.
            self.due = min(k, node.round + self.H_max if self.due is None else self.due)
            if self.mixing is not None and self.beat == k:
                self.mixing.complete.set()  # who takes a mean mixes with nobody
        return self.reduce.receive(node, arrival)

    def peer_changed(self, node: NodeInterface, peer: str) -> None:
        """Look whether anybody is left to wait for."""
        super().peer_changed(node, peer)
        self.reduce.mailbox.recheck(node)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return H and what it follows from."""
        arrays, facts = super().state()
        own = {"H": self.H, "F": self.F, "F_init": self.F_init}
        return arrays, {**facts, **own, "means": self.means, "due": self.due}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the H of an earlier life, if that adapted it, too."""
        super().restore(arrays, facts)
        if self.adapts:
            self.H, self.due = min(facts.get("H", self.H), self.H_max), facts.get("due")
            self.F, self.F_init = facts.get("F"), facts.get("F_init")
            self.means = facts.get("means", 0)


def is_loss(F: float) -> bool:
    """Whether F is a number that may be told: sums of larger ones could be told no more."""
    return abs(F) <= LOSS_MAX


def next_period(H_init: int, F_init: float, F: float, H_max: int) -> int:
    """Return ⌈H_init · F_init / F⌉, at least 1 and at most ``H_max``.

    >>> [next_period(4, 2.0, F, 64) for F in (2.0, 1.5, 0.5, 0.0)]
    [4, 6, 16, 64]
    """
    # Losses that no task has, as somebody may tell them, give no ratio.
    if H_init * F_init >= H_max * F or F < 0:
        return H_max
    if F_init <= 0:
        return 1
    return max(1, math.ceil(H_init * F_init / F))
