"""Push-sum in virtual time, and an independent count of all mass there is."""

from __future__ import annotations

from itertools import permutations
from math import fsum
from typing import Any

import numpy as np
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.mass import NOTHING, Mass
from gossipnode.algorithms.mass_holder import MassHolder
from gossipnode.algorithms.push_sum import PushSum
from gossipnode.config import Config
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.wire.message import Message

LINK = Link(latency_s=0.02, jitter_s=0.01)
NODES = 8


def held_by(node: Node) -> Mass:
    """Return a node's mass and the sums of its edges."""
    assert isinstance(node.algorithm, MassHolder)
    return node.algorithm.mass


def mass_of(node: Node) -> float:
    """Return w."""
    return held_by(node).w


def totals(nodes: list[Node]) -> tuple[float, Any, float]:
    """Return Σw and Σu over the nodes and what is between them, and the Σ|w| that is between.

    What is on its way to others is not in it.
    """
    masses = {node.id: held_by(node) for node in nodes}
    w, between = fsum(mass.w for mass in masses.values()), 0.0
    u = np.sum([masses[node.id].w * node.params for node in nodes], axis=0)
    for sender, receiver in permutations(masses, 2):
        # Either end may have gone back to a checkpoint that knows nothing of the other.
        sent = masses[sender].sent.get(receiver, NOTHING)
        seen = masses[receiver].seen.get(sender, NOTHING)
        if sent is not seen:
            w += sent.w - seen.w
            u += (0.0 if sent.u is None else sent.u) - (0.0 if seen.u is None else seen.u)
            between += abs(sent.w - seen.w)
    return w, u, between


class Watched(SimulatedSwarm):
    """A swarm whose mass is counted after every delivery: Σw and Σu may not move, ever."""

    w_expected: float = NODES
    looks = 0

    def delivered(self, receiver: str, message: Message, outcome: str) -> None:
        super().delivered(receiver, message, outcome)
        self.look()

    def look(self) -> None:
        if self.down:
            return
        nodes = list(self.nodes.values())
        w, u, _ = totals(nodes)
        self.looks += 1
        self.expect(abs(w - self.w_expected) < 1e-12, f"Σw is {w}")
        off = np.abs(u - self.u_expected(nodes)).max()
        self.expect(off < 1e-12, f"Σu is off by {off}")

    def u_expected(self, nodes: list[Node]) -> Any:
        """Return Σu: what all began with, and the steps that each has made since."""
        return sum(
            learner.initial_params(0) + learner.step * node.age
            for node, learner in zip(nodes, self._learners.values(), strict=True)
        )


def config(form: str = "sgp", **flags: Any) -> Config:
    """Return one for short waits, on the static exponential graph; ``gossip`` has no rounds."""
    if form == "gossip":
        chosen = {"algorithm__name": "push_sum_gossip", "algorithm__period_s": 0.1}
    else:
        waits = {"algorithm__deadline_s": 0.5, "algorithm__start_deadline_s": 0.5}
        chosen = {"algorithm__name": "push_sum", "algorithm__form": form, **waits}
    common = {
        **chosen,
        "network__push_timeout_s": 0.3,
        "topology__graph": "exponential",
        "run__rounds": 100_000,
        "checkpoint__every_s": 1.0,
    }
    return plain_config(**{**common, **flags})


def watched(settings: Config, *, step: float = 0.0, **how: Any) -> Watched:
    """Return a swarm that begins at different models; node i's steps add ``step``·(i + 1)."""
    learners = [
        PlainLearner([i / NODES, -i * i / NODES**2, 1.0], step * (i + 1)) for i in range(NODES)
    ]
    common = {"link": LINK, "step_s": 0.1, "stores": True}
    return Watched(settings, NODES, learners=learners, **{**common, **how})


def cleared(swarm: Watched, seconds: float = 2.0) -> None:
    """Let the wires be good for so long that every edge has delivered again, then stop handing.

    What is then on the nodes is all there is.
    """
    swarm.network.link = LINK
    swarm.network.heal()
    swarm.run(seconds)
    for node in swarm.up:
        assert isinstance(node.algorithm, MassHolder)
        node.algorithm.mass_least = 1e9  # nobody hands out, and the sums go round as they are
    swarm.run(1.0 if isinstance(swarm.up[0].algorithm, PushSum) else 6.0)
    w, _, between = totals(swarm.up)
    assert between == 0.0
    assert abs(sum(map(mass_of, swarm.up)) - swarm.w_expected) < 1e-12
    assert abs(w - swarm.w_expected) < 1e-12
