"""Choosing a peer for gossip.

Invariant: all randomness comes from the generator that was handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class PeerSampler:
    """Chooses uniformly among the peers that live now.

    Uniform choice keeps the mean unbiased under push gossip (algorithms with other choices must
    correct for it).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def sample(self, candidates: Sequence[str]) -> str | None:
        """Return one of ``candidates``, or None where there is none."""
        if not candidates:
            return None
        return candidates[int(self._rng.integers(len(candidates)))]
