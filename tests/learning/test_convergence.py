"""Learning works: D-PSGD on digits as a dense matrix recursion, and a perceptron on its own."""

from __future__ import annotations

import numpy as np

from gossipnode.learning.learner import build_learner
from gossipnode.learning.params import consensus_distance

NODES = 8


def ring(nodes: int) -> np.ndarray:
    """The mixing matrix of a ring with weights 1/3."""
    identity = np.eye(nodes)
    return (identity + np.roll(identity, 1, axis=0) + np.roll(identity, -1, axis=0)) / 3


def test_dpsgd_on_a_ring_learns_digits():
    """Adapt-then-combine, τ = 5, η = 0.1, batch 32, 200 rounds; reference 0.945."""
    learners = [
        build_learner(task="softmax", data="digits", share_index=i, share_count=NODES)
        for i in range(NODES)
    ]
    W = ring(NODES).astype(np.float32)
    X = np.stack([learner.initial_params(0) for learner in learners])
    for _ in range(200):
        for x, learner in zip(X, learners, strict=True):
            learner.train(x, 5)
        X = W @ X
    accuracies = [learner.evaluate(x).accuracy for x, learner in zip(X, learners, strict=True)]
    assert np.mean(accuracies) >= 0.93
    assert min(accuracies) >= 0.91
    assert consensus_distance(list(X)) < 0.5


def test_perceptron_alone_learns_digits():
    learner = build_learner(task="mlp", data="digits", hidden=(32,), momentum=0.9)
    params = learner.initial_params(0)
    before = learner.evaluate(params)
    learner.train(params, 600)
    after = learner.evaluate(params)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.95
    assert after.loss < before.loss / 5
