"""Mean and consensus distance of many models, one after the other.

Invariant: it holds three vectors, however many are added.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gossipnode.learning.params import Array


class Spread:
    """Mean and consensus distance of vectors of shape (d,), each added once and not kept.

    The first vector is the origin of the sums, so that nearly equal vectors lose no digits: what
    is squared is of the size of their differences.

    >>> spread = Spread()
    >>> for x in ([1.0, 0.0], [3.0, 0.0]):
    ...     spread.add(np.array(x))
    >>> spread.mean.tolist(), spread.distance
    ([2.0, 0.0], 1.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self._origin: Array | None = None
        self._sum: Any = 0.0
        self._squares = 0.0

    def add(self, params: Array) -> None:
        """Take one vector into account; does not alter or keep it, but for a copy of the first."""
        if self._origin is None:
            self._origin = params.astype(np.float64)
        difference = params - self._origin
        self._sum = self._sum + difference
        self._squares += float(difference @ difference)
        self.count += 1

    @property
    def mean(self) -> Array:
        """The mean, in float64."""
        assert self._origin is not None, "no vector has been added"
        mean: Array = self._origin + self._sum / self.count
        return mean

    @property
    def distance(self) -> float | None:
        """sqrt(1/n Σ‖x_i − x̄‖²); None without vectors."""
        if not self.count:
            return None
        offset = self._sum / self.count
        return math.sqrt(max(self._squares / self.count - float(offset @ offset), 0.0))
