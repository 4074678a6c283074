"""How long a node's rounds take beside its neighbours', for ``choco`` with bits that adapt.

Invariant: what neighbours tell decides about this node's bits alone, never about what is mixed; of
a majority of honest ones none can do more than that. Nothing is waited for: who tells nothing, or
is gone, is left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, cast

from gossipnode.algorithms.base import Arrival, NodeInterface
from gossipnode.errors import PeerError

if TYPE_CHECKING:
    from gossipnode.codecs.adaptive import AdaptiveUniform

# Scalar: seconds of a round of the sender, with 8 bits.
ROUND_S = "round_s"
# Rounds over which the time of the local steps is a mean, about.
WINDOW = 10


class Pace:
    """The seconds of this node's local steps, and those of a round that neighbours told last."""

    def __init__(self) -> None:
        self.train_s, self.seen = 0.0, 0
        self.told: dict[str, float] = {}

    def note(self, train_s: float) -> None:
        """Take in how long the local steps of a round took, waiting for nobody."""
        self.seen = min(self.seen + 1, WINDOW)
        self.train_s += (train_s - self.train_s) / self.seen

    def hear(self, arrival: Arrival) -> None:
        """Remember what a neighbour tells, or that it tells nothing any more."""
        if ROUND_S in arrival.scalars:
            self.told[arrival.sender] = arrival.scalars[ROUND_S]
        else:
            self.told.pop(arrival.sender, None)

    def adapt(self, node: NodeInterface, neighbours: Collection[str]) -> dict[str, float]:
        """Choose the bits of this round if the codec has a choice, and return what to tell."""
        if node.codec is None or not node.codec.adapts:
            return {}
        codec = cast("AdaptiveUniform", node.codec)
        own = node.params.size, self.train_s, node.bytes_per_s
        others = [self.told[j] for j in neighbours if j in self.told and node.is_expected(j)]
        codec.adapt(*own, others)
        return {ROUND_S: codec.full_s(*own)}


def check_pace(arrival: Arrival) -> None:
    """Refuse a time that no round takes."""
    if arrival.scalars.get(ROUND_S, 0.0) < 0:
        raise PeerError("unsupported_message", "a round takes 0 s or more")
