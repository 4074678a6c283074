"""Long frames: no pass over them is taken by the loop.

The checksum of a gigabyte took 50 ms, in which the loop did nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from laning import EXCHANGE, LARGE
from loopback import StartNode, message_for, until

from gossipnode.algorithms import partial_gossip
from gossipnode.algorithms.base import Purpose
from gossipnode.codecs.halves import Float16
from gossipnode.config import PeerEntry
from gossipnode.errors import PeerError
from gossipnode.network import HttpNode
from gossipnode.node.passive import Delivery
from gossipnode.simulation.delivery import open_bytes
from gossipnode.wire import Kind
from gossipnode.wire import frame as wire_frame

LONG = {"task": {"kind": "mlp", "hidden": [65536]}}  # 20 MB


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """The bytes of each checksum that is taken, and the thread that took it."""
    taken: list[tuple[int, str]] = []
    checksum = wire_frame._checksum

    def noting(kind: str, body: Any) -> int:
        taken.append((sum(map(len, body)), threading.current_thread().name))
        return checksum(kind, body)

    monkeypatch.setattr(wire_frame, "_checksum", noting)
    return taken


@contextlib.asynccontextmanager
async def running(node: HttpNode) -> AsyncIterator[HttpNode]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(node.run())
        await until(lambda: node.is_active)
        yield node
        task.cancel()


def listed(*nodes: HttpNode) -> tuple[PeerEntry, ...]:
    return tuple(PeerEntry(id=node.id, address=node.url) for node in nodes)


@pytest.mark.parametrize("purpose", [Purpose.MODEL, Purpose.EXCHANGE_REQUEST])
@pytest.mark.parametrize(("task", "thread"), [(LARGE, "MainThread"), (LONG, "seal")])
async def test_a_checksum_is_taken_by_a_thread_where_it_is_long(
    start_node: StartNode,
    start_b: StartNode,
    threads: list[tuple[int, str]],
    purpose: Purpose,
    task: dict[str, Any],
    thread: str,
) -> None:
    options = task if purpose is Purpose.MODEL else {**task, "algorithm": EXCHANGE}
    node = await start_node(**options)
    async with running(await start_b(peers=listed(node), **options)) as b:
        b.push(["a"], {"x": b.params}, purpose)
        await until(lambda: b.counters.get("pushes_acknowledged"))
        await until(lambda: not b.courier.busy)
    of_models = [(size, name) for size, name in threads if size]
    # Sender and receiver, of the model and, in an exchange, of the answer.
    times = 2 if purpose is Purpose.MODEL else 4
    assert len(of_models) == times
    ours = [name for size, name in of_models if size == 4 * node.layout.size]
    assert set(ours) - {"work", "asyncio_0"} == {thread}


async def test_a_long_model_arrives_at_all_whom_it_is_sent_to_and_is_made_once(
    start_node: StartNode, start_b: StartNode, threads: list[tuple[int, str]]
) -> None:
    peers = [await start_node(**LONG), await start_b("c", **LONG)]
    async with running(await start_b(peers=listed(*peers), **LONG)) as b:
        model = np.linspace(0, 1, b.layout.size, dtype=np.float32)
        b.push(["a", "c"], {"x": model}, age=2**40)
        await until(lambda: b.counters.get("pushes_acknowledged") == 2)
    for peer in peers:
        np.testing.assert_allclose(peer.params, model, rtol=1e-6)
    assert len(threads) == 3  # made once, verified twice


async def test_a_sample_of_a_long_model_is_drawn_by_the_worker(
    start_node: StartNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    draw = partial_gossip.seeded_mask

    def noting(*arguments: Any) -> Any:
        drawn.append(threading.current_thread().name)
        return draw(*arguments)

    monkeypatch.setattr(partial_gossip, "seeded_mask", noting)
    options = {**LONG, "algorithm": {"name": "partial_gossip", "form": "sampled", "period_s": 1.0}}
    node = await start_node(**options)
    async with running(await start_b(peers=listed(node), **options)) as b:
        await until(lambda: b.counters.get("pushes_acknowledged"))
    assert set(drawn) == {"work"}


async def test_a_long_model_that_has_changed_since_it_was_rounded_is_rounded_by_the_worker(
    start_node: StartNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded: list[str] = []
    encode = Float16.encode

    def noting(*arguments: Any) -> Any:
        rounded.append(threading.current_thread().name)
        return encode(*arguments)

    monkeypatch.setattr(Float16, "encode", noting)
    options = {**LONG, "codec": {"name": "float16"}}
    node = await start_node(**options)
    async with running(await start_b(peers=listed(node), **options)) as b:
        await b.algorithm.send(b, ["a"], 0)  # type: ignore[attr-defined]
        await until(lambda: b.counters.get("pushes_acknowledged"))
    assert rounded == ["work"]


@pytest.mark.parametrize("slow", ["work", "seal"])
async def test_an_exchange_that_is_said_again_meanwhile_is_answered_later(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """A lane may break behind the request: told that it has been merged, its sender merges none."""
    node = await start_node(**LONG, algorithm=EXCHANGE)
    did, has_begun, may_go_on = getattr(node.world, slow), asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        has_begun.set()
        await may_go_on.wait()
        return await did(*arguments)

    monkeypatch.setattr(node.world, slow, slowly)
    vector = np.ones_like(node.params)
    request = wire_frame.encode(
        message_for(node, vector, kind=Kind.EXCHANGE_REQUEST), [vector]
    ).tobytes()

    async def ask() -> Delivery:
        message, body = open_bytes(request)
        return await node.deliver(node.admit(message), body)

    asked = asyncio.ensure_future(ask())
    await has_begun.wait()
    with pytest.raises(PeerError, match="busy"):
        await ask()
    may_go_on.set()
    first, again = (await asked).frame, (await ask()).frame
    assert first is again is not None
    assert node.inbox.inflight_bytes == 0
    assert node.counters.by_label("pushes_merged") == {"merged": 1, "duplicate": 1}
