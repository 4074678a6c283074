"""The mixing matrix W of one round, sparse: x_i <- w_ii x_i + sum_j w_ij x_j.

Invariant: every row adds to one. Columns may not: ``is_doubly_stochastic`` tells. Where the
weights come from may not enter: see ``weights`` for rules, ``sequences`` for the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gossipnode.errors import ConfigError
from gossipnode.topology.graph import Graph

Row = tuple[float, dict[int, float]]
Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]

ROUNDING = 1e-12
# Numbers of `apply`'s intermediate result, 8 MB of float64.
ARRIVING_MAX = 1_000_000


@dataclass(frozen=True, eq=False)
class Mixing:
    """W: ``weights[e]`` is w_ij for i = ``receivers[e]``, j = ``senders[e]``, i != j.

    Sorted by receiver, then sender, no pair twice; ``self_weights`` (nodes,) float64 is the
    diagonal. Ten thousand nodes of degree 14 take 4 MB.
    """

    nodes: int
    receivers: Numbers
    senders: Numbers
    weights: Floats
    self_weights: Floats

    @classmethod
    def from_entries(
        cls, nodes: int, receivers: ArrayLike, senders: ArrayLike, weights: ArrayLike
    ) -> Mixing:
        """Build W of its entries off the diagonal; repeated ones add up, the self takes the rest.

        ``receivers``, ``senders``: (E,) integers, never equal; ``weights``: (E,) or one number.
        """
        i, j = np.asarray(receivers, dtype=np.intp), np.asarray(senders, dtype=np.intp)
        w = np.broadcast_to(np.asarray(weights, dtype=np.float64), i.shape)
        places, which = np.unique(i * nodes + j, return_inverse=True)
        w = np.bincount(which, weights=w, minlength=len(places)).astype(np.float64)
        i, j = places // nodes, places % nodes
        assert not (i == j).any(), "the self weight is what the others leave"
        given = np.bincount(i, weights=w, minlength=nodes).astype(np.float64)
        return cls(nodes, i, j, w, 1.0 - given)

    @classmethod
    def from_rows(cls, rows: Sequence[Row]) -> Mixing:
        """Build W of one (w_ii, {j: w_ij}) for each node."""
        pairs = [(i, j, row[1][j]) for i, row in enumerate(rows) for j in sorted(row[1])]
        i, j, w = zip(*pairs, strict=True) if pairs else ((), (), ())
        return cls(
            len(rows),
            np.array(i, dtype=np.intp),
            np.array(j, dtype=np.intp),
            np.array(w, dtype=np.float64),
            np.array([row[0] for row in rows], dtype=np.float64),
        )

    def row(self, i: int) -> Row:
        """Return (w_ii, {j: w_ij}), ``i``'s row."""
        a, b = np.searchsorted(self.receivers, (i, i + 1))
        found = zip(self.senders[a:b].tolist(), self.weights[a:b].tolist(), strict=True)
        return float(self.self_weights[i]), dict(found)

    def column(self, j: int) -> Row:
        """Return (w_jj, {i: w_ij}), ``j``'s column: what it hands out, where that adds to one."""
        senders, receivers, weights = self._by_sender
        a, b = np.searchsorted(senders, (j, j + 1))
        found = zip(receivers[a:b].tolist(), weights[a:b].tolist(), strict=True)
        return float(self.self_weights[j]), dict(found)

    def receivers_of(self, j: int) -> list[int]:
        """Return whom ``j`` sends to, ascending."""
        senders, receivers, _ = self._by_sender
        a, b = np.searchsorted(senders, (j, j + 1))
        return list(map(int, receivers[a:b]))

    @cached_property
    def _by_sender(self) -> tuple[Numbers, Numbers, Floats]:
        """Senders ascending, beside each whom it sends to, and the weight of that."""
        order = np.lexsort((self.receivers, self.senders))
        return self.senders[order], self.receivers[order], self.weights[order]

    def dense(self) -> Floats:
        """Return W, (nodes, nodes) float64."""
        W = np.diag(self.self_weights)
        W[self.receivers, self.senders] = self.weights
        return W

    def apply(self, X: Floats) -> Floats:
        """Return W X for X (nodes,) or (nodes, d) float64."""
        if X.ndim == 1:
            arriving = self.weights * X[self.senders]
            mixed = np.bincount(self.receivers, weights=arriving, minlength=self.nodes)
            return np.asarray(self.self_weights * X + mixed)
        out = self.self_weights[:, None] * X
        rows, starts = np.unique(self.receivers, return_index=True)
        # Columns in turn: what arrives at 10,000 nodes of degree 14 at once would be 700 MB.
        width = max(1, ARRIVING_MAX // max(1, len(self.weights)))
        for a in range(0, X.shape[1] if len(rows) else 0, width):
            arriving = self.weights[:, None] * X[self.senders, a : a + width]
            out[rows, a : a + width] += np.add.reduceat(arriving, starts, axis=0)
        return out

    def csr(self) -> Any:
        """Return W as a scipy.sparse.csr_array; ``csr() @ X`` is 15 times as fast as ``apply(X)``.

        Raises ``ConfigError`` where scipy, which is optional, is absent.
        """
        try:
            sparse: Any = importlib.import_module("scipy.sparse")
        except ImportError:
            raise ConfigError(
                "sparse matrices need scipy", allowed="pip install 'gossipnode[topology]'"
            ) from None
        every = np.arange(self.nodes)
        i, j = np.append(self.receivers, every), np.append(self.senders, every)
        w = np.append(self.weights, self.self_weights)
        return sparse.csr_array((w, (i, j)), shape=(self.nodes, self.nodes))

    def transposed(self) -> Mixing:
        """Return Wᵀ."""
        order = np.lexsort((self.receivers, self.senders))
        return Mixing(
            self.nodes,
            self.senders[order],
            self.receivers[order],
            self.weights[order],
            self.self_weights,
        )

    def lazy(self) -> Mixing:
        """Return (I + W)/2, which has no negative eigenvalue where W is symmetric and DS."""
        halved = 0.5 + 0.5 * self.self_weights
        return replace(self, weights=0.5 * self.weights, self_weights=halved)

    def graph(self, name: str = "mixing") -> Graph:
        """Return who sends to whom: an edge j -> i for each w_ij."""
        pairs = zip(self.senders.tolist(), self.receivers.tolist(), strict=True)
        return Graph.from_edges(name, self.nodes, pairs, directed=not self.is_two_way)

    @property
    def messages(self) -> int:
        """How many models travel in this round."""
        return len(self.weights)

    @cached_property
    def out_degrees(self) -> Numbers:
        """How many nodes each node sends to, (nodes,)."""
        return np.bincount(self.senders, minlength=self.nodes).astype(np.intp)

    @cached_property
    def in_degrees(self) -> Numbers:
        """From how many nodes each node receives, (nodes,)."""
        return np.bincount(self.receivers, minlength=self.nodes).astype(np.intp)

    @cached_property
    def is_two_way(self) -> bool:
        """Whether who is sent to also sends."""
        there = self.receivers * self.nodes + self.senders
        return bool(np.array_equal(there, np.sort(self.senders * self.nodes + self.receivers)))

    def is_doubly_stochastic(self, tolerance: float = ROUNDING) -> bool:
        """Tell whether all rows and all columns add to one; negative entries are allowed."""
        rows = np.bincount(self.receivers, weights=self.weights, minlength=self.nodes)
        columns = np.bincount(self.senders, weights=self.weights, minlength=self.nodes)
        sums = self.self_weights + np.stack([rows, columns])
        return bool(np.abs(sums - 1.0).max() <= tolerance)

    def is_symmetric(self, tolerance: float = ROUNDING) -> bool:
        """Tell whether W equals its transpose."""
        if not self.is_two_way:
            return False
        apart = self.weights - self.transposed().weights
        return not len(apart) or bool(np.abs(apart).max() <= tolerance)

    def circulant_row(self) -> Floats | None:
        """Return c with w_ij = c[(j − i) mod n] for all i, j, or None where there is none."""
        n = self.nodes
        degree, rest = divmod(len(self.weights), n)
        if rest or (self.in_degrees != degree).any() or np.ptp(self.self_weights) > ROUNDING:
            return None
        hops = ((self.senders - self.receivers) % n).reshape(n, degree)
        order = np.argsort(hops, axis=1)
        hops = np.take_along_axis(hops, order, axis=1)
        weights = np.take_along_axis(self.weights.reshape(n, degree), order, axis=1)
        if (hops != hops[0]).any() or (degree and np.ptp(weights, axis=0).max() > ROUNDING):
            return None
        c = np.zeros(n)
        c[0] = self.self_weights[0]
        c[hops[0]] = weights[0]
        return c
