"""Gossip learning: the orders of merging and training, the last model, the limit, the buffer.

Models are one or a few numbers, and SGD goes halfway to 8: what must come of it is arithmetic.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Purpose
from gossipnode.algorithms.gossip_learning import GossipLearning
from gossipnode.algorithms.periodic import ROOM
from gossipnode.config import Config
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import TrainResult
from gossipnode.node.node import Node
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation import loop as virtual_time

GOAL, TAU = 8.0, 3
ORDERS = ("merge", "merge_update", "update_merge", "update", "pass")


class Halving(PlainLearner):
    """Each step goes half the way to ``GOAL``."""

    def train(self, params: Any, steps: int) -> TrainResult:
        for _ in range(steps):
            params += (GOAL - params) / 2
        return TrainResult(0.0, steps, 1)


def sgd(x: float) -> float:
    return GOAL - (GOAL - x) / 2**TAU


def gossip(**flags: Any) -> Config:
    common = {"algorithm__name": "gossip", "training__local_steps": TAU}
    return plain_config(**{**common, "algorithm__period_s": 1000.0, **flags})


async def send(swarm: MemorySwarm, value: list[float], age: int, receiver: str = "one") -> str:
    """Push a model of any value and age, now."""
    sender = swarm.nodes["two"]
    vector = np.array(value, sender.layout.dtype)
    frame = sender.passive.frame({"x": vector}, Purpose.MODEL, age)
    receipt = await swarm.carry("two", receiver, frame.tobytes())
    assert receipt.reply is not None
    return receipt.reply.status


async def idle(swarm: MemorySwarm) -> Node:
    """Launch the first node and wait until it waits for arrivals; its first push is far off."""
    node = swarm.nodes["one"]
    swarm.launch("one")
    await asyncio.sleep(0.01)
    assert node.round == 0
    return node


# Own model 0 of age 2, arriving model 4 of age 6: half of both, or by age 3/4 of what arrives.
FORMULAS = {
    ("merge", "constant"): (2.0, 6),
    ("merge", "age"): (3.0, 6),
    ("merge_update", "constant"): (sgd(2.0), 6 + TAU),
    ("merge_update", "age"): (sgd(3.0), 6 + TAU),
    ("update_merge", "constant"): ((sgd(0.0) + sgd(4.0)) / 2, 6 + TAU),
    ("update_merge", "age"): ((5 * sgd(0.0) + 9 * sgd(4.0)) / 14, 6 + TAU),
    ("update", "constant"): (sgd(4.0), 6 + TAU),
    ("pass", "constant"): (4.0, 6),
}


@pytest.mark.parametrize(("order", "staleness"), FORMULAS)
def test_each_order_is_its_formula_and_leaves_the_sender_alone(order: str, staleness: str) -> None:
    async def main() -> None:
        config = gossip(algorithm__order=order, algorithm__staleness=staleness)
        async with swarm_of(config, ["one", "two"], [Halving([0.0]), Halving([4.0])]) as swarm:
            node = await idle(swarm)
            node.replica.age = 2
            await send(swarm, [4.0], 6)
            await asyncio.sleep(0.01)
            value, age = FORMULAS[order, staleness]
            assert node.params[0] == pytest.approx(value, abs=1e-15)
            assert node.age == age
            assert swarm.nodes["two"].params[0] == 4.0
            assert swarm.nodes["two"].age == 0

    virtual_time.run(main())


@pytest.mark.parametrize("order", ["update", "pass"])
def test_who_takes_a_model_whole_takes_its_age_too_though_it_is_less(order: str) -> None:
    async def main() -> None:
        config = gossip(algorithm__order=order)
        async with swarm_of(config, ["one", "two"], [Halving([0.0]), Halving([4.0])]) as swarm:
            node = await idle(swarm)
            node.replica.age = 50
            await send(swarm, [4.0], 6)
            await asyncio.sleep(0.01)
            assert node.age == 6 + (TAU if order == "update" else 0)

    virtual_time.run(main())


@pytest.mark.parametrize("order", ORDERS)
def test_who_trains_when(order: str) -> None:
    """In a period without arrivals the orders of the papers train nothing, but for pass."""

    async def main() -> None:
        config = gossip(algorithm__order=order, algorithm__period_s=1.0, run__rounds=5)
        async with swarm_of(config, ["one", "two"], [Halving([0.0])] * 2) as swarm:
            swarm.launch("one")
            await asyncio.sleep(20)
            node = swarm.nodes["one"]
            assert node.round == 5
            steps = 5 * TAU if order in ("merge", "pass") else 0
            assert node.counters.get("local_steps") == steps == node.age

    virtual_time.run(main())


def test_no_sender_waits_for_training_and_what_finds_no_room_is_told_so() -> None:
    async def main() -> None:
        config = gossip(algorithm__order="merge_update", algorithm__staleness="constant")
        async with swarm_of(config, ["one", "two"], [Halving([0.0])] * 2) as swarm:
            node = await idle(swarm)
            swarm.worlds["one"].step_s = 10.0
            loop = asyncio.get_running_loop()
            began, answers = loop.time(), []
            for value in range(ROOM + 2):
                answers.append(await send(swarm, [float(value)], 1))
                await asyncio.sleep(0.0)
                await asyncio.sleep(0.0)
            assert loop.time() == began
            # The first is being trained on, two wait.
            assert answers == ["buffered"] * (1 + ROOM) + ["dropped"]
            await asyncio.sleep(10.0 * TAU * (1 + ROOM) + 1)
            expected = 0.0
            for value in range(1 + ROOM):
                expected = sgd((expected + value) / 2)
            assert node.params[0] == pytest.approx(expected, abs=1e-12)
            assert node.counters.get("local_steps") == TAU * (1 + ROOM)

    virtual_time.run(main())


def test_a_node_that_is_always_busy_still_pushes_and_still_takes() -> None:
    """Training takes three periods: one arrival is taken each, and one model sent."""

    async def main() -> None:
        config = gossip(algorithm__order="merge_update", algorithm__period_s=1.0, run__rounds=6)
        async with swarm_of(config, ["one", "two"], [Halving([0.0])] * 2) as swarm:
            swarm.worlds["one"].step_s = 1.0
            task = swarm.launch("one")
            while not task.done():
                await send(swarm, [1.0], 1)
                await asyncio.sleep(0.25)
            node = swarm.nodes["one"]
            assert node.counters.get("local_steps") >= 5 * TAU
            assert node.counters.get("pushes_acknowledged") == 6

    virtual_time.run(main())


def test_what_comes_after_the_last_round_is_not_kept() -> None:
    async def main() -> None:
        config = gossip(
            algorithm__order="update", algorithm__period_s=1.0, run__rounds=1, run__linger=True
        )
        async with swarm_of(config, ["one", "two"], [Halving([0.0])] * 2) as swarm:
            swarm.launch("one")
            await asyncio.sleep(5.0)
            assert swarm.nodes["one"].state == "finished"
            assert await send(swarm, [4.0], 6) == "dropped"
            assert swarm.nodes["one"].params[0] == 0.0

    virtual_time.run(main())


@pytest.mark.parametrize("order", ORDERS)
def test_without_training_models_stay_in_the_hull_of_the_first(order: str) -> None:
    X = np.random.default_rng(1).standard_normal((8, 3))
    config = gossip(algorithm__order=order, algorithm__period_s=1.0, training__local_steps=0)
    learners = [PlainLearner(list(row)) for row in X]
    link = Link(latency_s=0.1, jitter_s=1.0)
    with SimulatedSwarm(config, 8, learners=learners, link=link, objects=True) as swarm:
        for _ in range(60):
            swarm.run(1.0)
            models = swarm.models()
            assert (models >= X.min(0) - 1e-12).all()
            assert (models <= X.max(0) + 1e-12).all()
        if order not in ("update", "pass"):  # those only hand models about
            assert swarm.consensus_distance() < 1e-3


@pytest.mark.parametrize("order", ORDERS)
def test_a_swarm_learns_in_every_order(order: str) -> None:
    config = gossip(algorithm__order=order, algorithm__period_s=1.0, training__local_steps=1)
    learners = [Halving([0.0]) for _ in range(6)]
    with SimulatedSwarm(config, 6, learners=learners, step_s=0.1, seed=2) as swarm:
        swarm.run(60.0)
        np.testing.assert_allclose(swarm.models(), GOAL, atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_seed_gives_the_same_trace(order: str) -> None:
    def trace(seed: int) -> str:
        config = gossip(algorithm__order=order, algorithm__period_s=1.0, swarm__seed=seed)
        learners = [Halving([0.0]) for _ in range(5)]
        link = Link(latency_s=0.1, jitter_s=0.5, loss=0.1)
        with SimulatedSwarm(config, 5, learners=learners, link=link, step_s=0.1) as swarm:
            swarm.run(20.0)
            return swarm.trace_hash

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


# -- the last model ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["merge_update", "update_merge"])
def test_the_last_model_is_merged_and_the_raw_one_takes_its_place(order: str) -> None:
    """First model 0 of age 0 in the slot, then 4 of age 2, then 2 of age 6."""

    def made(last: float, new: float, ages: tuple[int, int]) -> float:
        t, m = ages
        if order == "merge_update":
            return sgd((t * last + m * new) / (t + m))
        return ((t + TAU) * sgd(last) + (m + TAU) * sgd(new)) / (t + m + 2 * TAU)

    async def main() -> None:
        config = gossip(algorithm__order=order, algorithm__memory="last_model")
        async with swarm_of(config, ["one", "two"], [Halving([0.0])] * 2) as swarm:
            node = await idle(swarm)
            await send(swarm, [4.0], 2)
            await asyncio.sleep(0.01)
            assert node.params[0] == pytest.approx(made(0.0, 4.0, (0, 2)), abs=1e-15)
            await send(swarm, [2.0], 6)
            await asyncio.sleep(0.01)
            assert node.params[0] == pytest.approx(made(4.0, 2.0, (2, 6)), abs=1e-15)
            assert node.age == 6 + TAU
            arrays, facts = node.algorithm.state()
            assert arrays["last"][0] == 2.0
            assert facts["last_age"] == 6

    virtual_time.run(main())


# -- the limit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "other", "share"),
    [
        (10, 10, 1 / 2),
        (10, 12, 12 / 22),
        (10, 8, 8 / 18),
        (10, 13, 1.0),  # further apart than 2: the one with more steps, whole
        (10, 7, 0.0),
        (0, 0, 1 / 2),
    ],
)
def test_of_ages_further_apart_than_the_limit_the_larger_is_taken_whole(
    own: int, other: int, share: float
) -> None:
    async def main() -> None:
        config = gossip(algorithm__limit=2)
        async with swarm_of(config, ["one", "two"], [PlainLearner([0.0])] * 2) as swarm:
            node = swarm.nodes["one"]
            node.replica.age = own
            await send(swarm, [1.0], other)
            assert node.params[0] == pytest.approx(share, abs=1e-15)
            assert node.age == max(own, other)

    virtual_time.run(main())


# -- the buffer -------------------------------------------------------------------------------


def test_a_buffer_of_all_fresh_models_makes_their_plain_mean() -> None:
    async def main() -> None:
        X = np.random.default_rng(2).standard_normal((5, 3))
        config = gossip(
            algorithm__buffer=5, algorithm__staleness="polynomial", algorithm__merge_weight=1.0
        )
        async with swarm_of(config, ["one", "two"], [PlainLearner([9.0, 9.0, 9.0])] * 2) as swarm:
            node = swarm.nodes["one"]
            for row in X:
                np.testing.assert_array_equal(node.params, 9.0)
                await send(swarm, list(row), 0)
            np.testing.assert_allclose(node.params, X.mean(0), rtol=0, atol=1e-15)

    virtual_time.run(main())


def test_each_model_in_the_buffer_counts_by_its_staleness() -> None:
    """x + α/K Σ s(δ_m)(x_m − x) with s = (δ + 1)^−½, α = ½, δ = 0, 3, 8 periods behind."""

    async def main() -> None:
        config = gossip(
            algorithm__buffer=3, algorithm__staleness="polynomial", algorithm__merge_weight=0.5
        )
        async with swarm_of(config, ["one", "two"], [PlainLearner([1.0])] * 2) as swarm:
            node = swarm.nodes["one"]
            node.replica.age = 100
            values = {0: 4.0, 3: -2.0, 8: 7.0}
            for delta, value in values.items():
                await send(swarm, [value], 100 - delta * TAU)
            pull = sum((v - 1.0) / (d + 1) ** 0.5 for d, v in values.items())
            assert node.params[0] == pytest.approx(1.0 + 0.5 / 3 * pull, abs=1e-15)
            assert node.age == 100
            await send(swarm, [5.0], 100)  # the next buffer begins empty
            assert isinstance(node.algorithm, GossipLearning)
            assert node.algorithm.buffer is not None
            assert (node.algorithm.buffer.held, node.algorithm.buffer.mass) == (1, 0.5)

    virtual_time.run(main())


def test_a_half_full_buffer_survives_a_restart() -> None:
    config = gossip(algorithm__buffer=50, algorithm__period_s=1.0, training__local_steps=0)
    learners = [PlainLearner([float(i)]) for i in range(3)]
    with SimulatedSwarm(config, 3, learners=learners, stores=True) as swarm:
        swarm.run(10.3)
        swarm.stop(*swarm.names)
        before = [node.algorithm.state() for node in swarm.nodes.values()]
        assert all(facts["held"] > 3 for _, facts in before)
        for name in swarm.names:
            swarm.restart(name)
        for (arrays, facts), node in zip(before, swarm.up, strict=True):
            again, facts_again = node.algorithm.state()
            np.testing.assert_array_equal(again["sum"], arrays["sum"])
            assert facts_again == facts


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"exchange": "push_pull", "order": "merge_update"}, "push_pull goes with order merge"),
        ({"exchange": "push_pull", "flow": "simple"}, "flow proactive"),
        ({"exchange": "push_pull", "buffer": 2}, "buffer 1"),
        ({"memory": "last_model"}, "not merge"),
        ({"memory": "last_model", "order": "update"}, "not update"),
        ({"limit": 3, "staleness": "hinge"}, "set it to age"),
        ({"buffer": 2, "order": "pass"}, "goes with order merge"),
    ],
)
def test_options_that_contradict_each_other_are_refused(flags: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        gossip(**{f"algorithm__{key}": value for key, value in flags.items()})
