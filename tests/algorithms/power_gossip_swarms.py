"""Swarms whose models are matrices, the paper's recursion for them, and what all edges know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from plain_learner import PlainLearner, plain_config
from q16_swarms import LINK, NAMES, Matrix

from gossipnode.algorithms.low_rank_edge import Edge
from gossipnode.config import Config
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.simulation import SimulatedSwarm
from gossipnode.topology import build_graph

SHAPES = {"w": (30, 20), "bias": (7,), "k": (12, 5, 5)}
LAYOUT = Layout.of(SHAPES, "float64")
PULL = 0.1


class Pulled(PlainLearner):
    """Begins at ``start``, a model of matrices; each step goes ``pull`` of the way to ``goal``."""

    def __init__(self, start: Any, goal: Any, pull: float, dtype: str) -> None:
        super().__init__(start, dtype=dtype)
        self.layout = Layout.of(SHAPES, dtype)
        self.goal, self.pull = goal, pull

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params += (self.pull * (self.goal - params)).astype(params.dtype)
        return super().train(params, steps)


def starts(dtype: str = "float64", n: int = 16) -> Matrix:
    return np.random.default_rng(0).standard_normal((n, LAYOUT.size)).astype(dtype)


def goals(n: int = 16) -> Matrix:
    return np.random.default_rng(1).standard_normal((n, LAYOUT.size))


def config(rounds: int, graph: str = "ring", rank: int = 2, **flags: Any) -> Config:
    common = {"algorithm__name": "power_gossip", "algorithm__rank": rank}
    common |= {"topology__graph": graph, "run__rounds": rounds, "task__dtype": "float64"}
    return plain_config(**{**common, **flags})


def swarm_of(config: Config, pull: float = 0.0, **how: Any) -> SimulatedSwarm:
    """Return sixteen nodes that are pulled apart, or that only average."""
    dtype = config.task.dtype
    learners = [Pulled(*pair, pull, dtype) for pair in zip(starts(dtype), goals(), strict=True)]
    common = {"link": LINK, "objects": True, "names": NAMES, "learners": learners}
    return SimulatedSwarm(config, **{**common, **how})


def drawn(i: str, j: str, k: int, number: int, rank: int, columns: int) -> Matrix:
    """The V that two ids and a round draw, as the module says."""
    lo, hi = sorted((i, j))
    key = xxhash.xxh3_64_intdigest(f"{lo}\n{hi}\n{k}".encode())
    generator = np.random.Philox(key=np.array([key, number], np.uint64))
    words = generator.random_raw(rank * columns)
    return np.array([((int(w) >> 12) + 0.5) / 2**51 - 1 for w in words]).reshape(rank, -1).T


def recursion(rows: Sequence[Sequence[int]], W: Matrix, rank: int, pull: float) -> Iterator[Matrix]:
    """The paper's, all nodes at once: X_i += w_ij (X_j − X_i) V Vᵀ, V ← orth((X_j − X_i) V)."""
    X, G = starts(), goals()
    edges = [(i, j) for i, row in enumerate(rows) for j in row if i < j]
    cut = {"w": (slice(0, 600), 30, 20), "k": (slice(607, 907), 12, 25)}
    V = {
        (i, j, name): np.linalg.qr(drawn(NAMES[i], NAMES[j], 0, number, rank, n))[0]
        for i, j in edges
        for number, (name, (_, _, n)) in enumerate(cut.items())
    }
    k = 0
    while True:
        X = X + pull * (G - X)
        new = X.copy()
        for i, j in edges:
            D = X[j] - X[i]
            told = np.zeros_like(D)
            told[600:607] = D[600:607]
            for name, (part, m, n) in cut.items():
                M, v = D[part].reshape(m, n), V[i, j, name]
                p = M @ v if k % 2 == 0 else M.T @ v
                told[part] = (p @ v.T if k % 2 == 0 else v @ p.T).reshape(-1)
                V[i, j, name] = np.linalg.qr(p)[0]
            new[i] += W[i, j] * told
            new[j] -= W[i, j] * told
        X = new
        k += 1
        yield X


def torus() -> tuple[Sequence[Sequence[int]], Matrix]:
    rows = build_graph("torus", 16).out_neighbours
    W = np.zeros((16, 16))
    for i, row in enumerate(rows):
        W[i, list(row)] = 1 / 5
    return rows, W


def edges_of(swarm: SimulatedSwarm) -> dict[tuple[str, str], Edge]:
    return {(node.id, j): e for node in swarm.up for j, e in node.algorithm.edges.items()}


def assert_alike(swarm: SimulatedSwarm) -> None:
    """Both ends of every edge have the same V and know the same of the last exchange."""
    edges = edges_of(swarm)
    for (i, j), here in edges.items():
        there = edges[j, i]
        assert (here.t, here.digest, here.before) == (there.t, there.digest, there.before)
        pairs = [*zip(here.V, there.V, strict=True)]
        if here.last is not None and there.last is not None:
            pairs += zip(here.last.left, there.last.left, strict=True)
            pairs += zip(here.last.right, there.last.right, strict=True)
            pairs += [(here.last.plain, there.last.plain)]
        assert (here.last is None) == (there.last is None)
        assert all(a.tobytes() == b.tobytes() for a, b in pairs)


def counted(swarm: SimulatedSwarm, what: str) -> int:
    return sum(node.counters.get(what) for node in swarm.up)


def drift(swarm: SimulatedSwarm) -> float:
    """How far the sum of all models is from where it began, in the worst coordinate."""
    return float(np.abs(swarm.models().sum(0) - starts().sum(0)).max())


def spread(X: Matrix) -> float:
    """The consensus distance, of what it was at the start."""
    Y = starts()
    return float(np.linalg.norm(X - X.mean(0)) / np.linalg.norm(Y - Y.mean(0)))
