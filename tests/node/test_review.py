"""What a node must hold to whatever strangers say and however many peers hang."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from memory_swarm import swarm_of
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Purpose
from gossipnode.errors import PeerError
from gossipnode.node.inbox import SENDERS_MAX, WINDOW, Inbox
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire import Kind, Message, Part, encode
from gossipnode.wire.frame import Frame, decode

MODEL = Purpose.MODEL
NAMES = ("a", "b", "c")


def stranger(node: Any, age: int) -> bytes:
    vector = np.zeros(node.layout.size, node.params.dtype)
    message = Message(
        kind=Kind.MODEL,
        swarm=node.config.swarm.name,
        schema=node.layout.schema,
        algorithm=node.algorithm.name,
        sender="zzz",
        epoch=1,
        seq=0,
        age=age,
        parts=(Part.of("x", vector),),
    )
    return encode(message, [vector]).tobytes()


def test_no_age_that_is_let_in_makes_the_nodes_own_frames_unreadable() -> None:
    async def scenario() -> None:
        config = plain_config(algorithm__name="gossip", algorithm__period_s=1.0, run__rounds=20)
        async with swarm_of(config, NAMES, [PlainLearner([0.0], 1.0) for _ in NAMES]) as swarm:
            await swarm.start()
            receipt = await swarm.carry("zzz", "a", stranger(swarm.nodes["a"], 2**63 - 1))
            assert receipt.reply is not None
            await swarm.run()
            for node in swarm.nodes.values():
                frame = node.passive.frame({"x": node.params}, "model", node.age)  # type: ignore[arg-type]
                decode(bytearray(frame.tobytes()))
                assert node.counters.get("pushes_failed") == 0

    virtual_time.run(scenario())


@pytest.mark.parametrize("round_", [2**62, 2**63 - 1])
def test_no_round_that_is_let_in_makes_the_nodes_own_frames_unreadable(round_: int) -> None:
    """The first word of a neighbour is believed, and all go on where it says it is."""

    async def scenario() -> None:
        config = plain_config(run__duration_s=20.0, algorithm__deadline_s=1.0)
        async with swarm_of(config, NAMES, [PlainLearner([0.0], 1.0) for _ in NAMES]) as swarm:
            await swarm.start()
            for world in swarm.worlds.values():
                world.step_s = 0.5
            a, b = swarm.nodes["a"], swarm.nodes["b"]
            message, arrays = decode(
                bytearray(b.passive.frame({"x": b.params}, MODEL, 0).tobytes())
            )
            frame = encode(replace(message, round=round_, seq=10**6), arrays)
            with contextlib.suppress(PeerError):
                await swarm.carry("b", "a", frame.tobytes())
            await swarm.run()
            for node in (a, b):
                assert node.counters.get("rounds") > 10
                decode(bytearray(node.passive.frame({"x": node.params}, MODEL, 0).tobytes()))

    virtual_time.run(scenario())


def test_hung_peers_hold_no_more_than_two_old_models() -> None:
    names = [f"n{i}" for i in range(9)]
    flying: dict[str, Frame] = {}

    async def scenario() -> None:
        config = plain_config(
            topology__graph="star", algorithm__deadline_s=2.0, run__drain_deadline_s=1.0
        )
        async with swarm_of(config, names, [PlainLearner([0.0], 1.0) for _ in names]) as swarm:
            world = swarm.worlds["n0"]
            push = world.push

            async def counted(address: str, frame: Frame, timeout_s: float) -> Any:
                flying[address] = frame
                try:
                    return await push(address, frame, timeout_s)
                finally:
                    del flying[address]

            world.push = counted  # type: ignore[method-assign]
            for name in names:
                swarm.worlds[name].step_s = 0.5
                swarm.launch(name)
            for name in names[1:]:
                await asyncio.sleep(2.6)
                swarm.pause(name)
            await asyncio.sleep(2.6)
            assert len({id(frame) for frame in flying.values()}) <= 2

    virtual_time.run(scenario())


def test_what_all_strangers_together_leave_in_the_ledger_is_bounded() -> None:
    """A model is 64 KB, a node 64 MB: the memory of who sent what must stay below that."""
    vector = np.zeros(1)
    learner = PlainLearner([0.0])
    inbox = Inbox(
        swarm="s",
        node_id="a",
        layout=learner.layout,
        algorithm=None,  # type: ignore[arg-type]
        graph=None,
        inflight_bytes_max=1,
    )
    for seq in range(10**6, 10**6 + 2 * WINDOW):
        message = Message(
            kind=Kind.MODEL,
            swarm="s",
            schema=learner.layout.schema,
            algorithm="gossip",
            sender="b",
            epoch=1,
            seq=seq,
            parts=(Part.of("x", vector),),
        )
        assert inbox.mark(message)
        inbox.settle(message)
    seen: Any = inbox._ledgers["b"].seen
    numbers = seen if isinstance(seen, set) else ()
    one = sys.getsizeof(seen) + sum(sys.getsizeof(number) for number in numbers)
    assert one * SENDERS_MAX < 64 * 2**20


def test_the_status_before_the_start_has_no_uptime() -> None:
    async def scenario() -> None:
        async with swarm_of(plain_config(), NAMES) as swarm:
            node = swarm.add(plain_config(), "d", [*swarm.nodes["a"].directory, *_one("d")])
            try:
                assert node.status().state == "created"
                assert node.status().uptime_s == 0
            finally:
                del swarm.nodes["d"]

    virtual_time.run(scenario())


def test_uptime_is_no_matter_of_the_time_of_day() -> None:
    """Clocks are set, by hand or by NTP: a node was up for an hour more, or for less than none."""

    async def scenario() -> None:
        async with swarm_of(plain_config(), NAMES) as swarm:
            await swarm.start()
            node = swarm.nodes["a"]
            wall_time = node.world.wall_time
            node.world.wall_time = lambda: wall_time() - 3600.0
            await asyncio.sleep(5.0)
            assert node.status().uptime_s == 5.0

    virtual_time.run(scenario())


def _one(name: str) -> Any:
    from memory_swarm import entries

    return entries([name])
