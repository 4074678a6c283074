"""Momentum in D-PSGD: each node's own, or one that follows the whole swarm.

Round k on node i::

    m ← βm + g(x)              x ← Σ_j w_ij (x_j − ηm_j)                        dmsgd
    g̃ = (x − Σ_j w_ij (x_j − ηg_j))/η      m ← βm + g̃       x ← x − ηm         decentlam
    m = βm̂ + g(x)              x⁺ = Σ_j w_ij (x_j − ηm_j)
                               m̂ ← μm̂ + (1 − μ)(x − x⁺)/η                      qgm

With uneven data dmsgd rests where D-PSGD with the step η/(1 − β) does; decentlam and qgm where
D-PSGD with the step η does. ``nesterov`` steps along g + βm (decentlam: g̃ + βm) in place of m; then
qgm rests where D-PSGD with (1 + β)η does, since at rest its m is g. Momentum is never sent, so a
lost model costs no more than in D-PSGD. A schedule may end at η = 0: then all only mix.

Letters: x params, g gradient on the node's next batch, m momentum, m̂ quasi-global momentum, W
mixing matrix (doubly stochastic), η step size, β and μ shares that stay. Memory: one vector.

*Source*: Yu et al. 2019 (DmSGD); Yuan et al. 2021 (DecentLaM); Lin et al. 2021 (QGM).
*Differs from the source*: m and m̂ keep their meaning when η changes, since they are in units of g.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.algorithms.lockstep import Lockstep, SharingOptions
from gossipnode.algorithms.vectors import decay, descend
from gossipnode.options import Facts, Needs, option


class MomentumOptions(SharingOptions):
    """D-PSGD with momentum that knows of the neighbours."""

    facts = (
        Facts("qgm", "momentum of the whole swarm", "1", "the mean drifts", steady="like dpsgd"),
        Facts(
            "decentlam", "momentum without more bias", "1", "the mean drifts", steady="like dpsgd"
        ),
        Facts("dmsgd", "each node's own momentum", "1", "the mean drifts", steady="like dpsgd"),
    )

    name: Literal["momentum"] = "momentum"
    form: Literal["dmsgd", "decentlam", "qgm"] = option(
        "qgm",
        "dmsgd: each its own heavy ball; with uneven data its bias is 1/(1-β) times as large. "
        "decentlam and qgm (quasi-global momentum): no larger than without momentum.",
        flag="--form",
    )
    beta: float = option(0.9, "β: share of the momentum that stays.", ge=0.0, lt=1.0)
    mu: float = option(
        0.9, "μ of qgm: share of the quasi-global momentum that stays.", ge=0.0, lt=1.0
    )

    nesterov: bool = option(
        False,
        "Step along g + βm in place of m. At rest qgm's step then is (1+β) times as long, and so "
        "is its bias.",
    )

    def needs(self) -> Needs:
        """Return that the mean must stay."""
        return Needs(weights="doubly", gradient=True)


class Momentum(Lockstep):
    """DmSGD, DecentLaM and quasi-global momentum."""

    Options = MomentumOptions
    name = "momentum"

    def __init__(self, options: MomentumOptions, local_steps: int) -> None:
        del local_steps
        super().__init__(options)
        self.beta, self.mu = options.beta, options.mu
        self.ahead = self.beta if options.nesterov else 0.0
        self.form = options.form
        self.own = {"dmsgd": self.dmsgd, "decentlam": self.decentlam, "qgm": self.qgm}[self.form]
        self.m: Vector | None = None

    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k`` in the form that was chosen."""
        x = node.params
        g, eta = await node.gradient(x)
        if self.m is None:
            self.m = np.zeros_like(g)
        # Without a step there is nothing to divide by it, and m stays what it was.
        after = await (self.own(node, k, x, g, eta) if eta else self.mixed(node, k, x, g, eta))
        await node.commit(after=after, before=x, steps=1)

    async def dmsgd(self, node: NodeInterface, k: int, x: Vector, g: Vector, eta: float) -> Vector:
        """Take a step along the node's own momentum, then mix."""
        self.m = await node.compute(decay, self.m, g, self.beta)
        return await self.mixed(node, k, x, await self.along(node, self.m, g), eta)

    async def decentlam(
        self, node: NodeInterface, k: int, x: Vector, g: Vector, eta: float
    ) -> Vector:
        """Take mixing for a part of the gradient, and add that up."""
        moved = await self.mixed(node, k, x, g, eta)
        g = await node.compute(_direction, x, moved, eta)
        self.m = await node.compute(decay, self.m, g, self.beta)
        after: Vector = await node.compute(descend, x, await self.along(node, self.m, g), eta)
        return after

    async def qgm(self, node: NodeInterface, k: int, x: Vector, g: Vector, eta: float) -> Vector:
        """Take a step along the momentum of where the whole swarm has gone, then mix."""
        m = await node.compute(decay, self.m, g, self.beta)
        moved = await self.mixed(node, k, x, await self.along(node, m, g), eta)
        gone = await node.compute(_direction, x, moved, eta)
        gone *= 1 - self.mu
        self.m = await node.compute(decay, self.m, gone, self.mu)
        return moved

    async def along(self, node: NodeInterface, m: Vector, g: Vector) -> Vector:
        """Return the direction of the step: m or, looking ahead, g + βm."""
        if not self.ahead:
            return m
        direction: Vector = await node.compute(decay, m, g, self.ahead)
        return direction

    async def mixed(
        self, node: NodeInterface, k: int, x: Vector, direction: Vector, eta: float
    ) -> Vector:
        """Send x − η·direction and return its mixture, in memory of its own."""
        half = await node.compute(descend, x, direction, eta)
        self.send(node, k, {"x": half})
        mixed = (await self.combine(node, k, {"x": half}))["x"]
        return await node.compute(np.copy, mixed) if mixed is half else mixed

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return the momentum, and whose it is: the forms' are of different sizes."""
        arrays = {} if self.m is None else {"m": self.m}
        return arrays, {**super().state()[1], "form": self.form}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on with the momentum of an earlier life, if that was of the same form."""
        super().restore(arrays, facts)
        self.m = arrays.get("m") if facts.get("form") == self.form else None


def _direction(x: Vector, moved: Vector, eta: float) -> Vector:
    """Return (x − moved)/η."""
    found = np.subtract(x, moved)
    found /= eta
    return found
