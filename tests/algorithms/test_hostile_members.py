"""Well-formed frames of a member that lies: they end no node, and fill no memory."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from memory_swarm import MemorySwarm, swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.all_reduce import Mean
from gossipnode.algorithms.base import Purpose
from gossipnode.algorithms.gossip_pga import GossipPGA, GossipPgaOptions, next_period
from gossipnode.algorithms.hub_clients import ANSWER, MODEL
from gossipnode.errors import PeerError
from gossipnode.learning.learner import TrainResult
from gossipnode.simulation import loop as virtual_time

NAMES = ["one", "two", "three"]
QUICK = {"deadline_s": 0.2, "start_deadline_s": 0.2}


def settings(name: str, **flags: Any) -> Any:
    quick = {f"algorithm__{key}": value for key, value in QUICK.items()}
    return plain_config(algorithm__name=name, run__rounds=0, **{**quick, **flags})


class Flat(PlainLearner):
    """Has a gradient, too: zero."""

    step_size = 0.1

    def gradient(self, params: Any, out: Any) -> TrainResult:
        out[:] = 0.0
        return TrainResult(0.0, 1, 1)


def learners() -> list[PlainLearner]:
    return [Flat([1.0] * 4, 0.5) for _ in NAMES]


async def say(
    swarm: MemorySwarm, parts: dict[str, Any], to: str = "one", round_: int = 0, **how: Any
) -> str:
    """Let ``two``, which does not run, tell something; return what it is answered."""
    sender = swarm.nodes["two"]
    sender.round = round_
    vectors = {role: np.array(value, float) for role, value in parts.items()}
    frame = sender.passive.frame(vectors, Purpose.MODEL, 0, **how)
    try:
        receipt = await swarm.carry("two", to, frame.tobytes())
    except PeerError as error:
        return error.code
    assert receipt.reply is not None
    return receipt.reply.code or receipt.reply.status


def test_a_piece_of_a_model_is_not_mixed_as_a_whole_one() -> None:
    """Pieces are of sums, on the ring of the all-reduce."""

    async def main() -> None:
        async with swarm_of(settings("gossip_pga"), NAMES, learners()) as swarm:
            task = swarm.launch("one")
            await asyncio.sleep(0.01)
            piece = {"kind": "range", "start": 0, "stop": 2}
            assert await say(swarm, {"x": [1.0, 2.0]}, index=piece) == "unsupported_message"
            await asyncio.sleep(2.0)
            assert not task.done()
            assert swarm.nodes["one"].round > 1

    virtual_time.run(main())


@pytest.mark.parametrize("F_init", [-1e300, -1.0, 1e300, 1.7e308, -1.7e308, 5e-324])
@pytest.mark.parametrize("F", [0.0, -0.0, 5e-324, -5e-324, -1.0, 1e300, -1.7e308])
def test_no_loss_makes_a_period_beyond_its_limits(F_init: float, F: float) -> None:
    assert 1 <= next_period(4, F_init, F, 64) <= 64


@pytest.mark.parametrize("life", [1e300, 2.0**64, -(2.0**63), 0.5])
def test_a_life_that_is_none_is_not_told_to_the_clients(life: float) -> None:
    async def main() -> None:
        async with swarm_of(settings("scaffold"), NAMES, learners()) as swarm:
            task = swarm.launch("one")
            await asyncio.sleep(0.01)
            numbers = {"samples": 1, "life": life, "renewed": -1, "renewed_life": 0, "era": -1}
            parts = {"delta": [0.0] * 4, "c": [0.0] * 4}
            answer = await say(swarm, parts, scalars=numbers, phase=ANSWER)
            await asyncio.sleep(2.0)
            assert not task.done()
            assert answer == "unsupported_message"

    virtual_time.run(main())


@pytest.mark.parametrize("era", [1e300, -1e300, 0.5])
def test_an_era_that_is_none_is_not_told_to_the_hub(era: float) -> None:
    async def main() -> None:
        config = settings("scaffold", algorithm__hub="two")
        async with swarm_of(config, NAMES, learners()) as swarm:
            task = swarm.launch("one")
            await asyncio.sleep(0.01)
            numbers = {"counted": -1, "counted_life": 0, "era": era}
            parts = {"x": [0.0] * 4, "c": [0.0] * 4}
            answer = await say(swarm, parts, scalars=numbers, phase=MODEL)
            await asyncio.sleep(2.0)
            assert not task.done()
            assert answer == "unsupported_message"

    virtual_time.run(main())


def test_answers_to_all_models_of_the_past_fill_no_buffer() -> None:
    async def main() -> None:
        config = settings("fedbuff", algorithm__buffer=2)
        async with swarm_of(config, NAMES, learners()) as swarm:
            hub: Any = swarm.nodes["one"]
            hub.round = 1000
            for v in range(1000):
                await say(
                    swarm, {"delta": [0.0] * 4}, round_=v, scalars={"samples": 1}, phase=ANSWER
                )
            assert len(hub.algorithm.buffer) <= 8

    virtual_time.run(main())


@pytest.mark.parametrize("reduction", ["ring", "naive"])
def test_what_is_refused_asks_for_no_mean(reduction: str) -> None:
    async def main() -> None:
        config = settings("aga", algorithm__every=100, algorithm__reduction=reduction)
        async with swarm_of(config, NAMES, learners()) as swarm:
            algorithm: Any = swarm.nodes["one"].algorithm
            due = algorithm.due
            assert await say(swarm, {"sum": [0.0] * 4}, phase=77) == "unsupported_message"
            assert algorithm.due == due

    virtual_time.run(main())


@pytest.mark.parametrize("told", [1.0, 1e-300])
def test_a_loss_that_one_told_leaves_sums_that_can_be_told(told: float) -> None:
    algorithm: Any = GossipPGA(GossipPgaOptions(form="aga", every=4, warm_up=1), 1)
    algorithm.F = 2.0
    for k in (3, 7):
        numbers = {"loss": 1e308 * told, "first": 1.7e308 * told, "told": told}
        algorithm.look_ahead(k, Mean(np.zeros(1), 2, numbers))
    assert all(math.isfinite(16 * number) for number in algorithm.numbers().values())
