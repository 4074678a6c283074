"""The mixing matrix W, a row at a time: x_i <- sum_j w_ij x_j.

Invariant: every row adds to one with the self weight taking the rest, and W is doubly stochastic
for every graph that a rule accepts. Models may not enter.
"""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology.graph import Graph

Row = tuple[float, dict[int, float]]


def metropolis_weight(degree_i: int, degree_j: int) -> float:
    """Return w_ij = 1/(1 + max(d_i, d_j)) of an edge; degrees do not count the node itself.

    Source: Xiao, Boyd, Lall, IPSN 2005 (the Metropolis weights).

    >>> metropolis_weight(3, 1)
    0.25
    """
    return 1.0 / (1 + max(degree_i, degree_j))


def weight_row(graph: Graph, i: int, rule: str = "metropolis") -> Row:
    """Return (w_ii, {j: w_ij}) for every j that node ``i`` receives from, in O(d_i).

    ``rule`` is a key of ``RULES``. Raises ``ConfigError`` where the rule is unknown or would not
    make W doubly stochastic on this graph.
    """
    weight = RULES.get(rule)
    if weight is None:
        raise ConfigError(
            f"there is no weight rule {rule!r}",
            key="topology.weights",
            allowed=", ".join(RULES),
            nearest=nearest_spelling(rule, RULES),
        )
    row = weight(graph, i)
    return 1.0 - fsum(row.values()), row


def weight_matrix(graph: Graph, rule: str = "metropolis") -> NDArray[np.float64]:
    """Return W, (n, n) float64; raises ``ConfigError`` as ``weight_row`` does."""
    W = np.zeros((graph.nodes, graph.nodes))
    for i in range(graph.nodes):
        W[i, i], row = weight_row(graph, i, rule)
        W[i, list(row)] = list(row.values())
    return W


def spectral_rho(W: NDArray[np.float64]) -> float:
    """Return ρ = ‖W − J‖₂, J = 11ᵀ/n: by how much one mixing step shrinks disagreement.

    The second largest eigenvalue modulus would be the same for a normal W only.
    """
    return float(np.linalg.norm(W - 1.0 / len(W), 2))


def is_doubly_stochastic(W: NDArray[np.float64], tolerance: float = 1e-12) -> bool:
    """Tell whether all rows and all columns add to one; negative entries are allowed."""
    sums = np.concatenate([W.sum(axis=0), W.sum(axis=1)])
    return bool(np.abs(sums - 1.0).max() <= tolerance)


def is_symmetric(W: NDArray[np.float64], tolerance: float = 1e-12) -> bool:
    """Tell whether W equals its transpose."""
    return bool(np.abs(W - W.T).max() <= tolerance)


def _metropolis(graph: Graph, i: int) -> dict[int, float]:
    """w_ij = 1/(1 + max(d_i, d_j)): needs the neighbours' degrees only."""
    if graph.directed:
        raise ConfigError(
            f"metropolis is for undirected graphs, {graph.name} is directed",
            key="topology.weights",
            allowed="uniform, or an undirected graph such as ring, torus or hypercube",
        )
    d_i = graph.degree(i)
    return {j: metropolis_weight(d_i, graph.degree(j)) for j in graph.in_neighbours[i]}


def _uniform(graph: Graph, i: int) -> dict[int, float]:
    """w_ij = 1/(1 + d_max): needs the largest degree of the graph.

    Column j adds to 1 + (out-degree − in-degree)/(1 + d_max): one if the graph is balanced.
    """
    if not graph.is_balanced:
        raise ConfigError(
            "some node does not send to as many as it receives from, so the mean would drift",
            key="topology.weights",
            allowed="an undirected graph, or a directed one with equal in- and out-degrees",
        )
    w = 1.0 / (1 + graph.degree_max)
    return dict.fromkeys(graph.in_neighbours[i], w)


RULES: Final[dict[str, Callable[[Graph, int], dict[int, float]]]] = {
    "metropolis": _metropolis,
    "uniform": _uniform,
}
