"""D-PSGD where edges go one way: a sender may be rounds ahead, and yet no model may be lost.

The oracle is the dense recursion X ← W(X + step). Whatever only takes time (a slow node, a slow
wire, a late start, a connection that breaks once) must leave the result exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, entries, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.errors import NetworkError
from gossipnode.node.world import Receipt
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.reply import Reply

ROUNDS = 20
NODES = 8
NAMES = tuple(f"n{i}" for i in range(NODES))
DEADLINE_S = 20.0


def config(graph: str, **flags: Any) -> Config:
    common = {
        "topology__graph": graph,
        "algorithm__deadline_s": DEADLINE_S,
        "run__rounds": ROUNDS,
        "run__drain_deadline_s": 30.0,
    }
    return plain_config(**{**common, **flags})


def learners() -> list[PlainLearner | None]:
    return [PlainLearner([float(i)], 0.1 * i) for i in range(NODES)]


def dense(swarm: MemorySwarm) -> np.ndarray[Any, Any]:
    names = list(swarm.nodes)
    W = np.zeros((NODES, NODES))
    for i, name in enumerate(names):
        row = swarm.nodes[name].row
        W[i, i] = row.self_weight
        for j, weight in row.weights.items():
            W[i, names.index(j)] = weight
    X = np.arange(NODES, dtype=np.float64)[:, None]
    step = 0.1 * X
    for _ in range(ROUNDS):
        X = W @ (X + step)
    return X


def assert_exact(swarm: MemorySwarm) -> None:
    for counter in ("missing_models", "pushes_replaced", "late_merged", "peers_suspected"):
        assert [n.counters.get(counter) for n in swarm.nodes.values()] == [0] * NODES, counter
    np.testing.assert_allclose(swarm.models(), dense(swarm), rtol=1e-13)


def play(
    graph: str, disturb: Callable[[MemorySwarm], Coroutine[Any, Any, None]], step_s: float = 1.0
) -> None:
    """Run a swarm to the end while ``disturb`` meddles, and compare with the dense recursion."""

    async def scenario() -> None:
        async with swarm_of(config(graph), NAMES, learners()) as swarm:
            for world in swarm.worlds.values():
                world.step_s = step_s
            meddling = asyncio.create_task(disturb(swarm))
            await swarm.run()
            await meddling
            assert_exact(swarm)

    virtual_time.run(scenario())


@pytest.mark.parametrize("graph", ["ring", "exponential"])
def test_a_slow_node_costs_no_model(graph: str) -> None:
    async def slow(swarm: MemorySwarm) -> None:
        swarm.worlds["n0"].step_s = 5.0

    play(graph, slow)


@pytest.mark.parametrize(
    ("graph", "latency_s"),
    [
        ("ring", 0.5),
        ("ring", 3.5),
        ("exponential", 0.5),
        pytest.param("exponential", 2.5),
        pytest.param("exponential", 3.5),
    ],
)
def test_a_slow_wire_costs_no_model(graph: str, latency_s: float) -> None:
    """One wire of 56 or 128, far below the deadline."""

    async def slow(swarm: MemorySwarm) -> None:
        edge = ("n0", "n1")
        swarm.latency_s = lambda sender, receiver: latency_s if (sender, receiver) == edge else 0.0

    play(graph, slow)


@pytest.mark.parametrize("graph", ["ring", pytest.param("exponential")])
def test_a_pause_within_the_deadline_costs_no_model(graph: str) -> None:
    async def pause(swarm: MemorySwarm) -> None:
        await asyncio.sleep(5.5)
        swarm.pause("n3")
        await asyncio.sleep(3.0)
        swarm.resume("n3")

    play(graph, pause)


@pytest.mark.parametrize("graph", ["ring", pytest.param("exponential")])
def test_a_swarm_whose_first_node_starts_late_is_exact(graph: str) -> None:
    async def scenario() -> None:
        swarm = MemorySwarm()
        for name, learner in zip(NAMES, learners(), strict=True):
            swarm.add(config(graph), name, entries(NAMES), learner)
            swarm.worlds[name].step_s = 0.1
        swarm.down.add("n0")
        for name in NAMES[1:]:
            await swarm.nodes[name].start()
            swarm.launch(name)
        await asyncio.sleep(3.0)
        swarm.down.discard("n0")
        await swarm.nodes["n0"].start()
        swarm.launch("n0")
        await asyncio.gather(*swarm.tasks.values())
        assert_exact(swarm)

    virtual_time.run(scenario())


@pytest.mark.parametrize("graph", ["ring", "exponential"])
@pytest.mark.parametrize("fault", ["broken", "busy"])
@pytest.mark.parametrize("step_s", [pytest.param(0.01), 0.2])
def test_one_broken_connection_or_busy_answer_costs_no_model(
    graph: str, fault: str, step_s: float
) -> None:
    """The repeat comes 25 to 100 ms later, by when a quick sender has the next model ready."""

    async def disturb(swarm: MemorySwarm) -> None:
        swarm.worlds["n0"].step_s = 1.5 * step_s
        carry, done = swarm.carry, []

        async def once(sender: str, receiver: str, data: bytes) -> Receipt:
            here = (sender, receiver) == ("n0", "n1") and swarm.nodes[sender].round == 5
            if not here or done:
                return await carry(sender, receiver, data)
            done.append(True)
            if fault == "broken":
                raise NetworkError("connection reset by peer")
            return Receipt(reply=Reply("refused", receiver, 0, 0, "busy", "full", 0.1))

        swarm.carry = once  # type: ignore[method-assign]

    play(graph, disturb, step_s)
