"""An hour in which machines come and go all the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
import pytest
from setting import learning

from gossipnode.simulation import Link, SimulatedSwarm

HOUR_S = 3600.0
UP_S, DOWN_S = 600.0, 60.0
WIRE = Link(latency_s=0.05, jitter_s=0.1, loss=0.02)
# A period, or a round's training, takes twenty seconds.
OPTIONS = {
    "gossip": {"algorithm__period_s": 20.0, "step_s": 1.0},
    "dpsgd": {
        "topology__graph": "torus",
        "algorithm__deadline_s": 60.0,
        "step_s": 20.0,
    },
}


def changes(names: tuple[str, ...], seed: int) -> Iterator[tuple[float, str]]:
    """Yield (instant, who goes down or, the next time, comes back)."""
    rng = np.random.default_rng(seed)
    coming = [(rng.exponential(UP_S), name, False) for name in names]
    heapq.heapify(coming)
    while True:
        instant, name, is_down = heapq.heappop(coming)
        yield instant, name
        stays = rng.exponential(UP_S if is_down else DOWN_S)
        heapq.heappush(coming, (instant + stays, name, not is_down))


def churn(swarm: SimulatedSwarm, until: float) -> None:
    for instant, name in changes(swarm.names, seed=1):
        if instant >= until:
            break
        swarm.run(instant - swarm.time)
        if name in swarm.down:
            swarm.restart(name)
        else:
            swarm.kill(name)
    swarm.run(until - swarm.time)


@pytest.mark.parametrize(("algorithm", "nodes"), [("gossip", 50), ("dpsgd", 20)])
def test_a_swarm_lives_through_an_hour_of_churn(algorithm, nodes):
    options = {"checkpoint__every_s": 120.0, **OPTIONS[algorithm]}
    with learning(algorithm, nodes, link=WIRE, stores=True, **options) as swarm:
        churn(swarm, HOUR_S)
        assert swarm.network.fired["kill"] > 4 * nodes
        swarm.check()
        for name in sorted(swarm.down):
            swarm.restart(name)
        swarm.run(600)
        # Alone, each would be at its goal, whose distance is that of 0, 1, 2, … from their mean.
        alone = np.std(np.arange(nodes)) * 2**0.5
        swarm.expect_consensus_below(alone / 2)
        assert abs(swarm.models().mean(0)[0] - (nodes - 1) / 2) < alone / 2
        swarm.expect_progress(180)
