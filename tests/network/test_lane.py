"""The lane over real sockets: what a peer may say, and how it ends.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from laning import EXCHANGE, HEADERS, LARGE, Peer, framed, lanes_of
from loopback import (
    PATIENCE_S,
    Connection,
    StartNode,
    frame_for,
    push,
    until,
    vector_for,
)

from gossipnode.config import NetworkOptions
from gossipnode.network import HttpNode, alive, lane, stall, upgrade
from gossipnode.network.records import Type, record_head
from gossipnode.wire import Kind, decode

# -- a peer that speaks it by hand ----------------------------------------------------------------


async def test_a_push_is_merged_and_answered_under_its_number(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        assert peer.opened == 101
        await peer.send(framed(frame_for(node, vector_for(node, 3.0)), 77))
        reply = await peer.reply(77)
        assert (reply["status"], reply["sender"], reply["age"]) == ("merged", "a", 7)
    np.testing.assert_array_equal(node.params, vector_for(node, 3.0))


async def test_many_pushes_are_pipelined_and_each_is_answered_once(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(b"".join(framed(frame_for(node, seq=seq), seq) for seq in range(32)))
        numbers = set()
        for _ in range(32):
            kind, number, payload = await peer.record()
            assert (kind, msgpack.unpackb(payload)["status"]) == (Type.REPLY, "merged")
            numbers.add(number)
        assert numbers == set(range(32))


@pytest.mark.parametrize("step", [1, 13, 1021])
async def test_records_in_pieces_of_any_size(node: HttpNode, step: int) -> None:
    data = framed(frame_for(node, seq=1), 1) + framed(frame_for(node, seq=2), 2)
    async with Peer(node.url) as peer:
        await peer.send(*(data[at : at + step] for at in range(0, len(data), step)))
        assert {(await peer.record())[1], (await peer.record())[1]} == {1, 2}


async def test_a_refusal_is_typed_and_the_lane_goes_on(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node, swarm="another"), 1))
        assert (await peer.reply(1))["code"] == "wrong_swarm"
        damaged = bytearray(frame_for(node))
        damaged[-1] ^= 1
        await peer.send(framed(bytes(damaged), 2))
        assert (await peer.reply(2))["code"] == "checksum_mismatch"
        await peer.send(framed(b"XX" + frame_for(node)[2:], 3))
        assert (await peer.reply(3))["code"] == "malformed_frame"
        assert (node.age, node.inbox.inflight_bytes, lanes_of(node).pool.inflight_bytes) == (
            0,
            0,
            0,
        )
        await peer.send(framed(frame_for(node), 1))
        assert (await peer.reply(1))["status"] == "merged"
        assert node.counters.by_label("pushes_refused") == {
            "checksum_mismatch": 1,
            "malformed_frame": 1,
            "wrong_swarm": 1,
        }


async def test_a_refusal_does_not_wait_for_the_body(start_node: StartNode) -> None:
    node = await start_node(**LARGE)
    frame = frame_for(node, swarm="another")
    async with Peer(node.url) as peer:
        data = framed(frame, 1)
        await peer.send(data[:1000])
        assert (await peer.reply(1))["code"] == "wrong_swarm"
        assert lanes_of(node).pool.inflight_bytes == 0
        # The rest is read and forgotten, and the next frame is understood.
        await peer.send(data[1000:], framed(frame_for(node), 2))
        assert (await peer.reply(2))["status"] == "merged"


async def test_a_duplicate_is_acknowledged_and_not_merged_again(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1))
        assert (await peer.reply(1))["status"] == "merged"
        merged = node.params.tobytes()
        await peer.send(framed(frame_for(node, vector_for(node, 9.0)), 2))
        assert (await peer.reply(2))["status"] == "duplicate"
        assert node.params.tobytes() == merged


async def test_an_exchange_is_answered_with_a_frame(start_node: StartNode) -> None:
    node = await start_node(algorithm=EXCHANGE, **LARGE)
    before = np.array(node.params)
    vector = np.linspace(0, 1, node.layout.size, dtype=node.params.dtype)
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node, vector, kind=Kind.EXCHANGE_REQUEST), 9))
        kind, number, payload = await peer.record()
        assert (kind, number) == (Type.ANSWER, 9)
        message, (back,) = decode(payload)
        assert (message.kind, message.sender) == (Kind.EXCHANGE_REPLY, "a")
        np.testing.assert_array_equal(back, before)


async def test_a_ping_is_answered_with_what_it_brought(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(record_head(Type.PING, 5, 3) + b"abc", record_head(Type.PING, 6, 0))
        assert await peer.record() == (Type.PONG, 5, b"abc")
        assert await peer.record() == (Type.PONG, 6, b"")


async def test_close_lets_what_is_under_way_be_answered(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1) + record_head(Type.CLOSE, 0, 2) + b"ok")
        assert (await peer.reply(1))["status"] == "merged"
        assert await peer.is_closed()
    await until(lambda: not lanes_of(node))


BROKEN: dict[str, Callable[[HttpNode], bytes]] = {
    "garbage": lambda node: b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "a reply to nothing": lambda node: record_head(Type.REPLY, 1, 1) + b"\x80",
    "an answer to nothing": lambda node: framed(frame_for(node), 1, Type.ANSWER),
    "a long ping": lambda node: record_head(Type.PING, 1, 9) + bytes(9),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_is_no_record_ends_the_lane_with_a_reason(node: HttpNode, what: str) -> None:
    async with Peer(node.url) as peer:
        await peer.send(BROKEN[what](node))
        assert (await peer.closing()).startswith("malformed_frame: ")
    await until(lambda: not lanes_of(node))
    # The node itself is as before.
    assert (await push(node.url, frame_for(node))).msgpack()["status"] == "merged"


async def test_a_number_that_is_not_answered_yet_may_not_come_again(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, deliver = asyncio.Event(), node.deliver

    async def waiting(admission: Any, body: memoryview) -> Any:
        await go_on.wait()
        return await deliver(admission, body)

    monkeypatch.setattr(node, "deliver", waiting)
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1), framed(frame_for(node, seq=1), 1))
        assert await peer.closing() == "malformed_frame: number 1 is not answered yet"
        go_on.set()
        await until(lambda: node.age == 7)  # what had arrived whole is merged


async def test_more_than_any_frame_is_refused_and_ends_the_lane(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(record_head(Type.FRAME, 1, 10**15))
        assert (await peer.reply(1))["code"] == "too_large"
        assert (await peer.closing()).startswith("too_large: ")


@pytest.mark.parametrize("sent", [5, 60, -1], ids=["in the head", "in the header", "in the body"])
async def test_who_stalls_in_a_record_loses_the_lane(start_node: StartNode, sent: int) -> None:
    node = await start_node(network={"body_timeout_s": 0.05})
    data = framed(frame_for(node), 1)
    async with Peer(node.url) as peer:
        await peer.send(data[:sent])
        if sent == -1:
            assert (await peer.reply(1))["code"] == "body_timeout"
        assert (await peer.closing()).startswith("body_timeout: ")
    assert (node.inbox.inflight_bytes, lanes_of(node).pool.inflight_bytes) == (0, 0)


async def test_who_is_too_slow_loses_the_lane_before_the_deadline(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL_S", 0.05)
    node = await start_node(network={"body_timeout_s": 3600.0, "body_rate_min": 1e6})
    data = framed(frame_for(node), 1)
    async with Peer(node.url) as peer:
        await peer.send(data[:500])
        assert (await peer.reply(1))["code"] == "body_timeout"
        assert (await peer.closing()).startswith("body_timeout: ")


async def test_silence_between_records_is_no_stalling(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL_S", 0.01)
    node = await start_node(network={"body_timeout_s": 0.01})
    async with Peer(node.url) as slow, Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1))
        assert (await peer.reply(1))["status"] == "merged"
        await slow.send(b"\x01")
        assert (await slow.closing()).startswith("body_timeout: ")  # so time has passed
        await peer.send(framed(frame_for(node, seq=1), 2))
        assert (await peer.reply(2))["status"] == "merged"


async def test_silence_after_a_body_that_was_refused_is_no_stalling(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stall, "STALL_S", 0.05)
    node = await start_node(network={"body_timeout_s": 0.05})
    data = framed(frame_for(node, swarm="other"), 1)
    async with Peer(node.url) as peer:
        await peer.send(data[:-1])
        assert (await peer.reply(1))["code"] == "wrong_swarm"
        await peer.send(data[-1:])
        async with Peer(node.url) as slow:
            await slow.send(b"\x01")
            assert (await slow.closing()).startswith("body_timeout: ")  # so time has passed
        await peer.send(framed(frame_for(node), 2))
        assert (await peer.reply(2))["status"] == "merged"


async def test_a_connection_that_breaks_in_a_body_leaves_nothing_behind(node: HttpNode) -> None:
    before, data = node.params.tobytes(), framed(frame_for(node), 1)
    async with Peer(node.url) as peer:
        await peer.send(data[:-100])
        await until(lambda: node.inbox.inflight_bytes)
    await until(lambda: not lanes_of(node))
    assert (node.inbox.inflight_bytes, lanes_of(node).pool.inflight_bytes) == (0, 0)
    assert node.params.tobytes() == before


async def test_a_node_that_drains_says_so_on_the_lane_and_to_the_next_one(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await node.drain()
        await peer.send(framed(frame_for(node), 1))
        assert (await peer.reply(1))["code"] == "draining"
        async with Peer(node.url) as late:
            assert late.opened == 503


async def test_more_bodies_than_fit_are_busy(start_node: StartNode) -> None:
    node = await start_node(network={"inflight_bytes_max": 0})
    data = framed(frame_for(node), 1)
    async with Peer(node.url) as first, Peer(node.url) as second:
        await first.send(data[:-1])
        await until(lambda: node.inbox.inflight_bytes)
        await second.send(framed(frame_for(node, sender="c"), 1))
        assert (await second.reply(1))["code"] == "busy"


async def test_who_never_reads_its_answers_costs_a_bounded_number_of_them(node: HttpNode) -> None:
    refused = framed(frame_for(node, swarm="another"), 1)
    async with Peer(node.url) as peer:
        peer.writer.transport.pause_reading()
        with contextlib.suppress(ConnectionError):
            while lanes_of(node):
                peer.writer.write(refused * 100)
                await asyncio.wait_for(peer.writer.drain(), PATIENCE_S)
                await asyncio.sleep(0)
    assert node.age == 0


# -- the request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Upgrade": "websocket"}, 426),
        ({"Upgrade": None}, 426),
        ({"Connection": "keep-alive"}, 426),
        ({"Gossipnode-Swarm": "another"}, 403),
        ({"Gossipnode-Id": "a"}, 403),
        ({"Gossipnode-Id": None}, 400),
        ({"Gossipnode-Id": "x" * 129}, 400),
        ({"Gossipnode-Swarm": None}, 400),
        ({"Gossipnode-Address": "ftp://there"}, 400),
        ({"Gossipnode-Address": "http://h:1/" + "x" * 300}, 400),
        ({"Origin": "http://evil.example"}, 403),
    ],
    ids=str,
)
async def test_a_request_that_opens_no_lane_is_answered_and_leaves_the_connection_to_http(
    node: HttpNode, changes: dict[str, str | None], status: int
) -> None:
    headers = {name: text for name, text in {**HEADERS, **changes}.items() if text is not None}
    async with Connection(node.url) as connection:
        answer = await connection.get("/v1/lane", **headers)
        assert answer.status == status
        assert answer.json()["reason"]
        assert not lanes_of(node)
        if status != 426:
            assert (await connection.get("/livez")).status == 200


async def test_the_server_counts_the_connection_no_longer_as_its_own(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        assert peer.opened == 101
        server = node._server._http
        assert server is not None
        await until(lambda: not server.connections)
        assert len(lanes_of(node)) == 1


def test_the_numbers_in_the_docs_are_the_real_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    section = " ".join(text.split("## The lane")[1].split("## Limits")[0].split())
    assert f"At most {lane.UNANSWERED_MAX} FRAMEs" in section
    assert f"After {lane.CLOSE_S:g} s either side may cut it" in section
    assert f"After {alive.PING_S:g} s of silence a PING" in section
    assert f"after {alive.SILENT_S:g} s the connection is cut" in section
    assert f"a PONG each {alive.TICK_S:g} s" in section
    idle_s = NetworkOptions().lane_idle_s
    assert f"FRAME for {idle_s:g} s (`network.lane_idle_s`) is closed" in section
    assert "bring `network.body_rate_min` bytes a second" in section
    assert f"on the mean of any {stall.STALL_S:g} s" in section
    assert f"at most {upgrade.ID_CHARS_MAX} characters" in section
    assert f"at most {upgrade.ADDRESS_CHARS_MAX} characters" in section
    for kind in Type:
        assert f"| {kind.value} | {kind.name} |" in section
