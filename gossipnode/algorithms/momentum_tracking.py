"""Momentum without bias: what is tracked, or corrected, is momentum in place of the gradient.

Round k on node i, m_i^k = βm_i^{k−1} + g_i(x_i^k), y_i^0 = m_i^0 = g_i(x_i^0)::

    x_i^{k+1} = Σ_j w_ij (x_j^k − ηy_j^k)
    y_i^{k+1} = Σ_j w_ij y_j^k + m_i^{k+1} − m_i^k                      tracking

    ψ_i^{k+1} = x_i^k − ηm_i^k
    x_i^{k+1} = Σ_j w̄_ij (x_j^k + ψ_j^{k+1} − ψ_j^k),  W̄ = (I + W)/2    edm

The mean goes as heavy ball does on the mean gradient; the nodes come to rest at the optimum
however uneven their data. A lost model leaves an error for ever, hence restarts: in a common round
everybody's momentum, tracker and correction begin anew.

Letters: x params, g gradient on the node's next batch, m momentum, y tracker, ψ adapted params, W
mixing matrix (doubly stochastic; edm: symmetric and the same in every round), η step size, β share
that stays. Memory: m and one vector more besides x; tracking two more.

*Source*: Takezawa et al., TMLR 2023 (momentum tracking, there with c = m − y in place of y);
exact diffusion of Yuan et al. 2018, with the momentum in place of the gradient.
*Differs from the source*: a missed neighbour's weight stays here, and all begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.algorithms.lockstep import Lockstep, SharingOptions
from gossipnode.algorithms.vectors import decay, descend, halfway, renew
from gossipnode.options import Facts, Needs, option


class MomentumTrackingOptions(SharingOptions):
    """Momentum that uneven data do no harm."""

    facts = (
        Facts(
            "tracking",
            "momentum, and no bias from uneven data",
            "2",
            "all begin anew",
            steady="like dpsgd",
        ),
        Facts(
            "edm",
            "the same with one vector, for a symmetric W",
            "1",
            "all begin anew",
            steady="like dpsgd",
        ),
    )

    name: Literal["momentum_tracking"] = "momentum_tracking"
    form: Literal["tracking", "edm"] = option(
        "tracking",
        "tracking: a tracker follows the mean of all momenta; two vectors a round. edm: exact "
        "diffusion with momentum; one vector, and W symmetric and the same each round.",
        flag="--form",
    )
    beta: float = option(0.9, "β: share of the momentum that stays.", ge=0.0, lt=1.0)

    def needs(self) -> Needs:
        """Return that the mean must stay; edm needs W symmetric, too."""
        edm = self.form == "edm"
        return Needs(weights="doubly", symmetric=edm, static=edm, gradient=True)


class MomentumTracking(Lockstep):
    """Momentum tracking, and exact diffusion with momentum."""

    Options = MomentumTrackingOptions
    name = "momentum_tracking"
    restarting = True

    def __init__(self, options: MomentumTrackingOptions, local_steps: int) -> None:
        del local_steps
        super().__init__(options)
        self.form, self.beta = options.form, options.beta
        self.roles = frozenset({"x", "y"} if options.form == "tracking" else {"x"})
        # m, and of tracking y (both of x^k), of edm ψ^k.
        self.old: dict[str, Vector] = {}
        self.eta = 0.0

    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k`` in the form that was chosen."""
        await (self.track(node, k) if self.form == "tracking" else self.correct(node, k))

    async def momentum(self, node: NodeInterface) -> Vector:
        """Return βm + g of the present x."""
        g, self.eta = await node.gradient(node.params)
        m: Vector = g
        if "m" in self.old:
            m = await node.compute(decay, self.old["m"], g, self.beta)
        return m

    async def track(self, node: NodeInterface, k: int) -> None:
        """Mix x − ηy and y, and put in the news of the momentum."""
        if not self.old:
            m = await self.momentum(node)
            self.old = {"m": m, "y": await node.compute(np.copy, m)}
        x, y = node.params, self.old["y"]
        own = {"x": await node.compute(descend, x, y, self.eta), "y": y}
        self.send(node, k, own)
        mixed = await self.combine(node, k, own)
        await node.commit(mixed["x"], before=x, steps=1)
        m = await self.momentum(node)
        self.old = {"m": m, "y": await node.compute(renew, mixed["y"], m, self.old["m"])}

    async def correct(self, node: NodeInterface, k: int) -> None:
        """Adapt along the momentum, correct by the last adaption, mix."""
        x = node.params
        m = await self.momentum(node)
        psi = await node.compute(descend, x, m, self.eta)
        phi = psi
        if "psi" in self.old:
            phi = await node.compute(renew, x, psi, self.old["psi"])
        self.old = {"m": m, "psi": psi}
        self.send(node, k, {"x": phi})
        mixed = (await self.combine(node, k, {"x": phi}))["x"]
        await node.commit(await node.compute(halfway, mixed, phi), before=x, steps=1)

    def begin_anew(self) -> None:
        """Take the present x for x^0: no momentum, no tracker, no correction."""
        self.old = {}

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what the last round leaves."""
        return self.old, {**super().state()[1], "form": self.form, "eta": self.eta}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on from the last round of an earlier life, if that was of the same form."""
        super().restore(arrays, facts)
        self.old = dict(arrays) if facts.get("form") == self.form else {}
        self.eta = facts.get("eta", 0.0)
