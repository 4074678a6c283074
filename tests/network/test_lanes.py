"""Lanes between nodes: who opens one, who uses it, what happens when it breaks.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from laning import EXCHANGE, HEADERS, LARGE, Peer, frame_to, framed, lanes_of, push_from
from loopback import (
    PATIENCE_S,
    Connection,
    StartNode,
    frame_for,
    get,
    head,
    message_for,
    push,
    until,
    vector_for,
)

from gossipnode.algorithms.base import Purpose
from gossipnode.config import PeerEntry
from gossipnode.errors import ConfigError, NetworkError
from gossipnode.network import HttpNode, alive, lane, lanes, upgrade
from gossipnode.network.arrivals import Arrivals
from gossipnode.node.outbox import Parcel
from gossipnode.wire import Kind, encode


async def test_the_first_push_opens_the_lane_and_all_take_it(
    node: HttpNode, start_b: StartNode
) -> None:
    b = await start_b()
    for seq in range(3):
        receipt = await push_from(b, node, frame_to(node, seq=seq))
        assert receipt.reply is not None
        assert (receipt.reply.status, receipt.reply.sender) == ("merged", "a")
    counters = b.counters
    assert (counters.get("lanes_opened"), counters.get("lane_pushes")) == (1, 3)
    assert counters.get("lane_fallbacks") == 0
    assert node.counters.get("lanes_accepted") == 1


async def test_both_directions_share_one_lane(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    for seq in range(3):
        await push_from(node, b, frame_to(b, sender="a", seq=seq))
    assert b.age == 7
    assert (len(lanes_of(node)), len(lanes_of(b))) == (1, 1)
    assert node.counters.get("lanes_opened") == 0


async def test_large_frames_both_ways_at_once(start_node: StartNode, start_b: StartNode) -> None:
    large = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB
    node, b = await start_node(**large), await start_b(**large)
    await push_from(b, node, frame_to(node, vector_for(node, 0.5)))
    here = np.linspace(0, 1, node.layout.size, dtype=np.float32)
    there = here[::-1].copy()
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node, here, seq=1, age=2**40)),
        push_from(node, b, frame_to(b, there, sender="a", seq=1, age=2**40)),
    )
    assert [receipt.reply.status for receipt in receipts] == ["merged", "merged"]
    np.testing.assert_allclose(node.params, here, rtol=1e-6)
    np.testing.assert_allclose(b.params, there, rtol=1e-6)
    assert len(lanes_of(node)) == len(lanes_of(b)) == 1


async def test_an_exchange_over_the_lane(start_node: StartNode, start_b: StartNode) -> None:
    node = await start_node(algorithm=EXCHANGE, **LARGE)
    b = await start_b(algorithm=EXCHANGE, **LARGE)
    before = np.array(node.params)
    receipt = await push_from(b, node, frame_to(node, kind=Kind.EXCHANGE_REQUEST))
    assert receipt.message is not None
    assert (receipt.message.kind, receipt.message.sender) == (Kind.EXCHANGE_REPLY, "a")
    np.testing.assert_array_equal(receipt.arrays[0], before)
    assert lanes_of(b).pool.inflight_bytes == 0


async def test_a_refusal_over_the_lane_is_a_receipt(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    receipt = await push_from(b, node, frame_to(node, schema="0" * 16))
    assert receipt.reply is not None
    assert (receipt.reply.status, receipt.reply.code) == ("refused", "wrong_schema")
    assert (await push_from(b, node, frame_to(node))).reply.status == "merged"


async def test_many_pushes_at_once(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    frames = [frame_to(node, seq=seq) for seq in range(200)]
    receipts = await asyncio.gather(*(push_from(b, node, frame) for frame in frames))
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    assert b.counters.get("lanes_opened") == 1


async def test_many_peers_at_once(node: HttpNode, start_b: StartNode) -> None:
    peers = [await start_b(f"peer-{i}") for i in range(6)]
    for _ in range(2):
        await asyncio.gather(*(push_from(p, node, frame_to(node, sender=p.id)) for p in peers))
        await asyncio.gather(*(push_from(node, p, frame_to(p, sender="a")) for p in peers))
    assert len(lanes_of(node)) == 6
    assert node.counters.get("lanes_opened") == 0


async def test_two_lanes_opened_at_once_become_one(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node)), push_from(node, b, frame_to(b, sender="a"))
    )
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    await until(lambda: len(lanes_of(node)) == len(lanes_of(b)) == 1)
    receipts = await asyncio.gather(
        push_from(b, node, frame_to(node, seq=1)),
        push_from(node, b, frame_to(b, sender="a", seq=1)),
    )
    assert {receipt.reply.status for receipt in receipts} == {"merged"}
    assert len(lanes_of(node)) == len(lanes_of(b)) == 1
    assert b.counters.get("lanes_broken") == node.counters.get("lanes_broken") == 0


async def test_a_node_that_cannot_be_dialled_is_reached_by_its_own_lane(
    node: HttpNode, start_b: StartNode
) -> None:
    nowhere = "http://127.0.0.1:9"
    b = await start_b(network={"bind": "127.0.0.1", "port": 0, "advertise": nowhere})
    with pytest.raises(NetworkError):
        await node.world.push(nowhere, frame_to(b, sender="a"), PATIENCE_S)
    await push_from(b, node, frame_to(node))
    receipt = await node.world.push(nowhere, frame_to(b, sender="a"), PATIENCE_S)
    assert receipt.reply is not None
    assert (receipt.reply.status, receipt.reply.sender) == ("merged", "b")


async def test_a_push_without_an_answer_times_out_and_the_lane_stays(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    go_on, deliver = asyncio.Event(), node.deliver

    async def waiting(admission: Any, body: memoryview) -> Any:
        await go_on.wait()
        return await deliver(admission, body)

    monkeypatch.setattr(node, "deliver", waiting)
    with pytest.raises(NetworkError, match=r"timed out after 0\.\d+ s"):
        # What is left of it when the lane is found: less on a busy machine.
        await b.world.push(node.url, frame_to(node, seq=1), 0.05)
    go_on.set()
    # The late answer finds nobody and harms nobody.
    assert (await push_from(b, node, frame_to(node, seq=2))).reply.status == "merged"
    assert b.counters.get("lanes_opened") == 1
    assert len(lanes_of(b)) == 1


async def test_a_push_given_up_half_sent_breaks_the_lane(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(), await start_b()
    await push_from(b, node, frame_to(node))
    (accepted,) = lanes_of(node)._lanes
    accepted.transport.pause_reading()  # a peer that hangs
    vector = np.zeros(25_000_000, np.float32)  # 100 MB: more than sockets hold
    frame = encode(message_for(node, vector), [vector])
    with pytest.raises(NetworkError, match="timed out"):
        await b.world.push(node.url, frame, 0.2)
    await until(lambda: not lanes_of(b))


async def test_stopping_closes_lanes_and_answers_first(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    (at_a,) = lanes_of(node)._lanes
    await lanes_of(b).close()
    await until(lambda: not lanes_of(node))
    assert at_a._reason == "the peer closed the lane: this node is stopping"
    assert node.counters.get("lanes_broken") == 0
    # Another lane is not opened by a node that is stopping, and none to it is accepted.
    with contextlib.suppress(NetworkError):
        await push_from(node, b, frame_to(b, sender="a"))
    assert not lanes_of(b)


async def test_a_peer_that_hangs_does_not_hold_up_the_stop(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHUTDOWN_S", 0.05)
    async with Peer(node.url) as peer:
        assert peer.opened == 101
        async with asyncio.timeout(lane.CLOSE_S):
            await lanes_of(node).close()
        assert not lanes_of(node)


async def test_a_merge_that_hangs_does_not_hold_up_the_stop(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "SHUTDOWN_S", 0.05)
    begun = asyncio.Event()

    async def hanging(admission: Any, body: memoryview) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(node, "deliver", hanging)
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        async with asyncio.timeout(lane.CLOSE_S):
            await lanes_of(node).close()
        assert not lanes_of(node)
    node.inbox.inflight_bytes = 0  # what the hanging merge would have given back


async def test_a_push_that_is_cancelled_before_its_first_step_holds_no_memory(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = Arrivals._deliver_later
    tasks: list[asyncio.Task[None]] = []

    def cancelled(arrivals: Arrivals, *arguments: Any) -> None:
        later(arrivals, *arguments)
        tasks.extend(arrivals._tasks)
        arrivals.cancel()

    monkeypatch.setattr(Arrivals, "_deliver_later", cancelled)
    async with Peer(node.url) as peer:
        # Of those that come at once, the second is to wait for its turn.
        await peer.send(framed(frame_for(node), 1) + framed(frame_for(node, seq=1), 2))
        assert (await peer.reply(1))["status"] == "merged"
        await until(lambda: tasks and all(task.done() for task in tasks))
        assert all(task.cancelled() for task in tasks)
        assert node.inbox.inflight_bytes == 0


async def test_who_names_the_address_of_another_gets_no_pushes(
    node: HttpNode, start_b: StartNode
) -> None:
    b = await start_b()
    await push_from(node, b, frame_to(b, sender="a"))
    headers = {**HEADERS, "Gossipnode-Id": "0", "Gossipnode-Address": b.url}
    async with Connection(node.url) as thief:
        await thief.send(head("GET", "/v1/lane", **headers))
        await until(lambda: len(lanes_of(node)) == 2)
        receipt = await push_from(node, b, frame_to(b, sender="a", seq=1))
        assert receipt.reply.sender == "b"


async def test_silence_is_asked_about_and_ends_the_lane(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    (at_a,) = lanes_of(node)._lanes
    (at_b,) = lanes_of(b)._lanes
    heard = at_b.last_heard
    monkeypatch.setattr(alive, "PING_S", -1.0)
    lanes_of(b)._tick()
    await until(lambda: at_b.last_heard > heard)  # the pong
    at_a.transport.pause_reading()
    monkeypatch.setattr(alive, "SILENT_S", -1.0)
    lanes_of(b)._tick()
    await until(lambda: not lanes_of(b))
    assert at_b._reason == "the peer is silent"


async def test_an_idle_lane_is_closed_and_opened_again_when_needed(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alive, "TICK_S", 0.01)
    b = await start_b(network={"lane_idle_s": 0.05})
    await push_from(b, node, frame_to(node))
    await until(lambda: not lanes_of(b) and not lanes_of(node))
    assert (await push_from(b, node, frame_to(node, seq=1))).reply.status == "merged"
    assert b.counters.get("lanes_opened") == 2


async def test_bodies_are_recycled_and_params_are_never_written_again(
    start_node: StartNode, start_b: StartNode
) -> None:
    node, b = await start_node(**LARGE), await start_b(**LARGE)
    held: list[tuple[np.ndarray, bytes]] = []
    for seq in range(6):
        vector = vector_for(node, float(seq))
        await push_from(b, node, frame_to(node, vector, seq=seq))
        if seq % 2:
            held.append((node.params, node.params.tobytes()))
    assert lanes_of(node).pool.recycled > 0
    for params, before in held:
        assert params.tobytes() == before


async def test_http_goes_on_beside_lanes(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    assert (await get(node.url, "/livez")).status == 200
    assert (await push(node.url, frame_for(node, seq=1))).msgpack()["status"] == "merged"


async def test_lanes_are_counted_for_everybody_to_see(node: HttpNode, start_b: StartNode) -> None:
    b = await start_b()
    await push_from(b, node, frame_to(node))
    text = (await get(node.url, "/metrics")).body.decode()
    assert "gossipnode_lanes_accepted_total 1.0" in text
    assert "gossipnode_lanes 1.0" in text
    assert (await get(b.url, "/v1/status")).json()["network"]["lanes"] == 1


async def test_lanes_can_be_done_without(start_node: StartNode, start_b: StartNode) -> None:
    node, b = await start_node(network={"lanes": False}), await start_b()
    headers = {"Upgrade": "gossipnode/1", "Connection": "Upgrade"}
    assert (await get(node.url, "/v1/lane", **headers)).status == 404
    assert (await push_from(node, b, frame_to(b, sender="a"))).reply.status == "merged"
    assert (await push_from(b, node, frame_to(node))).reply.status == "merged"
    assert (b.counters.get("lane_fallbacks"), b.counters.get("lanes_refused")) == (1, 1)
    assert len(lanes_of(b)) == 0


async def test_a_long_post_is_seen_at_both_ends_while_it_lasts(
    start_node: StartNode, start_b: StartNode
) -> None:
    options = {"task": {"kind": "mlp", "hidden": [65536]}, "network": {"lanes": False}}  # 20 MB
    node = await start_node(**options)
    total, frame = 4 * node.layout.size, frame_for(node)
    sent = total // 2
    async with Connection(node.url) as peer:
        await peer.send(head("POST", "/v1/push", content_length=str(len(frame))))
        await peer.send(frame[: len(frame) - total + sent])
        await until(lambda: [one.bytes for one in node.status().network.transfers] == [sent])
        (here,) = (await get(node.url, "/v1/status")).json()["network"]["transfers"]
        assert (here["peer"], here["direction"], here["bytes_total"]) == ("b", "from", total)
        assert here["bytes_per_s"] > 0
    await until(lambda: not node.status().network.transfers)


async def test_a_long_post_is_seen_where_it_leaves(start_b: StartNode) -> None:
    may_read, options = asyncio.Event(), {"task": {"kind": "mlp", "hidden": [65536]}}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_read.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listed = (PeerEntry(id="c", address=url),)
        b = await start_b(peers=listed, network={"lanes": False}, **options)
        total, body = 4 * b.layout.size, vector_for(b)
        frame = encode(message_for(b, body, sender="b"), [body])
        try:
            async with asyncio.TaskGroup() as tasks:
                b.courier.put("c", Parcel(frame, Purpose.MODEL, body, 0), tasks)
                await until(lambda: any(one.bytes for one in b.status().network.transfers))
                (there,) = (await get(b.url, "/v1/status")).json()["network"]["transfers"]
                b.courier.close()
        finally:
            may_read.set()
        assert (there["peer"], there["direction"], there["bytes_total"]) == ("c", "to", total)
        assert 0 < there["bytes"] < total
        assert b.status().network.transfers == []


async def test_https_without_tls_says_so(node: HttpNode, start_b: StartNode) -> None:
    b, address = await start_b(), node.url.replace("http:", "https:")
    with pytest.raises(NetworkError, match="TLS is not set up on this node"):
        await b.world.push(address, frame_to(node), PATIENCE_S)
    assert b.counters.get("lanes_refused") == 0
    with pytest.raises(ConfigError, match=r"https://h:1: .*TLS is not set up") as caught:
        await start_b(peers=(PeerEntry(id="c", address="https://h:1"),))
    assert caught.value.key == "swarm.peers"
    with pytest.raises(ConfigError, match="TLS is not set up") as caught:
        await start_b(network={"advertise": "https://h:1"})
    assert caught.value.key == "network.advertise"


def test_connecting_to_a_number_starts_no_threads() -> None:
    """In a process of its own: libuv keeps the threads that an earlier look-up has started."""
    text = """
import asyncio, os, socket, uvloop
from gossipnode.network import upgrade
async def main():
    before = len(os.listdir("/proc/self/task"))  # BLAS may have some
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (await upgrade.connect(*listener.getsockname())).close()
    print(len(os.listdir("/proc/self/task")) - before)
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"0\n"


async def test_connecting_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await upgrade.connect("127.0.0.1", port)


async def test_a_long_transfer_is_seen_at_both_ends_while_it_lasts(
    start_node: StartNode, start_b: StartNode
) -> None:
    larger = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB
    node, b = await start_node(**larger), await start_b("c", **larger)
    total = 4 * node.layout.size
    frame = frame_to(node, sender="c")
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1)[: total // 2])
        await until(lambda: node.status().network.transfers)
        (here,) = (await get(node.url, "/v1/status")).json()["network"]["transfers"]
        assert (here["peer"], here["direction"], here["bytes_total"]) == ("b", "from", total)
        assert 0 < here["bytes"] <= total // 2
    await until(lambda: not node.status().network.transfers)

    await push_from(b, node, frame)
    assert b.status().network.transfers == []
    (at_a,) = lanes_of(node)._lanes
    at_a.transport.pause_reading()
    pushing = asyncio.create_task(push_from(b, node, frame_to(node, sender="c", seq=1)))
    await until(lambda: b.status().network.transfers)
    (there,) = (await get(b.url, "/v1/status")).json()["network"]["transfers"]
    assert (there["peer"], there["direction"], there["bytes_total"]) == ("a", "to", total)
    assert 0 < there["bytes"] < total
    assert there["bytes_per_s"] > 0
    at_a.transport.resume_reading()
    assert (await pushing).reply.status == "merged"
    assert b.status().network.transfers == []


async def test_ways_that_lead_nowhere_are_forgotten_by_a_node_without_lanes(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever tells of ever new addresses must not fill the table."""
    monkeypatch.setattr(alive, "TICK_S", 0.01)
    monkeypatch.setattr(lanes, "PAUSE_S_MAX", 0.0)
    for number in range(20):
        with pytest.raises(NetworkError, match="refused"):
            await node.world.push(f"http://127.0.0.{number + 1}:1", frame_to(node), PATIENCE_S)
    await until(lambda: not lanes_of(node)._ways)
    await until(lambda: lanes_of(node)._timer is None)
