"""As many bits as a node's speed allows: 8, 4 or 2 of each value, chosen from round to round.

A round takes node i T_i(b) seconds with b bits: computing, and a message of d values. It chooses
the most bits with which it is not slower than the neighbourhood is with 8::

    T_i(b) = c_i + (d·b/8)/r_i
    b_i = max{b : T_i(b) ≤ 1.1·median_j T_j(8)}, 2 if there is none; j are i and its neighbours

c is the time of the local steps, r the bytes a second that its pushes go with. Every message tells
its own bits, so nodes with different ones understand each other.

*Source*: Abdelmoniem, Canini, MLSys workshop 2021 (AQFL), for federated learning with one server.
*Differs from the source*: no server knows all speeds; each node compares itself with those that it
hears from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from gossipnode.codecs.base import Coded, Vector
from gossipnode.codecs.uniform import Uniform

LADDER: Final = (2, 4, 8)
# A tenth slower than the others holds nobody up, and speeds vary by as much.
TOLERANCE: Final = 1.1


class AdaptiveUniform(Uniform):
    """``Uniform`` with bits that ``adapt`` chooses; at first 8."""

    adapts = True

    def __init__(self, contractive: bool = False) -> None:
        super().__init__(LADDER[-1], contractive)
        self._by_bits = {bits: Uniform(bits, contractive) for bits in LADDER}

    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return the codes with the bits of now; see ``Uniform.encode``."""
        return self._by_bits[self.bits].encode(x, seed)

    def full_s(self, d: int, compute_s: float, bytes_per_s: float) -> float:
        """Return T(8) of a node that computes ``compute_s`` a round, to be told to neighbours."""
        return _round_s(LADDER[-1], d, compute_s, bytes_per_s)

    def adapt(self, d: int, compute_s: float, bytes_per_s: float, others: Iterable[float]) -> None:
        """Choose the bits of the next round; ``others`` are what the neighbours told, T_j(8)."""
        # The statistics module would cost half a megabyte.
        usual = float(np.median([self.full_s(d, compute_s, bytes_per_s), *others]))
        fit = [
            bits
            for bits in LADDER
            if _round_s(bits, d, compute_s, bytes_per_s) <= TOLERANCE * usual
        ]
        self.bits = max(fit, default=LADDER[0])


def _round_s(bits: int, d: int, compute_s: float, bytes_per_s: float) -> float:
    """Return T(bits); a speed of 0 is not known, and costs nothing."""
    return compute_s + (d * bits / 8 / bytes_per_s if bytes_per_s else 0.0)
