"""What a connection may cost before it asks for anything, and how each limit ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

import pytest
from loopback import CHAIN, CHAIN_PEERS, Connection, StartNode, frame_for, get, head, push, until

from gossipnode.config import NetworkOptions
from gossipnode.network import HttpNode, client, gate, hosts
from gossipnode.network.lanes import LANES_MAX
from gossipnode.node.counters import Counters


def cut(node: HttpNode, limit: str) -> int:
    return node.counters.get("connections_cut", label=("limit", limit))


class From(Connection):
    """A connection from another address of loopback."""

    def __init__(self, url: str, address: str) -> None:
        super().__init__(url)
        self.address = address

    async def __aenter__(self) -> From:
        self.reader, self.writer = await asyncio.open_connection(
            self.host, self.port, local_addr=(self.address, 0)
        )
        return self

    async def is_cut(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.is_closed()
        return True


SHORT = {"header_timeout_s": 0.2}


async def test_who_says_nothing_is_ended(start_node: StartNode) -> None:
    node = await start_node(network=SHORT)
    async with From(node.url, "127.0.0.2") as line:
        assert await line.is_cut()
    assert cut(node, "header_time") == 1


async def test_who_drips_a_header_is_ended_as_soon(start_node: StartNode) -> None:
    node = await start_node(network=SHORT)
    async with From(node.url, "127.0.0.2") as line:
        await line.send(b"GET /livez HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            while not cut(node, "header_time"):
                await line.send(b"X: y\r\n")
                await asyncio.sleep(0.02)  # fewer lines than aiohttp takes
        assert await line.is_cut()
    assert cut(node, "header_time") == 1


async def test_a_header_that_begins_late_on_a_kept_connection_is_ended_too(
    start_node: StartNode,
) -> None:
    node = await start_node(network={**SHORT, "idle_timeout_s": 600.0})
    async with From(node.url, "127.0.0.2") as line:
        assert (await line.get("/livez")).status == 200
        await line.send(b"GET ")
        assert await line.is_cut()
    assert cut(node, "header_time") == 1


async def test_an_idle_connection_is_closed_and_one_in_use_is_not(start_node: StartNode) -> None:
    node = await start_node(network={"idle_timeout_s": 0.3})
    async with Connection(node.url) as idle, Connection(node.url) as busy:
        assert (await idle.get("/livez")).status == 200
        closed = asyncio.ensure_future(idle.is_closed())
        while not closed.done():
            assert (await busy.get("/livez")).status == 200
            await asyncio.sleep(0.01)
        assert closed.result()
        assert (await busy.get("/livez")).status == 200


async def test_a_header_has_so_many_bytes(start_node: StartNode) -> None:
    node = await start_node(network={"http_header_bytes_max": 2048})
    async with From(node.url, "127.0.0.2") as line:
        with contextlib.suppress(ConnectionError):
            await line.send(b"GET /livez HTTP/1.1\r\n", *(b"A: " + b"x" * 900 + b"\r\n",) * 2)
            while not cut(node, "header_bytes"):
                await line.send(b"A: b\r\n")
        assert await line.is_cut()


async def test_a_body_is_no_header(start_node: StartNode) -> None:
    node = await start_node(network={"http_header_bytes_max": 1024, "header_timeout_s": 0.1})
    frame = frame_for(node)
    assert len(frame) > 2 * 1024
    async with Connection(node.url) as line:
        await line.send(head("POST", "/v1/push", content_length=str(len(frame))), frame[:-2000])
        await until(lambda: node.inbox.inflight_bytes)
        other = asyncio.get_running_loop().time() + 1.2  # two looks of the gate
        await until(lambda: asyncio.get_running_loop().time() > other)
        await line.send(*(frame[at : at + 99] for at in range(len(frame) - 2000, len(frame), 99)))
        assert (await line.answer()).msgpack()["status"] == "merged"
    assert not node.counters.by_label("connections_cut")


async def test_one_address_has_so_many_connections(start_node: StartNode) -> None:
    node = await start_node(network={"connections_per_address_max": 3})
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(From(node.url, "127.0.0.2")) for _ in range(4)]
        for line in lines[:3]:
            assert (await line.get("/livez")).status == 200
        assert await lines[3].is_cut()
        assert cut(node, "address") == 1
        assert (await get(node.url, "/livez")).status == 200
    await until(lambda: cut(node, "address") == 1)
    async with From(node.url, "127.0.0.2") as line:
        assert (await line.get("/livez")).status == 200


async def test_lanes_of_one_address_are_bounded_as_well(start_node: StartNode) -> None:
    from laning import Peer

    node = await start_node(network={"connections_per_address_max": 2})
    async with Peer(node.url) as first, Peer(node.url) as second, Peer(node.url) as third:
        assert (first.opened, second.opened, third.opened) == (101, 101, 503)


async def test_where_all_places_are_taken_the_longest_silent_one_goes(
    start_node: StartNode,
) -> None:
    node = await start_node(network={"connections_max": 3})
    async with contextlib.AsyncExitStack() as stack:
        spoke = await stack.enter_async_context(From(node.url, "127.0.0.2"))
        assert (await spoke.get("/livez")).status == 200
        silent = [await stack.enter_async_context(From(node.url, f"127.0.0.{n}")) for n in (3, 4)]
        for line in silent:
            await line.send(b"GET ")
        newcomer = await stack.enter_async_context(From(node.url, "127.0.0.5"))
        assert (await newcomer.get("/livez")).status == 200
        assert await silent[0].is_cut()
        assert (await spoke.get("/livez")).status == 200
        await silent[1].send(b"/livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await silent[1].answer()).status == 200
        assert (cut(node, "evicted"), cut(node, "total")) == (1, 0)
        # Nobody is silent now: who comes has to wait.
        late = await stack.enter_async_context(From(node.url, "127.0.0.6"))
        assert await late.is_cut()
        assert cut(node, "total") == 1


async def test_each_limit_is_a_series(start_node: StartNode) -> None:
    node = await start_node(network=SHORT)
    async with From(node.url, "127.0.0.2") as line:
        assert await line.is_cut()
    page = (await get(node.url, "/metrics")).body
    assert b'gossipnode_connections_cut_total{limit="header_time"} 1.0' in page


async def test_a_body_must_come_at_a_rate(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gossipnode.network import stall

    monkeypatch.setattr(stall, "STALL_S", 0.05)
    node = await start_node(network={"body_timeout_s": 3600.0, "body_rate_min": 1e6})
    frame = frame_for(node)
    async with Connection(node.url) as line:
        await line.send(head("POST", "/v1/push", content_length=str(len(frame))), frame[:500])
        answer = await line.answer()
    assert (answer.status, answer.msgpack()["code"]) == (408, "body_timeout")
    assert node.inbox.inflight_bytes == 0


async def test_compressed_bodies_are_refused(node: HttpNode) -> None:
    before = node.params.tobytes()
    for encoding in ("gzip", "br", "zstd", "deflate", "identity, gzip"):
        answer = await push(node.url, frame_for(node), content_encoding=encoding)
        assert (answer.status, answer.msgpack()["code"]) == (415, "unsupported_encoding")
        answer = await get(node.url, "/v1/status", content_encoding=encoding)
        assert (answer.status, answer.json()["code"]) == (415, "unsupported_encoding")
    assert node.params.tobytes() == before
    answer = await push(node.url, frame_for(node), content_encoding="identity")
    assert answer.msgpack()["status"] == "merged"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:7946", "[::1]:1", "localhost", "LocalHost:7", "a", "a:7946",
             "node.example.org:80", "10.1.2.3"],
)  # fmt: skip
async def test_names_that_people_gave_are_this_nodes(start_node: StartNode, host: str) -> None:
    node = await start_node(network={"hosts": ["Node.example.org"]})
    async with Connection(node.url) as line:
        await line.send(f"GET /v1/status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await line.answer()).status == 200


async def test_a_request_of_before_hosts_is_answered(node: HttpNode) -> None:
    async with Connection(node.url) as line:
        await line.send(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert (await line.answer()).status == 200


def test_a_host_is_taken_apart_with_care() -> None:
    names = {"a", "node.example"}
    strange = "x@a a/ a? a:b [a evil.example a.evil.example 127.0.0.1.evil.example 127.0.0.1@evil"
    for header in ("", "node.example.evil", *strange.split()):
        assert not hosts.is_ours(header, names), header
    assert hosts.is_ours("node.example.", names)


async def test_the_lists_of_the_gate_are_empty_when_all_have_gone(
    start_node: StartNode,
) -> None:
    node = await start_node(**CHAIN, peers=CHAIN_PEERS)
    gate_ = node._server._http
    assert gate_ is not None
    for _ in range(20):
        async with Connection(node.url) as line:
            await line.get("/livez")
        async with Connection(node.url) as line:
            await line.send(b"GET")
    await until(lambda: not gate_.total)
    assert not gate_.by_address
    assert not gate_._silent
    assert not gate_._begun


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2a00:1:2:3:4:5:6:7", "2a00:1:2:3::/64"),
        ("2a00:1:2:3::", "2a00:1:2:3::/64"),
        ("2a00:1:2:4::", "2a00:1:2:4::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_whoever_has_one_address_of_ipv6_has_its_64_bits_whole(host: str, counted: str) -> None:
    assert gate.counted_as(host) == counted


async def test_the_limit_of_an_address_holds_for_all_of_a_64() -> None:
    gate_ = gate.Gate(None, NetworkOptions(connections_per_address_max=2), Counters())
    knocks = [gate_.arrive(f"2a00:1:2:3::{number}") for number in range(1, 4)]
    assert [knock is not None for knock in knocks] == [True, True, False]
    assert gate_.arrive("2a00:1:2:4::1") is not None
    assert knocks[0] is not None
    knocks[0].abandon()
    assert gate_.arrive("2a00:1:2:3::9") is not None


def test_no_default_contradicts_another() -> None:
    options = NetworkOptions()
    assert options.header_timeout_s + 2 * gate.SWEEP_S <= 15
    assert options.idle_timeout_s <= 15
    assert options.idle_timeout_s > client.KEEPALIVE_S
    assert options.connections_max + LANES_MAX < gate.DESCRIPTORS
    assert options.connections_per_address_max < options.connections_max


async def test_a_flood_of_connections_leaves_no_descriptor_behind(node: HttpNode) -> None:
    parts = urlsplit(node.url)
    for _ in range(200):
        with socket.create_connection((parts.hostname, parts.port)):
            pass
    assert (await get(node.url, "/livez")).status == 200
    gate_ = node._server._http
    assert gate_ is not None
    await until(lambda: gate_.total <= 1)
