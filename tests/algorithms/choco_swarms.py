"""CHOCO as a dense recursion, and what its swarms are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config
from q16_swarms import EYE, LINK, Matrix, W, gradients

from gossipnode.algorithms.base import Arrival, NodeInterface
from gossipnode.algorithms.choco import Choco
from gossipnode.algorithms.choco_copies import Copies
from gossipnode.learning.learner import TrainResult
from gossipnode.simulation import SimulatedSwarm

TOP = {"codec__name": "topk", "codec__fraction": 0.2}
CODECS: dict[str, dict[str, Any]] = {
    "top 20 %": TOP,
    "top 10 % in a byte": {**TOP, "codec__fraction": 0.1, "codec__bits": 8},
    "random 10 %": {"codec__name": "randomk", "codec__fraction": 0.1},
    "sign": {"codec__name": "sign"},
    "qsgd": {"codec__name": "qsgd"},
    "2 bits": {"codec__name": "uniform", "codec__bits": 2},
    "8 bits": {"codec__name": "uniform"},
    "float16": {"codec__name": "float16"},
    "bfloat16": {"codec__name": "bfloat16"},
}
# Learns nothing: nodes agree on the mean of where they go in the first step.
AVERAGING: dict[str, Any] = {
    "algorithm__name": "choco",
    "topology__graph": "ring",
    "topology__weights": "metropolis",
}


def spread(X: Matrix) -> float:
    """Return Ξ."""
    return float(np.sqrt(((X - X.mean(0)) ** 2).sum(1).mean()))


def top(v: Matrix, share: float) -> Matrix:
    """Return ``v`` with all but the largest values zero."""
    found = np.zeros_like(v)
    kept = np.argsort(-np.abs(v), kind="stable")[: max(1, round(share * v.size))]
    found[kept] = v[kept]
    return found


def choco(
    X: Matrix,
    eta: float,
    gamma: float,
    code: Callable[[Matrix], Matrix],
    V: Matrix = W,
    H: Matrix | None = None,
) -> Iterator[Matrix]:
    """x̂ ← x̂ + C(x − x̂) and x ← x + γ(W − I)x̂, from the common X where no H is given."""
    H = X.copy() if H is None else H
    while True:
        X = X - eta * gradients(X)
        H = H + np.array([code(v) for v in X - H])
        X = X + gamma * (V - EYE) @ H
        yield X


def lazy_fixed_point(A: Matrix, b: Matrix, eta: float, gamma: float) -> Matrix:
    """Return where X = V(X − ηg(X)) rests, V = (1 − γ)I + γW, by one linear system.

    CHOCO's half-step is what its copies are of at rest: X = h + γ(W − I)h, h = X − ηg(X).
    """
    n, d = b.shape
    V = np.kron((1 - gamma) * np.eye(n) + gamma * W, np.eye(d))
    G = np.zeros((n * d, n * d))
    for i in range(n):
        G[i * d : (i + 1) * d, i * d : (i + 1) * d] = A[i]
    X = np.linalg.solve(np.eye(n * d) - V @ (np.eye(n * d) - eta * G), V @ (eta * b.ravel()))
    return X.reshape(n, d)


class Leaper(PlainLearner):
    """Begins where all do, and goes to a place of its own in its first step; then it rests."""

    def __init__(self, goal: Matrix, dtype: str = "float64") -> None:
        super().__init__([0.0] * len(goal), dtype=dtype)
        self.goal = goal

    def train(self, params: Any, steps: int) -> TrainResult:
        if not self.steps_done:
            params[:] = self.goal
        return super().train(params, steps)


class Witness:
    """Compares each copy, whenever one is kept, with what its owner held in that version."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.held: dict[tuple[str, int, int], Matrix] = {}
        self.compared = 0
        send, keep = Choco.send, Copies.keep

        async def sending(
            one: Choco, node: NodeInterface, k: int, half: Matrix, neighbours: Sequence[str]
        ) -> Matrix:
            hat = await send(one, node, k, half, neighbours)
            # It was pushed without a pause, so nobody can have it yet.
            self.held[node.id, node.epoch, one.version] = hat.copy()
            return hat

        def keeping(copies: Copies, arrival: Arrival, x: Matrix) -> None:
            held = self.held[arrival.sender, arrival.order[0], arrival.version]
            np.testing.assert_array_equal(x, held, strict=True)
            self.compared += 1
            keep(copies, arrival, x)

        patch.setattr(Choco, "send", sending)
        patch.setattr(Copies, "keep", keeping)


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Return one that watches all swarms of a test."""
    return Witness(monkeypatch)


def lagging(swarm: SimulatedSwarm) -> list[tuple[str, str]]:
    """Return (holder, whose) of copies that are behind."""
    return [
        (node.id, j)
        for node in swarm.up
        for j in node.out_neighbours
        if (copy := node.algorithm.copies.of.get(j)) is None
        or (copy.order[0], copy.version) != (swarm.nodes[j].epoch, swarm.nodes[j].algorithm.version)
    ]


def averaging(goals: Matrix, rounds: int, dtype: str = "float64", **flags: Any) -> SimulatedSwarm:
    """Return a ring that averages the rows of ``goals``."""
    made = plain_config(**{**AVERAGING, "run__rounds": rounds, "task__dtype": dtype, **flags})
    learners = [Leaper(goal, dtype) for goal in goals]
    return SimulatedSwarm(made, len(goals), learners=learners, link=LINK, objects=True)
