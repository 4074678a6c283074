"""Measure the simulator: messages a second, memory a node, seconds a round, and the loop's limit.

``python -m benchmarks.simulator`` prints a table; ``--quick`` takes a tenth of the work, ``--json
FILE`` keeps the figures. Invariant: nothing trains where messages or memory are measured, so that
the figures are the simulator's own; memory is that of a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from benchmarks.still import Still
from gossipnode.configfile import load_config
from gossipnode.learning.learner import Learner
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation.loop import run
from gossipnode.simulation.vectorised import VectorisedSwarm

PARAMS = 650
# How messages travel: name -> arguments of SimulatedSwarm.
MODES: dict[str, dict[str, Any]] = {"frames": {}, "objects": {"objects": True}}


Swarm = Callable[[int, str], SimulatedSwarm]


class Figure(NamedTuple):
    """A line of the table; ``key`` names it in the JSON file."""

    key: str
    what: str
    value: float
    unit: str


def gossiping(nodes: int, mode: str) -> SimulatedSwarm:
    """Return ``nodes`` that gossip with random peers once a second over 10 ms; none learns."""
    config = load_config(
        flags={
            "algorithm.name": "gossip",
            "algorithm.period_s": 1.0,
            "topology.graph": "random",
            "run.evaluate_every": 0,
            "log.level": "error",
        }
    )
    learners: Sequence[Learner] = [Still(PARAMS)] * nodes
    return SimulatedSwarm(
        config, nodes, learners=learners, link=Link(latency_s=0.01), **MODES[mode]
    )


def in_lockstep(nodes: int, mode: str) -> SimulatedSwarm:
    """Return ``nodes`` of D-PSGD with eight neighbours each, a round every 10 ms; none learns."""
    config = load_config(
        flags={
            "topology.graph": "random_regular",
            "topology.degree": 8,
            "run.rounds": 0,
            "run.evaluate_every": 0,
            "log.level": "error",
        }
    )
    learners: Sequence[Learner] = [Still(PARAMS)] * nodes
    return SimulatedSwarm(
        config, nodes, learners=learners, link=Link(latency_s=0.01), **MODES[mode]
    )


def messages(name: str, make: Swarm, nodes: int, seconds: float, mode: str) -> Iterator[Figure]:
    """Delivered messages a second of real time: the median of five stretches of ``seconds``."""
    rates = []
    with make(nodes, mode) as swarm:
        swarm.run(seconds)
        for _ in range(5):
            before, began = sum(swarm.frames.values()), time.perf_counter()
            swarm.run(seconds)
            took = time.perf_counter() - began
            rates.append((sum(swarm.frames.values()) - before) / took)
    what = f"{name}, {mode}, n = {nodes}, d = {PARAMS}: delivered messages"
    key = f"messages_{name.split(',')[0]}_{mode}"
    yield Figure(key, what, statistics.median(rates), "1/s")


def resident() -> int:
    """Return the bytes that this process holds in memory now."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmRSS in /proc/self/status")


def growth(nodes: int, periods: int, mode: str) -> tuple[float, float]:
    """Return bytes a node once all are created, and after ``periods``."""
    with gossiping(8, mode) as swarm:  # what is loaded at first use belongs to no node
        swarm.run(2)
    before = resident()
    with gossiping(nodes, mode) as swarm:
        created = resident()
        swarm.run(periods)
        after = resident()
    return (created - before) / nodes, (after - before) / nodes


def memory(nodes: int, periods: int, mode: str) -> Iterator[Figure]:
    """Growth of resident memory by node, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        created, after = pool.apply(growth, (nodes, periods, mode))
    what = f"gossip, {mode}, n = {nodes}, d = {PARAMS}: memory a node"
    yield Figure(f"memory_{mode}_created", f"{what}, created", created / 1024, "KiB")
    yield Figure(f"memory_{mode}_after", f"{what}, after {periods} periods", after / 1024, "KiB")


def matrix(nodes: int, rounds: int) -> Iterator[Figure]:
    """Seconds a round of the matrix engine: digits, five local steps of 32 from 64 samples."""
    config = load_config(
        flags={
            "topology.graph": "exponential",
            "data.partition": "sample:64",
            "run.evaluate_every": 0,
        }
    )
    swarm = VectorisedSwarm(config, nodes)
    swarm.run(1)
    began = time.perf_counter()
    swarm.run(rounds)
    took = (time.perf_counter() - began) / rounds
    steps, d = config.training.local_steps, swarm.models.shape[1]
    what = f"matrix, D-PSGD, n = {nodes}, d = {d}, {steps} local steps: a round"
    yield Figure(f"matrix_{nodes}", what, took, "s")


def timers(tasks: int, turns: int) -> Iterator[Figure]:
    """Timers a second of the virtual loop, when each wakes a task that sets the next."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(tasks):
                group.create_task(ticking(1 + i / tasks, turns))

    async def ticking(every: float, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(every)

    began = time.perf_counter()
    run(main())
    took = time.perf_counter() - began
    yield Figure(
        "timers", "the bare virtual loop: timers that wake a task", tasks * turns / took, "1/s"
    )


def plan(scale: int) -> Iterator[Callable[[], Iterator[Figure]]]:
    """Yield the measurements, each ``scale`` times as small."""
    yield partial(timers, 1000, 300 // scale)
    for mode in MODES:
        yield partial(messages, "gossip", gossiping, 1000, 6 / scale, mode)
        yield partial(messages, "dpsgd, degree 8", in_lockstep, 500, 0.2 / scale, mode)
        yield partial(memory, 2000 // scale, 20, mode)
    yield partial(matrix, 1000, 50 // scale)
    yield partial(matrix, 10_000, 10 // scale)


def spelled(value: float) -> str:
    """Return three digits, or all of a large number.

    >>> spelled(0.12345), spelled(12345.6)
    ('0.123', '12,346')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next(
            (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), model
        )
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the work.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Keep the figures here.")
def main(quick: bool, path: Path | None) -> None:
    """Print what the simulator does here, a line a figure."""
    here, figures = machine(), []
    print("{cores} cores, {cpu}, Python {python}, numpy {numpy}\n".format(**here))
    print("| what | measured |\n| --- | --- |")
    for measure in plan(10 if quick else 1):
        for figure in measure():
            figures.append(figure)
            print(f"| {figure.what} | {spelled(figure.value)} {figure.unit} |", flush=True)
    if path is not None:
        found = {"machine": here, "figures": [figure._asdict() for figure in figures]}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
