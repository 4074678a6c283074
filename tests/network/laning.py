"""A peer that speaks the lane byte by byte, and what tests of lanes ask for again and again."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Self

import msgpack
import numpy as np
import pytest
from network.loopback import PATIENCE_S, Connection, head, message_for, vector_for

from gossipnode.network import HttpNode, lanes
from gossipnode.network.records import Type, record_head
from gossipnode.wire import Frame, encode

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


def break_lanes_under_answers(node: HttpNode, patch: pytest.MonkeyPatch) -> None:
    """Break all lanes of ``node`` when a push was delivered and before it is answered."""
    deliver = node.deliver

    async def breaking(admission: Any, body: memoryview) -> Any:
        delivery = await deliver(admission, body)
        for lane in list(lanes_of(node)._lanes):
            lane.abort("a test")
        return delivery

    patch.setattr(node, "deliver", breaking)


def frame_to(node: HttpNode, vector: np.ndarray | None = None, **changes: Any) -> Frame:
    vector = vector_for(node) if vector is None else vector
    return encode(message_for(node, vector, **changes), [vector])


async def push_from(sender: HttpNode, node: HttpNode, frame: Frame) -> Any:
    return await sender.world.push(node.url, frame, PATIENCE_S)
