"""After a partition a swarm agrees again as well as one that was never divided; in virtual time.

Theory: each round multiplies what is left of the disagreement by ρ at most, the second largest
magnitude of W's eigenvalues. So a distance of D at the healing has fallen to a tenth of that of an
undisturbed swarm, d, after ln(10·D/d)/ln(1/ρ) rounds, and the distance is below 1.1·d. Both d and D
are those of the fixed points of x ← W(x + a(g − x)), which dense matrices give.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scenarios.setting import PULL, learning

from gossipnode.simulation import SimulatedSwarm

ROUND_S = 0.3
# Nodes find each other again: the pause before a suspect is tried is 2 s at most, and a round.
FIND_S = 2.3


def rho_of_ring(n: int) -> float:
    """Return ρ of a ring with weights 1/3: its eigenvalues are 1/3 + 2/3·cos(2πk/n)."""
    return float(max(abs(1 / 3 + 2 / 3 * math.cos(2 * math.pi * k / n)) for k in range(1, n)))


def settled(n: int, *, divided: bool = False) -> float:
    """Return the consensus distance at which a ring, or its two halves, come to rest."""
    sides = [0] * n if not divided else [0] * (n // 2) + [1] * (n - n // 2)
    W = np.zeros((n, n))
    for i in range(n):
        for j in ((i - 1) % n, (i + 1) % n):
            # A weight that leads to nobody falls to the node itself.
            W[i, j if sides[j] == sides[i] else i] += 1 / 3
        W[i, i] += 1 / 3
    goals = np.array([[i, -i] for i in range(n)])
    x = np.linalg.solve(np.eye(n) - (1 - PULL) * W, PULL * W @ goals)
    return float(np.sqrt(np.square(x - x.mean(0)).sum() / n))


def distance(swarm: SimulatedSwarm) -> float:
    """Return the consensus distance as it is between rounds: training parts the nodes, mixing
    brings them together, so it is the least within one round.
    """
    found = []
    for _ in range(6):
        found.append(swarm.consensus_distance())
        swarm.run(ROUND_S / 6)
    return min(found)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
@pytest.mark.parametrize("nodes", [8, pytest.param(16, marks=pytest.mark.long)])
def test_a_healed_swarm_agrees_as_well_as_an_undisturbed_one(nodes: int, seed: int) -> None:
    # Until what is left of the beginning is nothing beside what each round brings.
    settled_s = 12 * ROUND_S / -math.log(rho_of_ring(nodes))
    with learning("dpsgd", nodes, seed=seed) as calm:
        calm.run(settled_s)
        d = distance(calm)
    assert d == pytest.approx(settled(nodes), rel=1e-6)
    with learning("dpsgd", nodes, seed=seed) as swarm:
        half = nodes // 2
        swarm.run(3)
        swarm.partition(swarm.names[:half], swarm.names[half:])
        swarm.run(settled_s)
        apart = distance(swarm)
        assert apart == pytest.approx(settled(nodes, divided=True), rel=0.01)
        swarm.heal()
        swarm.run(FIND_S)
        rounds = math.log(10 * apart / d) / -math.log(rho_of_ring(nodes))
        swarm.run(math.ceil(rounds) * ROUND_S)
        assert distance(swarm) <= 1.1 * d
        # Not by having stopped: what all learn is the mean of the goals.
        mean = np.mean([node.params for node in swarm.nodes.values()], axis=0)
        goals = np.arange(nodes).mean()
        np.testing.assert_allclose(mean, [goals, -goals], rtol=0.05)
