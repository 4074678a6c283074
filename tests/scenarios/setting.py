"""The swarms that the scenarios are about: eight nodes with models of two numbers.

``still`` swarms learn nothing: node i begins at (i, −i), so that agreement on the mean is all that
can come of it, and a lost or doubled merge shows. In ``learning`` ones each step pulls node i
towards (i, −i), so that they never quite agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.learning.learner import TrainResult
from gossipnode.simulation import Link, SimulatedSwarm

WIRE = Link(latency_s=0.05)
PULL = 0.1
# One step a round, so a round of lockstep takes 0.3 s.
STEP_S = 0.25

ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpsgd": {
        "algorithm__name": "dpsgd",
        "algorithm__deadline_s": 3.0,
        "algorithm__start_deadline_s": 3.0,
    },
    "gossip": {"algorithm__name": "gossip", "algorithm__period_s": 0.5},
}


class Pulled(PlainLearner):
    """Each step goes a tenth of the way from the model to ``goal``."""

    def __init__(self, goal: list[float]) -> None:
        super().__init__([0.0] * len(goal))
        self.goal = goal

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params += PULL * (self.goal - params)
        return super().train(params, steps)


def options(algorithm: str, **flags: Any) -> Config:
    """Return a config; pushes time out after 2 s, checkpoints come every 5 s."""
    common = {"network__push_timeout_s": 2.0, "checkpoint__every_s": 5.0}
    return plain_config(**{**common, **ALGORITHMS[algorithm], **flags})


def still(algorithm: str, nodes: int = 8, *, link: Link = WIRE, **more: Any) -> SimulatedSwarm:
    """Return a swarm whose steps change nothing; flags go to the config, the rest to the swarm."""
    return _swarm(
        algorithm, [PlainLearner([float(i), -float(i)]) for i in range(nodes)], link, more
    )


def learning(algorithm: str, nodes: int = 8, *, link: Link = WIRE, **more: Any) -> SimulatedSwarm:
    """Return a swarm that learns; a step takes a quarter of a second."""
    return _swarm(algorithm, [Pulled([float(i), -float(i)]) for i in range(nodes)], link, more)


def _swarm(
    algorithm: str, learners: Sequence[PlainLearner], link: Link, more: dict[str, Any]
) -> SimulatedSwarm:
    flags = {key: value for key, value in more.items() if "__" in key}
    rest = {key: value for key, value in more.items() if "__" not in key}
    return SimulatedSwarm(
        options(algorithm, **flags),
        len(learners),
        link=link,
        learners=learners,
        **{"step_s": STEP_S, **rest},
    )


def counted(swarm: SimulatedSwarm, counter: str) -> int:
    """Return a counter, added up over the nodes that are up."""
    return sum(node.counters.get(counter) for node in swarm.up)


def rounds_apart(swarm: SimulatedSwarm) -> int:
    """Return by how many rounds the nodes that are up differ."""
    rounds = [node.round for node in swarm.up]
    return max(rounds) - min(rounds)
