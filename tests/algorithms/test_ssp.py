"""Bounded staleness: how far apart nodes get, what they mix, and whom they do not wait for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from q16_swarms import (
    BEST,
    HASTY,
    LINK,
    NAMES,
    Matrix,
    W,
    after,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.errors import ConfigError
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm


def dpsgd(X: Matrix, eta: float) -> Iterator[Matrix]:
    while True:
        X = W @ (X - eta * gradients(X))
        yield X


def watched(patch: pytest.MonkeyPatch, swarm: SimulatedSwarm) -> list[int]:
    """Return how far apart neighbours on the ring were after each end of a round, as it grows."""
    apart: list[int] = []
    end_round = Node.end_round

    async def ending(self: Node) -> None:
        await end_round(self)
        i = NAMES.index(self.id)
        beside = (swarm.nodes[NAMES[j % 16]] for j in (i - 1, i + 1))
        apart.extend(abs(self.round - node.round) for node in beside)

    patch.setattr(Node, "end_round", ending)
    return apart


@pytest.mark.parametrize("link", [LINK, Link(latency_s=0.001, jitter_s=0.03)])
def test_without_staleness_it_is_dpsgd(source: str, link: Link) -> None:
    config = settings(source, "ssp", 0.05, run__rounds=40, algorithm__staleness_max=0)
    with simulated(config, link=link, step_s=0.01) as swarm:
        swarm.slow_down(NAMES[5], 4.0)
        swarm.run_to_end(within=100)
        expected = after(dpsgd(start(), 0.05), 40)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        assert not any(node.counters.get("missing_models") for node in swarm.up)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_straggler_is_left_behind_so_far_and_no_further(
    source: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(source, "ssp", 0.05, run__rounds=40, algorithm__staleness_max=most)
    with simulated(config, step_s=0.01, link=Link(latency_s=0.002, jitter_s=0.002)) as swarm:
        apart = watched(monkeypatch, swarm)
        swarm.slow_down(NAMES[5], 8.0)
        swarm.run_to_end(within=100)
        assert len(apart) == 2 * 16 * 40
        assert max(apart) == most + 1


def test_who_is_slow_now_and_then_holds_up_nobody(source: str) -> None:
    """Each node in turn takes ten steps' time for one; a barrier makes all wait for each."""
    times = {}
    for most in (0, 4):
        config = settings(source, "ssp", 0.05, run__rounds=160, algorithm__staleness_max=most)
        with simulated(config, step_s=0.01) as swarm:
            for name in NAMES:
                swarm.slow_down(name, 5.0)
                swarm.run(0.05)
                swarm.slow_down(name, 1.0)
            swarm.run_to_end(within=100)
            times[most] = swarm.time
    # Alone, each would take 160 steps of 10 ms and one of 50 ms.
    assert times[4] < 0.95 * times[0]


def test_it_rests_where_dpsgd_does(source: str) -> None:
    """Whatever the staleness, with nodes of uneven speed."""
    config = settings(source, "ssp", 0.2, run__rounds=500, algorithm__staleness_max=3)
    with simulated(config, step_s=0.01) as swarm:
        for i, name in enumerate(NAMES):
            swarm.slow_down(name, 1 + 0.1 * (i % 5))
        swarm.run_to_end(within=100)
        X = swarm.models()
    assert np.linalg.norm(X.mean(0) - BEST) == pytest.approx(0.1609011, rel=5e-6)
    assert np.sqrt(((X - X.mean(0)) ** 2).sum(1).mean()) == pytest.approx(1.334071, rel=5e-6)


def test_a_dead_neighbour_blocks_nobody(source: str) -> None:
    config = settings(
        source, "ssp", 0.05, run__rounds=60, algorithm__deadline_s=0.5, network__push_timeout_s=0.5
    )
    with simulated(config, step_s=0.01) as swarm:
        swarm.run(0.1)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=2.0)
        assert [node.round for node in swarm.up] == [60] * 15


def test_a_hung_neighbour_costs_one_deadline(source: str) -> None:
    """It listens still, so that nothing but the deadline tells."""
    config = settings(
        source, "ssp", 0.05, run__rounds=60, algorithm__deadline_s=0.5, network__push_timeout_s=0.2
    )
    with simulated(config, step_s=0.01) as swarm:
        swarm.run(0.1)
        swarm.pause(NAMES[7])
        swarm.run_until(
            lambda: all(node.round == 60 for node in swarm.up if node.id != NAMES[7]), within=2.0
        )
        assert swarm.time > 0.5


def test_who_was_away_goes_on_with_the_others(source: str) -> None:
    config = settings(
        source, "ssp", 0.05, run__rounds=200, algorithm__deadline_s=0.1,
        network__push_timeout_s=0.1, checkpoint__every_s=0.05,
    )  # fmt: skip
    with simulated(config, step_s=0.01, stores=True) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[7])
        swarm.run(0.8)
        swarm.restart(NAMES[7])
        swarm.run_to_end(within=10)
        assert swarm.nodes[NAMES[7]].counters.get("rounds_skipped") > 0
        assert [node.round for node in swarm.up] == [200] * 16
        assert swarm.nodes[NAMES[6]].counters.get("missing_models") < 200


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    config = settings(source, "ssp", 0.05, run__rounds=30, algorithm__staleness_max=0)
    X = stopped_and_started(config, 60)
    np.testing.assert_allclose(X, after(dpsgd(start(), 0.05), 60), rtol=0, atol=1e-12)


def test_a_seed_is_a_run(source: str) -> None:
    config = settings(source, "ssp", 0.05, run__rounds=40, **HASTY)
    (one, X), (again, Y), (other, _) = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert np.array_equal(X, Y)


def test_a_model_is_kept_for_each_neighbour_and_no_more(source: str) -> None:
    config = settings(source, "ssp", 0.05, run__rounds=40)
    with simulated(config, step_s=0.01) as swarm:
        swarm.slow_down(NAMES[5], 8.0)
        while any(node.round < 40 for node in swarm.up):
            swarm.run(0.02)
            for node in swarm.up:
                algorithm = node.algorithm
                assert algorithm.last.keys() <= node.row.weights.keys()
                assert algorithm.ahead.keys() <= node.row.weights.keys()
                assert all(c > node.round for c, _ in algorithm.ahead.values())
    assert models_of(config).shape == (16, 10)


def test_it_needs_a_graph_that_goes_both_ways_and_stays(source: str) -> None:
    for graph in ("exponential", "one_peer_exponential"):
        with pytest.raises(ConfigError, match="symmetric and the same"):
            settings(source, "ssp", 0.05, topology__graph=graph)


@pytest.mark.parametrize("name", ["ssp", "relay_sum"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_params_are_added_up_in_float32(source: str, name: str, dtype: str) -> None:
    """Rounded once a round, they stay beside the wide ones by a few of their own ulps."""
    wide = models_of(settings(source, name, 0.05, run__rounds=20))
    narrow = models_of(settings(source, name, 0.05, run__rounds=20, task__dtype=dtype))
    assert narrow.dtype == dtype
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=16 * np.finfo(dtype).eps)
