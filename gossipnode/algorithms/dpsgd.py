"""D-PSGD: local steps, then the weighted mean with the neighbours, round by round.

Round k on node i, adapt-then-combine (``atc``)::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i        train
    x_i^{k+1} = Σ_j w_ij x_j^{k+½}           send the half-step, mix

combine-then-adapt (``cta``) sends before it trains, so that the two overlap::

    x_i^{k+1} = Σ_j w_ij x_j^k − η Σ_{s<τ} g_i(x_i^k)

``stale`` adapts, then combines with what the neighbours sent before, so that the two overlap::

    x_i^{k+1} = w_ii x_i^{k+½} + Σ_{j≠i} w_ij x_j^{k−½},    x_j^{−½} = x_j^0

It rests where ``atc`` does, since there all half-steps stay as they are. A model that comes after
its round is merged with weight w_ij·s(δ), δ rounds behind, or dropped.

*Epidemic learning* is ``atc`` on a graph that is drawn anew each round: EL-Oracle with
``topology.graph`` ``el_oracle``, EL-Local with ``el_local``; ``topology.sends`` is its s.

Letters: x params, W mixing matrix (doubly stochastic), τ local steps, s staleness function.
Memory: ``stale`` keeps its half-step from round to round, one vector.

*Source*: Lian et al., NeurIPS 2017 (arXiv 1705.09056), and Sayed 2014 for ``atc``; bounded
staleness of one round (Ho et al., NeurIPS 2013) for ``stale``; De Vos et al., NeurIPS 2023
(epidemic learning).
*Differs from the source*: deadline, late models, skipping ahead after a long absence: ``lockstep``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import model_validator

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.lockstep import Lockstep, SharingOptions
from gossipnode.algorithms.staleness import MergeOptions, no_ages, staleness_function
from gossipnode.options import Facts, Needs, option


class DpsgdOptions(SharingOptions, MergeOptions):
    """D-PSGD: synchronous rounds on a graph."""

    facts = (
        Facts(
            "atc",
            "the plain method: local steps, then the neighbourhood's mean; on a graph drawn anew "
            "each round (`el_oracle`, `el_local`) epidemic learning",
            "1",
            "the mean drifts",
            steady="2 times its own",
        ),
        Facts(
            "cta",
            "the same with communication beside the gradient",
            "1",
            "the mean drifts",
            steady="like dpsgd",
        ),
        Facts(
            "stale",
            "communication beside the steps, as little bias as atc",
            "1",
            "the mean drifts",
            steady="like dpsgd",
        ),
    )

    name: Literal["dpsgd"] = "dpsgd"
    form: Literal["atc", "cta", "stale"] = option(
        "atc",
        "atc: adapt, then combine (send the half-step). cta: combine, then adapt (send before "
        "training; communication overlaps the gradient, but it tolerates smaller steps only). "
        "stale: adapt, then combine with the neighbours' half-steps of the round before; it "
        "overlaps as cta does, and comes to rest where atc does.",
        flag="--form",
    )
    late: Literal["merge", "drop"] = option(
        "merge",
        "A model that comes after its round: merge it (its mixing weight times the staleness "
        "weight) or drop it. Both are counted.",
        flag="--late",
    )

    def needs(self) -> Needs:
        """Return that rows must add to one; columns too, if the mean is to be the data's.

        Means of the swarm are of no use else.
        """
        return Needs(weights="doubly" if self.swarm_metrics else "row")

    @model_validator(mode="after")
    def _counts_rounds(self) -> DpsgdOptions:
        no_ages(self, "dpsgd")
        return self


class DPSGD(Lockstep):
    """Synchronous decentralized parallel SGD, all forms."""

    Options = DpsgdOptions
    name = "dpsgd"

    def __init__(self, options: DpsgdOptions, local_steps: int) -> None:
        super().__init__(options)
        self.tau = local_steps
        self.merge_late = options.late == "merge"
        self.s = staleness_function(options.staleness, options.staleness_a, options.staleness_b)
        self.form = options.form
        self.do = {
            "atc": self.adapt_then_combine,
            "cta": self.combine_then_adapt,
            "stale": self.combine_with_the_last,
        }[self.form]
        self.half: Vector | None = None  # of stale: x^{k−½}

    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k`` in the form that was chosen."""
        await self.do(node, k)

    async def adapt_then_combine(self, node: NodeInterface, k: int) -> None:
        """Train, send the half-step, mix."""
        await node.train(self.tau)
        half = node.params
        self.send(node, k, {"x": half})
        await self.mix(node, k, half)

    async def combine_then_adapt(self, node: NodeInterface, k: int) -> None:
        """Send, then train and mix at the same time: both changes start from the same x."""
        x = node.params
        self.send(node, k, {"x": x})
        async with asyncio.TaskGroup() as both:
            both.create_task(node.train(self.tau))
            both.create_task(self.mix(node, k, x))

    async def combine_with_the_last(self, node: NodeInterface, k: int) -> None:
        """Send the last half-step, train, mix: what the neighbours send travels meanwhile."""
        self.send(node, k, {"x": node.params if self.half is None else self.half})
        await node.train(self.tau)
        self.half = node.params
        await self.mix(node, k, self.half)

    async def mix(self, node: NodeInterface, k: int, x: Vector) -> None:
        """Apply the change from x to Σ_j w_ij x_j."""
        mixed = await self.combine(node, k, {"x": x})
        if mixed["x"] is not x:
            await node.commit(after=mixed["x"], before=x)

    async def late(self, node: NodeInterface, arrival: Arrival, w: float, delta: int) -> Answer:
        """Merge with w_ij·s(δ), or drop."""
        if not self.merge_late:
            return await super().late(node, arrival, w, delta)
        await node.merge(arrival.parts["x"], w * self.s(delta), arrival.age)
        node.count("late_merged")
        return Answer(Outcome.LATE)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the half-step that is to be sent."""
        return ({} if self.half is None else {"half": self.half}), super().state()[1]

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the half-step of an earlier life; the other forms have no use for it."""
        super().restore(arrays, facts)
        self.half = arrays.get("half") if self.form == "stale" else None
