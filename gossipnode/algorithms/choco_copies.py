"""What a node knows of its neighbours' x̂, for ``choco``.

Invariant: a copy of x̂_j is what j itself holds, bit for bit, as of the version that is kept beside
it; a difference from anything else is refused. Copies are never written in place, so that whoever
holds one may read on while the next comes. No mixing may enter, and nothing of rounds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from gossipnode.algorithms.base import Arrival, Vector
from gossipnode.errors import PeerError
from gossipnode.learning.params import all_finite

# Scalars: γ; the mark of the sender's x̂^0, in its first message; and by how many rounds an x̂ that
# is sent whole is of an earlier round than the message.
GAMMA, START, BEHIND = "gamma", "start", "behind"
# Scalars carry integers up to 2⁵³ in any language.
MARK_BITS = 53


@dataclass(frozen=True, slots=True)
class Copy:
    """x̂_j, shape (d,), after so many differences, and γ_j.

    ``order`` is (epoch, seq) of the message that it came by, ``round`` its round.
    """

    x: Vector
    version: int
    order: tuple[int, int]
    round: int
    gamma: float


class Copies:
    """x̂_j of each neighbour heard of, and what those not heard of begin with."""

    def __init__(self) -> None:
        self.of: dict[str, Copy] = {}
        # What x̂ began with here, and its mark, as long as neighbours may begin with it as well.
        self.start: Vector | None = None
        self.mark = -1

    def begin_at(self, start: Vector) -> None:
        """Let neighbours whose x̂ begins with the same bits as this node's begin there."""
        self.start, self.mark = start, mark_of(start)

    def base(self, arrival: Arrival, mark: float | None) -> Vector:
        """Return the x̂ that a difference is to be added to.

        ``mark`` is what the sender says its x̂ began with. Raises ``PeerError`` (missing_base) where
        that x̂ is not here: the sender is to send it whole.
        """
        copy, base = self.of.get(arrival.sender), arrival.base_version
        of_this_life = copy is not None and copy.order[0] == arrival.order[0]
        if copy is not None and of_this_life and copy.version == base:
            return copy.x
        if not of_this_life and base == 0 and self.start is not None and mark == self.mark:
            return self.start
        here = f"version {copy.version}" if copy is not None and of_this_life else "nothing"
        raise PeerError("missing_base", f"a difference to version {base}; here is {here}")

    def is_news(self, arrival: Arrival) -> bool:
        """Whether a message was made after the one that the copy of its sender is of."""
        copy = self.of.get(arrival.sender)
        return copy is None or arrival.order > copy.order

    def keep(self, arrival: Arrival, x: Vector) -> None:
        """Let ``x`` (owned) be the sender's x̂ from now on."""
        gamma = arrival.scalars[GAMMA]
        self.of[arrival.sender] = Copy(x, arrival.version, arrival.order, arrival.round, gamma)

    def forget_all_but(self, neighbours: Collection[str]) -> None:
        """Forget the copies of nodes that are no neighbours."""
        self.of = {j: copy for j, copy in self.of.items() if j in neighbours}

    def state(self) -> tuple[dict[str, Vector], dict[str, Any]]:
        """Return what a checkpoint must hold."""
        facts = {j: [c.version, c.order, c.round, c.gamma] for j, c in self.of.items()}
        return {f"copy/{j}": copy.x for j, copy in self.of.items()}, facts

    def restore(self, arrays: Mapping[str, Vector], facts: Mapping[str, Any]) -> None:
        """Take up the copies of an earlier life."""
        for j, (version, (epoch, seq), *rest) in facts.items():
            self.of[j] = Copy(arrays[f"copy/{j}"], version, (epoch, seq), *rest)


def mark_of(x: Vector) -> int:
    """Return a mark in [0, 2⁵³) of the bits of ``x``."""
    digest: int = xxhash.xxh3_64_intdigest(x.view(np.uint8).data)
    return digest >> 64 - MARK_BITS


def checked(arrival: Arrival) -> int:
    """Return by how many rounds an x̂ is behind its message; refuses what no node here sends."""
    scalars, base = arrival.scalars, arrival.base_version
    gamma, behind = scalars.get(GAMMA, 0), scalars.get(BEHIND, 0)
    if arrival.phase or not 0 < gamma <= 1 or behind != int(behind):
        raise PeerError("unsupported_message", "γ, above 0 and up to 1, must come with each part")
    if "x" in arrival.parts:
        if not 0 <= behind <= arrival.round:
            raise PeerError("unsupported_message", "x̂ is of no round that has been")
    elif behind or base is None or arrival.version != base + 1:
        raise PeerError("unsupported_message", "a difference leads from one version to the next")
    return int(behind)


def add(q: Vector, hat: Vector) -> bool:
    """Set q ← hat + q; whether that is finite."""
    return all_finite(np.add(hat, q, out=q))
