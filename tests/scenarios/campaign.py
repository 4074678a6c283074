"""Swarms whose every misfortune is drawn from one number, and what must hold of each of them.

Loss to 30 %, latency to 2 s, answers lost, duplicates, jitter that lets messages overtake one
another, three nodes in ten killed a minute (most of them by a power cut, some with writes under
way), processes that stand still, one-way wires, and swizzled partitions: nodes are cut off one by
one and come back in another order. The checkers of ``simulation`` look after every delivery and at
each step. Then all is mended, and the swarm must go on and come as near to the optimum as one does
that had only the calm.

``python campaign.py --seeds 2000`` runs many, on all cores, and prints the command that repeats
whatever failed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from q16 import q16

from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.simulation import Link, SimulatedSwarm

A, B, _ = q16()
STEP_S = 0.2
# Virtual seconds.
STORM_S, CALM_S = 60.0, 90.0
# What of the calm recovering may take: some ten deadlines.
RECOVERY_S = 30.0
# At its end, over which the distance is averaged: algorithms that meet all at once now and then are
# two to eight times as far from the optimum just before as just after.
WINDOW_S, LOOK_S = 20.0, 1.0
# After the calm a swarm is at most so many times as far from the optimum as one that had the rest
# of the calm alone; the models began some 3 away, and below NEAR they are as good as there.
FARTHER, NEAR = 2.0, 0.05
LEARNING_RATE = 0.02
# Churn: three nodes of ten a minute.
KILLS_A_NODE_S = 0.3 / 60

# In rounds, nobody waits longer than that.
WAITS = {"algorithm.deadline_s": 3.0, "algorithm.start_deadline_s": 3.0}
# What runs in a storm, and the options that it needs beside the common ones.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "dpsgd": {},
    "stale dpsgd": {"algorithm.name": "dpsgd", "algorithm.form": "stale"},
    "gossip": {"algorithm.period_s": 0.5},
    "pull gossip": {
        "algorithm.name": "gossip",
        "algorithm.period_s": 0.5,
        "algorithm.exchange": "push_pull",
    },
    "partitioned": {"algorithm.period_s": 0.5},
    "adpsgd": {"algorithm.answer_deadline_s": 3.0},
    "dsgt": {},
    "d2": {"topology.lazy": True},
    "exact_diffusion": {},
    "qgm": {},
    "sgp": {},
    "push_sum_gossip": {"algorithm.period_s": 0.5},
    "choco": {"codec.name": "topk", "codec.fraction": 0.2},
    "relay_sum": {},
    "ssp": {},
    "allreduce": {},
    "pga": {},
    "fedavg": {},
}

AT_THEIR_OWN_PACE = {"gossip", "pull gossip", "partitioned", "push_sum_gossip", "adpsgd"}


def config_of(name: str, source: str) -> Config:
    """Return the config of a swarm of ``name`` on the quadratics of ``source``."""
    flags = {
        "task.kind": "quadratic",
        "task.dtype": "float64",
        "data.source": source,
        "training.learning_rate": LEARNING_RATE,
        "training.local_steps": 1,
        "algorithm.name": name,
        "run.evaluate_every": 0,
        "network.push_timeout_s": 5.0,
        "checkpoint.every_s": 5.0,
        **({} if name in AT_THEIR_OWN_PACE else WAITS),
        **ALGORITHMS[name],
    }
    return load_config(flags=flags)


class Storm:
    """One swarm of four to ten nodes, and its misfortunes; ``seed`` decides all of it."""

    def __init__(self, seed: int, name: str, source: str, nodes: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.link = Link(
            latency_s=self._up_to(2.0),
            jitter_s=self._up_to(0.5),
            loss=self._up_to(0.3),
            reply_loss=self._up_to(0.1),
            duplicate=self._up_to(0.1),
        )
        self.cut_off: list[str] = []
        self.paused: list[str] = []
        self.swarm = SimulatedSwarm(
            config_of(name, source),
            nodes,
            seed=seed,
            link=self.link,
            step_s=STEP_S,
            stores=True,
            objects=seed % 2 == 0,
            # Each algorithm with and without, since their number is even.
            membership=seed // len(ALGORITHMS) % 2 == 1,
            replay=f"python tests/scenarios/campaign.py --seed {seed}",
        )

    def _up_to(self, most: float) -> float:
        """Draw a fault's strength; one in three storms goes without it."""
        return most * max(0.0, 1.5 * self.rng.random() - 0.5)

    def _one_of(self, names: list[str]) -> str:
        return names[int(self.rng.integers(len(names)))]

    def rage(self) -> None:
        """Let the misfortunes come, and check what must hold after each."""
        swarm = self.swarm
        for name in swarm.names:
            swarm.slow_disk(name, self._up_to(1.0))
        while swarm.time < STORM_S:
            swarm.run(self.rng.exponential(1.5))
            self._happen()
            swarm.check()

    def _happen(self) -> None:
        swarm, draw = self.swarm, self.rng.random()
        up = [name for name in swarm.names if name not in swarm.down]
        if self.rng.random() < KILLS_A_NODE_S * 1.5 * len(swarm.names) and len(up) > 2:
            self._end(self._one_of(up))
        elif draw < 0.4 and swarm.down:
            swarm.restart(self._one_of(sorted(swarm.down)))
        elif draw < 0.5:
            self._swizzle()
        elif draw < 0.6:
            self._stand_still(up)
        elif draw < 0.65:
            one, other = self.rng.permutation(swarm.names)[:2]
            swarm.cut([str(one)], [str(other)])
        elif draw < 0.7:
            self._mend()

    def _end(self, name: str) -> None:
        if name in self.paused:  # SIGTERM waits for a process that stands still to go on
            self.paused.remove(name)
            self.swarm.resume(name)
        if self.rng.random() < 0.8:
            self.swarm.kill(name)
        else:
            self.swarm.stop(name)

    def _swizzle(self) -> None:
        """Cut one more node off, or take back one that was, not in the order they were cut."""
        swarm = self.swarm
        if self.cut_off and self.rng.random() < 0.5:
            self.cut_off.remove(self._one_of(self.cut_off))
            swarm.heal()
        else:
            self.cut_off.append(self._one_of([n for n in swarm.names if n not in self.cut_off]))
        for name in self.cut_off:
            swarm.partition([name], [other for other in swarm.names if other != name])
        if len(self.cut_off) > len(swarm.names) // 2:
            self._mend()

    def _stand_still(self, up: list[str]) -> None:
        if self.paused and self.rng.random() < 0.7:
            self.swarm.resume(self.paused.pop())
        elif still := [name for name in up if name not in self.paused]:
            self.paused.append(self._one_of(still))
            self.swarm.pause(self.paused[-1])

    def _mend(self) -> None:
        self.cut_off.clear()
        self.swarm.heal()

    def calm_down(self) -> None:
        """Mend everything, and let the swarm recover."""
        swarm = self.swarm
        self._mend()
        swarm.network.link = Link(latency_s=0.01)
        while self.paused:
            swarm.resume(self.paused.pop())
        for name in sorted(swarm.down):
            swarm.restart(name)
        swarm.run(CALM_S - RECOVERY_S - WINDOW_S)
        swarm.expect_progress(RECOVERY_S)


def usual_distance(swarm: SimulatedSwarm) -> float:
    """Let ``WINDOW_S`` pass; return the mean of the distances meanwhile."""
    found = []
    for _ in range(round(WINDOW_S / LOOK_S)):
        swarm.run(LOOK_S)
        found.append(distance(swarm))
    return float(np.mean(found))


def distance(swarm: SimulatedSwarm) -> float:
    """Return how far the nodes are from the optimum of their swarm, root mean square."""
    n = len(swarm.names)
    best = np.linalg.solve(A[:n].sum(0), B[:n].sum(0))
    return float(np.sqrt(((swarm.models() - best) ** 2).sum(1).mean()))


def weathered(seed: int, source_of: Callable[[int], str]) -> tuple[str, float, float]:
    """Run storm ``seed``: return its algorithm, and the distance after it and without it.

    Raises ``SimulationError`` where something broke, or the swarm does not recover.
    """
    rng = np.random.default_rng([seed, 1])
    name = list(ALGORITHMS)[seed % len(ALGORITHMS)]
    nodes = int(rng.integers(4, 11))
    source = source_of(nodes)
    storm = Storm(seed, name, source, nodes)
    with storm.swarm as swarm:
        storm.rage()
        storm.calm_down()
        after = usual_distance(swarm)
    config = config_of(name, source)
    with SimulatedSwarm(config, nodes, link=Link(latency_s=0.01), step_s=STEP_S) as calm:
        calm.run(CALM_S - RECOVERY_S - WINDOW_S)
        undisturbed = usual_distance(calm)
    storm.swarm.expect(
        after < max(FARTHER * undisturbed, NEAR),
        f"{name} is {after:.3g} from the optimum, {undisturbed:.3g} without the storm",
    )
    return name, after, undisturbed


def sources(folder: str | Path, nodes: int) -> str:
    """Return the first ``nodes`` quadratics as a data source, written to ``folder`` once."""
    path = Path(folder) / f"q{nodes}.npz"
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(fresh, A=A[:nodes], b=B[:nodes])
        fresh.replace(path)
    return f"npz:{path}"


def _tried(seed: int, folder: str) -> tuple[int, str, float, float, str]:
    logging.getLogger("gossipnode").setLevel(logging.CRITICAL)
    try:
        return seed, *weathered(seed, partial(sources, folder)), ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding: told with its seed
        return seed, "", 0.0, 0.0, f"{type(error).__name__}: {error}"


def main() -> int:
    """Run the campaign; the exit code is 1 where a storm broke something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone, with its traceback")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.seed is not None:
            print(*weathered(asked.seed, partial(sources, folder)))
            return 0
        failed = 0
        told: dict[str, list[float]] = {}
        with ProcessPoolExecutor() as pool:
            seeds = range(asked.first, asked.first + asked.seeds)
            runs = pool.map(partial(_tried, folder=folder), seeds, chunksize=1)
            for done, (seed, name, after, calm, fault) in enumerate(runs, 1):
                if fault:
                    failed += 1
                    print(f"seed {seed}: {fault}", flush=True)
                else:
                    told.setdefault(name, []).append(after / calm)
                if done % 100 == 0:
                    print(f"{done} storms, {failed} failed", file=sys.stderr, flush=True)
    for name, ratios in told.items():
        print(f"{name:16} {len(ratios):4}  median {np.median(ratios):.3g}  worst {max(ratios):.3g}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
