"""A member that answers in another's name, or has claimed another's address, is not believed.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from laning import frame_to, push_from
from loopback import PATIENCE_S, message_for, until
from test_lane_trust import Start, authority, start  # noqa: F401 - fixtures

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpNode
from gossipnode.node.passive import Delivery
from gossipnode.wire import Kind, Member, Message, Reply, encode

BOTH = pytest.mark.parametrize("lanes", [True, False])


def question(node: HttpNode, sender: HttpNode, **changes: Any) -> Any:
    message = message_for(node, node.params, kind=Kind.CONTROL, control="ping", parts=(), age=0)
    return encode(dataclasses.replace(message, sender=sender.id, **changes), [])


def lie(liar: HttpNode, name: str, epoch: int) -> list[Message]:
    """Have a node answer questions as if it were another one; return what it is asked."""
    membership, asked = liar.membership, list[Message]()
    assert membership is not None
    told = dataclasses.replace(
        message_for(liar, liar.params, kind=Kind.CONTROL, control="ack", parts=(), age=0),
        sender=name, epoch=epoch,
    )  # fmt: skip

    async def answer(message: Message) -> Any:
        asked.append(message)
        return encode(told, [])

    membership.answer = answer  # type: ignore[method-assign]
    return asked


@BOTH
async def test_nobody_answers_in_anothers_name(lanes: bool, start: Start) -> None:  # noqa: F811
    c, b = await start("c"), await start("b")
    a = await start("a", peers=(b, c), network={"lanes": lanes})
    lie(b, c.id, 1)
    with pytest.raises(PeerError, match=f"the answer is of {c.id}, and the certificate of {b.id}"):
        await a.world.push(b.url, question(b, a), PATIENCE_S)
    assert a.peers[c.id].epoch == 0
    receipt = await a.world.push(c.url, question(c, a), PATIENCE_S)
    assert receipt.message is not None
    assert receipt.message.sender == c.id


@BOTH
async def test_nobody_refuses_in_anothers_name(lanes: bool, start: Start) -> None:  # noqa: F811
    """A refusal as draining would say that the other one leaves."""
    c, b = await start("c"), await start("b")
    a = await start("a", peers=(b, c), network={"lanes": lanes})

    async def deliver(admission: Any, _: Any) -> Delivery:
        b.release(admission)
        return Delivery(Reply("refused", c.id, 0, 0, "draining", "bye"))

    b.deliver = deliver  # type: ignore[method-assign]
    with pytest.raises(PeerError, match=f"the answer is of {c.id}, and the certificate of {b.id}"):
        await a.world.push(b.url, frame_to(b, sender=a.id), PATIENCE_S)


@BOTH
async def test_no_member_stops_another_one_as_its_later_life(
    lanes: bool,
    start: Start,  # noqa: F811
) -> None:
    quick = {"membership": {"probe_period_s": 0.05}, "network": {"lanes": lanes}}
    a = await start("a", **quick)
    b = await start("b", peers=(a,))
    running = asyncio.create_task(a.run())
    asked = lie(b, a.id, a.epoch + 10**6)
    row = Member(a.id, b.url, "alive", a.epoch + 10**6, 0)
    receipt = await b.world.push(a.url, question(a, b, members=(row,)), PATIENCE_S)
    assert receipt.message is not None
    await until(lambda: asked)
    # The answer to the next question comes after that to the first.
    with pytest.raises(PeerError):
        await a.world.push(b.url, question(b, a), PATIENCE_S)
    assert not running.done()
    assert a.counters.get("duplicate_ids") == 0
    a.request_stop()
    await running


async def test_whoever_is_found_somewhere_has_proved_it(start: Start) -> None:  # noqa: F811
    a, b, c = [await start(name) for name in "abc"]
    assert await a.world.id_at(b.url, PATIENCE_S) == b.id
    address, b.id = b.url, c.id  # what it tells, not what it shows
    assert await a.world.id_at(address, PATIENCE_S) is None


async def test_an_address_claimed_before_its_node_is_known_is_given_back(
    start: Start,  # noqa: F811
) -> None:
    """A lane of b says that c's address is its own, when nobody knows of c yet."""
    a, c = await start("a"), await start("c")
    b = await start("b", peers=(a,))
    b.address = c.url
    assert (await push_from(b, a, frame_to(a, sender=b.id))).reply.status == "merged"
    assert a.lanes.to(c.url) is not None
    assert a.peers.add(c.id, c.url) is not None
    assert (await push_from(a, c, frame_to(c, sender=a.id))).reply.status == "merged"
    assert (b.age, c.age) == (0, 7)
    assert a.lanes.to(c.url).peer.id == c.id


async def test_an_address_that_two_claim_costs_one_lane(start: Start) -> None:  # noqa: F811
    a = await start("a")
    c, b = await start("c", peers=(a,)), await start("b", peers=(a,))
    b.address = c.url
    for who in (c, b):
        frame = frame_to(a, sender=who.id, address=c.url)
        assert (await push_from(who, a, frame)).reply.status == "merged"
    for seq in range(5):
        reply = (await push_from(a, c, frame_to(c, sender=a.id, seq=seq))).reply
        assert reply.status == "merged"
    assert a.counters.get("lanes_opened") <= 1
    assert b.age == 0


@BOTH
async def test_nothing_goes_to_a_plain_address(lanes: bool, start: Start) -> None:  # noqa: F811
    """A member may say that it is reached at one; a model must not cross the network in clear."""
    a = await start("a", network={"lanes": lanes})
    dialled: list[object] = []
    server = await asyncio.start_server(lambda *ends: dialled.append(ends), "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NetworkError, match="over TLS alone"):
            await a.world.push(address, frame_to(a, sender=a.id), PATIENCE_S)
        assert await a.world.id_at(address, PATIENCE_S) is None
    assert not dialled
