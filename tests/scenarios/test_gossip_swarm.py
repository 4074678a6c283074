"""Gossip learning in virtual time: what each merge does to the sum, the hull and the ages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, MemoryWorld, entries, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Answer, Arrival, Purpose
from gossipnode.config import Config
from gossipnode.node.node import Node
from gossipnode.simulation import loop as virtual_time

NAMES = [f"n{i}" for i in range(8)]


def gossip(**flags: Any) -> Config:
    common = {"algorithm__name": "gossip", "training__local_steps": 0}
    return plain_config(**{**common, **flags})


def half(**flags: Any) -> Config:
    """Merge with constant weight ½."""
    return gossip(algorithm__staleness="constant", algorithm__merge_weight=0.5, **flags)


def starts(seed: int = 0, count: int = 8, dim: int = 3) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, dim))


def learners(X: np.ndarray[Any, Any]) -> list[PlainLearner]:
    return [PlainLearner(list(row)) for row in X]


async def send(swarm: MemorySwarm, sender: str, receiver: str, age: int | None = None) -> str:
    """Push the sender's model, now."""
    node = swarm.nodes[sender]
    frame = node.passive.frame({"x": node.params}, Purpose.MODEL, node.age if age is None else age)
    receipt = await swarm.carry(sender, receiver, frame.tobytes())
    assert receipt.reply is not None
    return receipt.reply.status


def test_push_moves_the_mean_by_the_difference_over_2n_event_by_event() -> None:
    async def main() -> None:
        X = starts()
        async with swarm_of(half(run__rounds=20), NAMES, learners(X)) as swarm:
            events = []

            def watched(node: Node, receive: Callable[..., Any]) -> Callable[..., Any]:
                async def watch(interface: Any, arrival: Arrival) -> Answer:
                    x_s, x_r, before = arrival.parts["x"].copy(), node.params, swarm.models()
                    answer: Answer = await receive(interface, arrival)
                    moved = swarm.models().mean(0) - before.mean(0)
                    np.testing.assert_allclose(moved, (x_s - x_r) / 16, rtol=0, atol=1e-15)
                    np.testing.assert_allclose(node.params, (x_s + x_r) / 2, rtol=0, atol=1e-15)
                    events.append(node.id)
                    return answer

                return watch

            for node in swarm.nodes.values():
                node.algorithm.receive = watched(node, node.algorithm.receive)  # type: ignore[method-assign]
            await swarm.run()
            assert len(events) == 8 * 20
            assert set(events) == set(NAMES)

    virtual_time.run(main())


@pytest.mark.parametrize("exchange", ["push", "push_pull"])
@pytest.mark.parametrize("staleness", ["constant", "age"])
def test_without_training_models_agree_and_stay_in_the_hull(exchange: str, staleness: str) -> None:
    async def main() -> None:
        X = starts(1)
        config = gossip(
            run__rounds=60, algorithm__exchange=exchange, algorithm__staleness=staleness
        )
        async with swarm_of(config, NAMES, learners(X)) as swarm:
            low, high = X.min(0), X.max(0)
            for name in NAMES:
                swarm.launch(name)
            for _ in range(120):
                await asyncio.sleep(0.5)
                models = swarm.models()
                assert (models >= low - 1e-12).all()
                assert (models <= high + 1e-12).all()
            await asyncio.gather(*swarm.tasks.values())
            assert swarm.consensus_distance() < 1e-4

    virtual_time.run(main())


@pytest.mark.parametrize("latency_s", [0.0, 0.3, 2.5], ids=["instant", "fast", "slower than Δ"])
def test_push_pull_preserves_the_sum_exactly_however_exchanges_overlap(latency_s: float) -> None:
    """Starts are multiples of 2⁻²⁰, so that few halvings round and an error would be plain."""

    async def main() -> None:
        X = np.round(starts(2) * 2**20) / 2**20
        config = half(run__rounds=12, algorithm__exchange="push_pull")
        async with swarm_of(config, NAMES, learners(X)) as swarm:
            swarm.latency_s = lambda sender, receiver: latency_s * (1 + NAMES.index(receiver) / 7)
            await swarm.run()
            np.testing.assert_allclose(swarm.models().sum(0), X.sum(0), rtol=0, atol=1e-13)
            merges = [n.counters.by_label("pushes_merged")["merged"] for n in swarm.nodes.values()]
            assert sum(merges) >= 8 * 12
            assert all(n.counters.get("pushes_failed") == 0 for n in swarm.nodes.values())

    virtual_time.run(main())


@pytest.mark.parametrize(("own", "other"), [(3, 7), (7, 3), (5, 5), (0, 2)])
def test_age_is_the_larger_one_and_training_adds_to_it(own: int, other: int) -> None:
    async def main() -> None:
        X = starts(3, 2)
        async with swarm_of(gossip(), NAMES[:2], learners(X)) as swarm:
            one, two = swarm.nodes.values()
            one.replica.age, two.replica.age = own, other
            assert await send(swarm, two.id, one.id) == "merged"
            assert one.age == max(own, other)
            a = other / (own + other)
            np.testing.assert_allclose(one.params, X[0] + a * (X[1] - X[0]), rtol=0, atol=1e-15)
            await one.train(4)
            assert one.age == max(own, other) + 4

    virtual_time.run(main())


@pytest.mark.parametrize("exchange", ["push", "push_pull"])
def test_a_fresh_joiner_adopts_the_model_exactly(exchange: str) -> None:
    async def main() -> None:
        X = starts(4, 2)
        config = gossip(run__rounds=3, algorithm__exchange=exchange)
        async with swarm_of(config, NAMES[:2], learners(X)) as swarm:
            old, new = swarm.nodes.values()
            old.replica.age = 100
            swarm.launch(new.id if exchange == "push_pull" else old.id)
            await asyncio.sleep(30)
            np.testing.assert_array_equal(new.params, X[0])
            np.testing.assert_array_equal(old.params, X[0])
            assert new.age == old.age == 100

    virtual_time.run(main())


@pytest.mark.parametrize(("gap", "delta"), [(0, 0.0), (20, 2.0), (-20, 0.0)])
def test_staleness_counts_periods_behind(gap: int, delta: float) -> None:
    async def main() -> None:
        config = gossip(
            algorithm__staleness="polynomial",
            algorithm__merge_weight=0.5,
            training__local_steps=10,
        )
        async with swarm_of(config, NAMES[:2], [PlainLearner([0.0]), PlainLearner([1.0])]) as swarm:
            one, two = swarm.nodes.values()
            one.replica.age = 50
            await send(swarm, two.id, one.id, age=50 - gap)
            assert one.params[0] == pytest.approx(0.5 * (delta + 1) ** -0.5, abs=1e-15)

    virtual_time.run(main())


def test_a_newcomer_says_where_it_is_and_is_pushed_to() -> None:
    async def main() -> None:
        config = gossip(run__rounds=20)
        swarm = MemorySwarm()
        old = swarm.add(config, "old", (), PlainLearner([0.0]))
        new = swarm.add(config, "new", entries(["old"]), PlainLearner([1.0]))
        old.address, new.address = "http://old:1", "http://new:2"

        def carry(world: MemoryWorld) -> Callable[..., Any]:
            push = world.push

            async def dial(address: str, frame: Any, timeout_s: float) -> Any:
                names = {"http://old:1": "old", "http://new:2": "new", "memory://old": "old"}
                return await push(f"memory://{names[address]}", frame, timeout_s)

            return dial

        for world in swarm.worlds.values():
            world.push = carry(world)  # type: ignore[method-assign]
        await swarm.run()
        swarm.check()
        assert old.peers["new"].address == "http://new:2"
        assert new.counters.get("pushes_received") > 0
        assert old.counters.get("pushes_acknowledged") > 0

    virtual_time.run(main())


@pytest.mark.parametrize(
    "address",
    [
        None,
        "ftp://h:1",
        "https://h",
        "http://h",
        "http://h:1/path",
        "http://u@h:1",
        "http://h:x",
        "h:1",
    ],
)
def test_an_address_that_cannot_be_dialled_is_not_learnt(address: str | None) -> None:
    async def main() -> None:
        swarm = MemorySwarm()
        swarm.add(gossip(), "old", (), PlainLearner([0.0]))
        swarm.add(gossip(), "new", entries(["old"]), PlainLearner([1.0]))
        swarm.nodes["new"].address = address
        await swarm.start()
        assert await send(swarm, "new", "old") == "merged"
        assert len(swarm.nodes["old"].peers) == 0

    virtual_time.run(main())


def test_a_peer_that_moved_is_found_at_its_new_address() -> None:
    async def main() -> None:
        swarm = MemorySwarm()
        old = swarm.add(gossip(), "old", (), PlainLearner([0.0]))
        new = swarm.add(gossip(), "new", entries(["old"]), PlainLearner([1.0]))
        await swarm.start()
        for address in ("http://host:1", "http://host:2"):
            new.address = address
            assert await send(swarm, "new", "old") == "merged"
            assert old.peers["new"].address == address

    virtual_time.run(main())


def test_a_dead_peer_is_avoided_and_tried_again_when_due() -> None:
    async def main() -> None:
        X = starts(5, 3)
        async with swarm_of(half(run__rounds=200), NAMES[:3], learners(X)) as swarm:
            for name in NAMES[:3]:
                swarm.launch(name)
            await asyncio.sleep(20.5)
            await swarm.kill(NAMES[2])
            one = swarm.nodes[NAMES[0]]
            failed_before = one.counters.get("pushes_failed")
            await asyncio.sleep(60.0)
            assert one.peers[NAMES[2]].state == "suspect"
            assert 3 <= one.counters.get("pushes_failed") - failed_before <= 60
            assert one.round >= 75  # its own pace is untouched

    virtual_time.run(main())


# -- overlapping exchanges ------------------------------------------------------------------------


async def three(config: Config, ages: Sequence[int]) -> MemorySwarm:
    swarm = MemorySwarm()
    names = ["joiner", "p", "q"]
    for name, value in zip(names, (0.0, 1.0, 1.0), strict=True):
        swarm.add(config, name, entries(names), PlainLearner([value]))
    await swarm.start()
    for node, age in zip(swarm.nodes.values(), ages, strict=True):
        node.replica.age = age
    return swarm


def test_a_joiner_with_two_exchanges_under_way_does_not_overshoot() -> None:
    """Both peers hold 1 and the joiner 0: whatever the merge, nothing above 1 can come of it."""

    async def main() -> None:
        swarm = await three(gossip(algorithm__exchange="push_pull"), (0, 50, 50))
        joiner = swarm.nodes["joiner"]
        swarm.latency_s = lambda sender, receiver: 1.0
        async with asyncio.TaskGroup() as joiner.tasks:
            joiner.push(["p", "q"], {"x": joiner.params}, Purpose.EXCHANGE_REQUEST)
        assert joiner.params[0] <= 1.0

    virtual_time.run(main())


def test_a_full_inbox_does_not_lose_half_an_exchange() -> None:
    async def main() -> None:
        config = half(algorithm__exchange="push_pull", network__inflight_bytes_max=0)
        swarm = await three(config, (0, 0, 0))
        joiner, p = swarm.nodes["joiner"], swarm.nodes["p"]
        arriving = joiner.admit(decoded(swarm.nodes["q"]))
        async with asyncio.TaskGroup() as joiner.tasks:
            joiner.push(["p"], {"x": joiner.params}, Purpose.EXCHANGE_REQUEST)
        joiner.release(arriving)
        assert joiner.params[0] + p.params[0] == 1.0

    virtual_time.run(main())


def test_draining_does_not_lose_half_an_exchange() -> None:
    async def main() -> None:
        swarm = await three(half(algorithm__exchange="push_pull"), (0, 0, 0))
        joiner, p = swarm.nodes["joiner"], swarm.nodes["p"]
        async with asyncio.TaskGroup() as joiner.tasks:
            joiner.push(["p"], {"x": joiner.params}, Purpose.EXCHANGE_REQUEST)
            await joiner.drain()
        assert joiner.params[0] + p.params[0] == 1.0

    virtual_time.run(main())


def test_a_reply_lost_on_its_way_does_not_lose_half_an_exchange() -> None:
    async def main() -> None:
        swarm = await three(half(algorithm__exchange="push_pull"), (0, 0, 0))
        joiner, p = swarm.nodes["joiner"], swarm.nodes["p"]
        frame = joiner.passive.frame({"x": joiner.params}, Purpose.EXCHANGE_REQUEST, 0)
        lost = await swarm.carry("joiner", "p", frame.tobytes())
        assert lost.message is not None
        again = await swarm.carry("joiner", "p", frame.tobytes())
        assert p.params[0] == 0.5
        assert again.message is not None

    virtual_time.run(main())


def decoded(node: Node) -> Any:
    from gossipnode.wire.frame import decode

    frame = node.passive.frame({"x": node.params}, Purpose.MODEL, 0)
    return decode(bytearray(frame.tobytes()))[0]


def test_two_large_models_that_arrive_at_once_at_a_joiner_both_count() -> None:
    """Above 1 MB the merge leaves the loop. One model after the other gives (1 + 3)/2."""

    async def main() -> None:
        size, swarm = 140_000, MemorySwarm()
        names = ["joiner", "p", "q"]
        for name, value in zip(names, (0.0, 1.0, 3.0), strict=True):
            swarm.add(gossip(), name, entries(names), PlainLearner([value] * size))
        await swarm.start()
        for name in ("p", "q"):
            swarm.nodes[name].replica.age = 50

        async def work(work: Callable[..., Any], *arguments: Any) -> Any:
            await asyncio.sleep(0.01)
            return work(*arguments)

        swarm.worlds["joiner"].work = work  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as tasks:
            for name in ("p", "q"):
                tasks.create_task(send(swarm, name, "joiner"))
        assert swarm.nodes["joiner"].params[0] == 2.0

    virtual_time.run(main())
