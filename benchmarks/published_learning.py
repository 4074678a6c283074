"""Figures of learning runs: C1 and C2 by matrices, C4 and C11 by gossiping nodes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published import Row
from gossipnode.config import PeerEntry
from gossipnode.configfile import load_config
from gossipnode.node.learners import learner_for
from gossipnode.node.place import find_place
from gossipnode.simulation.vectorised import VectorisedSwarm

NODES = 16
NAMES = [f"n{i:02d}" for i in range(NODES)]
# The last 297 of default_rng(0).permutation(1797) are kept for testing.
DIGITS = {
    "data.source": "digits", "data.test_fraction": 297 / 1797, "task.l2": 1e-4,
    "training.learning_rate": 0.5, "training.batch_size": 16, "training.local_steps": 1,
    "run.evaluate_every": 0,
}  # fmt: skip
C1_ROUNDS = (50, 200, 600)
C1 = {
    "iid": {
        "ring": (0.902, 0.942, 0.9625), "exponential": (0.908, 0.943, 0.963),
        "one_peer_exponential": (0.902, 0.943, 0.963), "complete": (0.908, 0.944, 0.964),
        "isolated": (0.819, 0.876, 0.879),
    },
    "shards:2": {
        "ring": (0.628, 0.869, 0.9315), "exponential": (0.875, 0.938, 0.962),
        "one_peer_exponential": (0.752, 0.926, 0.959), "complete": (0.911, 0.939, 0.966),
        "isolated": (0.234, 0.240, 0.242),
    },
    "dirichlet:0.1": {
        "ring": (0.618, 0.837, 0.916), "exponential": (0.862, 0.940, 0.956),
        "one_peer_exponential": (0.711, 0.918, 0.953), "complete": (0.908, 0.945, 0.956),
        "isolated": (0.262, 0.298, 0.314),
    },
}  # fmt: skip
# After 600 rounds: (least node, averaged model, Ξ).
C1_END = {
    ("iid", "ring"): (0.955, 0.963, 0.224), ("shards:2", "ring"): (0.907, 0.964, 0.484),
    ("dirichlet:0.1", "ring"): (0.891, 0.944, None), ("iid", "exponential"): (None, None, 0.060),
    ("shards:2", "exponential"): (None, None, 0.099),
}  # fmt: skip
C2_ROUNDS = {"iid": (400,), "shards:2": (50, 200, 400)}
C2 = {
    "iid": {"ring": (0.8933,), "exponential": (0.8933,), "complete": (0.8927,)},
    "shards:2": {
        "ring": (0.623, 0.805, 0.847), "exponential": (0.831, 0.880, 0.891),
        "complete": (0.851, 0.885, 0.8915),
    },
}  # fmt: skip


def learnt(
    flags: Mapping[str, Any], graph: str, rounds: Sequence[int], seeds: int
) -> dict[str, list[float]]:
    """Return, after each of ``rounds``, means over the seeds.

    ``mean`` and ``min`` of the nodes' accuracies, ``averaged`` of the mean model, and ``spread``;
    ``least`` and ``most`` are the least and greatest ``mean`` of any seed.
    """
    found: dict[str, list[list[float]]] = {key: [] for key in ("mean", "min", "averaged", "spread")}
    for seed in range(seeds):
        given = {**flags, "swarm.seed": seed}
        swarm = isolated(given, rounds) if graph == "isolated" else connected(given, graph, rounds)
        for key, values in zip(found, zip(*swarm, strict=True), strict=True):
            found[key].append(list(values))
    told = {key: np.mean(values, axis=0).tolist() for key, values in found.items()}
    for key, extreme in (("least", np.min), ("most", np.max)):
        told[key] = extreme(found["mean"], axis=0).tolist()
    return told


def connected(
    flags: Mapping[str, Any], graph: str, rounds: Sequence[int]
) -> Iterator[tuple[float, float, float, float]]:
    """Yield mean and least accuracy, that of the mean model, and Ξ, after each of ``rounds``."""
    swarm = VectorisedSwarm(load_config(flags={**flags, "topology.graph": graph}), names=NAMES)
    for until in rounds:
        swarm.run(until - swarm.round)
        accuracies = [swarm.evaluate(i).accuracy or 0.0 for i in range(NODES)]
        averaged = swarm.evaluate_mean().accuracy or 0.0
        mean = statistics.fmean(accuracies)
        yield mean, min(accuracies), averaged, swarm.consensus_distance()


def isolated(
    flags: Mapping[str, Any], rounds: Sequence[int]
) -> Iterator[tuple[float, float, float, float]]:
    """Yield the same of nodes that never meet: their learners alone."""
    config = load_config(flags=dict(flags))
    entries = [PeerEntry(id=name, address="http://127.0.0.1:1") for name in NAMES]
    learners = [learner_for(config, find_place(config, entries, name)) for name in NAMES]
    models = [learner.initial_params(config.swarm.seed) for learner in learners]
    done = 0
    for until in rounds:
        for learner, params in zip(learners, models, strict=True):
            learner.train(params, until - done)
        done = until
        accuracies = [
            learner.evaluate(params).accuracy or 0.0
            for learner, params in zip(learners, models, strict=True)
        ]
        mean = np.mean(models, axis=0)
        spread = float(np.sqrt(((np.stack(models) - mean) ** 2).sum(1).mean()))
        averaged = learners[0].evaluate(mean.astype(models[0].dtype)).accuracy or 0.0
        yield statistics.fmean(accuracies), min(accuracies), averaged, spread


def of_seeds(found: Mapping[str, list[float]], place: int) -> str:
    """Return what single seeds came to: each divides the data in another way."""
    return f"seeds: {found['least'][place]:.3f} to {found['most'][place]:.3f}"


def c1() -> Iterator[Row]:
    """D-PSGD on digits: 16 nodes, adapt-then-combine, means over seeds 0 to 2."""
    for split, graphs in C1.items():
        tolerance = 0.01 if split == "iid" else 0.02
        for graph, published in graphs.items():
            found = learnt({**DIGITS, "data.partition": split}, graph, C1_ROUNDS, 3)
            for place, (rounds, reference) in enumerate(zip(C1_ROUNDS, published, strict=True)):
                what = f"{split}, {graph}, {rounds} rounds"
                yield Row(what, found["mean"][place], reference, tolerance, of_seeds(found, place))
            least, averaged, spread = C1_END.get((split, graph), (None, None, None))
            if least is not None:
                yield Row(f"{split}, {graph}: least node", found["min"][-1], least, None)
            if averaged is not None:
                what = f"{split}, {graph}: averaged model"
                yield Row(what, found["averaged"][-1], averaged, tolerance)
            if spread is not None:
                yield Row(f"{split}, {graph}: Ξ", found["spread"][-1], spread, None)


def c2(mnist: Path | None) -> Iterator[Row]:
    """D-PSGD on the MNIST test file, 8,000 to train and 2,000 to test, means over two seeds."""
    flags = {
        **DIGITS, "data.source": f"idx:{mnist}", "data.test_fraction": 0.2,
        "training.learning_rate": 0.1, "training.batch_size": 32,
    }  # fmt: skip
    for split, graphs in C2.items():
        for graph, published in graphs.items():
            rounds = C2_ROUNDS[split]
            found: dict[str, list[float]] = {}
            if mnist is not None:
                found = learnt({**flags, "data.partition": split}, graph, rounds, 2)
            for place, (k, reference) in enumerate(zip(rounds, published, strict=True)):
                ours = found["mean"][place] if found else None
                note = of_seeds(found, place) if found else "needs --mnist"
                yield Row(f"{split}, {graph}, {k} rounds", ours, reference, 0.01, note)
            if (split, graph) == ("shards:2", "ring") and found:
                yield Row("shards:2, ring: averaged model", found["averaged"][-1], 0.8875, 0.01)


def c4() -> Iterator[Row]:
    """Gossip with and without weights by age: digits, 100 nodes, degree 20, mean of three seeds."""
    from benchmarks import gossip_figures

    for figure in gossip_figures.merge_figures():
        for cycle, ours, reference in zip(
            gossip_figures.CYCLES, figure.accuracies, figure.published, strict=True
        ):
            yield Row(f"{figure.split}, {figure.rule}, {cycle} cycles", ours, reference, 0.03)
        whole = 16_249 if figure.rule == "partitioned" else 65_000
        what = f"{figure.split}, {figure.rule}: floats a node sent"
        yield Row(what, figure.floats_sent, whole, 0.05 * whole)


def c11() -> Iterator[Row]:
    """How often nodes with token accounts send: 100 nodes, 500 periods."""
    from benchmarks import gossip_figures

    for figure in gossip_figures.token_figures():
        yield Row(f"{figure.flow}: messages a period", figure.rate, figure.published, 0.005)
        what = f"{figure.flow}: largest balance above C"
        yield Row(what, max(0, figure.balance_max - figure.capacity), 0, 0)
