"""Dynamic average consensus: every node follows the swarm's mean of numbers that change.

Of each number, with z_i^k what node i reads in round k, and x_i^0 = z_i^0::

    x_i^{k+1} = Σ_j w_ij x_j^k + z_i^{k+1} − z_i^k

On a doubly stochastic W the sum over the nodes of x is that of z in every round, and where z
changes by at most e a round, x stays within e/(1 − ρ) of the mean. A lost message breaks the sum
for ever, hence ``begin_anew``, on all nodes in the same round: x ← z.

Letters: x the estimates, z the readings, w_ij row i of the mixing matrix W, ρ its second largest
singular value.

*Source*: Zhu, Martínez 2010.
*Differs from the source*: a missed neighbour's weight stays here, and all begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple

from gossipnode.algorithms.base import NodeInterface


class Reading(NamedTuple):
    """The numbers that the nodes tell each other; the fields' names are those of the scalars."""

    loss: float
    steps_per_s: float
    samples: float


def reading_of(node: NodeInterface) -> Reading:
    """Return what a node tells of itself; a loss that is not known yet is 0."""
    return Reading(node.loss or 0.0, node.steps_per_s, float(node.samples))


class Told:
    """What the neighbours have told in a round: Σ w_ij x_j, and Σ w_ij of those that told."""

    __slots__ = ("loss", "mass", "samples", "steps_per_s")

    def __init__(self) -> None:
        self.loss = self.steps_per_s = self.samples = self.mass = 0.0

    def add(self, scalars: Mapping[str, float], w: float) -> None:
        """Add w·x_j; of a message that tells nothing, nothing."""
        loss = scalars.get("loss")
        if loss is None:
            return
        self.loss += w * loss
        self.steps_per_s += w * scalars.get("steps_per_s", 0.0)
        self.samples += w * scalars.get("samples", 0.0)
        self.mass += w


class DynamicAverage:
    """One node's part."""

    def __init__(self) -> None:
        self.x: Reading | None = None
        self.z: Reading | None = None

    def tell(self, z: Reading) -> dict[str, float]:
        """Return what to tell the neighbours: x. Where there is none yet, x is ``z``."""
        if self.x is None:
            self.x = self.z = finite(z)
        return self.x._asdict()

    def mix(self, told: Told, z: Reading) -> None:
        """Close a round, with what the neighbours told in it and the new reading ``z``."""
        if self.x is None or self.z is None:
            return
        kept, x, old = 1.0 - told.mass, self.x, self.z
        self.z = z = finite(z, old)
        self.x = Reading(
            told.loss + kept * x.loss + z.loss - old.loss,
            told.steps_per_s + kept * x.steps_per_s + z.steps_per_s - old.steps_per_s,
            told.samples + kept * x.samples + z.samples - old.samples,
        )
        if not all(map(isfinite, self.x)):  # what a peer told overflowed, and must not go on
            self.x = z

    def begin_anew(self) -> None:
        """Set x ← z with the next reading."""
        self.x = self.z = None

    def state(self) -> dict[str, list[float] | None]:
        """Return x and z as JSON."""
        return {"x": self.x and list(self.x), "z": self.z and list(self.z)}

    def restore(self, facts: Mapping[str, list[float] | None]) -> None:
        """Go on with the x and z of an earlier life."""
        x, z = facts.get("x"), facts.get("z")
        if x is not None and z is not None:
            self.x, self.z = Reading(*x), Reading(*z)


def finite(z: Reading, old: Reading = Reading(0.0, 0.0, 0.0)) -> Reading:  # noqa: B008 - immutable
    """Return ``z`` with the ``old`` number where one is not finite: none such can be sent."""
    return Reading(*(new if isfinite(new) else was for new, was in zip(z, old, strict=True)))
