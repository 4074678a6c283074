"""A peer that asks and does not read: each answer has its time, its rate, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from laning import EXCHANGE, LARGE, Peer, framed, lanes_of
from loopback import PATIENCE_S, Connection, StartNode, frame_for, get, head, until

from gossipnode.network import HttpNode, alive, gate, server, stall
from gossipnode.network.records import Type
from gossipnode.wire import Kind

HUGE = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB: more than sockets take


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "STALL_S", 0.2)


def unread(node: HttpNode) -> int:
    return node.counters.get("connections_cut", label=("limit", "unread"))


Ask = Callable[[HttpNode], Awaitable[None]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Asks for the model over a connection that is not read."""
    lines: list[Connection] = []

    async def ask_for_it(node: HttpNode) -> None:
        lines.append(await Connection(node.url).__aenter__())
        lines[-1].writer.transport.pause_reading()
        await lines[-1].send(head("GET", "/v1/model"))

    yield ask_for_it
    for line in lines:
        line.writer.transport.abort()


async def test_who_does_not_read_the_model_is_ended_and_others_get_it(
    start_node: StartNode, short: None, ask: Ask
) -> None:
    node = await start_node(**HUGE)
    for _ in range(server.MODELS_MAX):
        await ask(node)
    await until(lambda: node._server._models == server.MODELS_MAX)
    await until(lambda: unread(node) == server.MODELS_MAX)
    answer = await get(node.url, "/v1/model")
    assert answer.status == 200
    assert len(answer.body) > 4 * node.layout.size
    assert unread(node) == server.MODELS_MAX
    gate_ = node._server._http
    assert gate_ is not None
    await until(lambda: not gate_.total and not gate_._unread)


async def test_the_model_must_be_read_in_its_time(start_node: StartNode) -> None:
    """However it trickles."""
    node = await start_node(**HUGE, network={"answer_timeout_s": 0.3})
    async with Connection(node.url) as line:
        await line.send(head("GET", "/v1/model"))
        read = 0
        async with asyncio.timeout(PATIENCE_S):
            while not unread(node):
                piece = await line.reader.read(2**15)
                read += len(piece)
                await asyncio.sleep(0.01)
    assert 0 < read < 4 * node.layout.size


async def test_a_reader_that_is_slow_but_reads_gets_all(start_node: StartNode) -> None:
    """It is asked for a rate, not for being there all the time."""
    node = await start_node(**HUGE)
    async with Connection(node.url) as line:
        line.writer.transport.pause_reading()
        await line.send(head("GET", "/v1/model"))
        gate_ = node._server._http
        assert gate_ is not None
        await until(lambda: gate_._unread)
        line.writer.transport.resume_reading()
        assert len((await line.answer()).body) > 4 * node.layout.size
        assert not gate_._unread
    assert not unread(node)


async def test_so_many_may_keep_an_answer_waiting(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    monkeypatch.setattr(gate, "UNREAD_MAX", 2)
    node = await start_node(**HUGE)
    for count in range(3):
        await ask(node)
        await until(lambda count=count: len(node._server._http._unread) == min(count + 1, 2))
        await until(lambda count=count: unread(node) == max(0, count - 1))
    assert (await get(node.url, "/livez")).status == 200


async def test_a_lane_whose_answers_are_not_read_ends(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await start_node(**HUGE, algorithm=EXCHANGE)
    async with Peer(node.url) as peer:
        peer.writer.transport.pause_reading()
        (lane,) = lanes_of(node)._lanes
        for seq in range(2):
            await peer.send(framed(frame_for(node, seq=seq, kind=Kind.EXCHANGE_REQUEST), seq))
        await until(lambda: lane._pump._paused and not lane._arrivals)
        monkeypatch.setattr(stall, "STALL_S", 0.1)
        lane._pump._unread.stop()
        lane._pump.pause()  # once more, for a shorter time
        await until(lambda: not lanes_of(node))
        assert lane._reason == "the peer does not read"
        assert not lane._pump.answers
    await until(lambda: not node.inbox.inflight_bytes)


async def test_who_lets_answers_wait_is_sent_no_more_of_them(start_node: StartNode) -> None:
    node = await start_node(**LARGE, algorithm=EXCHANGE)
    async with Peer(node.url) as peer:
        (lane,) = lanes_of(node)._lanes
        lane.pause_writing()
        for seq in range(6):
            await peer.send(framed(frame_for(node, seq=seq, kind=Kind.EXCHANGE_REQUEST), seq))
            await until(lambda seq=seq: lane._pump.waiting == seq + 1)
        assert lane._pump.answers == 4
        lane.resume_writing()
        kinds = {}
        for _ in range(6):
            kind, number, _ = await peer.record()
            kinds[number] = kind
        assert [kinds[number] for number in range(6)] == [Type.ANSWER] * 4 + [Type.REPLY] * 2


async def test_signs_of_life_are_given_while_a_body_comes(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender hears nothing else, and would take this end for gone."""
    monkeypatch.setattr(alive, "TICK_S", 0.01)
    node = await start_node(**LARGE)
    frame = framed(frame_for(node), 1)
    async with Peer(node.url) as peer:
        await peer.send(frame[: len(frame) // 2])
        for _ in range(3):
            assert (await peer.record())[0] == Type.PONG
        await peer.send(frame[len(frame) // 2 :])
        kind = Type.PONG
        while kind == Type.PONG:
            kind, number, _ = await peer.record()
        assert (kind, number) == (Type.REPLY, 1)


def test_a_lane_without_a_byte_ends_within_15_s() -> None:
    assert alive.SILENT_S + alive.TICK_S <= 15
    assert alive.SILENT_S > 2 * (alive.PING_S + alive.TICK_S) - alive.PING_S
