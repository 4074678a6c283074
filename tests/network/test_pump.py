"""In what pieces a frame leaves."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from loopback import until

from gossipnode.network.pump import SECURE_WRITE_BYTES, WRITE_BYTES, Pump
from gossipnode.network.stall import StallWatch

HEAD = b"a head"


class Transport(asyncio.WriteTransport):
    """Takes what is written, at once."""

    def __init__(self, **extra: object) -> None:
        super().__init__(extra)
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("extra", "most"),
    [({}, WRITE_BYTES), ({"ssl_object": object()}, SECURE_WRITE_BYTES)],
    ids=["plain", "tls"],
)
@pytest.mark.parametrize("offset", [0, 7, SECURE_WRITE_BYTES + 1])
async def test_what_is_enciphered_as_a_whole_leaves_in_small_pieces(
    extra: dict[str, object], most: int, offset: int
) -> None:
    transport = Transport(**extra)
    pump = Pump(transport, StallWatch(math.inf, lambda: 0, pytest.fail, 0.0))
    body = np.random.default_rng(3).bytes(WRITE_BYTES + 12_345)
    # In two parts, of which one ends within a piece.
    pump.frame(1, HEAD, [memoryview(body)[:1_000_001], memoryview(body)[1_000_001:]], offset)
    await until(lambda: pump.is_empty)  # it gives the loop its turn
    head, *pieces = transport.written
    assert head == HEAD
    assert b"".join(pieces) == body[offset:]
    assert max(map(len, pieces)) <= most
    # As few as may be: of each part only the last is shorter.
    assert len(pieces) <= (len(body) - offset) // most + 2
