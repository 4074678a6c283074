"""Swarms on the reference problem Q16, for the tests that compare them with dense recursions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from q16 import q16, ring16

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.errors import PeerError
from gossipnode.simulation import Link, SimulatedSwarm

Matrix = Any
A, b, BEST = q16()
W, EYE = ring16(), np.eye(16)
NAMES = [f"n{i:02d}" for i in range(16)]
LINK = Link(latency_s=0.001)
# Waits so short that what is lost is missed, although its sender tries once more.
HASTY = {
    "algorithm__deadline_s": 0.02,
    "algorithm__start_deadline_s": 0.02,
    "network__push_timeout_s": 0.1,
}
Recursion = Callable[..., Iterator[Matrix]]


def gradients(X: Matrix) -> Matrix:
    """Return the gradient of each node at its row."""
    return np.einsum("nij,nj->ni", A, X) - b


def start() -> Matrix:
    """Return X of the beginning."""
    return np.zeros((16, 10))


def after(recursion: Iterator[Matrix], rounds: int) -> Matrix:
    """Return X after so many rounds."""
    return next(islice(recursion, rounds - 1, None))


def rms(X: Matrix) -> float:
    """Return the root mean square distance from the optimum."""
    return float(np.sqrt(((X - BEST) ** 2).sum(1).mean()))


def settings(source: str, name: str, eta: float, **flags: Any) -> Config:
    """Return a config of ``name`` on Q16; two underscores in a flag stand for the dot."""
    common = {
        "task.kind": "quadratic",
        "task.dtype": "float64",
        "data.source": source,
        "training.learning_rate": eta,
        "training.local_steps": 1,
        "algorithm.name": name,
        "run.evaluate_every": 0,
    }
    return load_config(flags={**common, **{k.replace("__", "."): v for k, v in flags.items()}})


def simulated(config: Config, names: Sequence[str] = NAMES, **how: Any) -> SimulatedSwarm:
    """Return a swarm over wires of 1 ms."""
    return SimulatedSwarm(config, names=names, **{"link": LINK, "objects": True, **how})


def models_of(config: Config, **how: Any) -> Matrix:
    """Return X when all are done."""
    with simulated(config, **how) as swarm:
        swarm.run_to_end(within=1000)
        return swarm.models()


def stopped_and_started(config: Config, rounds: int, **how: Any) -> Matrix:
    """Return X when all have stopped after the config's rounds, and gone on to ``rounds``.

    Nothing is under way when they stop, and the disk is all that the second life has.
    """
    lingering = config.run.model_copy(update={"linger": True})
    config = config.model_copy(update={"run": lingering})
    with simulated(config, stores=True, **how) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        swarm.stop(*swarm.names)
        longer = lingering.model_copy(update={"rounds": rounds})
        swarm.config = config.model_copy(update={"run": longer})
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_until(lambda: all(n.round == rounds for n in swarm.up), within=60, every=0.1)
        return swarm.models()


def lacking(i: int, j: int) -> Matrix:
    """Return W of a round in which node i misses node j: the weight stays at i."""
    V = W.copy()
    V[i, i], V[i, j] = W[i, i] + W[i, j], 0
    return V


def lose(
    patch: pytest.MonkeyPatch, i: int, j: int, k: int, phase: int = 0, of: Any = Lockstep
) -> None:
    """Let node i refuse what node j sends in round k; it is tried no more."""
    receive = of.receive

    async def losing(self: Any, node: NodeInterface, arrival: Arrival) -> Answer:
        here = node.id, arrival.sender, arrival.round, arrival.phase
        if here == (NAMES[i], NAMES[j], k, phase):
            raise PeerError("not_finite", "lost")
        return await receive(self, node, arrival)

    patch.setattr(of, "receive", losing)


def trace_of(config: Config, seed: int) -> tuple[str, Matrix]:
    """Return trace hash and models of a lossy run, deliveries jittered."""
    link = Link(latency_s=0.001, jitter_s=0.002, loss=0.05)
    with simulated(config, seed=seed, link=link) as swarm:
        swarm.run_to_end(within=1000)
        return swarm.trace_hash, swarm.models()


def bias_under_loss(config: Config, loss: float, *, seed: int = 1, last: int = 50) -> float:
    """Return ‖x̄ − x*‖, the median over the last rounds of node 0.

    Each message is lost with chance ``loss``: its receiver never sees it, and its sender does not
    send it again.
    """
    rng, found, rounds = np.random.default_rng(seed), [], config.run.rounds
    with simulated(config, step_s=0.01) as swarm:
        of: Any = type(swarm.up[0].algorithm)
        with pytest.MonkeyPatch.context() as patch:
            receive = of.receive

            async def losing(self: Any, node: NodeInterface, arrival: Arrival) -> Answer:
                if rng.random() < loss:
                    raise PeerError("not_finite", "lost")
                return await receive(self, node, arrival)

            patch.setattr(of, "receive", losing)
            for k in range(rounds - last, rounds):
                swarm.run_until(lambda k=k: swarm.up[0].round > k, within=1000, every=0.002)
                found.append(float(np.linalg.norm(swarm.models().mean(0) - BEST)))
    return float(np.median(found))
