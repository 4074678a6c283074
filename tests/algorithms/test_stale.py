"""D-PSGD that mixes with the half-steps of the round before, so that nobody waits for the wires."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from q16_swarms import (
    BEST,
    HASTY,
    NAMES,
    A,
    Matrix,
    W,
    after,
    b,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms import build_algorithm
from gossipnode.errors import ConfigError
from gossipnode.simulation import Link
from gossipnode.simulation.vectorised import VectorisedSwarm

OWN = np.diag(np.diag(W))


def stale(X: Matrix, eta: float, tau: int = 1) -> Iterator[Matrix]:
    before = X
    while True:
        for _ in range(tau):
            X = X - eta * gradients(X)
        X, before = OWN @ X + (W - OWN) @ before, X
        yield X


def f(x: Matrix) -> float:
    return float(np.mean([0.5 * x @ A[i] @ x - b[i] @ x for i in range(16)]))


@pytest.mark.parametrize("tau", [1, 3])
def test_sixteen_nodes_are_the_dense_recursion(source: str, tau: int) -> None:
    config = settings(
        source, "dpsgd", 0.05, algorithm__form="stale", run__rounds=40, training__local_steps=tau
    )
    expected = after(stale(start(), 0.05, tau), 40)
    np.testing.assert_allclose(models_of(config), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("eta", "distance", "spread", "gap"),
    [
        (0.2, 0.1609011, 1.334071, 0.01514976),
        (0.1, 0.1208488, 1.057010, 0.008695181),
        (0.05, 0.0853296, 0.7696960, 0.004383895),
        (0.02, 0.0472504, 0.4323420, 0.001354806),
        (0.01, 0.0274152, 0.2511296, 0.0004573455),
    ],
)
def test_it_rests_where_atc_does(eta: float, distance: float, spread: float, gap: float) -> None:
    """The published fixed points of ATC, to the digits given."""
    X = after(stale(start(), eta), 4000)
    mean = X.mean(0)
    assert np.linalg.norm(mean - BEST) == pytest.approx(distance, rel=5e-6)
    assert np.sqrt(((X - mean) ** 2).sum(1).mean()) == pytest.approx(spread, rel=5e-6)
    assert f(mean) - f(BEST) == pytest.approx(gap, rel=5e-5)


@pytest.mark.parametrize(("form", "round_s"), [("stale", 0.25), ("atc", 0.35)])
def test_communication_costs_no_time_while_it_is_shorter_than_training(
    source: str, form: str, round_s: float
) -> None:
    """A step takes 0.25 s, a message 0.1 s and so its answer: a round takes one, or both."""
    config = settings(source, "dpsgd", 0.05, algorithm__form=form, run__rounds=20)
    with simulated(config, step_s=0.25, link=Link(latency_s=0.1)) as swarm:
        swarm.run_until(lambda: swarm.up[0].round == 20, within=20, every=0.01)
        assert swarm.time == pytest.approx(20 * round_s, abs=0.011)


def test_a_round_begins_before_the_neighbours_have_trained_the_last(source: str) -> None:
    """Node 3 takes ten times as long; its neighbours train round k + 1 while it trains k."""
    config = settings(source, "dpsgd", 0.05, algorithm__form="stale", run__rounds=12)
    with simulated(config, step_s=0.1) as swarm:
        swarm.slow_down(NAMES[3], 10.0)
        swarm.run(1.5)  # node 3 trains its second round, from 1.0 s to 2.0 s
        assert swarm.nodes[NAMES[3]].counters.get("local_steps") == 1
        assert swarm.nodes[NAMES[4]].counters.get("local_steps") == 3
        swarm.run_to_end(within=60)
        expected = after(stale(start(), 0.05), 12)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    config = settings(source, "dpsgd", 0.05, algorithm__form="stale", run__rounds=30)
    X = stopped_and_started(config, 60)
    np.testing.assert_allclose(X, after(stale(start(), 0.05), 60), rtol=0, atol=1e-12)


def test_another_form_does_not_keep_the_half_step_for_later(source: str) -> None:
    """Else ``stale`` would send it when it is chosen again, however long that took."""
    stale_, atc = (
        build_algorithm(settings(source, "dpsgd", 0.05, algorithm__form=form))
        for form in ("stale", "atc")
    )
    stale_.restore({"half": start()[0]}, {})
    assert stale_.state()[0].keys() == {"half"}
    atc.restore(*stale_.state())
    assert atc.state()[0] == {}


def test_a_seed_is_a_run(source: str) -> None:
    config = settings(source, "dpsgd", 0.05, algorithm__form="stale", run__rounds=30, **HASTY)
    (one, X), (again, Y), (other, _) = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert np.array_equal(X, Y)


def test_the_matrix_of_all_nodes_refuses_it(source: str) -> None:
    """It is another recursion than X ← W(X − ηG), and must not pass for that one."""
    with pytest.raises(ConfigError, match="stale"):
        VectorisedSwarm(settings(source, "dpsgd", 0.05, algorithm__form="stale"), 16)
