"""Federated learning: exact recursions, published biases, and what losses do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config
from q16_swarms import (
    BEST,
    NAMES,
    Matrix,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.federated import Federated, selected
from gossipnode.algorithms.federated_servers import SECONDS, AdaptiveServer
from gossipnode.algorithms.hub_clients import ANSWER
from gossipnode.errors import ConfigError, PeerError
from gossipnode.simulation import Link, SimulatedSwarm

ETA = 0.1
PLAIN = ("fedsgd", "fedavg", "fedprox")
FORMS = (*PLAIN, *SECONDS)
FAST = {
    "algorithm__deadline_s": 0.1,
    "algorithm__start_deadline_s": 0.1,
    "network__push_timeout_s": 0.05,
}
Trained = Callable[[Matrix], Matrix]


def locally(tau: int, mu: float = 0.0) -> Trained:
    """Return what each of the 16 clients makes of its row of X, with the pull μ towards it."""

    def train(X: Matrix) -> Matrix:
        Y = X
        for _ in range(tau):
            Y = Y - ETA * (gradients(Y) + mu * (Y - X))
        return Y

    return train


def fedavg(rounds: int, train: Trained, fraction: float = 1.0) -> Matrix:
    """Return the hub's model after so many rounds."""
    x = start()[0]
    for k in range(rounds):
        rows = [NAMES.index(name) for name in selected(tuple(NAMES), fraction, 0, k)]
        x = train(np.broadcast_to(x, (16, 10)))[rows].mean(0)
    return x


def everywhere(x: Matrix, nodes: int = 16) -> Matrix:
    return np.broadcast_to(x, (nodes, x.size))


def config(source: str, form: str, rounds: int, tau: int = 1, **flags: Any) -> Any:
    return settings(source, form, ETA, run__rounds=rounds, training__local_steps=tau, **flags)


# -- the recursions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "tau", "mu", "fraction"),
    [
        ("fedsgd", 1, 0.0, 1.0),
        ("fedavg", 1, 0.0, 1.0),
        ("fedavg", 4, 0.0, 1.0),
        ("fedavg", 4, 0.0, 0.3),
        ("fedsgd", 1, 0.0, 0.5),
        ("fedprox", 4, 0.7, 1.0),
        ("fedprox", 4, 0.0, 0.5),
    ],
)
def test_sixteen_nodes_are_the_dense_recursion(
    source: str,
    form: str,
    tau: int,
    mu: float,
    fraction: float,
) -> None:
    flags = {"algorithm__mu": mu, "algorithm__fraction": fraction}
    with simulated(config(source, form, 20, tau, **flags)) as swarm:
        swarm.run_to_end(within=100)
        X = swarm.models()
        for node in swarm.up:
            assert (node.round, node.age) == (20, 20 * tau)
            for counter in ("missing_models", "late_dropped", "rounds_skipped"):
                assert node.counters.get(counter) == 0
    assert np.array_equal(X, everywhere(X[0]))
    expected = fedavg(20, locally(tau, mu if form == "fedprox" else 0.0), fraction)
    np.testing.assert_allclose(X[0], expected, rtol=0, atol=1e-12)


def test_one_step_of_fedavg_is_fedsgd(source: str) -> None:
    one, other = (models_of(config(source, form, 30)) for form in ("fedavg", "fedsgd"))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)


def test_fedprox_without_a_pull_is_fedavg_and_with_a_strong_one_stays(source: str) -> None:
    prox = models_of(config(source, "fedprox", 20, 4, algorithm__mu=0.0))
    np.testing.assert_allclose(prox, models_of(config(source, "fedavg", 20, 4)), rtol=0, atol=1e-14)
    # With ημ = 1 each step but the last is undone: as if there were but one, near x.
    pulled = models_of(config(source, "fedprox", 1, 50, algorithm__mu=1 / ETA))
    free = models_of(config(source, "fedavg", 1, 50))
    assert np.abs(pulled - start()).max() < np.abs(free - start()).max() / 3


@pytest.mark.parametrize(
    ("tau", "published"),
    [(1, 0.0), (2, 0.0412968), (4, 0.1122587), (8, 0.2179053), (16, 0.3418790)],
)
def test_the_bias_of_fedavg_is_the_published_one(tau: int, published: float) -> None:
    away = np.linalg.norm(fedavg(1000, locally(tau)) - BEST)
    assert away == pytest.approx(published, rel=5e-6, abs=1e-7)


@pytest.mark.parametrize(("mu", "published"), [(0.0, 0.217905), (0.1, 0.215917), (1.0, 0.196323)])
def test_the_bias_of_fedprox_is_the_published_one(mu: float, published: float) -> None:
    away = np.linalg.norm(fedavg(1000, locally(8, mu)) - BEST)
    assert away == pytest.approx(published, rel=5e-6)


def test_a_swarm_comes_to_the_published_bias(source: str) -> None:
    X = models_of(config(source, "fedavg", 80, 4))
    assert np.linalg.norm(X[3] - BEST) == pytest.approx(0.1122587, rel=5e-6)


class Rich(PlainLearner):
    """A learner that says how many samples it has."""

    def __init__(self, start: list[float], step: float, samples: int) -> None:
        super().__init__(start, step)
        self.samples = samples


def test_clients_weigh_by_their_samples() -> None:
    learners = [Rich([0.0], step, n) for step, n in ((1.0, 1), (5.0, 2), (-1.0, 5))]
    run = {"algorithm__name": "fedavg", "run__rounds": 3}
    with SimulatedSwarm(plain_config(**run), 3, learners=learners) as swarm:
        swarm.run_to_end(within=10)
        expected = 3 * (1 * 1.0 + 2 * 5.0 + 5 * -1.0) / 8
        np.testing.assert_allclose(swarm.models(), expected, rtol=1e-15)


def test_the_hub_may_be_any_node(source: str) -> None:
    one = models_of(config(source, "fedavg", 10, 2))
    other = models_of(config(source, "fedavg", 10, 2, algorithm__hub=NAMES[7]))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)
    with (
        pytest.raises(ConfigError, match=r"who.*not in the peer list"),
        simulated(config(source, "fedavg", 10, algorithm__hub="who")) as swarm,
    ):
        swarm.run_to_end(within=5)


def test_the_graph_is_not_used(source: str) -> None:
    assert config(source, "fedavg", 10).topology.graph == "star"
    one, other = (
        models_of(config(source, "fedavg", 10, 2, topology__graph=graph))
        for graph in ("star", "ring")
    )
    assert np.array_equal(one, other)


def test_messages_are_two_for_each_client_that_is_asked(source: str) -> None:
    for fraction, asked in ((1.0, 16), (0.25, 4)):
        rounds = 12
        with simulated(config(source, "fedavg", rounds, algorithm__fraction=fraction)) as swarm:
            swarm.run_to_end(within=100)
            hub_asks_itself = sum(
                NAMES[0] in selected(tuple(NAMES), fraction, 0, k) for k in range(rounds)
            )
            assert swarm.frames[NAMES[0]] == 15 * (rounds + 1)
            assert (
                sum(swarm.frames.values()) == 15 * (rounds + 1) + rounds * asked - hub_asks_itself
            )


# -- who is asked ----------------------------------------------------------------------------------


def test_a_draw_depends_on_seed_and_round_alone() -> None:
    ids = tuple("abcdefghij")
    draws = [selected(ids, 0.35, 5, k) for k in range(200)]
    assert draws == [selected(ids, 0.35, 5, k) for k in range(200)]
    assert {len(drawn) for drawn in draws} == {4}
    assert all(sorted(set(drawn)) == list(drawn) for drawn in draws)
    assert draws != [selected(ids, 0.35, 6, k) for k in range(200)]
    share = np.mean([[j in drawn for j in ids] for drawn in draws], axis=0)
    assert np.abs(share - 0.4).max() < 4 * np.sqrt(0.4 * 0.6 / 200)
    assert selected(ids, 1e-9, 0, 0) == selected(ids, 0.1, 0, 0)
    assert selected(ids, 1.0, 0, 0) == ids


# -- the hub's steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SECONDS)
def test_where_all_clients_return_x_it_stays(form: str) -> None:
    server = AdaptiveServer(form, 0.1, 0.9, 0.99, 1e-9)
    x = np.random.default_rng(0).standard_normal(7)
    for _ in range(3):
        assert np.array_equal(server.step(x, x.copy()), x)


@pytest.mark.parametrize(
    ("form", "second"),
    [
        ("fedadagrad", [4.0, 5.0]),
        ("fedadam", [0.01 * 4, 0.99 * 0.01 * 4 + 0.01 * 1]),
        ("fedyogi", [0.01 * 4, 0.01 * 4 + 0.01 * 1]),  # Δ² = 1 is more than v: v grows by a share
    ],
)
def test_the_first_two_steps_by_hand(form: str, second: list[float]) -> None:
    """Δ = 2, then Δ = −1."""
    server, x = AdaptiveServer(form, 0.1, 0.9, 0.99, 1e-3), np.array([5.0])
    x = server.step(x, x + 2)
    first = 5 + 0.1 * 0.2 / (np.sqrt(second[0]) + 1e-3)
    assert x[0] == pytest.approx(first, rel=1e-14)
    x = server.step(x, x - 1)
    m = 0.9 * 0.2 - 0.1
    assert x[0] == pytest.approx(first + 0.1 * m / (np.sqrt(second[1]) + 1e-3), rel=1e-14)


def test_yogi_forgets_by_a_share_of_what_is_new_and_adam_of_what_was() -> None:
    v, square = np.array([9.0]), np.array([4.0])
    assert SECONDS["fedyogi"](v, square, 0.99)[0] == pytest.approx(9 - 0.01 * 4, rel=1e-15)
    assert SECONDS["fedadam"](v, square, 0.99)[0] == pytest.approx(0.99 * 9 + 0.04, rel=1e-15)
    assert SECONDS["fedadagrad"](v, square, 0.99)[0] == 13


@pytest.mark.parametrize("form", SECONDS)
def test_an_adaptive_swarm_is_the_dense_recursion(source: str, form: str) -> None:
    rate, epsilon = (0.01, 1e-3) if form == "fedyogi" else (0.1, 1e-9)
    x, m, v = start()[0], 0.0, np.zeros(10)
    for _ in range(15):
        delta = locally(3)(everywhere(x)).mean(0) - x
        m = 0.9 * m + 0.1 * delta
        v = {
            "fedadagrad": v + delta**2,
            "fedadam": 0.99 * v + 0.01 * delta**2,
            "fedyogi": v - 0.01 * delta**2 * np.sign(v - delta**2),
        }[form]
        x = x + rate * m / (np.sqrt(v) + epsilon)
    X = models_of(config(source, form, 15, 3))
    np.testing.assert_allclose(X, everywhere(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("samples", [-1.0, 0.5])
def test_a_number_of_samples_that_is_none_is_refused(source: str, samples: float) -> None:
    with simulated(config(source, "fedavg", 5)) as swarm:
        hub = swarm.nodes[NAMES[0]]
        assert isinstance(hub.algorithm, Federated)
        answer = Arrival(
            NAMES[1],
            Purpose.MODEL,
            0,
            0,
            {"half": np.zeros(10)},
            {"samples": samples},
            phase=ANSWER,
        )
        with pytest.raises(PeerError, match="samples"):
            hub.algorithm.hear(hub, answer)


# -- what a swarm must bear ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_seed_is_a_run(source: str, form: str) -> None:
    flags = {"algorithm__fraction": 0.5, **FAST}
    one, again, other = (trace_of(config(source, form, 8, **flags), seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


@pytest.mark.parametrize("form", FORMS)
def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str, form: str) -> None:
    tau = 1 if form == "fedsgd" else 3
    X = stopped_and_started(config(source, form, 12, tau, checkpoint__every_s=0.0), 25)
    through = models_of(config(source, form, 25, tau))
    np.testing.assert_allclose(X, through, rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_lost_answer_is_missed_and_no_more(source: str, loss: float) -> None:
    """All models are the hub's, whatever is lost, and near the optimum."""
    link = Link(latency_s=0.001, loss=loss)
    with simulated(config(source, "fedavg", 60, 2, **FAST), seed=3, link=link) as swarm:
        away = []
        while swarm.nodes[NAMES[0]].round < 60:
            swarm.run(0.02)
            if swarm.nodes[NAMES[0]].round > 30:
                away.append(np.linalg.norm(swarm.nodes[NAMES[0]].params - BEST))
        swarm.run_to_end(within=100)
        if not loss:
            assert swarm.consensus_distance() < 1e-15
        else:
            # Of one client in sixteen too few: its pull, η‖∇f_i(x*)‖τ/16, is 0.053 on average.
            assert 0.0413 / 2 < np.median(away) < 0.0413 + 4 * 0.053
