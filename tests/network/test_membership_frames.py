"""Questions about nodes go the way that models go: by POST, over lanes, with and without trust."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from laning import Peer, framed
from loopback import StartNode, get, message_for, push

from gossipnode.network import HttpNode
from gossipnode.network.records import Type
from gossipnode.wire import Kind, Member, Message, decode, encode

CONTROL = "application/vnd.gossipnode.frame"


def question(node: HttpNode, word: str | None = "ping", **changes: Any) -> bytes:
    message = message_for(node, node.params, kind=Kind.CONTROL, parts=(), control=word, age=0)
    return encode(dataclasses.replace(message, **changes), []).tobytes()


def answer_of(frame: bytes) -> Message:
    message, arrays = decode(frame)
    assert not arrays
    return message


async def test_a_ping_by_post_is_answered_with_a_frame(node: HttpNode) -> None:
    answer = await push(node.url, question(node))
    assert answer.status == 200
    assert answer.headers["content-type"] == CONTROL
    message = answer_of(answer.body)
    assert (message.kind, message.control) == (Kind.CONTROL, "ack")
    assert (message.sender, message.epoch) == ("a", node.epoch)
    assert node.counters.get("controls_received", ("word", "ping")) == 1
    assert node.counters.get("pushes_received") == 0


async def test_the_same_ping_again_is_answered_again(node: HttpNode) -> None:
    ping = question(node, members=(Member("c", "http://127.0.0.1:1", "suspect", 1, 0),))
    first, second = [answer_of((await push(node.url, ping)).body) for _ in range(2)]
    assert (first.control, second.control) == ("ack", "ack")


async def test_a_ping_over_a_lane_is_answered_with_a_frame(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(framed(question(node), 7))
        kind, number, payload = await peer.record()
        assert (kind, number) == (Type.ANSWER, 7)
        assert answer_of(payload).control == "ack"


async def test_two_nodes_ask_each_other_over_the_lane(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    membership = b.membership
    assert membership is not None
    assert node.address is not None
    frame = membership.frame("ping")
    for _ in range(2):  # the first one opens the lane
        receipt = await b.world.push(node.address, frame, 5.0)
        assert receipt.message is not None
        assert (receipt.message.sender, receipt.message.control) == ("a", "ack")
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    posted = b.world.post(node.address, frame, 5.0, answered.set_result)
    assert posted is not None
    outcome = (await answered).outcome
    assert outcome.message.control == "ack"
    assert b.counters.get("lanes_opened") == 1


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"word": "dance"}, 422, "unsupported_message"),
        ({"word": None}, 422, "unsupported_message"),
        ({"swarm": "other"}, 403, "wrong_swarm"),
        ({"sender": "a"}, 403, "not_a_neighbour"),
    ],
)
async def test_what_is_no_question_of_this_swarm_is_refused(
    node: HttpNode, changes: dict[str, Any], status: int, code: str
) -> None:
    # Of this life: with another epoch it would be another node with the same id.
    answer = await push(node.url, question(node, epoch=node.epoch, **changes))
    assert answer.status == status
    assert answer.msgpack()["code"] == code
    assert node.counters.get("pushes_refused", ("code", code)) == 1


async def test_a_question_with_a_body_is_refused_before_the_body_has_memory(
    node: HttpNode,
) -> None:
    message = message_for(node, node.params, kind=Kind.CONTROL, control="ping")
    answer = await push(node.url, encode(message, [node.params]).tobytes())
    assert answer.msgpack()["code"] == "unsupported_message"
    assert node.inbox.inflight_bytes == 0


async def test_a_node_that_stops_says_so(node: HttpNode) -> None:
    ping = question(node)
    await node.drain()
    answer = await push(node.url, ping)
    assert answer.msgpack()["code"] == "draining"


async def test_without_probes_and_shuffles_a_node_is_like_an_old_one(start_node: StartNode) -> None:
    node = await start_node(membership={"probes": False, "shuffle_period_s": 0})
    assert node.membership is None
    answer = await push(node.url, question(node))
    assert answer.status == 422
    assert answer.msgpack()["code"] == "unsupported_message"


async def test_a_node_without_peers_asks_nobody(node: HttpNode) -> None:
    status = (await get(node.url, "/v1/status")).json()
    assert status["peers_total"] == 0
    assert not node.counters.by_label("controls_sent")


async def test_a_peer_that_says_it_has_moved_stays_moved(node: HttpNode) -> None:
    """What is known of it is in two places, the table and the view."""
    membership = node.membership
    assert membership is not None
    shuffle = membership.shuffle
    assert shuffle is not None
    shuffle.meet("c", "http://127.0.0.1:9", hearsay=True)
    await push(node.url, question(node, sender="c", address="http://127.0.0.1:10"))
    assert node.peers["c"].address == "http://127.0.0.1:10"
    shuffle._keep_learnt()
    assert node.peers["c"].address == "http://127.0.0.1:10"
    assert shuffle.told(9) == []  # until somebody has found it there
