"""Laws 1 and 6: x ← Wx contracts by ρ a round, keeps Σx, and one-peer exponential is exact.

The oracle builds W from edges written down here and takes ρ from its eigenvalues; what is
measured is the sparse product of the package and, for the lectures' matrices, the node itself.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.simulation import SimulatedSwarm
from gossipnode.topology import build_sequence

Edges = list[tuple[int, int]]


def lattice(rows: int, columns: int, wrap: bool) -> Edges:
    edges = []
    for r in range(rows):
        for c in range(columns):
            if wrap or c + 1 < columns:
                edges.append((r * columns + c, r * columns + (c + 1) % columns))
            if wrap or r + 1 < rows:
                edges.append((r * columns + c, (r + 1) % rows * columns + c))
    return edges


def metropolis(n: int, edges: Edges) -> np.ndarray:
    """Return W with w_ij = 1/(1 + max(d_i, d_j)) and the self weight what is left."""
    pairs = {frozenset(e) for e in edges}
    degree = [sum(i in p for p in pairs) for i in range(n)]
    W = np.zeros((n, n))
    for i, j in map(sorted, pairs):
        W[i, j] = W[j, i] = 1 / (1 + max(degree[i], degree[j]))
    return W + np.diag(1 - W.sum(1))


def exponential(n: int, hops: int) -> np.ndarray:
    """Return W of i → i + 2^t, t < hops, all weights equal."""
    W = np.eye(n)
    for t in range(hops):
        W += np.roll(np.eye(n), 1 << t, 0)
    return W / (1 + hops)


def of_package(name: str, n: int, **options: int) -> np.ndarray:
    """Return W of a random graph: its edges are the package's, its weights are not."""
    graph = build_sequence(name, n, seed=1, **options).graph(0)
    return metropolis(n, [(i, j) for i in range(n) for j in graph.out_neighbours[i]])


GRAPHS = {
    "ring": (16, {}, metropolis(16, [(i, (i + 1) % 16) for i in range(16)])),
    "chain": (12, {}, metropolis(12, [(i, i + 1) for i in range(11)])),
    "star": (16, {}, metropolis(16, [(0, i) for i in range(1, 16)])),
    "grid": (16, {}, metropolis(16, lattice(4, 4, wrap=False))),
    "torus": (36, {}, metropolis(36, lattice(6, 6, wrap=True))),
    "hypercube": (
        32,
        {},
        metropolis(32, [(i, i ^ 1 << b) for i in range(32) for b in range(5)]),
    ),
    "exponential": (16, {}, exponential(16, 4)),
    "erdos_renyi": (32, {}, of_package("erdos_renyi", 32)),
    "random_regular": (32, {"degree": 4}, of_package("random_regular", 32, degree=4)),
    "random_geometric": (32, {}, of_package("random_geometric", 32)),
    "small_world": (32, {}, of_package("small_world", 32)),
}


def rho_of(W: np.ndarray) -> float:
    """Return the second largest modulus of an eigenvalue; all W here are normal."""
    return float(np.sort(np.abs(np.linalg.eigvals(W)))[-2])


def distances(name: str, n: int, options: dict[str, int], until: float) -> tuple[list, list]:
    """Return ‖x(k) − x̄‖ and Σx(k) for k = 0, 1, … until the first is ``until``."""
    sequence = build_sequence(name, n, seed=1, **options)
    x = np.random.default_rng(5).standard_normal(n)
    apart, sums = [], []
    while not apart or apart[-1] > until:
        apart.append(float(np.linalg.norm(x - x.mean())))
        sums.append(float(x.sum()))
        x = sequence.at(len(apart) - 1).apply(x)
    return apart, sums


@pytest.mark.parametrize("name", GRAPHS)
def test_contraction_a_round_is_rho(name: str) -> None:
    """Late rounds only: by 10⁻⁶ the slowest mode is what is left; 10⁻¹¹ is far above rounding."""
    n, options, W = GRAPHS[name]
    apart, _ = distances(name, n, options, 1e-11)
    first = next(k for k, d in enumerate(apart) if d < 1e-6)
    measured = (apart[-1] / apart[first]) ** (1 / (len(apart) - 1 - first))
    assert measured == pytest.approx(rho_of(W), rel=0.01)


@pytest.mark.parametrize("name", GRAPHS)
def test_distance_never_exceeds_rho_to_the_k(name: str) -> None:
    """Each product rounds by some 1e-16 of |x|, and those errors are what 1e-14 allows for."""
    n, options, W = GRAPHS[name]
    apart, _ = distances(name, n, options, 1e-11)
    bound = apart[0] * rho_of(W) ** np.arange(len(apart))
    assert (np.array(apart) <= bound * (1 + 1e-12 * np.arange(len(apart))) + 1e-14).all()
    assert apart[1] > 0


@pytest.mark.parametrize("name", GRAPHS)
def test_sum_is_preserved(name: str) -> None:
    n, options, _ = GRAPHS[name]
    _, sums = distances(name, n, options, 1e-11)
    assert np.abs(np.array(sums) - sums[0]).max() <= 1e-12


def exact(W: list[list[Fraction]], x: list[Fraction], rounds: int) -> list[Fraction]:
    for _ in range(rounds):
        x = [sum((w * v for w, v in zip(row, x, strict=True)), Fraction()) for row in W]
    return x


def nodes_after(graph: str, start: list[int], rounds: int) -> np.ndarray:
    """Run the node itself on ``graph``, without training; return its four numbers."""
    config = plain_config(topology__graph=graph, run__rounds=rounds)
    learners = [PlainLearner([float(v)]) for v in start]
    with SimulatedSwarm(config, len(start), learners=learners) as swarm:
        swarm.run_to_end()
        return swarm.models()[:, 0]


START = [7, -3, 10, 2]
Q, T = Fraction(1, 4), Fraction(1, 3)
STAR = [[Q, Q, Q, Q], [Q, 3 * Q, 0 * Q, 0 * Q], [Q, 0 * Q, 3 * Q, 0 * Q], [Q, 0 * Q, 0 * Q, 3 * Q]]
RING = [[T, T, 0 * T, T], [T, T, T, 0 * T], [0 * T, T, T, T], [T, 0 * T, T, T]]


@pytest.mark.parametrize("rounds", [1, 2, 3, 8, 20])
def test_star_of_four_by_fractions(rounds: int) -> None:
    """Quarters of integers are binary fractions: up to 2⁻⁴⁰ nothing rounds at all."""
    right = [float(v) for v in exact(STAR, [Fraction(v) for v in START], rounds)]
    assert nodes_after("star", START, rounds).tolist() == right


@pytest.mark.parametrize("rounds", [1, 2, 3, 8, 20])
def test_ring_of_four_by_fractions(rounds: int) -> None:
    """A third rounds: three units in the last place of 10 a round, and those shrink again."""
    right = [float(v) for v in exact(RING, [Fraction(v) for v in START], rounds)]
    np.testing.assert_allclose(nodes_after("ring", START, rounds), right, rtol=0, atol=1e-14)


def test_the_lectures_eigenvalues() -> None:
    for W, spectrum in ((STAR, [0, 3 / 4, 3 / 4, 1]), (RING, [-1 / 3, 1 / 3, 1 / 3, 1])):
        dense = np.array([[float(w) for w in row] for row in W])
        np.testing.assert_allclose(np.linalg.eigvalsh(dense), spectrum, atol=1e-15)


def test_nodes_preserve_the_sum() -> None:
    start = [17 * i % 23 for i in range(16)]
    for graph in ("ring", "star", "exponential", "torus"):
        assert abs(nodes_after(graph, start, 30).sum() - sum(start)) <= 1e-12


@pytest.mark.parametrize("log2", range(1, 11))
def test_one_peer_exponential_is_exact(log2: int) -> None:
    """Halves of integers are binary fractions: equal means equal, not about equal."""
    n = 1 << log2
    sequence = build_sequence("one_peer_exponential", n)
    start = np.random.default_rng(log2).integers(-1000, 1000, n).astype(float)
    for first in range(log2):
        x = start
        for k in range(first, first + log2):
            assert len(set(x)) > 1 or log2 == 1, "not before the last round"
            x = sequence.at(k).apply(x)
        assert (x == start.sum() / n).all()


@pytest.mark.parametrize("n", [3, 6, 12, 25, 100])
def test_one_peer_exponential_is_not_exact_elsewhere(n: int) -> None:
    sequence = build_sequence("one_peer_exponential", n)
    x = np.arange(n, dtype=float)
    for k in range(2 * (n - 1).bit_length()):
        x = sequence.at(k).apply(x)
    assert np.ptp(x) > 1e-3
