"""What was cut off goes on: over real sockets through a proxy that cuts."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from cutting import Proxy, forever, port_of
from laning import LARGE, Peer, frame_to, framed, lanes_of, push_from
from loopback import StartNode, frame_for, message_for, until, vector_for

from gossipnode.errors import NetworkError
from gossipnode.network import HttpNode, partials
from gossipnode.network.records import Type, frame_record, record_head
from gossipnode.wire import Frame, Kind, encode


def ramp(node: HttpNode) -> np.ndarray:
    return np.linspace(0, 1, node.layout.size, dtype=np.float32)


# -- two nodes and a proxy that cuts --------------------------------------------------------------


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("cuts", [(1_000_000,), (300_000, 700_000, 900_000), (2_457_900,)], ids=str)
async def test_a_push_goes_on_where_the_connection_was_cut(
    start_node: StartNode, start_b: StartNode, cuts: tuple[int, ...]
) -> None:
    node, b = await start_node(**LARGE), await start_b(**LARGE)
    proxy = Proxy(port_of(node), forever(*cuts))
    async with proxy.serving() as url:
        receipt = await b.world.push(url, frame_to(node, ramp(node), age=2**40), 20.0)
        assert receipt.reply.status == "merged"
    np.testing.assert_array_equal(node.params, ramp(node))
    assert b.counters.get("lane_resumes") == b.counters.get("lanes_broken") == len(cuts)
    assert b.counters.get("lane_fallbacks") == 0
    # What had arrived was not sent again: but for handshakes and heads all of it went over once.
    assert sum(proxy.forwarded) < 4 * node.layout.size + 1000 * len(proxy.forwarded)
    lane_pool = lanes_of(node).pool
    assert (len(lanes_of(node).partials), lane_pool.inflight_bytes) == (0, 0)
    assert node.inbox.inflight_bytes == 0


@pytest.mark.usefixtures("small")
async def test_an_end_that_has_not_noticed_the_break_hands_over_what_it_has(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(**LARGE), await start_b(**LARGE)
    proxy = Proxy(port_of(node), forever(1_500_000))
    proxy.deaf = True
    async with proxy.serving() as url:
        receipt = await b.world.push(url, frame_to(node, ramp(node), age=2**40), 20.0)
        assert receipt.reply.status == "merged"
        assert b.counters.get("lane_resumes") == 1
        await until(lambda: len(lanes_of(node)) == 1)
    np.testing.assert_array_equal(node.params, ramp(node))


@pytest.mark.usefixtures("small")
async def test_a_push_that_timed_out_goes_on_when_it_is_repeated(
    start_node: StartNode, start_b: StartNode
) -> None:
    larger = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB
    node, b = await start_node(**larger), await start_b(**larger)
    frame = frame_to(node, ramp(node), age=2**40)
    await push_from(b, node, frame_to(node, seq=9))
    (at_a,) = lanes_of(node)._lanes
    # Else all 20 MB may fit the sockets, and nothing is half sent.
    here = at_a.transport.get_extra_info("socket")
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**18)
    update = at_a.buffer_updated

    def hanging(nbytes: int) -> None:
        update(nbytes)
        if at_a._reader.body_filled[0] > 1_000_000:
            at_a.transport.pause_reading()

    at_a.buffer_updated = hanging  # type: ignore[method-assign]
    told = r"timed out after 0.3 s with \d+ of 20 MB sent; .* raise network.push_timeout_s"
    with pytest.raises(NetworkError, match=told):
        await b.world.push(node.url, frame, 0.3)
    del at_a.buffer_updated
    at_a.transport.resume_reading()
    receipt = await b.world.push(node.url, frame, 20.0)
    assert receipt.reply.status == "merged"
    assert b.counters.get("lane_resumes") == 1
    np.testing.assert_array_equal(node.params, ramp(node))


@pytest.mark.usefixtures("small")
async def test_a_link_that_always_cuts_at_the_head_ends_in_a_post(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(**LARGE), await start_b(**LARGE)
    proxy = Proxy(port_of(node), forever(260, 260))
    async with proxy.serving() as url:
        receipt = await b.world.push(url, frame_to(node, ramp(node), age=2**40), 20.0)
    assert receipt.reply.status == "merged"
    assert (b.counters.get("lane_resumes"), b.counters.get("lane_fallbacks")) == (0, 1)


async def test_small_bodies_begin_anew(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    proxy = Proxy(port_of(node), forever(1500))
    async with proxy.serving() as url:
        receipt = await b.world.push(url, frame_to(node), 20.0)
    assert receipt.reply.status == "merged"
    assert (b.counters.get("lane_resumes"), len(lanes_of(node).partials)) == (0, 0)


# -- a peer that speaks it by hand ----------------------------------------------------------------


def rest(frame: Frame, offset: int, number: int = 1) -> bytes:
    body = b"".join(frame.body)
    return frame_record(number, frame.nbytes, offset) + frame.head + body[offset:]


async def have(peer: Peer, frame: Frame) -> int:
    await peer.send(record_head(Type.ASK, 5, len(frame.head)) + frame.head)
    kind, number, payload = await peer.record()
    assert (kind, number) == (Type.HAVE, 5)
    return int(struct.unpack("<Q", payload)[0])


async def cut(node: HttpNode, frame: Frame, after: int = 1_200_000) -> None:
    """Send the beginning of ``frame`` and break the lane."""
    async with Peer(node.url) as peer:
        await peer.send(framed(frame.tobytes(), 1)[:after])
        await until(lambda: node.inbox.inflight_bytes)
        (lane,) = lanes_of(node)._lanes
        await until(lambda: lane._reader.body_filled[0] == after - 16 - len(frame.head))
    await until(lambda: not lanes_of(node))


@pytest.mark.usefixtures("small")
async def test_asked_it_tells_what_is_there_and_takes_the_rest(start_node: StartNode) -> None:
    node = await start_node(**LARGE)
    frame = frame_to(node, ramp(node), age=2**40)
    await cut(node, frame)
    assert node.inbox.inflight_bytes == lanes_of(node).pool.inflight_bytes == 0
    async with Peer(node.url) as peer:
        there = await have(peer, frame)
        assert there == 1_200_000 - 16 - len(frame.head)
        await peer.send(rest(frame, there))
        assert (await peer.reply(1))["status"] == "merged"
        assert await have(peer, frame) == 0
    np.testing.assert_array_equal(node.params, ramp(node))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("offset", [1, -1, 2**62], ids=["before", "behind", "far"])
async def test_a_rest_that_is_not_what_was_kept_is_refused(
    start_node: StartNode, offset: int
) -> None:
    node = await start_node(**LARGE)
    frame = frame_to(node, ramp(node), age=2**40)
    await cut(node, frame)
    before = node.params.tobytes()
    async with Peer(node.url) as peer:
        there = await have(peer, frame)
        wrong = there + offset if offset == -1 else min(offset, frame.nbytes - len(frame.head) - 1)
        await peer.send(rest(frame, wrong))
        assert (await peer.reply(1))["code"] == "malformed_frame"
        other = frame_to(node, ramp(node), age=2**40, seq=3)
        assert await have(peer, other) == 0
        await peer.send(rest(other, there))
        assert (await peer.reply(1))["code"] == "malformed_frame"
        assert node.params.tobytes() == before
        assert (node.inbox.inflight_bytes, lanes_of(node).pool.inflight_bytes) == (0, 0)
        await peer.send(rest(frame, there))
        assert (await peer.reply(1))["status"] == "merged"


@pytest.mark.usefixtures("small")
async def test_a_word_about_who_is_there_leaves_what_is_kept(start_node: StartNode) -> None:
    """Nodes ping each other all the time, also before a push goes on."""
    node = await start_node(**LARGE)
    frame = frame_to(node, ramp(node), age=2**40)
    await cut(node, frame)
    ping = message_for(node, ramp(node), kind=Kind.CONTROL, parts=(), control="ping", age=0, seq=9)
    async with Peer(node.url) as peer:
        there = await have(peer, frame)
        await peer.send(framed(encode(ping, []).tobytes(), 2))
        assert (await peer.record())[:2] == (Type.ANSWER, 2)
        await peer.send(rest(frame, there))
        assert (await peer.reply(1))["status"] == "merged"


@pytest.mark.usefixtures("small")
async def test_a_forged_rest_fails_the_checksum_of_the_whole(start_node: StartNode) -> None:
    node = await start_node(**LARGE)
    frame = frame_to(node, ramp(node), age=2**40)
    await cut(node, frame)
    async with Peer(node.url) as peer:
        there = await have(peer, frame)
        forged = bytearray(rest(frame, there))
        forged[-1] ^= 1
        await peer.send(bytes(forged))
        assert (await peer.reply(1))["code"] == "checksum_mismatch"
        assert node.age == 0
        assert await have(peer, frame) == 0
        await peer.send(framed(frame.tobytes(), 2))
        assert (await peer.reply(2))["status"] == "merged"


@pytest.mark.usefixtures("small")
async def test_another_peer_is_told_nothing_and_may_not_go_on(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(**LARGE)
    frame = frame_to(node, ramp(node), age=2**40)
    await cut(node, frame)
    monkeypatch.setitem(__import__("laning").HEADERS, "Gossipnode-Id", "c")
    async with Peer(node.url) as peer:
        assert await have(peer, frame) == 0
        await peer.send(rest(frame, 1_200_000 - 16 - len(frame.head)))
        assert (await peer.reply(1))["code"] == "malformed_frame"
    assert node.age == 0


@pytest.mark.usefixtures("small")
async def test_what_nobody_goes_on_with_is_freed(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partials, "KEPT_S", 0.05)
    node = await start_node(**LARGE)
    await cut(node, frame_to(node, ramp(node)))
    await until(lambda: not lanes_of(node).partials)
    assert not lanes_of(node).pool.lent_blocks


@pytest.mark.usefixtures("small")
async def test_a_node_that_drains_frees_it(start_node: StartNode) -> None:
    node = await start_node(**LARGE)
    await cut(node, frame_to(node, ramp(node)))
    assert len(lanes_of(node).partials) == 1
    await node.drain()
    assert not lanes_of(node).partials
    await node.stop()


@pytest.mark.usefixtures("small")
async def test_what_arrives_goes_before_what_is_kept(start_node: StartNode) -> None:
    node = await start_node(network={"inflight_bytes_max": 3_000_000}, **LARGE)
    frame = frame_to(node, ramp(node))
    await cut(node, frame)
    async with Peer(node.url) as peer:
        assert await have(peer, frame) > 0
        other = frame_for(node, vector_for(node), sender="c")
        await peer.send(framed(other, 1))
        assert (await peer.reply(1))["status"] == "merged"
        assert await have(peer, frame) == 0


async def test_an_ask_that_is_no_head_ends_the_lane(node: HttpNode) -> None:
    async with Peer(node.url) as peer:
        await peer.send(record_head(Type.ASK, 1, 20) + bytes(20))
        assert (await peer.closing()).startswith("malformed_frame: ")
