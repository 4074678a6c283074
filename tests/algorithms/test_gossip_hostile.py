"""Gossip where a peer lies: what is refused, what waits, and what it may not change."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Arrival, NodeInterface, Purpose
from gossipnode.algorithms.gossip_learning import GossipLearning
from gossipnode.algorithms.partial_gossip import PartialGossip
from gossipnode.algorithms.periodic import ROOM, PeriodicGossip
from gossipnode.config import Config
from gossipnode.errors import PeerError
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.frame import decode

NAMES = ["one", "two"]
AGE_MAX = 2**63 - 1
HUGE = float(np.finfo(np.float64).max)


def settings(name: str = "gossip", **flags: Any) -> Config:
    # Without the bound on magnitudes: what the algorithms themselves do at the edge is asked here.
    common = {
        "algorithm__name": name, "training__local_steps": 0, "network__magnitude_ratio_max": 0.0
    }  # fmt: skip
    if name != "adpsgd":
        common["algorithm__period_s"] = 1.0
    return plain_config(**{**common, **flags})


def learners(dtype: str = "float64", start: float = 1.0) -> list[PlainLearner]:
    return [PlainLearner([start] * 4, dtype=dtype) for _ in NAMES]


async def send(
    swarm: MemorySwarm, value: Any, age: int = 0, purpose: Purpose = Purpose.MODEL, **how: Any
) -> tuple[str, str]:
    """Push something from two to one; return the answer's status and code."""
    sender = swarm.nodes["two"]
    vector = np.array(value, sender.layout.dtype)
    frame = sender.passive.frame({"x": vector}, purpose, age, **how)
    try:
        receipt = await swarm.carry("two", "one", frame.tobytes())
    except PeerError as error:
        return "refused", error.code
    if receipt.reply is None:
        return "answered", ""
    return receipt.reply.status, receipt.reply.code or ""


# -- what waits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"),
    [("gossip", "merge_update"), ("gossip", "update_merge"), ("partial_gossip", "merge_update")],
)
def test_a_merge_that_overflows_ends_no_node(name: str, order: str) -> None:
    """Both are finite; the difference between them is not."""

    async def main() -> None:
        config = settings(
            name, algorithm__order=order, algorithm__period_s=100.0, algorithm__staleness="constant"
        )
        async with swarm_of(config, NAMES, learners(start=-HUGE)) as swarm:
            node = swarm.nodes["one"]
            task = swarm.launch("one")
            await asyncio.sleep(0.01)
            before = node.params
            whole = name == "gossip"
            how = {} if whole else {"index": {"kind": "part", "part": 0, "parts": 4}}
            answer = await send(swarm, [HUGE] * (4 if whole else 1), 5, **how)
            assert answer == ("buffered", "")
            await asyncio.sleep(1.0)
            assert not task.done()
            assert node.params is before
            assert node.age == 0
            assert node.counters.get("waiting_refused") == 1

    virtual_time.run(main())


def test_no_more_wait_than_there_is_room_for_whatever_checking_takes() -> None:
    async def main() -> None:
        config = settings("partial_gossip", algorithm__order="merge_update")
        async with swarm_of(config, NAMES, learners()) as swarm:
            algorithm = swarm.nodes["one"].algorithm
            assert isinstance(algorithm, PeriodicGossip)

            async def check(node: NodeInterface, arrival: Arrival) -> None:
                await asyncio.sleep(0.1)

            algorithm.check = check  # type: ignore[method-assign]
            how = {"index": {"kind": "part", "part": 0, "parts": 4}}
            answers = await asyncio.gather(*[send(swarm, [1.0], 1, **how) for _ in range(5)])
            assert len(algorithm.waiting) == ROOM
            assert [status for status, _ in answers].count("buffered") == ROOM

    virtual_time.run(main())


# -- exchanges --------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [{"order": "update"}, {"order": "pass"}, {"buffer": 3}], ids=str)
def test_who_lets_models_wait_takes_part_in_no_exchange(flags: dict[str, Any]) -> None:
    async def main() -> None:
        config = settings(**{f"algorithm__{key}": value for key, value in flags.items()})
        async with swarm_of(config, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            before = node.params
            answer = await send(swarm, [9.0] * 4, 5, Purpose.EXCHANGE_REQUEST)
            assert answer == ("refused", "unsupported_message")
            assert node.params is before

    virtual_time.run(main())


@pytest.mark.parametrize("name", ["gossip", "adpsgd"])
def test_an_answer_to_nothing_is_refused(name: str) -> None:
    async def main() -> None:
        flags = {"algorithm__exchange": "push_pull"} if name == "gossip" else {}
        async with swarm_of(settings(name, **flags), NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            before = node.params
            answer = await send(swarm, [9.0] * 4, 5, Purpose.EXCHANGE_REPLY)
            assert answer == ("refused", "unsupported_message")
            assert node.params is before

    virtual_time.run(main())


# -- the buffer -------------------------------------------------------------------------------


def test_a_buffer_refuses_what_its_sum_cannot_hold_and_keeps_the_rest() -> None:
    async def main() -> None:
        config = settings(algorithm__buffer=3, algorithm__staleness="constant")
        async with swarm_of(config, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            assert isinstance(node.algorithm, GossipLearning)
            node.algorithm.alpha = 1.0
            values = (HUGE, 2.0, HUGE, 3.0)
            answers = [await send(swarm, [value] * 4, 1) for value in values]
            assert answers[2] == ("refused", "not_finite")
            assert [status for status, _ in answers].count("merged") == 3
            np.testing.assert_allclose(node.params, HUGE / 3, rtol=1e-15)

    virtual_time.run(main())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_buffer_of_narrow_models_rounds_once(dtype: str) -> None:
    """A mean of K models near 100 is near 100, although no such dtype holds their sum."""
    K = 1000

    async def main() -> None:
        config = settings(
            algorithm__buffer=K, algorithm__staleness="constant", algorithm__merge_weight=1.0
        )
        async with swarm_of(config, NAMES, learners(dtype, 0.0)) as swarm:
            node = swarm.nodes["one"]
            X = np.random.default_rng(1).uniform(100.0, 101.0, (K, 4)).astype(node.layout.dtype)
            for row in X:
                assert await send(swarm, row, 1) == ("merged", "")
            mean = X.astype(np.float64).mean(0)
            # K roundings of a float32 sum below 2¹⁷, by 2⁻⁸ at the most; then one of the mean.
            step = {"float16": 2.0**-5, "bfloat16": 2.0**-2, "float32": 2.0**-18}[dtype]
            off = np.abs(node.params.astype(np.float64) - mean).max()
            assert off <= 2.0**-8 + step

    virtual_time.run(main())


# -- ages -------------------------------------------------------------------------------------


def test_a_part_of_the_greatest_age_makes_no_message_that_nobody_can_read() -> None:
    async def main() -> None:
        config = settings("partial_gossip", training__local_steps=3)
        async with swarm_of(config, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            how = {"index": {"kind": "part", "part": 2, "parts": 4}}
            assert await send(swarm, [1.0], AGE_MAX, **how) == ("merged", "")
            assert isinstance(node.algorithm, PartialGossip)
            await node.algorithm.train(node)
            assert node.algorithm.t == [3, 3, AGE_MAX, 3]
            pushed: list[Any] = []
            node.courier.put = lambda peer, parcel, tasks: pushed.append(parcel)  # type: ignore[method-assign]
            node.is_active, node.tasks = True, None  # type: ignore[assignment]
            await node.algorithm.send(node, ["two"], 2)
            message, _ = decode(bytearray(pushed[0].frame.tobytes()))
            assert message.age == AGE_MAX

    virtual_time.run(main())


def test_a_sample_of_next_to_nothing_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from gossipnode.algorithms import partial_gossip

    drawn: list[int] = []
    mask = partial_gossip.seeded_mask

    def counted(seed: int, fraction: float, size: int) -> Any:
        drawn.append(seed)
        return mask(seed, fraction, size)

    monkeypatch.setattr(partial_gossip, "seeded_mask", counted)

    async def main() -> None:
        config = settings("sampled", algorithm__fraction=1e-5)
        async with swarm_of(config, NAMES, learners()) as swarm:
            node = swarm.nodes["one"]
            for _ in range(10):
                await node.algorithm.send(node, [], 0)  # type: ignore[attr-defined]
            assert len(drawn) < 100

    virtual_time.run(main())
