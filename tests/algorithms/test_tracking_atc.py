"""Gradient tracking that mixes its trackers after they are adapted: two barriers in each round."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from q16_swarms import (
    HASTY,
    NAMES,
    Matrix,
    W,
    after,
    gradients,
    lacking,
    lose,
    rms,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms import build_algorithm
from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.configfile import load_config
from gossipnode.errors import PeerError
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time


def atc_gt(X: Matrix, eta: float) -> Iterator[Matrix]:
    g = gradients(X)
    Y = g
    while True:
        X = W @ (X - eta * Y)
        Y, g = W @ (Y + gradients(X) - g), gradients(X)
        assert np.abs(Y.mean(0) - g.mean(0)).max() < 1e-12
        yield X


def test_its_name_is_a_form_of_gradient_tracking() -> None:
    options = load_config(flags={"algorithm.name": "atc_gt"}).algorithm
    assert (options.name, options.called) == ("gradient_tracking", "atc_gt")


def test_sixteen_nodes_are_the_dense_recursion(source: str) -> None:
    with simulated(settings(source, "atc_gt", 0.05, run__rounds=40)) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(
            swarm.models(), after(atc_gt(start(), 0.05), 40), rtol=0, atol=1e-12
        )
        for node in swarm.up:
            assert node.counters.get("missing_models") == node.counters.get("restarts") == 0
            assert node.age == 40
            # One vector a phase to each of two neighbours.
            assert node.counters.get("pushes_sent") == 40 * 2 * 2


@pytest.mark.parametrize(
    ("eta", "published"), [(0.02, 1095), (0.05, 995), (0.1, 1497), (0.2, 2477)]
)
def test_rounds_to_the_optimum_are_the_published_ones(eta: float, published: int) -> None:
    """Published to ±1."""
    reached = next(k for k, X in enumerate(islice(atc_gt(start(), eta), 3000), 1) if rms(X) < 1e-8)
    assert abs(reached - published) <= 1


def test_two_barriers_stand_a_slow_node_and_a_slow_wire(source: str) -> None:
    """Whoever is slow, and whichever phase is on its way: no model goes into another sum."""
    settings_ = settings(source, "atc_gt", 0.05, run__rounds=30)
    with simulated(settings_, step_s=0.01, link=Link(latency_s=0.001, jitter_s=0.02)) as swarm:
        swarm.slow_down(NAMES[3], 7.0)
        swarm.network.set_link(NAMES[8], NAMES[9], Link(latency_s=0.3))
        apart = 0
        while any(node.round < 30 for node in swarm.up):
            swarm.run(0.02)
            rounds = [node.round for node in swarm.up]
            beside = zip(rounds, rounds[1:] + rounds[:1], strict=True)
            apart = max(apart, *(abs(one - other) for one, other in beside))
        assert apart == 1
        np.testing.assert_allclose(
            swarm.models(), after(atc_gt(start(), 0.05), 30), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize(("n", "to"), [(7, 1), (7, 2), (7, 4), (16, 8)])
def test_two_barriers_stand_a_slow_wire_where_the_graph_changes(
    source: str, n: int, to: int
) -> None:
    """One node waits three seconds for each phase; whoever does not need it goes as far as it may.

    Of each round that it is behind, models of both phases come early.
    """
    patient = {"algorithm__deadline_s": 500.0, "network__push_timeout_s": 100.0}
    settings_ = settings(
        source, "atc_gt", 0.01, topology__graph="one_peer_exponential", run__rounds=30, **patient
    )
    with simulated(settings_, NAMES[:n], step_s=0.01) as swarm:
        swarm.network.set_link(NAMES[0], NAMES[to], Link(latency_s=3.0))
        swarm.run_to_end(within=1000)
        for counter in ("missing_models", "late_dropped", "restarts"):
            assert not any(node.counters.get(counter) for node in swarm.up), counter


def missed_once(phase: int, rounds: int) -> Matrix:
    """The recursion where node 4 misses node 5 in one phase of round 20: y ← g 16 rounds later."""
    X, eta, V = start(), 0.05, lacking(4, 5)
    for k in range(rounds):
        if k in (0, 36):
            Y = g = gradients(X)
        X = (V if (k, phase) == (20, 0) else W) @ (X - eta * Y)
        Y = (V if (k, phase) == (20, 1) else W) @ (Y + gradients(X) - g)
        g = gradients(X)
    return X


@pytest.mark.parametrize("phase", [0, 1])
def test_after_one_lost_phase_all_begin_anew(
    source: str, phase: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message of one phase is refused by its receiver, and tried no more."""
    lose(monkeypatch, 4, 5, 20, phase)
    with simulated(settings(source, "atc_gt", 0.05, run__rounds=80, **HASTY)) as swarm:
        swarm.run_to_end(within=100)
        assert [node.counters.get("restarts") for node in swarm.up] == [1] * 16
        assert sum(node.counters.get("missing_models") for node in swarm.up) == 1
        np.testing.assert_allclose(swarm.models(), missed_once(phase, 80), rtol=0, atol=1e-12)


def test_a_missed_phase_harms_no_longer_than_until_all_begin_anew() -> None:
    """The oracle above rests at the optimum."""
    assert [rms(missed_once(phase, 1200)) < 1e-8 for phase in (0, 1)] == [True, True]


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    X = stopped_and_started(settings(source, "atc_gt", 0.05, run__rounds=30), 60)
    np.testing.assert_allclose(X, after(atc_gt(start(), 0.05), 60), rtol=0, atol=1e-12)


def test_a_seed_is_a_run(source: str) -> None:
    config = settings(source, "atc_gt", 0.05, run__rounds=40, **HASTY)
    (one, X), (again, Y), (other, _) = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert np.array_equal(X, Y)


@pytest.mark.parametrize(("phase", "role"), [(0, "y"), (1, "x"), (2, "x")])
def test_a_phase_takes_its_own_role_alone(phase: int, role: str, source: str) -> None:
    config = settings(source, "atc_gt", 0.05)
    with SimulatedSwarm(config, names=NAMES) as swarm:
        arrival = Arrival(NAMES[1], Purpose.MODEL, 0, 0, {role: np.zeros(10)}, phase=phase)
        with pytest.raises(PeerError, match="phase"):
            virtual_time.run(
                swarm.nodes[NAMES[0]].algorithm.receive(swarm.nodes[NAMES[0]], arrival)
            )


def test_the_forms_differ_in_their_messages(source: str) -> None:
    one, other = (build_algorithm(settings(source, form, 0.05)) for form in ("dsgt", "atc_gt"))
    assert (one.bundles, other.bundles) == ((), (frozenset({"x"}), frozenset({"y"})))
    assert isinstance(one, Lockstep)
    assert isinstance(other, Lockstep)
    assert (one.phases, other.phases, Lockstep.phases) == (1, 2, 1)
