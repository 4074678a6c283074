"""Bias correction: D², exact diffusion and EXTRA rest at the optimum, with one vector a round.

Each remembers what it did in the round before, and takes back what mixing had done to it::

    ψ_i^{k+1} = x_i^k − η g_i(x_i^k)
    x_i^{k+1} = Σ_j w_ij (x_j^k + ψ_j^{k+1} − ψ_j^k)        d2; W̄ = (I + W)/2: exact_diffusion

    x_i^{k+2} = x_i^{k+1} + Σ_j w_ij x_j^{k+1} − Σ_j w̄_ij x_j^k − (η g_i^{k+1} − η g_i^k)    extra

with x^1 = W(x^0 − ηg^0), and x^1 = Wx^0 − ηg^0 for extra. The mean follows the mean gradient
exactly, x̄^{k+1} = x̄^k − ηḡ^k. A lost model leaves a bias for ever, hence restarts: in a common
round everybody begins with its x as x^0.

Letters: x params, ψ adapted params, g gradient on the node's next batch, W mixing matrix
(symmetric, the same in every round; d2: λ_min(W) > −1/3), η step size. Memory: one vector besides
x; extra three.

*Source*: Tang et al. 2018 (D²); Yuan et al. 2018 (exact diffusion); Shi et al. 2015 (EXTRA).
*Differs from the source*: a missed neighbour's weight stays here, and all begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.algorithms.lockstep import Lockstep, SharingOptions
from gossipnode.algorithms.vectors import descend, halfway, renew
from gossipnode.options import Facts, Needs, option


class CorrectionOptions(SharingOptions):
    """Bias correction by the previous round: the optimum, for one vector a round."""

    facts = (
        Facts(
            "exact_diffusion",
            "no bias from uneven data",
            "1",
            "all begin anew",
            steady="like dpsgd",
        ),
        Facts("d2", "the same, faster", "1", "all begin anew", steady="like dpsgd"),
        Facts("extra", "the same, mixing first", "1", "all begin anew", steady="like dpsgd"),
    )

    name: Literal["correction"] = "correction"
    form: Literal["d2", "exact_diffusion", "extra"] = option(
        "exact_diffusion",
        "exact_diffusion: mixes with (I + W)/2. d2: mixes with W, faster, and needs every "
        "eigenvalue of W above -1/3. extra: mixes before it steps. All need W symmetric and the "
        "same each round.",
        flag="--form",
    )

    def needs(self) -> Needs:
        """Return that W must be symmetric and stay; d2 bears no eigenvalue below −1/3."""
        return Needs(
            weights="doubly",
            symmetric=True,
            static=True,
            lambda_min=-1 / 3 if self.form == "d2" else None,
            gradient=True,
            instead='algorithm.name = "exact_diffusion" or "extra", or topology.lazy = true',
        )


class Correction(Lockstep):
    """D², exact diffusion and EXTRA."""

    Options = CorrectionOptions
    name = "correction"
    restarting = True

    def __init__(self, options: CorrectionOptions, local_steps: int) -> None:
        del local_steps
        super().__init__(options)
        self.form = options.form
        # ψ of the round before; for extra x, (I + W)x/2 and ηg of the round before.
        self.old: dict[str, Vector] = {}

    async def step(self, node: NodeInterface, k: int) -> None:
        """Be round ``k`` in the form that was chosen."""
        await (self.mix_first(node, k) if self.form == "extra" else self.adapt_first(node, k))

    async def adapt_first(self, node: NodeInterface, k: int) -> None:
        """Adapt, correct by the last adaption, mix."""
        x = node.params
        g, eta = await node.gradient(x)
        psi = await node.compute(descend, x, g, eta)
        phi = psi
        if "psi" in self.old:
            phi = await node.compute(renew, x, psi, self.old["psi"])
        self.old = {"psi": psi}
        mixed = await self.mixed(node, k, phi)
        if self.form == "exact_diffusion":
            mixed = await node.compute(halfway, mixed, phi)
        await node.commit(after=mixed, before=x, steps=1)

    async def mix_first(self, node: NodeInterface, k: int) -> None:
        """Mix, correct by the last mixing, adapt."""
        x = node.params
        self.send(node, k, {"x": x})
        g, eta = await node.gradient(x)
        step = np.multiply(g, eta, dtype=g.dtype)
        mixed = (await self.combine(node, k, {"x": x}))["x"]
        lazy = await node.compute(halfway, mixed, x)
        if self.old:
            after = await node.compute(_extra, x, mixed, step, self.old["lazy"], self.old["step"])
        else:
            after = np.subtract(mixed, step)
        self.old = {"lazy": lazy, "step": step}
        await node.commit(after=after, before=x, steps=1)

    async def mixed(self, node: NodeInterface, k: int, phi: Vector) -> Vector:
        """Send φ and return Σ_j w_ij φ_j, in memory of its own."""
        self.send(node, k, {"x": phi})
        mixed = (await self.combine(node, k, {"x": phi}))["x"]
        return await node.compute(np.copy, mixed) if mixed is phi else mixed

    def begin_anew(self) -> None:
        """Take the present x for x^0."""
        self.old = {}

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what the last round leaves."""
        return self.old, {**super().state()[1], "form": self.form}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Go on from the last round of an earlier life, if that was of the same form."""
        super().restore(arrays, facts)
        self.old = dict(arrays) if facts.get("form") == self.form else {}


def _extra(x: Vector, mixed: Vector, step: Vector, lazy: Vector, old_step: Vector) -> Vector:
    """Return x + Wx − W̄x_old − (ηg − ηg_old)."""
    found = np.add(x, mixed)
    found -= lazy
    found -= step
    found += old_step
    return found
