"""Frames beyond 4 GiB, where a length no longer fits 32 bits.

The memory is mapped but never touched: neither the modelled transport nor the reader looks inside.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

import msgpack
import numpy as np
import pytest

from gossipnode.network.pump import WRITE_BYTES, Pump
from gossipnode.network.records import (
    READ_BYTES,
    Record,
    RecordReader,
    Type,
    frame_record,
    have_of,
)
from gossipnode.network.stall import StallWatch
from gossipnode.wire import Message
from gossipnode.wire.frame import MAGIC, VERSION

VALUES = 2**30 + 3
BODY_BYTES = 4 * VALUES  # 12 more than 4 GiB


def head_of() -> bytes:
    header = {
        "swarm": "swarm",
        "schema": "0" * 16,
        "algorithm": "gossip",
        "sender": "b",
        "epoch": 1,
        "seq": 1,
        "parts": [{"role": "x", "dtype": "float32", "size": VALUES, "nbytes": BODY_BYTES}],
        "checksum": ["xxh3", 0],
    }
    packed = msgpack.packb(header)
    return MAGIC + bytes([VERSION, 1]) + len(packed).to_bytes(4, "little") + packed


@pytest.fixture
def body() -> memoryview:
    return np.empty(BODY_BYTES, np.uint8).data


@dataclass
class Model:
    """A transport that is full after every 64 MiB, and keeps the places of what it was given."""

    pump: Pump | None = None
    written: list[tuple[int, int]] = field(default_factory=list)
    room: int = 2**26

    def write(self, data: bytes | memoryview) -> None:
        self.written.append((np.frombuffer(data, np.uint8).ctypes.data, len(data)))
        self.room -= len(data)
        if self.room < 0:
            assert self.pump is not None
            self.pump.pause()

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None


@pytest.mark.parametrize("offset", [0, 2**32 + 5], ids=["whole", "rest"])
async def test_a_frame_beyond_4_gib_leaves_in_order_and_whole(
    body: memoryview, offset: int
) -> None:
    transport = Model()
    unread = StallWatch(math.inf, lambda: 0, pytest.fail, 0.0)
    pump = transport.pump = Pump(transport, unread)  # type: ignore[arg-type]
    head = frame_record(1, len(head_of()) + BODY_BYTES, offset) + head_of()
    pump.frame(1, head, [body], offset)
    while not pump.is_empty:
        assert pump.progress.total == BODY_BYTES
        assert pump.progress.done <= BODY_BYTES
        transport.room = 2**26
        pump.resume()
        await asyncio.sleep(0)
    (_, first), *pieces = transport.written
    assert first == len(head)
    expected = np.frombuffer(body, np.uint8).ctypes.data + offset
    for address, size in pieces:
        assert address == expected
        assert size <= WRITE_BYTES
        expected += size
    assert sum(size for _, size in pieces) == BODY_BYTES - offset


@dataclass
class Owner:
    """Gives ``body`` to the frame that comes, and notes what arrived."""

    body: memoryview
    announced: int = 0
    arrived: list[tuple[Message, int]] = field(default_factory=list)

    def frame_announced(self, record: Record) -> None:
        self.announced = record.length

    def frame_head(self, record: Record, message: Message) -> memoryview:
        assert message.body_bytes == len(self.body)
        return self.body

    def frame_refused(self, record: Record, error: Exception) -> None:
        raise AssertionError(error)

    def frame_arrived(self, record: Record, message: Message, body: memoryview) -> None:
        self.arrived.append((message, len(body)))

    def small_arrived(self, record: Record, payload: bytes) -> None:
        self.arrived.append((payload, record.number))  # type: ignore[arg-type]


@pytest.mark.parametrize("offset", [0, 2**32 + 5], ids=["whole", "rest"])
def test_a_frame_beyond_4_gib_is_read_to_its_last_byte(body: memoryview, offset: int) -> None:
    owner = Owner(body)
    reader = RecordReader(owner)
    head = head_of()
    began = frame_record(1, len(head) + BODY_BYTES, offset) + head
    reader.get_buffer()[: len(began)] = began
    reader.buffer_updated(len(began))
    assert owner.announced == len(head) + BODY_BYTES - offset + (8 if offset else 0)
    base, left = np.frombuffer(body, np.uint8).ctypes.data, BODY_BYTES - offset
    while left:
        assert reader.body_filled == (BODY_BYTES - left, BODY_BYTES)
        buffer = reader.get_buffer()
        assert np.frombuffer(buffer, np.uint8).ctypes.data == base + BODY_BYTES - left
        assert len(buffer) == min(left, READ_BYTES)
        reader.buffer_updated(len(buffer))
        left -= len(buffer)
    ((message, size),) = owner.arrived
    assert (size, message.parts[0].size) == (BODY_BYTES, VALUES)
    assert reader.is_between
    ping = bytes([Type.PING]) + bytes(3) + (7).to_bytes(4, "little") + bytes(8)
    reader.get_buffer()[: len(ping)] = ping
    reader.buffer_updated(len(ping))
    assert owner.arrived[1] == (b"", 7)


def test_offsets_have_64_bits() -> None:
    assert int.from_bytes(have_of(2**63 - 1), "little") == 2**63 - 1
