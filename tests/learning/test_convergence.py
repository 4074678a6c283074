"""Learning works: D-PSGD on digits as a dense matrix recursion, and a perceptron on its own."""

from __future__ import annotations

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("graph", "partition", "reference", "tolerance"),
    [
        ("ring", "iid", (0.902, 0.942, 0.9625), 0.01),
        ("complete", "iid", (0.908, 0.944, 0.964), 0.01),
        ("isolated", "iid", (0.819, 0.876, 0.879), 0.01),
        ("complete", "shards:2", (0.911, 0.939, 0.966), 0.02),
        ("isolated", "shards:2", (0.234, 0.240, 0.242), 0.02),
    ],
)
def test_reference_accuracies_on_digits(graph, partition, reference, tolerance):
    """16 nodes, batch 16, η = 0.5, l2 1e-4, τ = 1; rounds 50, 200, 600; mean of three seeds."""
    nodes, after = 16, (50, 200, 600)
    W = {"ring": ring(nodes), "complete": np.full((nodes, nodes), 1 / nodes)}.get(graph)
    reached = []
    for seed in range(3):
        learners = [
            build_learner(
                task="softmax",
                data="digits",
                test_fraction=297 / 1797,
                partition=partition,
                partition_seed=seed,
                seed=seed,
                share_index=i,
                share_count=nodes,
                batch_size=16,
                learning_rate=0.5,
                l2=1e-4,
            )
            for i in range(nodes)
        ]
        X = np.stack([learner.initial_params(0) for learner in learners])
        for k in range(1, max(after) + 1):
            for x, learner in zip(X, learners, strict=True):
                learner.train(x, 1)
            X = X if W is None else W.astype(np.float32) @ X
            if k in after:
                scores = [m.evaluate(x).accuracy for m, x in zip(learners, X, strict=True)]
                reached.append(np.mean(scores))
    mean = np.reshape(reached, (3, len(after))).mean(axis=0)
    assert np.abs(mean - reference).max() <= tolerance, mean


def test_perceptron_alone_learns_digits():
    learner = build_learner(task="mlp", data="digits", hidden=(32,), momentum=0.9)
    params = learner.initial_params(0)
    before = learner.evaluate(params)
    learner.train(params, 600)
    after = learner.evaluate(params)
    assert before.accuracy < 0.3
    assert after.accuracy > 0.95
    assert after.loss < before.loss / 5
