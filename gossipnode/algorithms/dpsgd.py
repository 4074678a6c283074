"""D-PSGD: local steps, then the weighted mean with the neighbours, round by round.

Round k on node i, adapt-then-combine (``atc``)::

    x_i^{k+½} = x_i^k − η Σ_{s<τ} g_i        train
    x_i^{k+1} = Σ_j w_ij x_j^{k+½}           send the half-step, mix

combine-then-adapt (``cta``) sends before it trains, so that the two overlap::

    x_i^{k+1} = Σ_j w_ij x_j^k − η Σ_{s<τ} g_i(x_i^k)

A model that comes after its round is merged with weight w_ij·s(δ), δ rounds behind, or dropped.

Letters: x params, W mixing matrix (doubly stochastic), τ local steps, s staleness function.

*Source*: Lian et al., NeurIPS 2017 (arXiv 1705.09056), and Sayed 2014 for ``atc``.
*Differs from the source*: deadline, late models, skipping ahead after a long absence: ``lockstep``.
"""

from __future__ import annotations

import asyncio

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Outcome, Vector
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.algorithms.staleness import staleness_function
from gossipnode.config import DpsgdOptions


class DPSGD(Lockstep):
    """Synchronous decentralized parallel SGD, both forms."""

    name = "dpsgd"

    def __init__(self, options: DpsgdOptions, local_steps: int) -> None:
        super().__init__(options.deadline_s, options.start_deadline_s)
        self.tau = local_steps
        self.merge_late = options.late == "merge"
        self.s = staleness_function(options.staleness, options.staleness_a, options.staleness_b)
        self.form = self.adapt_then_combine if options.form == "atc" else self.combine_then_adapt

    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k`` in the form that was chosen."""
        await self.form(node, k)

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
