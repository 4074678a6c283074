"""A node's config, frames as a peer would make them, and HTTP over a bare socket.

So a test says byte by byte what a peer sends; the client of the package is not used for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgpack
import numpy as np

from gossipnode.config import Config, PeerEntry
from gossipnode.network import HttpNode
from gossipnode.wire import Kind, Message, Part, encode

PATIENCE_S = 20.0


StartNode = Callable[..., Awaitable[HttpNode]]

GOSSIP = {
    "algorithm": {"name": "gossip", "period_s": 86_400.0},
    "topology": {"graph": "random"},
}
# A chain a-b-c: b is a neighbour of a, c is not, and nobody listens for either.
CHAIN = {"algorithm": {"name": "dpsgd"}, "topology": {"graph": "chain"}}
CHAIN_PEERS = tuple(
    PeerEntry(id=name, address=f"http://127.0.0.1:{port}")
    for port, name in enumerate(("a", "b", "c"), 1)
)


def config_of(folder: Path, **sections: dict[str, Any]) -> Config:
    """Node ``a``, gossip, on a free port; ``sections`` add to that or change it."""
    tree: dict[str, dict[str, Any]] = {
        "node": {"id": "a", "data_dir": str(folder)},
        "network": {"bind": "127.0.0.1", "port": 0},
        **GOSSIP,
    }
    for name, section in sections.items():
        fresh = name == "algorithm"
        tree[name] = section if fresh else {**tree.get(name, {}), **section}
    return Config.model_validate(tree)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def msgpack(self) -> Any:
        return msgpack.unpackb(self.body)


class Connection:
    """One connection; ``async with Connection(url) as connection``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            size = int(headers.get("content-length", "0"))
            return Answer(int(first.split()[1]), headers, await self.reader.readexactly(size))

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        await self.send(head(method, path, **headers))
        return await self.answer()

    async def push(self, frame: bytes, **headers: str) -> Answer:
        headers.setdefault("content_length", str(len(frame)))
        await self.send(head("POST", "/v1/push", **headers), frame)
        return await self.answer()

    async def is_closed(self) -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read(1) == b""


def head(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def get(url: str, path: str, method: str = "GET", **headers: str) -> Answer:
    async with Connection(url) as connection:
        return await connection.get(path, method, **headers)


async def push(url: str, frame: bytes, **headers: str) -> Answer:
    async with Connection(url) as connection:
        return await connection.push(frame, **headers)


def message_for(node: Any, vector: np.ndarray, **changes: Any) -> Message:
    """A message that ``node`` would merge, but for ``changes``."""
    facts: dict[str, Any] = {
        "kind": Kind.MODEL,
        "swarm": node.config.swarm.name,
        "schema": node.layout.schema,
        "algorithm": node.algorithm.name,
        "sender": "b",
        "epoch": 1,
        "seq": 0,
        "age": 7,
        "graph": node.place.graph,
        "parts": (Part.of("x", vector),),
    }
    return Message(**{**facts, **changes})


def vector_for(node: Any, value: float = 1.0) -> np.ndarray:
    return np.full(node.layout.size, value, node.params.dtype)


def frame_for(node: Any, vector: np.ndarray | None = None, **changes: Any) -> bytes:
    vector = vector_for(node) if vector is None else vector
    return encode(message_for(node, vector, **changes), [vector]).tobytes()


async def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds; fail where it does not come to hold."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.001)


class AtWork(contextlib.AsyncExitStack):
    """Enters nodes and lets them run, until it ends: then they are cancelled, and left."""

    async def begin(self, node: HttpNode) -> HttpNode:
        await self.enter_async_context(node)
        self.push_async_callback(_end, asyncio.create_task(node.run()))
        return node


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
