"""A buffer in which arriving models wait until they are K, to be merged at once.

    x ← x + 1/K Σ a_m (x_m − x)

That is the pull towards Σ a_m x_m / Σ a_m, of weight Σ a_m / K, so that one sum is kept whatever
K is; in float32 at the least, since the sum of K models may leave the range of narrow numbers,
and lose what each of them says. Invariant: a model that is refused leaves the buffer as it was.

*Source*: Nguyen et al., AISTATS 2022.
*Differs from the source*: it holds models, not differences, for nobody's start is common.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from gossipnode.algorithms.base import NodeInterface, Vector
from gossipnode.algorithms.vectors import add_weighted_and_check, narrowed, widened
from gossipnode.errors import PeerError
from gossipnode.learning.params import scale


class Buffer:
    """One node's buffer of ``K`` ≥ 1 models."""

    def __init__(self, K: int) -> None:
        self.K = K
        # Σ a_m x_m of the models in the buffer, Σ a_m, how many they are, their largest age.
        self.sum: Vector | None = None
        self.mass, self.held, self.age = 0.0, 0, 0
        self.lock = asyncio.Lock()  # adding to the sum may leave the loop for the worker thread

    async def add(
        self, node: NodeInterface, x_m: Vector, t_m: int, weight: Callable[[int, int], float]
    ) -> None:
        """Add x_m (owned) of age ``t_m``, a_m by both ages; if that makes K, merge them all.

        Raises ``PeerError`` (not_finite).
        """
        async with self.lock:
            a = weight(node.age, t_m)
            total = await node.compute(_added, x_m, self.sum, a)
            self.sum, self.mass, self.held = total, self.mass + a, self.held + 1
            self.age = max(self.age, t_m)
            if self.held < self.K:
                return
            mass, age = self.mass, self.age
            self.sum, self.mass, self.held, self.age = None, 0.0, 0, 0
            if mass > 0.0:
                mean = await node.compute(_mean, total, mass, x_m)
                await node.merge(mean, min(mass / self.K, 1.0), age)

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what is held, for a checkpoint; nothing where there is nothing."""
        if self.sum is None:
            return {}, {}
        return {"sum": self.sum}, {"mass": self.mass, "held": self.held, "age_held": self.age}

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up what an earlier life held, if it still fits."""
        if "sum" in arrays and facts["held"] < self.K:
            self.sum = arrays["sum"]
            self.mass, self.held, self.age = facts["mass"], facts["held"], facts["age_held"]


def _added(x_m: Vector, total: Vector | None, a: float) -> Vector:
    """Return total + a·x_m, which may have the memory of ``x_m``; the total stays.

    Raises ``PeerError`` where that is not finite.
    """
    found = x_m if x_m.dtype.itemsize >= 4 else widened(x_m)
    if not add_weighted_and_check(found, total, a):
        raise PeerError("not_finite", "the buffer's sum would have a value that is not finite")
    return found


def _mean(total: Vector, mass: float, like: Vector) -> Vector:
    """Return total/mass in the dtype of ``like``; ``total`` is overwritten."""
    scale(total, 1.0 / mass)
    return narrowed(total, like)
