"""The client against peers that answer, refuse, vanish, dawdle and lie."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from loopback import StartNode, message_for, vector_for

from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpClient, HttpNode
from gossipnode.network.world import DaemonWorld
from gossipnode.node.world import World
from gossipnode.wire import CONTENT_TYPE, Frame, Kind, Message, Part, Reply, decode, encode

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
PATIENT_S = 20.0


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient() as client:
        yield client


@contextlib.asynccontextmanager
async def peer(serve: Serve) -> AsyncIterator[str]:
    """A peer that treats each connection as ``serve`` says; yields its address."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_push(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")[1:]
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    return headers, await reader.readexactly(int(headers["content-length"]))


def http(body: bytes, content_type: str = "application/msgpack", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def answering(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_push(reader)
            writer.write(answer)
            await writer.drain()

    return serve


def some_frame(size: int = 8, kind: Kind = Kind.MODEL, value: float = 1.0) -> Frame:
    array = np.full(size, value, np.float32)
    message = Message(kind, "swarm", "0" * 16, "gossip", "b", 1, 0, parts=(Part.of("x", array),))
    return encode(message, [array])


MERGED = http(Reply("merged", "a", 3, 4).encode())


def test_the_daemons_world_is_a_world() -> None:
    world: World = DaemonWorld()
    assert world.store is None


async def test_a_push_to_a_node_is_merged(node: HttpNode, client: HttpClient) -> None:
    vector = vector_for(node, 2.0)
    frame = encode(message_for(node, vector), [vector])
    receipt = await client.push(node.url, frame, PATIENT_S)
    assert receipt.reply == Reply("merged", "a", 0, 7)
    np.testing.assert_array_equal(node.params, vector)


async def test_a_large_frame_arrives_whole(start_node: StartNode, client: HttpClient) -> None:
    node = await start_node(task={"kind": "mlp", "hidden": [65536]})  # 4,915,210 params, 20 MB
    vector = np.linspace(0, 1, node.layout.size, dtype=np.float32)
    receipt = await client.push(node.url, encode(message_for(node, vector), [vector]), PATIENT_S)
    assert receipt.reply is not None
    assert receipt.reply.status == "merged"
    np.testing.assert_array_equal(node.params, vector)


async def test_a_push_has_a_length_and_no_more_headers_than_it_needs(client: HttpClient) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_push(reader))
            writer.write(MERGED)

    small, large = some_frame(), some_frame(1_000_000)
    async with peer(serve) as address:
        await client.push(address, small, PATIENT_S)
        await client.push(address, large, PATIENT_S)
    for (headers, body), frame in zip(seen, (small, large), strict=True):
        assert headers.keys() == {"host", "content-type", "accept", "content-length"}
        assert headers["content-type"] == CONTENT_TYPE
        assert body == frame.tobytes()


async def test_a_refusal_is_an_answer(node: HttpNode, client: HttpClient) -> None:
    vector = vector_for(node)
    frame = encode(message_for(node, vector, swarm="another"), [vector])
    receipt = await client.push(node.url, frame, PATIENT_S)
    assert receipt.reply is not None
    assert (receipt.reply.status, receipt.reply.code) == ("refused", "wrong_swarm")


async def test_a_large_refused_body_is_not_sent_to_its_end(
    node: HttpNode, client: HttpClient
) -> None:
    vector = np.ones(30_000_000, np.float32)  # 120 MB, more than all buffers on the way
    frame = encode(message_for(node, vector), [vector])
    receipt = await client.push(node.url, frame, PATIENT_S)
    assert receipt.reply is not None
    assert receipt.reply.code == "too_large"


@pytest.mark.parametrize("hidden", [8, 256], ids=["joined", "streamed"])
async def test_an_exchange_brings_back_what_was_there(
    start_node: StartNode, client: HttpClient, hidden: int
) -> None:
    exchange = {"name": "gossip", "period_s": 86_400.0, "exchange": "push_pull"}
    node = await start_node(algorithm=exchange, task={"kind": "mlp", "hidden": [hidden]})
    before, vector = np.array(node.params), vector_for(node)
    frame = encode(message_for(node, vector, kind=Kind.EXCHANGE_REQUEST), [vector])
    receipt = await client.push(node.url, frame, PATIENT_S)
    assert receipt.reply is None
    assert receipt.message is not None
    assert (receipt.message.kind, receipt.message.sender) == (Kind.EXCHANGE_REPLY, "a")
    np.testing.assert_array_equal(receipt.arrays[0], before)
    assert receipt.arrays[0].flags.writeable


async def test_an_exchange_reply_is_checked(client: HttpClient) -> None:
    pushed = some_frame(8, Kind.EXCHANGE_REQUEST)
    longer = some_frame(9, Kind.EXCHANGE_REPLY).tobytes()
    async with peer(answering(http(longer, CONTENT_TYPE))) as address:
        with pytest.raises(PeerError, match="too_large"):
            await client.push(address, pushed, PATIENT_S)
    broken = bytearray(some_frame(8, Kind.EXCHANGE_REPLY).tobytes())
    broken[-1] ^= 1
    async with peer(answering(http(bytes(broken), CONTENT_TYPE))) as address:
        with pytest.raises(PeerError, match="checksum_mismatch"):
            await client.push(address, pushed, PATIENT_S)


async def test_one_connection_is_kept_for_many_pushes(client: HttpClient) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(MERGED)(reader, writer)

    async with peer(serve) as address:
        for _ in range(5):
            await client.push(address, some_frame(), PATIENT_S)
    assert connections == 1


@pytest.mark.parametrize("size", [8, 100_000], ids=["joined", "streamed"])
async def test_a_kept_connection_that_was_closed_is_opened_anew(
    client: HttpClient, size: int
) -> None:
    """The peer reads the second push of a connection and hangs up without a word."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append((await read_push(reader))[1])
        writer.write(MERGED)
        await read_push(reader)

    async with peer(serve) as address:
        first, second = some_frame(size), some_frame(size, value=2.0)
        await client.push(address, first, PATIENT_S)
        receipt = await client.push(address, second, PATIENT_S)
    assert receipt.reply == Reply("merged", "a", 3, 4)
    assert bodies == [first.tobytes(), second.tobytes()]


async def test_a_peer_that_hangs_up_every_time_is_tried_twice(client: HttpClient) -> None:
    tries = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        with contextlib.suppress(asyncio.IncompleteReadError):  # a look whether it speaks TLS
            await read_push(reader)
            tries += 1

    async with peer(serve) as address:
        with pytest.raises(NetworkError, match="closed the connection"):
            await client.push(address, some_frame(), PATIENT_S)
    assert tries == 2


async def test_nobody_listening_is_connection_refused(client: HttpClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(NetworkError, match=r"^connection refused$"):
        await client.push(address, some_frame(), PATIENT_S)


async def test_silence_times_out(client: HttpClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(serve) as address:
        with pytest.raises(NetworkError, match=r"^timed out after 0\.05 s$"):
            await client.push(address, some_frame(), 0.05)


async def test_a_name_that_does_not_resolve(client: HttpClient) -> None:
    with pytest.raises(NetworkError, match=r"^the name does not resolve$"):
        await client.push("http://no.such.host.invalid:1", some_frame(), PATIENT_S)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"<html>", "text/html", "502 Bad Gateway"),
        http(b"<html>", "text/html"),
        http(b"no msgpack"),
        http(b"x" * 5000),
        http(b"GN no frame", CONTENT_TYPE),
        http(b"", CONTENT_TYPE),
        http(some_frame().tobytes()[:-4], CONTENT_TYPE),
        http(MERGED, "application/msgpack", "302 Found\r\nLocation: /livez"),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\nContent-Length: x\r\n\r\n",
        b"no http at all\r\n\r\n",
    ],
)
async def test_an_answer_that_is_none_is_the_peers_fault(client: HttpClient, answer: bytes) -> None:
    async with peer(answering(answer)) as address:
        with pytest.raises(PeerError):
            await client.push(address, some_frame(), PATIENT_S)


async def test_an_endless_reply_is_not_read(client: HttpClient) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_push(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/msgpack\r\n\r\n")
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    async with peer(serve) as address:
        with pytest.raises(PeerError, match="more than 4096 bytes"):
            await client.push(address, some_frame(), PATIENT_S)


async def test_json_and_bytes_are_fetched_within_limits(node: HttpNode, client: HttpClient) -> None:
    assert (await client.get_json(node.url + "/v1/swarm"))["config"]["swarm"]["name"] == "swarm"
    model = await client.get_bytes(node.url + "/v1/model", 100_000)
    assert int.from_bytes(model[:8], "little") < len(model)
    with pytest.raises(NetworkError, match="more than 100 bytes"):
        await client.get_bytes(node.url + "/v1/model", 100)
    with pytest.raises(NetworkError, match="HTTP 404: there is no '/v1/nothing'"):
        await client.get_json(node.url + "/v1/nothing")
    with pytest.raises(NetworkError, match="answers, but is no gossipnode"):
        await client.get_json(node.url + "/")


async def test_two_nodes_exchange_models_through_their_worlds(
    node: HttpNode, client: HttpClient
) -> None:
    """What one node's server hands out is what its peers' client takes in, bit for bit."""
    vector = np.random.default_rng(7).normal(size=node.layout.size).astype(np.float32)
    frame = encode(message_for(node, vector), [vector])
    await client.push(node.url, frame, PATIENT_S)
    sent, _ = decode(frame.tobytes())
    assert node.age == sent.age
    np.testing.assert_array_equal(node.params, vector)
