"""Figures of gossip learning: what weights by age are worth, and how often tokens let nodes send.

Run by hand, ``python benchmarks/gossip_figures.py``, or called: ``merge_figures`` and
``token_figures`` return what was measured beside what it is compared with.

Invariant: everything runs in the simulator, from seeds, so that a figure is the same each time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.laws import Stepping
from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.simulation import Link, SimulatedSwarm

NODES = 100
# Far below a period, so that a message is there before the next is sent.
WIRE = Link(latency_s=0.001)

# A reaction follows what it reacts to by up to a period. Where that takes an instant, `generalized`
# uses up its tokens in bursts that meet empty accounts, and its rate is lower by 0.02.
SLOW_WIRE = Link(jitter_s=1.0)
PERIODS = 500
# flow -> (C, A, messages a node and period that were published).
FLOWS = {"randomized": (20, 10, 0.982), "simple": (10, 1, 0.990), "generalized": (20, 10, 0.987)}

CYCLES = (5, 20, 50, 100)
# (how nodes divide the data, the rule of merging) -> accuracies after CYCLES that were published.
ACCURACIES = {
    ("iid", "plain"): (0.342, 0.720, 0.869, 0.909),
    ("iid", "age"): (0.397, 0.753, 0.876, 0.911),
    ("iid", "partitioned"): (0.340, 0.605, 0.773, 0.859),
    ("shards:2", "plain"): (0.165, 0.209, 0.497, 0.763),
    ("shards:2", "age"): (0.171, 0.230, 0.533, 0.773),
}
RULES: dict[str, dict[str, Any]] = {
    "plain": {"algorithm__name": "gossip", "algorithm__staleness": "constant"},
    "age": {"algorithm__name": "gossip", "algorithm__staleness": "age"},
    "partitioned": {"algorithm__name": "partitioned", "algorithm__parts": 4},
}


class TokenFigure(NamedTuple):
    """How often nodes sent, in messages a node and period, and the largest balance of any."""

    flow: str
    rate: float
    published: float
    balance_max: int
    capacity: int


class MergeFigure(NamedTuple):
    """Mean accuracy of the nodes after each of ``CYCLES``, and the params that a node sent."""

    split: str
    rule: str
    accuracies: tuple[float, ...]
    published: tuple[float, ...]
    floats_sent: float


def config_of(**flags: Any) -> Config:
    """Return a config without measurements, by keys like ``run__rounds``."""
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(flags={"run.evaluate_every": 0, **named})


def token_figures(
    nodes: int = NODES, periods: int = PERIODS, seed: int = 0
) -> Iterator[TokenFigure]:
    """Yield the rate of each strategy; nobody trains, so every arrival is of use."""
    for flow, (capacity, share, published) in FLOWS.items():
        config = config_of(
            algorithm__name="gossip", algorithm__flow=flow, algorithm__token_capacity=capacity,
            algorithm__tokens_per_reaction=share, training__local_steps=0, swarm__seed=seed,
        )  # fmt: skip
        learners = [Stepping([0.0]) for _ in range(nodes)]
        balance_max = 0
        with SimulatedSwarm(
            config, nodes, seed=seed, link=SLOW_WIRE, objects=True, learners=learners
        ) as swarm:
            while swarm.time < periods:
                swarm.run(1.0)
                balances = [node.algorithm.accounts[0].balance for node in swarm.up]  # type: ignore[attr-defined]
                balance_max = max(balance_max, *balances)
            sent = sum(node.counters.get("pushes_sent") for node in swarm.up)
            closed = sum(node.round for node in swarm.up)
        yield TokenFigure(flow, sent / closed, published, balance_max, capacity)


def merge_figure(
    split: str, rule: str, seeds: Sequence[int] = (0, 1, 2), nodes: int = NODES
) -> MergeFigure:
    """Return the accuracies of one rule: softmax on digits, random graph of degree 20, τ = 1."""
    found, floats = np.zeros(len(CYCLES)), 0.0
    for seed in seeds:
        config = config_of(
            **RULES[rule], algorithm__order="merge_update", topology__graph="random_regular",
            topology__degree=20, data__partition=split, data__test_fraction=297 / 1797,
            training__batch_size=0, training__learning_rate=0.5, training__local_steps=1,
            swarm__seed=seed,
        )  # fmt: skip
        with SimulatedSwarm(config, nodes, link=WIRE, objects=True, seed=seed) as swarm:
            for at, cycle in enumerate(CYCLES):
                swarm.run(cycle - swarm.time)
                learner = swarm.up[0].learner
                accuracies = [learner.evaluate(x).accuracy for x in swarm.models()]
                found[at] += np.mean(accuracies) / len(seeds)  # type: ignore[arg-type]
            size = swarm.up[0].layout.size / (4 if rule == "partitioned" else 1)
            sent = sum(node.counters.get("pushes_sent") for node in swarm.up)
            floats += sent * size / nodes / len(seeds)
    return MergeFigure(split, rule, tuple(found), ACCURACIES[split, rule], floats)


def merge_figures(seeds: Sequence[int] = (0, 1, 2)) -> Iterator[MergeFigure]:
    """Yield the accuracies of all rules."""
    for split, rule in ACCURACIES:
        yield merge_figure(split, rule, seeds)


def main() -> None:
    """Write all figures."""
    for tokens in token_figures():
        print(
            f"{tokens.flow}: {tokens.rate:.3f} messages a period (published {tokens.published}), "
            f"balance at most {tokens.balance_max} of {tokens.capacity}"
        )
    for merge in merge_figures():
        ours = "/".join(f"{a:.3f}" for a in merge.accuracies)
        theirs = "/".join(f"{a:.3f}" for a in merge.published)
        print(f"{merge.split} {merge.rule}: {ours} ({theirs}), {merge.floats_sent:,.0f} floats")


if __name__ == "__main__":
    main()
