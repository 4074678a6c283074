"""Rules that give each edge of a graph its weight: the rows of W, or all of it.

Invariant: every row adds to one with the self weight taking the rest, and W is doubly stochastic
for every graph that a rule accepts. Models may not enter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import fsum
from typing import Final

import numpy as np

from gossipnode.errors import ConfigError, nearest_spelling
from gossipnode.topology.graph import Graph
from gossipnode.topology.mixing import Floats, Mixing, Row

EdgeWeight = Callable[[int, int], float]

# The rule for what is handed out, where no W need be: its columns add to one, its rows may not.
OUT_DEGREE: Final = "out_degree"


def metropolis_weight(degree_i: int, degree_j: int) -> float:
    """Return w_ij = 1/(1 + max(d_i, d_j)) of an edge; degrees do not count the node itself.

    Source: Xiao, Boyd, Lall, IPSN 2005 (the Metropolis weights).

    >>> metropolis_weight(3, 1)
    0.25
    """
    return 1.0 / (1 + max(degree_i, degree_j))


def weight_row(graph: Graph, i: int, rule: str = "metropolis", *, lazy: bool = False) -> Row:
    """Return (w_ii, {j: w_ij}) for every j that node ``i`` receives from.

    ``rule`` is a key of ``RULES``; ``lazy`` takes (I + W)/2. Metropolis looks at the neighbours'
    degrees only, uniform and max_degree at the whole graph, best_constant at its spectrum. Raises
    ``ConfigError`` where the rule is unknown or would not make W doubly stochastic on this graph.
    """
    return _row(graph, i, _edge_weight(graph, rule), lazy)


def share_column(graph: Graph, i: int, rule: str = OUT_DEGREE, *, lazy: bool = False) -> Row:
    """Return (p_ii, {j: p_ji}): what node ``i`` keeps, and hands to each that it sends to.

    It adds to one on every graph by ``OUT_DEGREE``, p_ji = 1/(1 + d_i), which needs nothing but
    what ``i`` knows. By a key of ``RULES`` it is column ``i`` of W; raises ``ConfigError`` as
    ``weight_row`` does.
    """
    weight = _out_degree(graph) if rule == OUT_DEGREE else _edge_weight(graph, rule)
    column = {j: weight(j, i) * (0.5 if lazy else 1.0) for j in graph.out_neighbours[i]}
    return 1.0 - fsum(column.values()), column


def mixing_matrix(graph: Graph, rule: str = "metropolis", *, lazy: bool = False) -> Mixing:
    """Return W, sparse; raises ``ConfigError`` as ``weight_row`` does."""
    weight = _edge_weight(graph, rule)
    mixing = Mixing.from_rows([_row(graph, i, weight, lazy) for i in range(graph.nodes)])
    assert mixing.is_doubly_stochastic(), f"{rule} on {graph.name}"
    assert graph.directed or mixing.is_symmetric(), f"{rule} on {graph.name}"
    return mixing


def weight_matrix(graph: Graph, rule: str = "metropolis", *, lazy: bool = False) -> Floats:
    """Return W, (n, n) float64; raises ``ConfigError`` as ``weight_row`` does."""
    return mixing_matrix(graph, rule, lazy=lazy).dense()


def default_rule(graph: Graph) -> str:
    """Return the rule that serves: metropolis, or uniform where the graph is directed."""
    return "uniform" if graph.directed else "metropolis"


def _row(graph: Graph, i: int, weight: EdgeWeight, lazy: bool) -> Row:
    row = {j: weight(i, j) for j in graph.in_neighbours[i]}
    if lazy:
        row = {j: 0.5 * w for j, w in row.items()}
    return 1.0 - fsum(row.values()), row


def _edge_weight(graph: Graph, rule: str) -> EdgeWeight:
    """Return (i, j) -> w_ij by the rule of that name."""
    make = RULES.get(rule)
    if make is None:
        raise ConfigError(
            f"there is no weight rule {rule!r}",
            key="topology.weights",
            allowed=", ".join(RULES),
            nearest=nearest_spelling(rule, RULES),
        )
    return make(graph)


def spectral_rho(W: Floats) -> float:
    """Return ρ = ‖W − J‖₂, J = 11ᵀ/n: by how much one mixing step shrinks disagreement.

    The second largest eigenvalue modulus would be the same for a normal W only.
    """
    return float(np.linalg.norm(W - 1.0 / len(W), 2))


def is_doubly_stochastic(W: Floats, tolerance: float = 1e-12) -> bool:
    """Tell whether all rows and all columns add to one; negative entries are allowed."""
    sums = np.concatenate([W.sum(axis=0), W.sum(axis=1)])
    return bool(np.abs(sums - 1.0).max() <= tolerance)


def is_symmetric(W: Floats, tolerance: float = 1e-12) -> bool:
    """Tell whether W equals its transpose."""
    return bool(np.abs(W - W.T).max() <= tolerance)


def _metropolis(graph: Graph) -> EdgeWeight:
    """w_ij = 1/(1 + max(d_i, d_j)): needs the neighbours' degrees only."""
    _must_be_undirected(graph, "metropolis")
    return lambda i, j: metropolis_weight(graph.degree(i), graph.degree(j))


def _uniform(graph: Graph) -> EdgeWeight:
    """w_ij = 1/(1 + d_max): needs the largest degree of the graph.

    Column j adds to 1 + (out-degree − in-degree)/(1 + d_max): one if the graph is balanced.
    """
    _must_be_balanced(graph)
    return _constant(1.0 / (1 + graph.degree_max))


def _max_degree(graph: Graph) -> EdgeWeight:
    """w_ij = 1/n: needs n only, since no degree is above n − 1; slow where degrees are small."""
    _must_be_balanced(graph)
    return _constant(1.0 / graph.nodes)


def _best_constant(graph: Graph) -> EdgeWeight:
    """w_ij = 2/(λ_max + λ_2) of the Laplacian: no constant has a smaller ρ.

    Self weights can be negative (the star's hub). Source: Xiao, Boyd, SCL 53, 2004, section 4.1.
    """
    _must_be_undirected(graph, "best_constant")
    return _constant(_best_of(graph))


@lru_cache(maxsize=4)
def _best_of(graph: Graph) -> float:
    """Return it; every node of a simulated swarm asks for the same graph's."""
    # Imported here, since no other rule looks at a spectrum.
    from gossipnode.topology.eigen import laplacian_extremes

    if graph.nodes == 1:
        return 1.0
    small, large = laplacian_extremes(graph)
    return 2.0 / (small + large)


def _out_degree(graph: Graph) -> EdgeWeight:
    """p_ij = 1/(1 + out-degree of j): the sender's to know."""
    return lambda _i, j: 1.0 / (1 + graph.degree(j))


def _constant(weight: float) -> EdgeWeight:
    return lambda _i, _j: weight


def _must_be_undirected(graph: Graph, rule: str) -> None:
    if graph.directed:
        raise ConfigError(
            f"{rule} is for undirected graphs, {graph.name} is directed",
            key="topology.weights",
            allowed="uniform, or an undirected graph such as ring, torus or hypercube",
        )


def _must_be_balanced(graph: Graph) -> None:
    if not graph.is_balanced:
        raise ConfigError(
            "some node does not send to as many as it receives from, so the mean would drift",
            key="topology.weights",
            allowed="an undirected graph, or a directed one with equal in- and out-degrees",
        )


RULES: Final[dict[str, Callable[[Graph], EdgeWeight]]] = {
    "metropolis": _metropolis,
    "uniform": _uniform,
    "max_degree": _max_degree,
    "best_constant": _best_constant,
}
