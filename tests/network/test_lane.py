"""The lane over real sockets: what a peer may say, what two nodes do with it, how it ends.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import msgpack
import numpy as np
import pytest
from loopback import (
    PATIENCE_S,
    Connection,
    StartNode,
    config_of,
    frame_for,
    get,
    head,
    message_for,
    push,
    until,
    vector_for,
)

from gossipnode.config import PeerEntry
from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpNode, lane, lanes, stall, upgrade
from gossipnode.network.records import Type, record_head
from gossipnode.wire import Frame, Kind, decode, encode

EXCHANGE = {"name": "gossip", "period_s": 86_400.0, "exchange": "push_pull"}
LARGE = {"task": {"kind": "mlp", "hidden": [8192]}}  # 614,410 params, 2.5 MB
HEADERS = {
    "Connection": "Upgrade",
    "Upgrade": "gossipnode/1",
    "Gossipnode-Swarm": "swarm",
    "Gossipnode-Id": "b",
}


class Peer(Connection):
    """A peer that speaks the lane byte by byte."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.opened = await self.ask()
        return self

    async def ask(self) -> int:
        """Ask for a lane and return the status; the headers of a 101 are checked."""
        await self.send(head("GET", "/v1/lane", **HEADERS))
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        status = int(lines[0].split()[1])
        if status == 101:
            assert lines[0] == "HTTP/1.1 101 Switching Protocols"
            assert {"Upgrade: gossipnode/1", "Connection: Upgrade"} < set(lines)
            assert {"Gossipnode-Swarm: swarm", "Gossipnode-Id: a"} < set(lines)
        return status

    async def record(self) -> tuple[int, int, bytes]:
        """Read one record: its type, number and payload."""
        async with asyncio.timeout(PATIENCE_S):
            kind, flags, reserved, number, length = struct.unpack(
                "<BBHIQ", await self.reader.readexactly(16)
            )
            assert (flags, reserved) == (0, 0)
            return kind, number, await self.reader.readexactly(length)

    async def reply(self, number: int) -> Any:
        kind, got, payload = await self.record()
        assert (kind, got) == (Type.REPLY, number)
        return msgpack.unpackb(payload)

    async def closing(self) -> str:
        """Read the CLOSE and the end of the connection."""
        kind, _, payload = await self.record()
        assert kind == Type.CLOSE
        assert await self.is_closed()
        return payload.decode()


def framed(frame: bytes, number: int, kind: Type = Type.FRAME) -> bytes:
    return record_head(kind, number, len(frame)) + frame


def lanes_of(node: HttpNode) -> lanes.Lanes:
    return node.lanes


def frame_to(node: HttpNode, vector: np.ndarray | None = None, **changes: Any) -> Frame:
    vector = vector_for(node) if vector is None else vector
    return encode(message_for(node, vector, **changes), [vector])


async def push_from(sender: HttpNode, node: HttpNode, frame: Frame) -> Any:
    return await sender.world.push(node.url, frame, PATIENCE_S)


@pytest.fixture
async def start_b(tmp_path: Path) -> AsyncIterator[StartNode]:
    """Starts nodes beside ``a``: node ``b``, unless called another."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            id_: str = "b", *, peers: tuple[PeerEntry, ...] = (), **sections: Any
        ) -> HttpNode:
            sections["node"] = {"id": id_, "data_dir": str(tmp_path / id_)}
            return await stack.enter_async_context(
                HttpNode(config_of(tmp_path / id_, **sections), peers=peers)
            )

        yield start


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
    vector = np.arange(node.layout.size, dtype=node.params.dtype)
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
    node = await start_node(network={"body_timeout_s": 3600.0})
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


# -- two nodes ------------------------------------------------------------------------------------


async def test_the_first_push_opens_the_lane_and_all_take_it(
    node: HttpNode, start_b: StartNode
) -> None:
    b = await start_b()
    for seq in range(3):
        receipt = await push_from(b, node, frame_to(node, seq=seq))
        assert receipt.reply is not None
        assert (receipt.reply.status, receipt.reply.sender) == ("merged", "a")
    counters = lanes_of(b).counters
    assert (counters["lanes_opened"], counters["lane_pushes"]) == (1, 3)
    assert counters["lane_fallbacks"] == 0
    assert lanes_of(node).counters["lanes_accepted"] == 1


async def test_both_directions_share_one_lane(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    for seq in range(3):
        await push_from(node, b, frame_to(b, sender="a", seq=seq))
    assert b.age == 7
    assert (len(lanes_of(node)), len(lanes_of(b))) == (1, 1)
    assert lanes_of(node).counters["lanes_opened"] == 0


async def test_large_frames_both_ways_at_once(start_node: StartNode, start_b: StartNode) -> None:
    large = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB
    node, b = await start_node(**large), await start_b(**large)
    await push_from(b, node, frame_to(node, vector_for(node, 0.5)))
    here = np.arange(node.layout.size, dtype=np.float32)
    there = here[::-1].copy()
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node, here, seq=1, age=2**40)),
        push_from(node, b, frame_to(b, there, sender="a", seq=1, age=2**40)),
    )
    assert [receipt.reply.status for receipt in receipts] == ["merged", "merged"]
    np.testing.assert_allclose(node.params, here, rtol=1e-6)
    np.testing.assert_allclose(b.params, there, rtol=1e-6)
    assert len(lanes_of(node)) == len(lanes_of(b)) == 1


async def test_an_exchange_over_the_lane(start_node: StartNode, start_b: StartNode) -> None:
    node = await start_node(algorithm=EXCHANGE, **LARGE)
    b = await start_b(algorithm=EXCHANGE, **LARGE)
    before = np.array(node.params)
    receipt = await push_from(b, node, frame_to(node, kind=Kind.EXCHANGE_REQUEST))
    assert receipt.message is not None
    assert (receipt.message.kind, receipt.message.sender) == (Kind.EXCHANGE_REPLY, "a")
    np.testing.assert_array_equal(receipt.arrays[0], before)
    assert lanes_of(b).pool.inflight_bytes == 0


async def test_a_refusal_over_the_lane_is_a_receipt(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    receipt = await push_from(b, node, frame_to(node, schema="0" * 16))
    assert receipt.reply is not None
    assert (receipt.reply.status, receipt.reply.code) == ("refused", "wrong_schema")
    assert (await push_from(b, node, frame_to(node))).reply.status == "merged"


async def test_many_pushes_at_once(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    frames = [frame_to(node, seq=seq) for seq in range(200)]
    receipts = await asyncio.gather(*(push_from(b, node, frame) for frame in frames))
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    assert lanes_of(b).counters["lanes_opened"] == 1


async def test_many_peers_at_once(node: HttpNode, start_b: StartNode) -> None:
    peers = [await start_b(f"peer-{i}") for i in range(6)]
    for _ in range(2):
        await asyncio.gather(*(push_from(p, node, frame_to(node, sender=p.id)) for p in peers))
        await asyncio.gather(*(push_from(node, p, frame_to(p, sender="a")) for p in peers))
    assert len(lanes_of(node)) == 6
    assert lanes_of(node).counters["lanes_opened"] == 0


async def test_two_lanes_opened_at_once_become_one(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node)), push_from(node, b, frame_to(b, sender="a"))
    )
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    await until(lambda: len(lanes_of(node)) == len(lanes_of(b)) == 1)
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node, seq=1)),
        push_from(node, b, frame_to(b, sender="a", seq=1)),
    )
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    assert len(lanes_of(node)) == len(lanes_of(b)) == 1
    assert lanes_of(b).counters["lanes_broken"] == lanes_of(node).counters["lanes_broken"] == 0


async def test_a_node_that_cannot_be_dialled_is_reached_by_its_own_lane(
    node: HttpNode, start_b: StartNode
) -> None:
    nowhere = "http://127.0.0.1:9"
    b = await start_b(network={"bind": "127.0.0.1", "port": 0, "advertise": nowhere})
    with pytest.raises(NetworkError):
        await node.world.push(nowhere, frame_to(b, sender="a"), PATIENCE_S)
    await push_from(b, node, frame_to(node))
    receipt = await node.world.push(nowhere, frame_to(b, sender="a"), PATIENCE_S)
    assert receipt.reply is not None
    assert (receipt.reply.status, receipt.reply.sender) == ("merged", "b")


async def test_a_broken_lane_is_opened_again(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    found = lanes_of(b).to(node.url)
    assert found is not None
    found.abort("a test")
    assert (await push_from(b, node, frame_to(node, seq=1))).reply.status == "merged"
    await until(lambda: len(lanes_of(b)) == len(lanes_of(node)) == 1)
    assert lanes_of(b).counters["lanes_opened"] == 2


async def test_a_lane_that_keeps_breaking_is_left_alone_for_a_while(
    node: HttpNode, start_b: StartNode
) -> None:
    b = await start_b()
    for seq in range(10):
        assert (await push_from(b, node, frame_to(node, seq=seq))).reply.status == "merged"
        found = lanes_of(b).to(node.url)
        if found is not None:
            found.abort("a test")
            await found.wait_closed()
    counters = lanes_of(b).counters
    assert counters["lane_fallbacks"] + counters["lane_pushes"] == 10
    assert counters["lane_fallbacks"] > 0
    assert node.age == 7


async def test_a_lane_that_breaks_under_a_push_sends_it_by_post(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    deliver = node.deliver

    async def breaking(admission: Any, body: memoryview) -> Any:
        delivery = await deliver(admission, body)
        for one in list(lanes_of(node)._lanes):
            one.abort("a test")
        return delivery

    monkeypatch.setattr(node, "deliver", breaking)
    receipt = await push_from(b, node, frame_to(node, seq=1))
    assert receipt.reply is not None
    assert receipt.reply.status == "duplicate"  # merged before the answer was lost
    assert lanes_of(b).counters["lanes_broken"] == 1


async def test_against_a_server_without_the_lane_pushes_are_posted(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    monkeypatch.setattr(node._server, "_lanes", None)
    for seq in range(3):
        assert (await push_from(b, node, frame_to(node, seq=seq))).reply.status == "merged"
    counters = lanes_of(b).counters
    assert (counters["lanes_opened"], counters["lane_fallbacks"]) == (0, 3)
    assert counters["lanes_refused"] == 1  # asked once, not at every push


ANSWERS = {
    "http/1.0": b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: gossipnode/1\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "nobody": b"HTTP/1.1 101 X\r\nUpgrade: gossipnode/1\r\nConnection: Upgrade\r\n\r\n",
    "twice": b"HTTP/1.1 101 X\r\nUpgrade: gossipnode/1\r\nUpgrade: gossipnode/1\r\n\r\n",
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "endless": b"HTTP/1.1 101 X\r\n" + b"X: y\r\n" * 5000,
    "nonsense": b"SSH-2.0-OpenSSH\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_an_answer_that_opens_no_lane_means_post(start_b: StartNode, what: str) -> None:
    b = await start_b()
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(ANSWERS[what])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises((NetworkError, PeerError)):
            await b.world.push(address, frame_to(b, sender="b"), PATIENCE_S)
    assert asked[0].startswith(b"GET /v1/lane HTTP/1.1\r\n")
    assert asked[1].startswith(b"POST /v1/push HTTP/1.1\r\n")
    assert not lanes_of(b)


async def test_a_peer_that_swallows_the_request_is_posted_to(
    start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "OPEN_S", 0.05)
    b = await start_b()
    first: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        first.append(line)
        if line.startswith(b"POST"):
            writer.close()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises((NetworkError, PeerError)):
            await b.world.push(address, frame_to(b, sender="b"), PATIENCE_S)
    assert [line.split()[0] for line in first[:2]] == [b"GET", b"POST"]


async def test_nobody_listening_is_told_in_plain_words(start_b: StartNode) -> None:
    b = await start_b()
    with pytest.raises(NetworkError, match="connection refused"):
        await b.world.push("http://127.0.0.1:9", frame_to(b), PATIENCE_S)


async def test_a_push_without_an_answer_times_out_and_the_lane_stays(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    go_on, deliver = asyncio.Event(), node.deliver

    async def waiting(admission: Any, body: memoryview) -> Any:
        await go_on.wait()
        return await deliver(admission, body)

    monkeypatch.setattr(node, "deliver", waiting)
    with pytest.raises(NetworkError, match=r"timed out after 0\.05 s"):
        await b.world.push(node.url, frame_to(node, seq=1), 0.05)
    go_on.set()
    # The late answer finds nobody and harms nobody.
    assert (await push_from(b, node, frame_to(node, seq=2))).reply.status == "merged"
    assert lanes_of(b).counters["lanes_opened"] == 1
    assert len(lanes_of(b)) == 1


async def test_a_push_given_up_half_sent_breaks_the_lane(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(), await start_b()
    await push_from(b, node, frame_to(node))
    (accepted,) = lanes_of(node)._lanes
    accepted._transport.pause_reading()  # a peer that hangs
    vector = np.zeros(25_000_000, np.float32)  # 100 MB: more than sockets hold
    frame = encode(message_for(node, vector), [vector])
    with pytest.raises(NetworkError, match="timed out"):
        await b.world.push(node.url, frame, 0.2)
    await until(lambda: not lanes_of(b))


async def test_stopping_closes_lanes_and_answers_first(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    (at_a,) = lanes_of(node)._lanes
    await lanes_of(b).close()
    await until(lambda: not lanes_of(node))
    assert at_a._reason == "the peer closed the lane: this node is stopping"
    assert lanes_of(node).counters["lanes_broken"] == 0
    # Another lane is not opened by a node that is stopping, and none to it is accepted.
    with contextlib.suppress(NetworkError):
        await push_from(node, b, frame_to(b, sender="a"))
    assert not lanes_of(b)


async def test_a_peer_that_hangs_does_not_hold_up_the_stop(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHUTDOWN_S", 0.05)
    async with Peer(node.url) as peer:
        assert peer.opened == 101
        async with asyncio.timeout(lane.CLOSE_S):
            await lanes_of(node).close()
        assert not lanes_of(node)


async def test_a_merge_that_hangs_does_not_hold_up_the_stop(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHUTDOWN_S", 0.05)
    begun = asyncio.Event()

    async def hanging(admission: Any, body: memoryview) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(node, "deliver", hanging)
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        async with asyncio.timeout(lane.CLOSE_S):
            await lanes_of(node).close()
        assert not lanes_of(node)
    node.inbox.inflight_bytes = 0  # what the hanging merge would have given back


async def test_who_names_the_address_of_another_gets_no_pushes(
    node: HttpNode, start_b: StartNode
) -> None:
    b = await start_b()
    await push_from(node, b, frame_to(b, sender="a"))
    headers = {**HEADERS, "Gossipnode-Id": "0", "Gossipnode-Address": b.url}
    async with Connection(node.url) as thief:
        await thief.send(head("GET", "/v1/lane", **headers))
        await until(lambda: len(lanes_of(node)) == 2)
        receipt = await push_from(node, b, frame_to(b, sender="a", seq=1))
        assert receipt.reply.sender == "b"


def test_the_numbers_in_the_docs_are_the_real_ones() -> None:
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    section = " ".join(text.split("## The lane")[1].split("## Limits")[0].split())
    assert f"At most {lane.UNANSWERED_MAX} FRAMEs" in section
    assert f"After {lane.CLOSE_S:g} s either side may cut it" in section
    assert f"After {lanes.PING_S:g} s of silence a PING" in section
    assert f"after {lanes.SILENT_S:g} s the connection is cut" in section
    assert f"FRAME for {lanes.IDLE_S:g} s is closed" in section
    assert f"bring {stall.STALL_BYTES // 1024} KiB in any {stall.STALL_S:g} s" in section
    assert f"at most {upgrade.ID_CHARS_MAX} characters" in section
    assert f"at most {upgrade.ADDRESS_CHARS_MAX} characters" in section
    for kind in Type:
        assert f"| {kind.value} | {kind.name} |" in section


async def test_silence_is_asked_about_and_ends_the_lane(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    (at_a,) = lanes_of(node)._lanes
    (at_b,) = lanes_of(b)._lanes
    heard = at_b.last_heard
    monkeypatch.setattr(lanes, "PING_S", -1.0)
    lanes_of(b)._tick()
    await until(lambda: at_b.last_heard > heard)  # the pong
    at_a._transport.pause_reading()
    monkeypatch.setattr(lanes, "SILENT_S", -1.0)
    lanes_of(b)._tick()
    await until(lambda: not lanes_of(b))
    assert at_b._reason == "the peer is silent"


async def test_an_idle_lane_is_closed_and_opened_again_when_needed(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    monkeypatch.setattr(lanes, "IDLE_S", -1.0)
    lanes_of(b)._tick()
    await until(lambda: not lanes_of(b) and not lanes_of(node))
    monkeypatch.undo()
    assert (await push_from(b, node, frame_to(node, seq=1))).reply.status == "merged"
    assert lanes_of(b).counters["lanes_opened"] == 2


async def test_bodies_are_recycled_and_params_are_never_written_again(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(**LARGE), await start_b(**LARGE)
    held: list[tuple[np.ndarray, bytes]] = []
    for seq in range(6):
        vector = vector_for(node, float(seq))
        await push_from(b, node, frame_to(node, vector, seq=seq))
        if seq % 2:
            held.append((node.params, node.params.tobytes()))
    assert lanes_of(node).pool.recycled > 0
    for params, before in held:
        assert params.tobytes() == before


async def test_http_goes_on_beside_lanes(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    assert (await get(node.url, "/livez")).status == 200
    assert (await push(node.url, frame_for(node, seq=1))).msgpack()["status"] == "merged"
