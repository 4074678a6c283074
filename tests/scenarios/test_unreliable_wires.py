"""Pushes and answers are lost, come twice and overtake one another.

That nothing is merged twice, the swarm checks at every delivery; that nothing is merged in half,
Σx shows.
"""

from __future__ import annotations

import pytest
from setting import counted, learning, still

from gossipnode.simulation import Link

TWICE = Link(latency_s=0.05, jitter_s=0.3, duplicate=0.5)
BAD = Link(latency_s=0.05, jitter_s=0.3, loss=0.2, reply_loss=0.1, duplicate=0.2)
BOTH = pytest.mark.parametrize("algorithm", ["dpsgd", "gossip"])
PUSH_PULL = {
    "training__local_steps": 0,
    "algorithm__exchange": "push_pull",
    "algorithm__staleness": "constant",
    "network__push_timeout_s": 30.0,
}


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_a_swarm_on_bad_wires_goes_on_and_agrees(algorithm, seed):
    with still(algorithm, link=BAD, seed=seed) as swarm:
        swarm.run(100)
        swarm.expect_progress(15)
        swarm.expect_consensus_below(1e-6)
        for kind in ("loss", "reply_loss", "duplicate"):
            assert swarm.network.fired[kind] > 10, kind
        # Every answer that is lost and every echo is a push that was there before.
        assert swarm.outcomes["duplicate"] > swarm.network.fired["duplicate"] / 2


@BOTH
def test_a_swarm_on_bad_wires_learns(algorithm):
    """The mean of the goals is (3.5, -3.5); no node would come near it alone."""
    with learning(algorithm, link=BAD) as swarm:
        swarm.run(100)
        mean = swarm.models().mean(0)
        assert abs(mean - (3.5, -3.5)).max() < 1
        swarm.expect_progress(15)


@pytest.mark.parametrize("form", ["atc", "cta"])
@pytest.mark.parametrize("graph", ["ring", "torus", "exponential"])
def test_lockstep_preserves_the_sum_though_pushes_come_twice_and_overtake(form, graph):
    flags = {
        "topology__graph": graph,
        "algorithm__form": form,
        "training__local_steps": 0,
        "run__rounds": 60,
    }
    with still("dpsgd", link=TWICE, **flags) as swarm:
        swarm.run_to_end()
        assert counted(swarm, "missing_models") == 0
        assert swarm.network.fired["overtaken"] > 0
        swarm.expect_total_preserved()
        swarm.expect_consensus_below(1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_push_pull_preserves_the_sum_though_pushes_come_twice_and_overtake(seed):
    with still("gossip", link=TWICE, seed=seed, run__rounds=60, **PUSH_PULL) as swarm:
        swarm.run_to_end()
        assert swarm.network.fired["duplicate"] > 50
        swarm.expect_total_preserved()
        swarm.expect_consensus_below(1e-4)


def test_push_pull_preserves_the_sum_between_exchanges_that_overlap():
    """Longer wires than periods: most of the time several exchanges are under way."""
    slow = Link(latency_s=0.8, jitter_s=0.8)
    with still("gossip", link=slow, run__rounds=40, **PUSH_PULL) as swarm:
        swarm.run_to_end()
        swarm.expect_total_preserved()
