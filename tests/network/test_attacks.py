"""One test an attack, by its name; what else is refused, code by code, is in test_push.py.

Elsewhere: every route against whoever has no certificate, a foreign, expired or revoked one, or one
of another swarm in test_trust_routes.py; silent and dripping connections, headers that are too
long, floods of connections and compressed bodies in test_gate.py; the same inside a TLS handshake
in test_door.py; answers that nobody reads in test_unread.py; what is told of others, and codecs, in
test_attacks_hearsay.py; bodies of which the last byte never comes, and addresses that cannot be
dialled, in tests/daemon/test_abuse.py; damaged bytes in tests/wire and tests/fuzz.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import re
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import numpy as np
import pytest
from loopback import (
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

from gossipnode.config import ID_PATTERN, PeerEntry
from gossipnode.errors import NetworkError, PeerError
from gossipnode.logs import JsonFormatter, TextFormatter
from gossipnode.network import HttpNode
from gossipnode.network.client import HttpClient
from gossipnode.node.addresses import Reach, is_address, may_dial
from gossipnode.wire import Part, encode
from gossipnode.wire.frame import HEADER_BYTES_MAX, VERSION, decode
from gossipnode.wire.reply import REPLY_BYTES_MAX, Reply


def raw_frame(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return b"GN" + bytes([VERSION, 1]) + size.to_bytes(4, "little") + header + body


@contextlib.contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


async def test_replay_after_a_restart(tmp_path: Path) -> None:
    """What the node before the restart has merged, the one after it acknowledges, and no more."""
    config = config_of(tmp_path)
    async with HttpNode(config) as node:
        frame = frame_for(node, vector_for(node, 3.0))
        assert (await push(node.url, frame)).msgpack()["status"] == "merged"
        older = frame_for(node, vector_for(node, 8.0), epoch=0)
    async with HttpNode(config) as node:
        before = node.params.tobytes()
        assert before == vector_for(node, 3.0).tobytes()
        for _ in range(2):
            assert (await push(node.url, frame)).msgpack()["status"] == "duplicate"
        assert (await push(node.url, older)).msgpack()["code"] == "stale_epoch"
        assert node.params.tobytes() == before


async def test_oversize(node: HttpNode) -> None:
    """More than the layout allows is refused by its length alone, before a byte is read."""
    async with Connection(node.url) as line:
        await line.send(head("POST", "/v1/push", content_length=str(2**40)))
        assert (await line.answer()).msgpack()["code"] == "too_large"


async def test_a_lying_length(node: HttpNode) -> None:
    """A part that is shorter or longer than it says, and a header that is longer than all."""
    vector = vector_for(node)
    for nbytes in (0, 1, vector.nbytes - 4, vector.nbytes + 4, 2**62):
        part = {"role": "x", "dtype": vector.dtype.name, "size": vector.size, "nbytes": nbytes}
        header = header_map(node) | {"parts": [part], "checksum": ["xxh3", 0]}
        answer = await push(node.url, raw_frame(msgpack.packb(header), vector.tobytes()))
        assert answer.status in (400, 413), nbytes
    for length in (0, HEADER_BYTES_MAX + 1, 2**32 - 1):
        answer = await push(node.url, raw_frame(b"\x80", length=length))
        assert answer.msgpack()["code"] == "malformed_frame"
    assert node.inbox.inflight_bytes == 0


def header_map(node: HttpNode) -> dict[str, Any]:
    message = message_for(node, vector_for(node))
    keys = ("swarm", "schema", "algorithm", "sender", "epoch", "seq", "age")
    return {key: getattr(message, key) for key in keys}


async def test_a_shape_bomb(node: HttpNode) -> None:
    """Sizes whose bytes overflow 64 bits when multiplied are counted in Python's integers."""
    for size in (2**61, 2**62, 2**63 - 1):
        for dtype in ("float32", "float64", "bfloat16"):
            part = {"role": "x", "dtype": dtype, "size": size, "nbytes": (size * 4) % 2**63}
            header = header_map(node) | {"parts": [part] * 8, "checksum": ["xxh3", 0]}
            with memory_below(2**20):
                answer = await push(node.url, raw_frame(msgpack.packb(header)))
            assert answer.status in (400, 413)


@pytest.mark.parametrize("entry", [b"\x80", b"\x90", b"\xc0", b"\xa0"])
async def test_a_msgpack_bomb(node: HttpNode, entry: bytes) -> None:
    """4 MiB of empty maps would become 294 MiB of them."""
    count = 4 * 2**20
    bomb = b"\xdd" + count.to_bytes(4, "big") + entry * count
    with memory_below(12 * 2**20):  # the bomb itself is there, and a copy of it on its way
        assert (await push(node.url, raw_frame(bomb))).status in (400, 413)
        with pytest.raises(PeerError):
            Reply.decode(bomb)
    # As large as a header may be, and nested as deep as it goes.
    for inner in (b"\xdd" + (2**16).to_bytes(4, "big") + entry * (2**16 - 64), b"\x91" * 60_000):
        packed = b"\x81\xa3swa" + inner
        with memory_below(4 * 2**20):
            answer = await push(node.url, raw_frame(packed[:HEADER_BYTES_MAX]))
        assert answer.msgpack()["code"] == "malformed_frame"
    with pytest.raises(PeerError):
        Reply.decode((b"\x81\xa1a\xdc\x0f\x00" + entry * 3840)[:REPLY_BYTES_MAX])


async def test_a_gzip_bomb(node: HttpNode) -> None:
    bomb = gzip.compress(bytes(2**26))
    with memory_below(4 * 2**20):
        answer = await push(node.url, bomb, content_encoding="gzip")
        assert answer.msgpack()["code"] == "unsupported_encoding"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_models_that_are_not_finite(node: HttpNode, value: float) -> None:
    before = node.params.tobytes()
    vector = vector_for(node)
    vector[3] = value
    assert (await push(node.url, frame_for(node, vector))).msgpack()["code"] == "not_finite"
    scalars = {"loss": float(value)}
    part = Part.of("x", vector_for(node))
    message = message_for(node, vector_for(node), parts=(part,), scalars=scalars)
    answer = await push(node.url, encode(message, [vector_for(node)]).tobytes())
    assert answer.msgpack()["code"] == "not_finite"
    assert node.params.tobytes() == before


async def test_a_huge_norm(start_node: StartNode) -> None:
    """Finite, but so large that mixing overflows: whatever comes of it, the params stay finite."""
    node = await start_node(network={"magnitude_ratio_max": 0})
    largest = np.finfo(np.float32).max
    for seq, value in enumerate((largest, -largest, largest)):
        await push(node.url, frame_for(node, vector_for(node, value), seq=seq, age=0))
        assert np.all(np.isfinite(node.params))


# -- requests that this node would send ------------------------------------------------------------

NEVER = (
    "169.254.169.254", "169.254.0.1", "fe80::1", "fd00:ec2::254", "100.100.100.200", "0.0.0.0",
    "::", "224.0.0.1", "239.1.1.1", "ff02::1", "255.255.255.255", "0.1.2.3",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
)  # fmt: skip
LOOPBACK = ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1")


def origin(number: str) -> str:
    return f"http://[{number}]:80" if ":" in number else f"http://{number}:80"


def test_addresses_that_no_peer_has_are_not_taken() -> None:
    outside, inside = "http://10.0.0.1:7946", "http://127.0.0.1:7946"
    for number in NEVER:
        for own in (outside, inside, ""):
            assert not is_address(origin(number), own), number
            assert not may_dial(number, own), number
    for number in LOOPBACK:
        assert is_address(origin(number), inside), number
        assert not is_address(origin(number), outside), number
    for number in ("10.0.0.7", "192.168.1.2", "8.8.8.8", "2a00::1", "fd12::1"):
        assert is_address(origin(number), outside), number
    for text in (
        "http://h", "http://h:0", "http://h:99999", "ftp://h:1", "file:///etc/passwd", "h:1",
        "http://u@h:1", "http://u:p@h:1", "http://h:1/x", "http://h:1?x", "http://h:1?", "http://@h:1",
        "http://h:1#x", "http://h\r\nX:1", "http://h h:1", "http://" + "a" * 300 + ":1", "", "http://",
    ):  # fmt: skip
        assert not is_address(text, outside), text


async def test_ssrf_through_an_advertised_address(tmp_path: Path) -> None:
    """A canary on this machine is never asked by a node that is not on loopback."""
    async with HttpNode(config_of(tmp_path)) as node:
        node.address = "http://10.0.0.1:7946"  # as peers see it
        for seq, number in enumerate((*NEVER, *LOOPBACK)):
            sender = f"peer{seq}"
            await push(node.url, frame_for(node, sender=sender, address=origin(number)))
            assert sender not in node.peers, number


@pytest.mark.parametrize("lanes", [True, False])
async def test_ssrf_through_a_name(start_node: StartNode, lanes: bool) -> None:
    """What a stranger's name stands for is looked at when it is dialled, not before."""
    asked: list[bytes] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(canary, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    node = await start_node(network={"lanes": lanes})
    name = f"http://localhost:{port}"
    frame = encode(message_for(node, vector_for(node)), [vector_for(node)])
    async with server:
        world = node._daemon
        world.reach.own = "http://10.0.0.1:7946"
        with pytest.raises(NetworkError, match=r"no peer has|permission denied|does not resolve"):
            await world.push(name, frame, 5.0)
        assert not asked
        # The same name in peers.toml is no stranger's.
        listed = Reach([PeerEntry(id="z", address=name)], "http://10.0.0.1:7946")
        world.reach = world.client.reach = listed
        if node.lanes is not None:
            node.lanes.reach = listed
        with pytest.raises((NetworkError, PeerError)):
            await world.push(name, frame, 5.0)
        assert asked


async def test_ssrf_through_a_redirect() -> None:
    """Whoever answers with another address is no node."""
    asked: list[bytes] = []

    async def canary(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    inner = await asyncio.start_server(canary, "127.0.0.1", 0)
    target = inner.sockets[0].getsockname()[1]

    async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        place = f"http://127.0.0.1:{target}/latest/meta-data"
        writer.write(f"HTTP/1.1 307 T\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    outer = await asyncio.start_server(redirect, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{outer.sockets[0].getsockname()[1]}"
    vector = np.ones(4, np.float32)
    async with inner, outer, HttpClient() as client:
        from gossipnode.wire import Kind, Message

        message = Message(Kind.MODEL, "s", "0" * 16, "g", "b", 1, 0, parts=(Part.of("x", vector),))
        with pytest.raises((NetworkError, PeerError)):
            await client.push(url, encode(message, [vector]), 5.0)
        with pytest.raises(NetworkError):
            await client.get_json(url + "/v1/status")
    assert not asked


# -- names -----------------------------------------------------------------------------------------

TRAVERSALS = ("../../etc/passwd", "..", "a/b", "a\\b", "/etc", "a\0b", ".hidden", "")


@pytest.mark.parametrize("name", TRAVERSALS)
async def test_traversal_in_names(start_node: StartNode, tmp_path: Path, name: str) -> None:
    """Own names are refused where they are declared; a peer's never becomes part of a path."""
    assert not re.fullmatch(ID_PATTERN, name)
    node = await start_node()
    before = set(files_below(tmp_path))
    answer = await push(node.url, frame_for(node, sender=name, address="http://127.0.0.1:9"))
    assert answer.status in (200, 400)
    await node.memory.keep()
    new = set(files_below(tmp_path)) - before
    assert {path.suffix for path in new} <= {".safetensors"}
    for path in ("/../../etc/passwd", "/v1/../../x", "/%2e%2e/etc/passwd", "/v1/model/../../x"):
        assert (await get(node.url, path)).status == 404


def files_below(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


EVIL = "x\r\n2026-11-21T00:00:00.000Z ERROR forged=1\x1b[2J\u202e"


async def test_log_injection(node: HttpNode, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a stranger puts into names, paths and headers, an event stays one bounded line."""
    caplog.set_level(logging.DEBUG, logger="gossipnode")
    await push(node.url, frame_for(node, sender=EVIL))
    await push(node.url, frame_for(node, swarm=EVIL, seq=1))
    await push(node.url, frame_for(node, sender="a" * 128, address="http://" + "b" * 240 + ":1"))
    await get(node.url, "/%0d%0aERROR%20forged=1%1b[2J")
    async with Connection(node.url) as line:
        await line.send(b"GET / HTTP/1.1\r\nX\x00\xff: \x1b\r\n\r\n")
        await line.answer()
    assert caplog.records
    for record in caplog.records:
        for line_ in (TextFormatter().format(record), JsonFormatter().format(record)):
            assert line_.isprintable(), line_
            assert len(line_) < 8192
        json.loads(JsonFormatter().format(record))
        short = TextFormatter(64).format(record)
        assert max(map(len, short.split())) < 200


async def test_labels_that_strangers_choose_are_no_series(start_node: StartNode) -> None:
    """A peer that answers each push with another code would fill whoever stores the metrics."""
    node = await start_node()
    await push(node.url, frame_for(node, address="http://127.0.0.1:9"))
    peer = node.peers.get("b")
    assert peer is not None
    for number in range(50):
        reply = Reply("refused", "b", 0, 0, f"code{number}" + 'x"\n' * 20, "why not")
        node.courier._replied(peer, reply, node.time())
    assert node.counters.by_label("pushes_refused_by_peer") == {"other": 50}


async def test_xss_through_a_peers_name(node: HttpNode) -> None:
    """Names reach the page as JSON; the page makes text of them, and runs its own script alone."""
    name = "<img src=x onerror=alert(1)>"
    await push(node.url, frame_for(node, sender=name, address="http://127.0.0.1:9"))
    answer = await get(node.url, "/v1/peers")
    assert answer.headers["content-type"].startswith("application/json")
    page = await get(node.url, "/")
    assert name.encode() not in page.body
    script = page.body.decode()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                 "new Function", "srcdoc", "createContextualFragment"):  # fmt: skip
        assert sink not in script
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    missing = await get(node.url, "/<script>alert(1)</script>")
    assert missing.headers["content-type"].startswith("application/json")


async def test_dns_rebinding(node: HttpNode) -> None:
    """A page whose name resolves to this node reads nothing, and is counted."""
    async with Connection(node.url) as line:
        for path in ("/", "/v1/status", "/v1/model", "/v1/peers", "/metrics", "/v1/events"):
            await line.send(f"GET {path} HTTP/1.1\r\nHost: evil.example:80\r\n\r\n".encode())
            answer = await line.answer()
            assert (answer.status, answer.json()["code"]) == (421, "wrong_host"), path
            assert "network.hosts" in answer.json()["reason"]
    assert node.counters.get("requests_refused", label=("reason", "host")) == 6
    # What a page could send without reading the answer says that it is a page.
    frame = frame_for(node)
    answer = await push(node.url, frame, Origin="http://evil.example")
    assert answer.msgpack()["code"] == "not_a_neighbour"
    # Nothing invites pages of other origins, whatever they ask.
    answer = await get(node.url, "/v1/status", Origin="http://evil.example")
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_request_smuggling(node: HttpNode) -> None:
    """Two lengths, or a length and chunks: nobody guesses which of them is meant."""
    for headers in (
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ):
        async with Connection(node.url) as line:
            await line.send(b"POST /v1/push HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\nabc")
            assert (await line.answer()).status == 400


async def test_a_decoded_frame_is_no_larger_than_its_bytes(node: HttpNode) -> None:
    frame = frame_for(node)
    with memory_below(2**20):
        message, arrays = decode(frame)
    assert sum(array.nbytes for array in arrays) == message.body_bytes
    await until(lambda: node.ready)


@pytest.mark.parametrize("path", ["/v1/lane", "/v1/events"])
async def test_who_asks_and_hangs_up_fills_no_log(
    node: HttpNode, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer to a connection that was reset is nobody's fault, and least of all ours."""
    lane = {"Upgrade": "gossipnode/1", "Gossipnode_Swarm": "swarm", "Gossipnode_Id": "x"}
    more = {"Connection": "Upgrade", **lane} if path == "/v1/lane" else {}
    reset = struct.pack("ii", 1, 0)
    with caplog.at_level(logging.DEBUG):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", urlsplit(node.url).port)) as c:
                c.sendall(head("GET", path, **more))
                c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            await get(node.url, "/livez")  # it has been seen
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage() for record in told] == []
    gone = [record for record in caplog.records if record.getMessage() == "http.gone"]
    assert gone, "none was reset in time: this shows nothing"
