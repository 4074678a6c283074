"""``python -m benchmarks.watching_peers``: how often, and how fast, who is gone is taken for gone.

``false``: a swarm in virtual time on bad wires (5 % of all questions lost, 500 ms of jitter each
way) in which nobody dies; counted is who was taken for down all the same. A peer-hour is an hour
for which one node has one peer in its table, and could take it for down; a watched one an hour for
which it asks that peer itself in turn. ``crashes``: how long until each of the others no longer
samples a node that falls silent, and what a node sends meanwhile.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gossipnode.configfile import load_config
from gossipnode.learning.learner import TrainResult
from gossipnode.learning.params import Layout
from gossipnode.learning.tasks import Evaluation
from gossipnode.node.membership.detector import Detector
from gossipnode.simulation import Link, SimulatedSwarm

BAD = Link(latency_s=0.02, jitter_s=0.5, loss=0.05)
WIRES = {"lan": Link(latency_s=0.001), "wan": Link(latency_s=0.05), "bad": BAD}


class Idle:
    """A learner of one number that nothing is learnt of."""

    samples = 1

    def __init__(self) -> None:
        self.layout = Layout.of({"x": (1,)}, "float64", ())

    def initial_params(self, seed: int) -> Any:  # noqa: ARG002 - a learner's
        """Return nothing to speak of."""
        return np.zeros(1)

    def train(self, params: Any, steps: int) -> TrainResult:  # noqa: ARG002 - a learner's
        """Learn nothing."""
        return TrainResult(0.0, steps, 1)

    def evaluate(self, params: Any) -> Evaluation:  # noqa: ARG002 - a learner's
        """Be as good as ever."""
        return Evaluation(0.0, None, 1)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keep nothing."""
        return {}, {}

    def restore(self, arrays: Any, meta: Any) -> None:
        """Take nothing up."""

    def describe(self) -> dict[str, Any]:
        """Say nothing."""
        return {}


@contextmanager
def idle_swarm(nodes: int, link: Link, seed: int) -> Iterator[SimulatedSwarm]:
    """Yield a swarm whose nodes have heard of each other, and push next to nothing."""
    config = load_config(
        flags={
            "algorithm.name": "gossip",
            "algorithm.period_s": 86_400.0,
            "topology.graph": "random",
            "run.evaluate_every": 0,
            "training.local_steps": 1,
        }
    )
    swarm = SimulatedSwarm(
        config, nodes, seed=seed, link=link, objects=True, membership=True,
        learners=[Idle() for _ in range(nodes)],
    )  # fmt: skip
    with swarm:
        for node in swarm.nodes.values():
            for name in swarm.names:
                if name != node.id:
                    node.peers.heard(node.peers[name], swarm.time)
        swarm.run(10 + 0.017 * seed)
        yield swarm


def total(swarm: SimulatedSwarm, counter: str) -> int:
    """Return a counter, added up over all nodes."""
    return sum(node.counters.get(counter) for node in swarm.nodes.values())


def watched(swarm: SimulatedSwarm) -> int:
    """Return how many pairs of a node and a peer that it asks there are."""
    count = 0
    for node in swarm.nodes.values():
        assert node.membership is not None
        for part in node.membership.parts:
            if isinstance(part, Detector):
                count += sum(peer in part.watched for peer in swarm.names if peer != node.id)
    return count


def false_alarms(nodes: int, peer_hours: float, seed: int) -> None:
    """Let a swarm live for so many peer-hours on bad wires, and print who was taken for down."""
    began = time.process_time()
    with idle_swarm(nodes, BAD, seed) as swarm:
        pairs, asked = nodes * (nodes - 1), watched(swarm)
        hours, began_at = peer_hours / pairs, swarm.time
        while swarm.time - began_at < 3600 * hours:
            swarm.run(min(600.0, 3600 * hours))
            done = (swarm.time - began_at) / 3600
            print(
                f"{done * pairs:,.0f} peer-hours, {done * asked:,.0f} of them watched, "
                f"{done * nodes:,.0f} node-hours: "
                f"{total(swarm, 'peers_down')} down, {total(swarm, 'peers_suspected')} suspected, "
                f"{total(swarm, 'probes_failed'):,} unanswered at first; "
                f"{time.process_time() - began:.0f} s of computing",
                flush=True,
            )


def crashes(nodes: int, count: int, wires: str) -> None:
    """Let a node fall silent, so many times over; print how long the others took to see it."""
    seen: list[float] = []
    down: list[float] = []
    sent, seconds = 0, 0.0
    for seed in range(count):
        with idle_swarm(nodes, WIRES[wires], seed) as swarm:
            sent += total(swarm, "control_bytes_sent")
            seconds += nodes * swarm.time
            name = f"n{seed % nodes}"
            swarm.partition([name], [other for other in swarm.names if other != name])
            began = swarm.time
            others = {j: swarm.nodes[j].peers[name] for j in swarm.names if j != name}
            absent: set[str] = set()
            while others and swarm.time - began < 60:
                swarm.run(0.02)
                late = swarm.time - began
                new = [j for j, peer in others.items() if peer.state not in ("alive", "unknown")]
                seen += [late for j in new if j not in absent]
                absent.update(new)
                for j in [j for j in new if others[j].state == "down"]:
                    down.append(late)
                    del others[j]
    for what, took in (("not sampled", seen), ("down", down)):
        median, most = np.quantile(took, [0.5, 0.99])
        print(f"{wires}, {nodes} nodes: {what} after {median:.2f} s (median), {most:.2f} s (p99)")
    print(f"{wires}, {nodes} nodes: {sent / seconds:.0f} bytes/s a node; {count} crashes")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["false", "crashes"])
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--peer-hours", type=float, default=1e5)
    parser.add_argument("--crashes", type=int, default=200)
    parser.add_argument("--wires", choices=WIRES, default="lan")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if options.what == "false":
        false_alarms(options.nodes, options.peer_hours, options.seed)
    else:
        crashes(options.nodes, options.crashes, options.wires)


if __name__ == "__main__":
    main()
