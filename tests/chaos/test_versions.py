"""Nodes of two versions in one swarm: old frames are read, newer ones refused, and all go on.

Frames are put together here byte by byte, as the page of version 1 has them, and with what its
first nodes sent. Nothing of the package's own encoder is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from network.laning import Peer, framed
from network.loopback import config_of, push, until

from gossipnode.config import PeerEntry
from gossipnode.network import HttpNode

# Every key that a frame of gossip had at first; what has been added since is optional.
OLD_KEYS = {
    "swarm", "schema", "algorithm", "sender", "epoch", "seq", "age", "parts", "checksum",
}  # fmt: skip
# What an old node says to a question that came later, such as who is there.
NEW_KIND = "unsupported_message"


def frame(node: HttpNode, seq: int, *, version: int = 1, kind: int = 1, **more: Any) -> bytes:
    """Return a frame of version 1 with the old keys, but for what is told."""
    body = np.full(node.layout.size, 0.5, "<f4").tobytes()
    header = {
        "swarm": "swarm", "schema": node.layout.schema, "algorithm": "gossip", "sender": "b",
        "epoch": 1, "seq": seq, "age": 3,
        "parts": [
            {"role": "x", "dtype": "float32", "size": node.layout.size, "nbytes": len(body)}
        ],
        "checksum": ["crc32", zlib.crc32(body)],
    }  # fmt: skip
    assert set(header) == OLD_KEYS
    packed = msgpack.packb({**header, **more})
    return struct.pack("<2sBBI", b"GN", version, kind, len(packed)) + packed + body


@contextlib.asynccontextmanager
async def running(folder: Path, *peers: PeerEntry, **sections: Any) -> AsyncIterator[HttpNode]:
    """A node that pushes and takes, and at the end has met no error."""
    quick = {"name": "gossip", "period_s": 0.02}
    config = config_of(folder, algorithm=quick, **sections)
    async with HttpNode(config, peers=peers) as node:
        task = asyncio.create_task(node.run())
        try:
            await until(lambda: node.state == "running")
            yield node
            rounds = node.counters.get("rounds")
            await until(lambda: node.counters.get("rounds") > rounds + 2)
        finally:
            node.request_stop()
            await task


async def test_an_old_nodes_frames_are_merged_and_a_newer_ones_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as node:
        assert (await push(node.url, frame(node, 0))).msgpack()["status"] == "merged"
        answer = await push(node.url, frame(node, 1, version=2))
        assert (answer.status, answer.msgpack()["code"]) == (400, "unsupported_version")
        answer = await push(node.url, frame(node, 2, kind=99))
        assert (answer.status, answer.msgpack()["code"]) == (422, "unsupported_message")
        # A later minor version: a key that nobody here has heard of, of any type.
        more = {"zeal": 3, "later": {"a": [1, 2, None]}, "flag": True}
        assert (await push(node.url, frame(node, 3, **more))).msgpack()["status"] == "merged"
        refused = node.counters.by_label("pushes_refused")
        assert refused == {"unsupported_version": 1, "unsupported_message": 1}


async def test_a_lane_outlives_a_frame_of_a_newer_version(tmp_path: Path) -> None:
    """The refusal is an answer; what comes behind it on the same lane is merged."""
    async with running(tmp_path) as node, Peer(node.url) as peer:
        assert peer.opened == 101
        for number, (version, said) in enumerate(
            [(1, "merged"), (2, "refused"), (1, "merged"), (255, "refused"), (1, "merged")]
        ):
            await peer.send(framed(frame(node, number, version=version), number))
            reply = await answered(peer, number)
            assert reply["status"] == said
            assert reply.get("code") == ("unsupported_version" if said == "refused" else None)


async def answered(peer: Peer, number: int) -> Any:
    """Return the reply to a frame; what the node pushes of its own meanwhile is passed over."""
    while True:
        kind, got, payload = await peer.record()
        if kind == 2:
            assert got == number
            return msgpack.unpackb(payload)


class OldNode:
    """Listens as a node of an older version would: no lanes, and it refuses what is newer."""

    def __init__(self, version: int, kinds: frozenset[int]) -> None:
        self.version, self.kinds = version, kinds
        self.asked: list[str] = []
        self.got: list[tuple[int, int]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                self.asked.append(f"{method} {path}")
                fields = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
                body = await reader.readexactly(int(fields.get("Content-Length", 0)))
                status, reply = (404, b"") if path != "/v1/push" else self.judge(body)
                kind = "application/msgpack" if reply else "text/plain"
                writer.write(
                    f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\n"
                    f"Content-Length: {len(reply)}\r\n\r\n".encode()
                    + reply
                )
                await writer.drain()
        writer.close()

    def judge(self, body: bytes) -> tuple[int, bytes]:
        magic, version, kind = struct.unpack_from("<2sBB", body)
        assert magic == b"GN"
        self.got.append((version, kind))
        if version != self.version:
            return 400, self.reply(status="refused", code="unsupported_version", reason="too new")
        if kind not in self.kinds:
            return 422, self.reply(status="refused", code="unsupported_message", reason="unknown")
        return 200, self.reply(status="merged")

    def reply(self, **facts: Any) -> bytes:
        packed: bytes = msgpack.packb({"sender": "old", **facts})
        return packed


@pytest.mark.parametrize(
    ("old", "code"),
    [
        (OldNode(0, frozenset({1})), "unsupported_version"),
        (OldNode(1, frozenset({9})), "unsupported_message"),
        (OldNode(1, frozenset({1})), ""),
    ],
    ids=["another version", "another kind", "the same"],
)
async def test_a_node_goes_on_beside_an_old_one(tmp_path: Path, old: OldNode, code: str) -> None:
    """It is told why once, asks again now and then, and serves everybody else meanwhile."""
    server = await asyncio.start_server(old, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    entry = PeerEntry(id="old", address=f"http://127.0.0.1:{port}")
    async with running(tmp_path, entry) as node:
        # A model now and then, whatever else it is asked that it has never heard of.
        await until(lambda: old.got.count((1, 1)) >= 5)
        assert "GET /v1/lane" in old.asked  # it has none: pushes are POSTs
        assert {version for version, _ in old.got} == {1}
        status = node.status()
        row = next(row for row in status.peers if row.id == "old")
        assert row.refusal.startswith(code)
        assert status.pushes.refused_by_peers.keys() <= {"unsupported_version", code or NEW_KIND}
        if code:
            assert status.pushes.refused_by_peers[code] >= 1
        else:
            assert status.pushes.acknowledged >= 4
        # And the old one may push to it, whatever it thinks of what it gets.
        answer = await push(node.url, frame(node, 5, sender="old"))
        assert answer.msgpack()["status"] == "merged"
    server.close()
