"""Gradient tracking: x follows y, and y follows the mean of all nodes' gradients.

Round k on node i, y_i^0 = g_i(x_i^0)::

    x_i^{k+1} = Σ_j w_ij (x_j^k − η y_j^k)                              dsgt, atc_gt
    x_i^{k+1} = Σ_j w_ij x_j^k − η y_i^k                                diging
    y_i^{k+1} = Σ_j w_ij y_j^k + g_i(x_i^{k+1}) − g_i(x_i^k)            dsgt, diging
    y_i^{k+1} = Σ_j w_ij (y_j^k + g_j(x_j^{k+1}) − g_j(x_j^k))          atc_gt

The mean of y is the mean of g in every round, so that with a constant step the nodes come to rest
at the optimum however uneven their data. One lost y would break that for ever, hence restarts:
y ← g on all nodes in the same round. ``atc_gt`` mixes y after the new gradient, so a round has two
phases, each with a barrier and one vector; the others send both at once.

Letters: x params, y tracker, g gradient on the node's next batch, W mixing matrix (doubly
stochastic), η step size. Memory: y and the last g besides x. Two vectors a round.

*Source*: Nedić, Olshevsky, Shi 2017 (DIGing); Pu, Nedić 2021 (DSGT); Di Lorenzo, Scutari 2016
(adapt, then combine).
*Differs from the source*: a missed neighbour's weight stays here, and all begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface, Vector
from gossipnode.algorithms.lockstep import Lockstep, SharingOptions
from gossipnode.algorithms.vectors import descend, renew
from gossipnode.errors import PeerError
from gossipnode.options import Facts, Needs, option


class GradientTrackingOptions(SharingOptions):
    """Gradient tracking: each node follows the mean gradient, so that uneven data do no harm."""

    facts = (
        Facts("dsgt", "no bias from uneven data", "2", "all begin anew", steady="like dpsgd"),
        Facts("diging", "the same, for smaller steps", "2", "all begin anew", steady="like dpsgd"),
        Facts(
            "atc_gt",
            "the same, for larger steps; two waits a round",
            "2",
            "all begin anew",
            steady="like dpsgd",
        ),
    )

    name: Literal["gradient_tracking"] = "gradient_tracking"
    form: Literal["diging", "dsgt", "atc_gt"] = option(
        "dsgt",
        "dsgt: x ← W(x − ηy). diging: x ← Wx − ηy; it bears smaller steps only. Both send x and "
        "the tracker y at once. atc_gt: y, too, is mixed after it is adapted; it bears larger "
        "steps, and each round waits twice.",
        flag="--form",
    )

    def needs(self) -> Needs:
        """Return that the mean of the trackers must stay."""
        return Needs(weights="doubly", gradient=True)


class GradientTracking(Lockstep):
    """DSGT, DIGing and ATC gradient tracking."""

    Options = GradientTrackingOptions
    name = "gradient_tracking"
    roles = frozenset({"x", "y"})
    restarting = True

    def __init__(self, options: GradientTrackingOptions, local_steps: int) -> None:
        del local_steps
        super().__init__(options)
        self.sends_step = options.form != "diging"
        if options.form == "atc_gt":
            self.phases, self.bundles = 2, (frozenset({"x"}), frozenset({"y"}))
        self.y: Vector | None = None
        self.g: Vector | None = None
        self.eta = 0.0

    async def step(self, node: NodeInterface, k: int) -> None:
        """Begin with y = g where there is none, and be round ``k`` in the form that was chosen."""
        if self.y is None or self.g is None:
            self.g, self.eta = await node.gradient(node.params)
            self.y = await node.compute(np.copy, self.g)
        await (self.in_two if self.phases == 2 else self.at_once)(node, k, self.y, self.g)

    async def at_once(self, node: NodeInterface, k: int, y: Vector, g: Vector) -> None:
        """Send x (or x − ηy) and y, mix both, and put in the news of the gradient."""
        x, eta = node.params, self.eta
        own = {"x": await node.compute(descend, x, y, eta) if self.sends_step else x, "y": y}
        self.send(node, k, own)
        mixed = await self.combine(node, k, own)
        after = mixed["x"] if self.sends_step else await node.compute(descend, mixed["x"], y, eta)
        await node.commit(after, before=x, steps=1)
        self.g, self.eta = await node.gradient(node.params)
        self.y = await node.compute(renew, mixed["y"], self.g, g)

    async def in_two(self, node: NodeInterface, k: int, y: Vector, g: Vector) -> None:
        """Mix x − ηy, put in the news of the gradient, and mix y."""
        x = node.params
        half = await node.compute(descend, x, y, self.eta)
        self.send(node, k, {"x": half})
        mixed = await self.combine(node, k, {"x": half})
        await node.commit(mixed["x"], before=x, steps=1)
        self.g, self.eta = await node.gradient(node.params)
        own = await node.compute(renew, y, self.g, g)
        self.send(node, k, {"y": own}, phase=1)
        self.y = (await self.combine(node, k, {"y": own}, phase=1))["y"]

    async def receive(self, node: NodeInterface, arrival: Arrival) -> Answer:
        """Take it into the sums of its phase, whose role it must have."""
        if self.phases == 2 and "xy"[min(arrival.phase, 1)] not in arrival.parts:
            raise PeerError("unsupported_message", "phase 0 is of x, phase 1 of y")
        return await super().receive(node, arrival)

    def begin_anew(self) -> None:
        """Set y ← g with the next gradient."""
        self.y = self.g = None

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return y, g and its η."""
        _, facts = super().state()
        if self.y is None or self.g is None:
            return {}, facts
        return {"y": self.y, "g": self.g}, {**facts, "eta": self.eta}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the y and g of an earlier life."""
        super().restore(arrays, facts)
        self.y, self.g = arrays.get("y"), arrays.get("g")
        self.eta = facts.get("eta", 0.0)
