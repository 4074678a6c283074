"""Pages of a large body are looked for ahead of the reading, which waits for them."""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from laning import Peer, frame_to, framed, lanes_of, push_from
from loopback import StartNode, frame_for, until
from test_turns import Transport

from gossipnode.network import ahead as module
from gossipnode.network.ahead import AHEAD_BYTES_MIN, PIECE_BYTES, Ahead, populate
from gossipnode.network.threads import Hand
from gossipnode.network.turns import Breather

TOTAL = 3 * PIECE_BYTES + 5


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand("pages")
    yield made
    made.close()


class Kernel:
    """Finds pages when it is let; notes what it was asked for."""

    def __init__(self, *, can: bool = True) -> None:
        self.can, self.asked = can, []
        self._let = threading.Semaphore(0)

    def let(self, pieces: int = 1) -> None:
        self._let.release(pieces)

    def __call__(self, _: memoryview, start: int, stop: int) -> bool:
        self._let.acquire()
        self.asked.append((start, stop))
        return self.can


def body_of(nbytes: int = TOTAL) -> memoryview:
    return np.empty(nbytes, np.uint8).data


async def test_reading_stops_at_what_is_not_found_and_goes_on_when_it_is(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, transport = Kernel(), Transport()
    monkeypatch.setattr(module, "populate", kernel)
    ahead = Ahead(Breather(transport, asyncio.get_running_loop()), hand)
    ahead.begin(body_of(), 7)
    ahead.follow(7, TOTAL)
    assert transport.told == ["pause"]
    kernel.let()
    await until(lambda: transport.told == ["pause", "resume"])
    ahead.follow(PIECE_BYTES + 6, TOTAL)
    assert transport.told == ["pause", "resume"]
    ahead.follow(PIECE_BYTES + 7, TOTAL)
    assert transport.told == ["pause", "resume", "pause"]
    kernel.let(3)
    await until(lambda: len(kernel.asked) == 3)
    await until(transport.is_reading)
    ahead.follow(0, 0)
    begins, ends = zip(*kernel.asked, strict=True)
    assert (begins[0], ends[-1]) == (7, TOTAL)
    assert begins[1:] == ends[:-1]


async def test_where_the_kernel_cannot_be_asked_nothing_waits_again(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, transport = Kernel(can=False), Transport()
    monkeypatch.setattr(module, "populate", kernel)
    ahead = Ahead(Breather(transport, asyncio.get_running_loop()), hand)
    ahead.begin(body_of(), 0)
    kernel.let(4)
    ahead.follow(0, TOTAL)
    await until(transport.is_reading)
    for filled in (PIECE_BYTES, TOTAL - 1):
        ahead.follow(filled, TOTAL)
    assert transport.is_reading()
    assert len(kernel.asked) == 1


async def test_a_body_that_breaks_off_frees_the_reading_and_is_asked_for_no_more(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, transport = Kernel(), Transport()
    monkeypatch.setattr(module, "populate", kernel)
    ahead = Ahead(Breather(transport, asyncio.get_running_loop()), hand)
    ahead.begin(body_of(), 0)
    ahead.follow(0, TOTAL)
    ahead.follow(0, 0)
    assert transport.told == ["pause", "resume"]
    kernel.let(4)
    await until(lambda: kernel.asked)
    await hand.do(lambda: None)
    assert kernel.asked == [(0, PIECE_BYTES)]


async def test_small_bodies_are_left_alone(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, transport = Kernel(), Transport()
    monkeypatch.setattr(module, "populate", kernel)
    ahead = Ahead(Breather(transport, asyncio.get_running_loop()), hand)
    ahead.begin(body_of(AHEAD_BYTES_MIN - 1), 0)
    ahead.follow(0, AHEAD_BYTES_MIN - 1)
    assert transport.told == []
    assert hand._thread is None


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_is_populated_is_resident_and_no_byte_of_it_has_changed() -> None:
    nbytes = 2**26
    body = memoryview(mmap.mmap(-1, nbytes))  # what is allocated may have been resident before
    body[:4] = b"abcd"
    body[nbytes // 2 - 2 : nbytes // 2 + 2] = b"efgh"
    before = resident_bytes()
    if not populate(body, 0, nbytes // 2) or not populate(body, nbytes // 2, nbytes):
        pytest.skip("a kernel before 5.14")
    assert resident_bytes() - before > 0.9 * nbytes
    assert bytes(body[:4]) + bytes(body[nbytes // 2 - 2 : nbytes // 2 + 2]) == b"abcdefgh"


async def test_a_large_push_arrives_whole_whatever_the_kernel_does(
    start_node: StartNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    larger = {"task": {"kind": "mlp", "hidden": [131072]}}  # 39 MB
    asked = []

    def slowly(body: memoryview, start: int, stop: int) -> bool:
        asked.append((start, stop))
        return populate(body, start, stop)

    monkeypatch.setattr(module, "populate", slowly)
    node, b = await start_node(**larger), await start_b(**larger)
    vector = np.linspace(0, 1, node.layout.size, dtype=np.float32)
    receipt = await push_from(b, node, frame_to(node, vector))
    assert receipt.reply.status == "merged"
    assert len(asked) >= 1
    assert node.counters.get("pushes_received") == 1


async def test_a_lane_that_breaks_while_it_waits_for_pages_lets_go_of_the_body(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()
    monkeypatch.setattr(module, "populate", kernel)
    node = await start_node(task={"kind": "mlp", "hidden": [131072]})
    async with Peer(node.url) as peer:
        frame = framed(frame_for(node), 1)
        await peer.send(frame[:200_000])  # no more than sockets hold: it is not read
        (lane,) = lanes_of(node)._lanes
        await until(lambda: lane._ahead.body is not None and not lane.transport.is_reading())
    lane.abort("a test")
    await until(lambda: not lanes_of(node)._lanes)
    assert lane._ahead.body is None
    assert node.inbox.inflight_bytes == 0
    kernel.let(4)
