"""Where a lane breaks or none can be had: the push gets there another way.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from laning import break_lanes_under_answers, frame_to, lanes_of, push_from
from loopback import (
    PATIENCE_S,
    StartNode,
    until,
)

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpNode, lanes


async def test_a_broken_lane_is_opened_again(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    found = lanes_of(b).to(node.url)
    assert found is not None
    found.abort("a test")
    assert (await push_from(b, node, frame_to(node, seq=1))).reply.status == "merged"
    await until(lambda: len(lanes_of(b)) == len(lanes_of(node)) == 1)
    assert b.counters.get("lanes_opened") == 2


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
    counters = b.counters
    assert counters.get("lane_fallbacks") + counters.get("lane_pushes") == 10
    assert counters.get("lane_fallbacks") > 0
    assert node.age == 7


async def test_the_pauses_of_a_lane_that_keeps_breaking_double_and_are_spread(
    node: HttpNode, start_b: StartNode
) -> None:
    b, pauses = await start_b(), []
    loop = asyncio.get_running_loop()
    for seq in range(12):
        await push_from(b, node, frame_to(node, seq=seq))
        found, way = lanes_of(b).to(node.url), lanes_of(b)._ways[node.url]
        assert found is not None
        way.retry_at, before = 0.0, loop.time()
        found.abort("a test")
        await found.wait_closed()
        pauses.append((way.retry_at - before, loop.time() - before))
        way.retry_at = 0.0  # as if it were over
    assert pauses[0][0] < 0  # once costs nothing
    expected = [min(lanes.PAUSE_S * 2.0**n, lanes.PAUSE_S_MAX) for n in range(11)]
    shares = []
    for mean, (pause, late) in zip(expected, pauses[1:], strict=True):
        assert 0.5 * mean <= pause <= 1.5 * mean + late
        shares.append(pause / mean)
    assert max(shares) - min(shares) > 0.1  # else all who lost a peer would come back at once


async def test_a_lane_that_breaks_under_a_push_sends_it_by_post(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    break_lanes_under_answers(node, monkeypatch)
    receipt = await push_from(b, node, frame_to(node, seq=1))
    assert receipt.reply is not None
    assert receipt.reply.status == "duplicate"  # merged before the answer was lost
    assert b.counters.get("lanes_broken") == 1


async def test_against_a_server_without_the_lane_pushes_are_posted(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    monkeypatch.setattr(node._server, "_lanes", None)
    for seq in range(3):
        assert (await push_from(b, node, frame_to(node, seq=seq))).reply.status == "merged"
    counters = b.counters
    assert (counters.get("lanes_opened"), counters.get("lane_fallbacks")) == (0, 3)
    assert counters.get("lanes_refused") == 1  # asked once, not at every push


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
