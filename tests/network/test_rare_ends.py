"""What hardly ever happens between a lane and who pushes over it, and must not end the node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from laning import frame_to, lanes_of
from loopback import PATIENCE_S, StartNode

from gossipnode.network import HttpNode
from gossipnode.network.lane import Lane
from gossipnode.network.pending import LaneBrokenError
from gossipnode.network.posted import LanePost
from gossipnode.node.world import Posted, Receipt


async def test_a_way_that_is_forgotten_before_the_push_that_opened_it_goes_on(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane ends, and its way is looked after, between its opening and the push's next turn."""
    b = await start_b()
    lanes = lanes_of(b)
    open_ = lanes._open

    async def opened(address: str) -> Lane | None:
        lane = await open_(address)
        if lane is not None:
            lane.abort("a test")
            await lane.wait_closed()
            lanes._tick()
        return lane

    monkeypatch.setattr(lanes, "_open", opened)
    receipt = await b.world.push(node.url, frame_to(node), PATIENCE_S)
    assert receipt.reply is not None
    assert receipt.reply.status == "merged"


async def test_a_fault_after_a_lane_has_broken_is_told_to_who_pushed() -> None:
    """Else nothing would be sent to the peer any more, and nobody would know."""
    told: asyncio.Future[Posted] = asyncio.get_running_loop().create_future()

    async def faulty(*_: Any) -> Receipt:
        raise ZeroDivisionError

    post = LanePost(told.set_result, faulty)
    post._lane = None  # type: ignore[assignment]
    post._take(LaneBrokenError("a test"))
    async with asyncio.timeout(PATIENCE_S):
        posted = await told
    assert isinstance(posted.outcome, ZeroDivisionError)
