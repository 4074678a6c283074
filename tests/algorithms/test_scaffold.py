"""SCAFFOLD: c is the mean of all c_i, whatever happens; the optimum, whatever τ is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
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
from gossipnode.algorithms.federated import selected
from gossipnode.algorithms.hub_clients import ANSWER
from gossipnode.algorithms.scaffold import Scaffold, ScaffoldOptions
from gossipnode.errors import PeerError
from gossipnode.simulation import Link, SimulatedSwarm

ETA = 0.05
FAST = {
    "algorithm__deadline_s": 0.1,
    "algorithm__start_deadline_s": 0.1,
    "network__push_timeout_s": 0.05,
}


def scaffold(
    rounds: int, tau: int, fraction: float = 1.0, eta_g: float = 1.0, *, share: bool = True
) -> tuple[Matrix, Matrix, Matrix]:
    """Return x, c and the rows c_i; without ``share``, c moves by the mean over S alone."""
    x, c, own = start()[0], np.zeros(10), np.zeros((16, 10))
    for k in range(rounds):
        asked = [NAMES.index(name) for name in selected(tuple(NAMES), fraction, 0, k)]
        Y = np.broadcast_to(x, (16, 10))
        for _ in range(tau):
            Y = Y - ETA * (gradients(Y) - own + c)
        new = own - c + (x - Y) / (tau * ETA)
        change = (new - own)[asked].mean(0)
        x = x + eta_g * (Y - x)[asked].mean(0)
        c = c + change * (len(asked) / 16 if share else 1)
        own[asked] = new[asked]
    return x, c, own


def config(source: str, rounds: int, tau: int, **flags: Any) -> Any:
    return settings(source, "scaffold", ETA, run__rounds=rounds, training__local_steps=tau, **flags)


def variates(swarm: SimulatedSwarm) -> tuple[Matrix, Matrix]:
    """Return the hub's c and all c_i, as rows."""
    algorithms = [node.algorithm for node in swarm.nodes.values()]
    zero = np.zeros(10)
    for one in algorithms:
        assert isinstance(one, Scaffold)
    return (
        zero if algorithms[0].c is None else algorithms[0].c,  # type: ignore[attr-defined]
        np.stack([zero if one.own is None else one.own for one in algorithms]),  # type: ignore[attr-defined]
    )


def agrees(swarm: SimulatedSwarm, tolerance: float = 4e-16) -> bool:
    """Whether c is the mean of all c_i, which are of the size of ∇f_i: 10 at most."""
    c, own = variates(swarm)
    return float(np.abs(c - own.mean(0)).max()) <= tolerance * max(1.0, np.abs(own).max())


@pytest.mark.parametrize(
    ("tau", "fraction", "eta_g"), [(1, 1.0, 1.0), (4, 1.0, 1.0), (4, 0.5, 1.0), (3, 0.3, 0.7)]
)
def test_sixteen_nodes_are_the_dense_recursion(
    source: str,
    tau: int,
    fraction: float,
    eta_g: float,
) -> None:
    flags = {"algorithm__fraction": fraction, "algorithm__server_rate": eta_g}
    with simulated(config(source, 30, tau, **flags)) as swarm:
        swarm.run_to_end(within=100)
        X, (c, own) = swarm.models(), variates(swarm)
    x, dense_c, dense_own = scaffold(30, tau, fraction, eta_g)
    np.testing.assert_allclose(X, np.broadcast_to(x, X.shape), rtol=0, atol=1e-12)
    np.testing.assert_allclose(c, dense_c, rtol=0, atol=1e-12)
    np.testing.assert_allclose(own, dense_own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_c_is_the_mean_of_all_c_i(source: str, fraction: float) -> None:
    flags = {"algorithm__fraction": fraction}
    for rounds in (1, 2, 25):
        with simulated(config(source, rounds, 4, **flags)) as swarm:
            swarm.run_to_end(within=100)
            assert agrees(swarm, 2e-15)


def test_without_the_share_of_those_asked_it_would_not_be() -> None:
    _, c, own = scaffold(3, 4, 0.5)
    assert np.abs(c - own.mean(0)).max() < 2e-15
    _, c, own = scaffold(3, 4, 0.5, share=False)
    assert np.abs(c - own.mean(0)).max() > 0.1


@pytest.mark.parametrize(
    ("tau", "fraction", "rounds"), [(1, 1.0, 500), (8, 1.0, 120), (8, 0.5, 600)]
)
def test_it_comes_to_rest_at_the_optimum(tau: int, fraction: float, rounds: int) -> None:
    x, _, own = scaffold(rounds, tau, fraction)
    np.testing.assert_allclose(x, BEST, rtol=0, atol=1e-8)
    if fraction == 1.0:
        there = gradients(np.broadcast_to(BEST, (16, 10)))
        np.testing.assert_allclose(own, there, rtol=0, atol=1e-7)


def test_a_swarm_comes_to_rest_at_the_optimum(source: str) -> None:
    with simulated(config(source, 130, 8)) as swarm:
        swarm.run_to_end(within=100)
        X, (_, own) = swarm.models(), variates(swarm)
    np.testing.assert_allclose(X, np.broadcast_to(BEST, X.shape), rtol=0, atol=1e-8)
    there = gradients(np.broadcast_to(BEST, (16, 10)))
    np.testing.assert_allclose(own, there, rtol=0, atol=1e-6)


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_what_is_lost_is_not_counted_by_either_side(source: str, fraction: float) -> None:
    """A tenth of the messages: the answers, and the models that say which were counted."""
    flags = {"algorithm__fraction": fraction, **FAST}
    link = Link(latency_s=0.001, loss=0.1)
    with simulated(config(source, 200, 4, **flags), seed=2, link=link) as swarm:
        swarm.run_to_end(within=200)
        hub = swarm.nodes[NAMES[0]]
        assert hub.counters.get("missing_models") > 0
        assert hub.counters.get("restarts") == 0
        np.testing.assert_allclose(hub.params, BEST, rtol=0, atol=1e-6)


def test_an_answer_that_was_not_counted_changes_nothing(source: str) -> None:
    """One client's answers are lost for a while: its c_i stays, and c the mean of all."""
    with simulated(config(source, 200, 4, **FAST), step_s=0.001) as swarm:
        swarm.run(0.05)
        swarm.cut([NAMES[5]], [NAMES[0]])
        swarm.run(0.4)
        _, own = variates(swarm)
        before = own[5].copy()
        swarm.run(0.1)
        _, own = variates(swarm)
        assert np.array_equal(own[5], before)
        swarm.heal()
        swarm.run_to_end(within=100)
        assert agrees(swarm, 2e-15)
        assert swarm.nodes[NAMES[0]].counters.get("restarts") == 0
        _, own = variates(swarm)
        assert not np.array_equal(own[5], before)


@pytest.mark.parametrize("who", [0, 5])
def test_who_comes_back_from_an_old_checkpoint_makes_all_begin_anew(
    source: str,
    who: int,
) -> None:
    settings_ = config(source, 200, 4, checkpoint__every_s=0.0, **FAST)
    with simulated(settings_, step_s=0.001, stores=True) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[who])
        swarm.run(0.2)
        swarm.restart(NAMES[who])
        swarm.run_to_end(within=200)
        assert swarm.nodes[NAMES[0]].counters.get("restarts") > 0
        assert len({node.algorithm.era for node in swarm.up}) == 1  # type: ignore[attr-defined]
        assert agrees(swarm, 2e-15)
        X = swarm.models()
    np.testing.assert_allclose(X, np.broadcast_to(BEST, X.shape), rtol=0, atol=1e-8)


def test_only_the_answer_that_was_counted_renews_c_i() -> None:
    """One of another life may be of other samples, though of the same round."""
    algorithm = Scaffold(ScaffoldOptions(), 1)
    new = np.ones(2)
    algorithm.pending = (7, 1000), new
    algorithm.confirm((7, 999))
    assert (algorithm.own, algorithm.pending) == (None, None)
    algorithm.pending = (7, 1000), new
    arrays, facts = algorithm.state()
    again = Scaffold(ScaffoldOptions(), 1)
    again.restore(arrays, json.loads(json.dumps(facts)))
    again.confirm((7, 1000))
    assert again.own is new
    assert again.renewed == (7, 1000)


def test_an_answer_that_tells_not_of_which_c_i_it_is_makes_nobody_begin_anew(
    source: str,
) -> None:
    with simulated(config(source, 5, 1)) as swarm:
        hub: Any = swarm.nodes[NAMES[0]]
        parts = {"delta": np.zeros(10), "c": np.zeros(10)}
        answer = Arrival(NAMES[1], Purpose.MODEL, 0, 0, parts, {"samples": 5}, phase=ANSWER)
        with pytest.raises(PeerError, match="renewed"):
            hub.algorithm.hear(hub, answer)


def test_a_clean_stop_and_start_of_a_client_disturbs_nothing(source: str) -> None:
    with simulated(config(source, 200, 4, **FAST), step_s=0.001, stores=True) as swarm:
        swarm.run(0.3)
        swarm.stop(NAMES[5])
        swarm.run(0.2)
        swarm.restart(NAMES[5])
        swarm.run_to_end(within=200)
        X = swarm.models()
        assert agrees(swarm, 2e-15)
        assert swarm.nodes[NAMES[0]].counters.get("restarts") == 0
    np.testing.assert_allclose(X, np.broadcast_to(BEST, X.shape), rtol=0, atol=1e-8)


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    X = stopped_and_started(config(source, 12, 3, checkpoint__every_s=0.0), 25)
    x, _, _ = scaffold(25, 3)
    np.testing.assert_allclose(X, np.broadcast_to(x, X.shape), rtol=0, atol=1e-12)


def test_a_seed_is_a_run(source: str) -> None:
    settings_ = config(source, 8, 3, algorithm__fraction=0.5, **FAST)
    one, again, other = (trace_of(settings_, seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


def test_steps_of_no_length_leave_c_as_it_is(source: str) -> None:
    """A cosine may end at a rate of zero: then there is nothing to divide by."""
    flags = {
        "training__schedule": "cosine", "training__schedule_steps": 8,
        "training__schedule_factor": 0.0,
    }  # fmt: skip
    with simulated(config(source, 12, 2, **flags)) as swarm:
        swarm.run_to_end(within=100)
        c, own = variates(swarm)
        assert np.isfinite(c).all()
        assert np.isfinite(own).all()
        assert agrees(swarm, 2e-15)
        assert swarm.nodes[NAMES[0]].counters.get("missing_models") == 0


def test_no_local_steps_change_nothing(source: str) -> None:
    assert np.array_equal(models_of(config(source, 3, 0)), start())
