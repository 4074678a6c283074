"""Figures that follow from arithmetic, graphs and eigenvalues: A1 to A13 and B10."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.laws import Stepping, counted_messages
from benchmarks.published import WIRE, Row
from gossipnode.algorithms.staleness import staleness_function
from gossipnode.configfile import load_config
from gossipnode.simulation import SimulatedSwarm
from gossipnode.topology import build_sequence, costs
from gossipnode.topology.laws import fit_law
from gossipnode.topology.spectra import contract

ROUNDING = 1e-12


def a1() -> Iterator[Row]:
    """A server's line: LeNet on 1 Gbit/s down and 100 Mbit/s up, in a minute."""
    link = costs.Link(up_bps=100e6, down_bps=1e9)
    down, up = costs.participants_max(85_098 * 4, link, 60.0)
    yield Row("models that the server takes in", down, 22033, 0)
    yield Row("models that it gives out", up, 2203, 0)


def a2() -> Iterator[Row]:
    """The bill of a server: 200 clients, 1000 rounds, $0.03 a GiB sent."""
    load = costs.parameter_server(200)
    cost = costs.cost(load, 4_950_544 * 4, rounds=1000, price_per_gib=0.03)
    yield Row("$ for what the server sends", cost.busiest_price, 110.6533, 5e-5)


def a3() -> Iterator[Row]:
    """Messages, counted on the simulated wires: D-PSGD and one naive all-reduce, 128 nodes."""
    sent = sum(counted_messages()[0].values())
    yield Row("D-PSGD, degree 8, 50 rounds", sent, 50 * 128 * 8, 0)
    flags = {"algorithm.name": "allreduce", "algorithm.form": "naive", "run.rounds": 1}
    config = load_config(flags={**flags, "run.evaluate_every": 0})
    learners = [Stepping([i]) for i in range(128)]
    with SimulatedSwarm(config, 128, link=WIRE, learners=learners, objects=True) as swarm:
        swarm.run_to_end()
        final = sum(swarm.frames.values())
    yield Row("one naive all-reduce", final, 128 * 127, 0)
    yield Row("together", sent + final, 67_456, 0)


def matrix(graph: str, n: int, eigenvalues: list[float]) -> Iterator[Row]:
    """Compare W's spectrum, and ρ."""
    sequence = build_sequence(graph, n)
    found = np.sort(np.linalg.eigvalsh(sequence.at(0).dense()))[::-1]
    for place, (ours, reference) in enumerate(zip(found, sorted(eigenvalues)[::-1], strict=True)):
        yield Row(f"{graph} of {n}: eigenvalue {place + 1}", float(ours), reference, ROUNDING)
    rho = sorted(abs(value) for value in eigenvalues)[-2]
    yield Row(f"{graph} of {n}: ρ", contract(sequence).rho, rho, ROUNDING)


def a4() -> Iterator[Row]:
    """The star of four, Metropolis weights."""
    W = build_sequence("star", 4).at(0).dense()
    right = np.diag([0.25, 0.75, 0.75, 0.75])
    right[0] = right[:, 0] = 0.25
    yield Row("star of 4: largest |w − reference|", float(np.abs(W - right).max()), 0, ROUNDING)
    yield from matrix("star", 4, [1, 0.75, 0.75, 0])


def a5() -> Iterator[Row]:
    """The ring of four."""
    yield from matrix("ring", 4, [1, 1 / 3, 1 / 3, -1 / 3])


def a6() -> Iterator[Row]:
    """The complete graph of five."""
    yield from matrix("complete", 5, [1, 0, 0, 0, 0])


def a11() -> Iterator[Row]:
    """Laws of the spectral gap: constants at n = 1024, and exponents where those are open."""
    for graph, what, constant in (
        ("ring", "(1 − ρ)n²", 13.1594), ("torus", "(1 − ρ)n", 7.8703), ("grid", "(1 − ρ)n", 2.0028),
        ("star", "(1 − ρ)n", 1.0), ("exponential", "(1 − ρ)(1 + ⌈log₂n⌉)", 2.0),
    ):  # fmt: skip
        yield Row(f"{graph}, n = 1024: {what}", fit_law(graph).constant, constant, 5e-5)
    for graph, over, exponent, tolerance in (
        ("random_geometric", "n/ln n", 1.0, 0.3), ("erdos_renyi", "n", 0.0, 0.2),
        ("d_equi_static", "n", 0.0, 0.2), ("u_equi_static", "n", 0.0, 0.2),
    ):  # fmt: skip
        what = f"{graph}: exponent p in 1 − ρ ~ ({over})^−p, fitted"
        yield Row(what, fit_law(graph).exponent, exponent, tolerance, "five draws and more a size")


def a13() -> Iterator[Row]:
    """One push of gossip between nodes that do not train."""
    flags = {
        "algorithm.name": "gossip", "algorithm.staleness": "constant", "training.local_steps": 0,
        "run.evaluate_every": 0, "topology.graph": "random", "run.rounds": 1,
    }  # fmt: skip
    n = 4
    learners = [Stepping([float(i * i)]) for i in range(n)]
    with SimulatedSwarm(load_config(flags=flags), n, link=WIRE, learners=learners) as swarm:
        before = swarm.models()[:, 0]
        while not swarm.frames:
            swarm.run(1e-4)
        after = swarm.models()[:, 0]
    (sender,) = (swarm.names.index(name) for name in swarm.frames)
    (receiver,) = np.flatnonzero(after != before)
    halfway = (before[sender] + before[receiver]) / 2
    yield Row("receiver: x_r − (x_m + x_r)/2", float(after[receiver] - halfway), 0, ROUNDING)
    yield Row("sender: change", float(after[sender] - before[sender]), 0, 0)
    shift = (before[sender] - before[receiver]) / (2 * n)
    moved = float(after.mean() - before.mean() - shift)
    yield Row("mean: shift − (x_s − x_r)/(2n)", moved, 0, ROUNDING)


def b10() -> Iterator[Row]:
    """Weights by staleness δ = 0, 1, 2, 4, 8, 16."""
    published = {
        "polynomial": (1, 0.7071, 0.5774, 0.4472, 0.3333, 0.2425),
        "hinge": (1, 1, 1, 1, 0.0244, 0.0083),
        "exponential": (1, 0.9048, 0.8187, 0.6703, 0.4493, 0.2019),
    }
    for name, weights in published.items():
        s = staleness_function(name)
        for delta, reference in zip((0, 1, 2, 4, 8, 16), weights, strict=True):
            yield Row(f"{name}, δ = {delta}", s(delta), reference, 5e-5)
