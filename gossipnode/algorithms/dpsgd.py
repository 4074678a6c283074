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

With a codec C, the same in a round for all nodes, each form mixes what C leaves of the models, and
what it leaves out stays where it is; here x is what the node adds it to::

    x_i ← x_i + Σ_j w_ij (C(x_j) − C(x_i))

Where W is doubly stochastic that leaves Σ_i x_i as it is, whatever C is. ``randomk`` takes the
coordinates that swarm and round draw, so this is D-PSGD on those and nothing on the others: models
that stand still come to agree entirely, but in 1/fraction times as many rounds, and those that
learn are further apart. ``float16`` and ``bfloat16`` round: the last digits, past 11 or 8 bits,
never mix, and models that stand still come to differ by as much. Any other codec is none for
models: they would never agree.

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

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Sent, Vector
from gossipnode.algorithms.coded_models import (
    ROUNDING,
    SAMPLE,
    check_sample,
    coded_model,
    is_sample,
    merged_sample,
    put_back,
)
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

    codecs = ROUNDING | {SAMPLE}

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
    coded = frozenset({"x"})

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
        said, own = await self.coded_at(node, k, half)
        self.send(node, k, {"x": said})
        await self.mix(node, k, half, own)

    async def combine_then_adapt(self, node: NodeInterface, k: int) -> None:
        """Send, then train and mix at the same time: both changes start from the same x."""
        x = node.params
        said, own = await self.coded_at(node, k, x)
        self.send(node, k, {"x": said})
        async with asyncio.TaskGroup() as both:
            both.create_task(node.train(self.tau))
            both.create_task(self.mix(node, k, x, own))

    async def combine_with_the_last(self, node: NodeInterface, k: int) -> None:
        """Send the last half-step, train, mix: what the neighbours send travels meanwhile."""
        said, _ = await self.coded_at(node, k, node.params if self.half is None else self.half)
        self.send(node, k, {"x": said})
        await node.train(self.tau)
        self.half = node.params
        _, own = await self.coded_at(node, k, self.half)
        await self.mix(node, k, self.half, own)

    async def coded_at(self, node: NodeInterface, k: int, x: Vector) -> tuple[Sent, Vector]:
        """Return x as it is sent in round k, and C(x), which is what all make of that."""
        if node.codec is None:
            return x, x
        return await coded_model(node, x, node.shared_seed(k))

    async def mix(self, node: NodeInterface, k: int, x: Vector, own: Vector) -> None:
        """Apply the change from x to x + Σ_j w_ij C(x_j) − C(x), ``own`` being C(x)."""
        mixed = (await self.combine(node, k, {"x": own}))["x"]
        if mixed is own:
            return
        if own is not x:
            await node.compute(put_back, mixed, own, x)
        await node.commit(after=mixed, before=x)

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take a model, or those of its coordinates that are this round's."""
        if arrival.codings or node.codec is not None:
            check_sample(node, arrival)
        return await super().receive(node, arrival)

    async def late(self, node: NodeInterface, arrival: Arrival, w: float, delta: int) -> Answer:
        """Merge with w_ij·s(δ), or drop."""
        if not self.merge_late:
            return await super().late(node, arrival, w, delta)
        theirs, weight, coding = arrival.parts["x"], w * self.s(delta), arrival.codings.get("x")
        if coding is None or not is_sample(coding):
            await node.merge(theirs, weight, arrival.age)
        else:
            before = node.params
            after = await node.compute(merged_sample, before, theirs, coding, weight)
            await node.commit(after, before, age=arrival.age)
        node.count("late_merged")
        return Answer(Outcome.LATE)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the half-step that is to be sent."""
        return ({} if self.half is None else {"half": self.half}), super().state()[1]

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the half-step of an earlier life; the other forms have no use for it."""
        super().restore(arrays, facts)
        self.half = arrays.get("half") if self.form == "stale" else None
