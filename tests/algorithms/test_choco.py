"""CHOCO-SGD beside its dense recursion; what mixing keeps, where it rests, what γ is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from choco_swarms import (
    AVERAGING,
    CODECS,
    TOP,
    Witness,
    choco,
    lagging,
    lazy_fixed_point,
    spread,
    top,
    witness,
)
from plain_learner import PlainLearner, plain_config
from q16_swarms import (
    BEST,
    A,
    W,
    after,
    b,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.config import Config
from gossipnode.errors import ConfigError, PeerError
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time

__all__ = ["witness"]


def config(source: str, rounds: int, **flags: Any) -> Config:
    return settings(source, "choco", 0.05, run__rounds=rounds, **flags)


# -- the recursion --------------------------------------------------------------------------------


def test_nodes_are_the_recursion(source: str) -> None:
    flags = {"algorithm__gamma": 0.3, **TOP}
    expected = after(choco(start(), 0.05, 0.3, lambda v: top(v, 0.2)), 80)
    with simulated(config(source, 80, **flags)) as swarm:
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        for node in swarm.up:
            assert node.counters.get("pushes_sent") == 80 * 2
            assert node.counters.get("missing_models") == node.counters.get("resyncs") == 0


def test_slow_nodes_and_wires_change_nothing(source: str) -> None:
    """Differences come early then, and wait for their round."""
    flags = {"algorithm__gamma": 0.3, **TOP}
    link = Link(latency_s=0.001, jitter_s=0.03)
    expected = after(choco(start(), 0.05, 0.3, lambda v: top(v, 0.2)), 30)
    with simulated(config(source, 30, **flags), link=link, step_s=0.01) as swarm:
        swarm.slow_down(swarm.names[5], 6.0)
        swarm.run_to_end(within=100)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)


def test_without_a_codec_it_is_dpsgd(source: str) -> None:
    X = models_of(config(source, 60))
    np.testing.assert_allclose(X, models_of(settings(source, "dpsgd", 0.05, run__rounds=60)),
                               rtol=0, atol=1e-12)  # fmt: skip


def test_of_top_20_it_rests_where_lazy_dpsgd_does() -> None:
    X = after(choco(start(), 0.05, 0.3, lambda v: top(v, 0.2)), 3000)
    np.testing.assert_allclose(X, lazy_fixed_point(A, b, 0.05, 0.3), rtol=0, atol=4e-14)
    off = X.mean(0) - BEST
    found = np.linalg.norm(off), spread(X), off @ A.mean(0) @ off / 2
    np.testing.assert_allclose(found, [0.16705, 1.3000, 0.015447], rtol=5e-5)


def test_a_codec_decides_not_where_it_rests(source: str) -> None:
    X = models_of(config(source, 450, algorithm__gamma=0.2, **CODECS["sign"]))
    np.testing.assert_allclose(X, lazy_fixed_point(A, b, 0.05, 0.2), rtol=0, atol=1e-6)


def test_nodes_with_several_gammas_rest_at_one_symmetric_matrix(source: str) -> None:
    """The smaller of the two counts at both ends: Σ(x − x̄) would not stay 0 else."""
    with simulated(config(source, 40, **TOP)) as swarm:
        for i, node in enumerate(swarm.up):
            node.algorithm.given = 0.1 + 0.05 * (i % 5)
        swarm.run_to_end(within=100)
        X = swarm.models()
    given = np.array([0.1 + 0.05 * (i % 5) for i in range(16)])
    V = W * np.minimum.outer(given, given)
    np.fill_diagonal(V, 0)
    V += np.diag(1 - V.sum(1))
    expected = after(choco(start(), 0.05, 1.0, lambda v: top(v, 0.2), V), 40)
    np.testing.assert_allclose(X, expected, rtol=0, atol=1e-12)


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_mixing_leaves_the_mean_and_all_hold_the_same_bits(codec: str, witness: Witness) -> None:
    """With the γ that each measures, round by round, and from starts that differ."""
    starts = np.random.default_rng(3).standard_normal((8, 40))
    flags = {**AVERAGING, "run__rounds": 60, **CODECS[codec], "training__local_steps": 0}
    learners = [PlainLearner(list(x)) for x in starts]
    link = Link(latency_s=0.001)
    with SimulatedSwarm(plain_config(**flags), 8, learners=learners, link=link) as swarm:
        swarm.run_to_end(within=10)
        assert not lagging(swarm)
        assert witness.compared == 8 * 2 * 60
        # Each was sent whole once, for no two begin alike.
        assert [node.counters.get("resyncs") for node in swarm.up] == [2] * 8
        np.testing.assert_allclose(swarm.models().mean(0), starts.mean(0), rtol=0, atol=2e-13)
        assert spread(swarm.models()) < 0.9 * spread(starts)


# -- lives ----------------------------------------------------------------------------------------


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    X = stopped_and_started(config(source, 30, algorithm__gamma=0.3, **TOP), 60)
    expected = after(choco(start(), 0.05, 0.3, lambda v: top(v, 0.2)), 60)
    np.testing.assert_allclose(X, expected, rtol=0, atol=1e-12)


def test_what_was_measured_is_kept(source: str) -> None:
    """γ too: else the second life would go on with another one."""
    X = stopped_and_started(config(source, 15, **TOP), 30)
    np.testing.assert_array_equal(X, models_of(config(source, 30, **TOP)))


def test_a_seed_is_a_run(source: str) -> None:
    flags = {"codec__name": "qsgd", "algorithm__deadline_s": 0.02, "network__push_timeout_s": 0.1}
    (one, X), (again, Y), (other, _) = (
        trace_of(config(source, 30, algorithm__start_deadline_s=0.02, **flags), seed)
        for seed in (1, 1, 2)
    )
    assert one == again != other
    assert np.array_equal(X, Y)


# -- refusals -------------------------------------------------------------------------------------


def test_it_needs_a_graph_that_goes_both_ways_and_stays(source: str) -> None:
    for graph in ("exponential", "one_peer_exponential", "random"):
        with pytest.raises(ConfigError, match="needs"):
            config(source, 5, topology__graph=graph)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scalars": {}},
        {"scalars": {"gamma": 0.0}},
        {"scalars": {"gamma": 1.5}},
        {"scalars": {"gamma": -1.0}},
        {"base_version": None},
        {"version": 2},
        {"phase": 1},
        {"scalars": {"gamma": 1.0, "behind": 1}},
        {"parts": {"x": np.zeros(10)}, "scalars": {"gamma": 1.0, "behind": 9}},
        {"parts": {"x": np.zeros(10)}, "scalars": {"gamma": 1.0, "behind": 0.5}},
        {"parts": {"x": np.zeros(10)}, "scalars": {"gamma": 1.0, "behind": -1}},
    ],
)
def test_what_no_node_sends_is_refused(source: str, wrong: dict[str, Any]) -> None:
    with simulated(config(source, 5)) as swarm:
        node = swarm.up[0]
        right = {"parts": {"q": np.zeros(10)}, "scalars": {"gamma": 1.0}, "version": 1}
        told = {"base_version": 0, "order": (1, 0), "round": 0, **right, **wrong}
        made = Arrival(swarm.names[1], Purpose.MODEL, age=0, **told)
        with pytest.raises(PeerError) as refused:
            virtual_time.run(node.algorithm.receive(node, made))
        assert refused.value.code == "unsupported_message"
        assert not node.algorithm.copies.of


def test_a_difference_that_overflows_is_refused_and_changes_nothing(source: str) -> None:
    with simulated(config(source, 5)) as swarm:
        node, peer = swarm.up[0], swarm.names[1]
        told = {"scalars": {"gamma": 1.0}, "order": (1, 0), "round": 0, "version": 7, "age": 0}
        huge = np.full(10, 1e308)
        whole = Arrival(peer, Purpose.MODEL, parts={"x": huge.copy()}, **told)
        virtual_time.run(node.algorithm.receive(node, whole))
        told |= {"order": (1, 1), "round": 1, "version": 8, "base_version": 7}
        more = Arrival(peer, Purpose.MODEL, parts={"q": huge.copy()}, **told)
        with pytest.raises(PeerError) as refused, np.errstate(over="ignore"):
            virtual_time.run(node.algorithm.receive(node, more))
        assert refused.value.code == "not_finite"
        np.testing.assert_array_equal(node.algorithm.copies.of[peer].x, huge)
        assert node.algorithm.copies.of[peer].version == 7
