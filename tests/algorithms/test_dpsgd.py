"""D-PSGD against the dense recursion and its published fixed points."""

from __future__ import annotations

import numpy as np
import pytest
from memory_swarm import MemorySwarm, swarm_of
from q16 import q16, ring16
from q16_swarms import NAMES, settings

from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.learning.learner import NumpyLearner, build_learner
from gossipnode.simulation import loop as virtual_time

# (η, form) -> ‖x̄ − x*‖, Ξ, f(x̄) − f*: the published fixed points, to the digits given.
FIXED_POINTS = {
    (0.2, "atc"): (0.1609011, 1.334071, 0.01514976),
    (0.2, "cta"): (0.1940559, 1.413208, 0.02037056),
    (0.1, "atc"): (0.1208488, 1.057010, 0.008695181),
    (0.1, "cta"): (0.1361786, 1.107925, 0.01028455),
    (0.05, "atc"): (0.0853296, 0.7696960, 0.004383895),
    (0.05, "cta"): (0.0914316, 0.8056056, 0.004767883),
    (0.02, "atc"): (0.0472504, 0.4323420, 0.001354806),
    (0.02, "cta"): (0.0491942, 0.4552986, 0.001418207),
    (0.01, "atc"): (0.0274152, 0.2511296, 0.0004573455),
    (0.01, "cta"): (0.0283916, 0.2658983, 0.0004777214),
}
# Rounds after which a further one changes nothing at the digits given.
ROUNDS = {0.2: 320, 0.1: 350, 0.05: 500, 0.02: 1150, 0.01: 2300}


def quadratic_config(source: str, eta: float, form: str, rounds: int) -> Config:
    return settings(source, "dpsgd", eta, algorithm__form=form, run__rounds=rounds)


def run_swarm(config: Config, names: list[str] = NAMES) -> MemorySwarm:
    async def main() -> MemorySwarm:
        async with swarm_of(config, names) as swarm:
            await swarm.run()
            return swarm

    return virtual_time.run(main())


def dense(eta: float, form: str, rounds: int, tau: int = 1) -> np.ndarray:
    """Return X after so many rounds of tau steps each, as products with W."""
    A, b, _ = q16()
    W, X = ring16(), np.zeros((16, 10))

    def local(X: np.ndarray) -> np.ndarray:
        for _ in range(tau):
            X = X - eta * (np.einsum("nij,nj->ni", A, X) - b)
        return X

    for _ in range(rounds):
        X = W @ local(X) if form == "atc" else W @ X + (local(X) - X)
    return X


def assert_published(X: np.ndarray, eta: float, form: str) -> None:
    """Fail unless X is the published fixed point, to the digits given."""
    A, b, best = q16()
    np.testing.assert_allclose(best[:4], [0.79776836, 1.16469359, 1.46831393, 1.30822708])
    mean = X.mean(0)

    def f(x: np.ndarray) -> float:
        return float(np.mean([0.5 * x @ A[i] @ x - b[i] @ x for i in range(16)]))

    distance, spread, gap = FIXED_POINTS[eta, form]
    assert np.linalg.norm(mean - best) == pytest.approx(distance, rel=5e-6)
    away = np.sqrt(((X - mean) ** 2).sum(1).mean())
    assert away == pytest.approx(spread, rel=5e-6)
    assert f(mean) - f(best) == pytest.approx(gap, rel=5e-5)


@pytest.mark.parametrize(("eta", "form"), FIXED_POINTS)
def test_the_recursion_lands_on_the_published_fixed_point(eta: float, form: str) -> None:
    assert_published(dense(eta, form, ROUNDS[eta]), eta, form)


@pytest.mark.parametrize(
    ("eta", "form"),
    [
        pytest.param(eta, form, marks=[pytest.mark.long] if ROUNDS[eta] > 350 else [])
        for eta, form in FIXED_POINTS
    ],
)
def test_nodes_land_on_the_published_fixed_point(source: str, eta: float, form: str) -> None:
    """With small steps as the recursion does, which nodes equal; at length also by themselves."""
    swarm = run_swarm(quadratic_config(source, eta, form, ROUNDS[eta]))
    assert_published(swarm.models(), eta, form)
    assert swarm.consensus_distance() == pytest.approx(FIXED_POINTS[eta, form][1], rel=5e-6)


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("tau", [1, 3])
def test_equals_the_dense_recursion(source: str, form: str, tau: int) -> None:
    eta, rounds = 0.1, 40
    X = dense(eta, form, rounds, tau)
    config = quadratic_config(source, eta, form, rounds)
    training = config.training.model_copy(update={"local_steps": tau})
    swarm = run_swarm(config.model_copy(update={"training": training}))
    np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=1e-12)
    assert not any(node.counters.get("missing_models") for node in swarm.nodes.values())


@pytest.mark.parametrize(
    ("graph", "nodes"),
    [("star", 6), ("complete", 5), ("torus", 9), ("hypercube", 8), ("exponential", 8), ("grid", 6)],
)
def test_every_graph_mixes_as_its_matrix(source: str, graph: str, nodes: int) -> None:
    from gossipnode.topology import build_graph, weight_matrix

    A, b, _ = q16()
    built = build_graph(graph, nodes)
    W = weight_matrix(built, "uniform" if built.directed else "metropolis")
    X = np.zeros((nodes, 10))
    for _ in range(30):
        X = W @ (X - 0.1 * (np.einsum("nij,nj->ni", A[:nodes], X) - b[:nodes]))
    config = quadratic_config(source, 0.1, "atc", 30)
    topology = config.topology.model_copy(update={"graph": graph})
    swarm = run_swarm(config.model_copy(update={"topology": topology}), NAMES[:nodes])
    np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=1e-12)


def test_complete_graph_is_parallel_sgd(source: str) -> None:
    """W = J and equal starts: every node follows SGD on the mean of all gradients."""
    A, b, _ = q16()
    x = np.zeros(10)
    for _ in range(25):
        x = x - 0.1 * np.mean([A[i] @ x - b[i] for i in range(16)], axis=0)
    config = quadratic_config(source, 0.1, "atc", 25)
    topology = config.topology.model_copy(update={"graph": "complete"})
    swarm = run_swarm(config.model_copy(update={"topology": topology}))
    np.testing.assert_allclose(swarm.models(), np.tile(x, (16, 1)), rtol=0, atol=1e-13)


def test_digits_equal_the_dense_recursion_with_the_same_batches() -> None:
    """Softmax in float32, minibatches included: the reference draws its own batches."""
    options = {"run.rounds": 20, "run.evaluate_every": 0, "swarm.seed": 3}
    swarm = run_swarm(load_config(flags=options), NAMES[:5])
    learners: list[NumpyLearner] = [
        build_learner(
            task="softmax", data="digits", share_index=i, share_count=5, partition_seed=3, seed=3
        )
        for i in range(5)
    ]
    eye = np.eye(5)
    W = (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3
    X = np.stack([learner.initial_params(3) for learner in learners])
    for _ in range(20):
        half = X.copy()
        for i, learner in enumerate(learners):
            learner.train(half[i], 5)
        X = (W @ half.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=3e-6)
