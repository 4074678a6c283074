"""Pushes over an open lane that take no task: answered, given up, timed out, broken off.

Every test runs on asyncio's loop and on uvloop, whose transports differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from laning import (
    EXCHANGE,
    LARGE,
    Peer,
    break_lanes_under_answers,
    frame_to,
    framed,
    lanes_of,
    push_from,
)
from loopback import PATIENCE_S, StartNode, frame_for, until, vector_for

from gossipnode.algorithms.base import Answer
from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpNode
from gossipnode.node.world import Posted, Receipt
from gossipnode.wire import Kind


async def opened(start_b: StartNode, node: HttpNode, **sections: Any) -> HttpNode:
    """Node ``b`` with a lane to ``node``."""
    b = await start_b(**sections)
    await push_from(b, node, frame_to(node, seq=0))
    return b


def posted_to(
    b: HttpNode, node: HttpNode, told: list[Posted], timeout_s: float = PATIENCE_S, **changes: Any
) -> Posted:
    post = b.world.post(node.url, frame_to(node, **changes), timeout_s, told.append)
    assert post is not None
    return post


@pytest.fixture
async def tasks_made() -> list[str]:
    """The tasks that the loop makes from now on, by the names of their coroutines."""
    made: list[str] = []

    def make(loop: Any, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        made.append(work.__qualname__)
        return asyncio.Task(work, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(make)
    return made


async def test_a_push_is_sent_merged_and_answered_without_a_task(
    node: HttpNode, start_b: StartNode, tasks_made: list[str]
) -> None:
    b = await opened(start_b, node)
    tasks_made.clear()
    told: list[Posted] = []
    for seq in range(5):
        post = posted_to(b, node, told, seq=seq + 1)
        await until(lambda seq=seq: len(told) == seq + 1)
        assert told[-1] is post
        assert isinstance(post.outcome, Receipt)
        assert post.outcome.reply is not None
        assert post.outcome.reply.status == "merged"
    assert tasks_made == []
    assert node.counters.get("pushes_received") == 6
    assert b.counters.get("lane_pushes") == 6


async def test_nothing_is_posted_where_no_lane_is_open(node: HttpNode, start_b: StartNode) -> None:
    b, told = await start_b(), []
    assert b.world.post(node.url, frame_to(node), PATIENCE_S, told.append) is None
    without = await start_b("c", network={"lanes": False})
    assert without.world.post(node.url, frame_to(node), PATIENCE_S, told.append) is None
    assert told == []
    assert node.counters.get("pushes_received") == 0


async def test_a_refusal_is_an_answer(node: HttpNode, start_b: StartNode) -> None:
    b, told = await opened(start_b, node), []
    posted_to(b, node, told, swarm="another")
    await until(lambda: told)
    assert told[0].outcome.reply.code == "wrong_swarm"


async def test_a_large_body_and_an_exchange_are_answered_as_well(
    start_node: StartNode, start_b: StartNode
) -> None:
    node = await start_node(algorithm=EXCHANGE, **LARGE)
    b, told = await opened(start_b, node, algorithm=EXCHANGE, **LARGE), []
    mine = vector_for(node, 3.0)
    posted_to(b, node, told, vector=mine, kind=Kind.EXCHANGE_REQUEST, seq=1)
    await until(lambda: told)
    receipt = told[0].outcome
    assert receipt.message is not None
    assert receipt.arrays[0].shape == mine.shape


async def test_a_lane_that_breaks_under_a_post_sends_it_by_http(
    node: HttpNode, start_b: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    b, told = await opened(start_b, node), []
    break_lanes_under_answers(node, monkeypatch)
    posted_to(b, node, told, seq=1)
    await until(lambda: told)
    assert told[0].outcome.reply.status == "duplicate"  # merged before the answer was lost
    assert b.counters.get("lanes_broken") == b.counters.get("lane_fallbacks") == 1


@pytest.fixture
def holding(node: HttpNode, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set to let ``node`` answer; it takes in what comes until then."""
    may_answer = asyncio.Event()
    receive = node.algorithm.receive

    async def slow(*arguments: Any) -> Answer:
        await may_answer.wait()
        return await receive(*arguments)

    monkeypatch.setattr(node.algorithm, "receive", slow)
    return may_answer


async def test_what_is_given_up_tells_nobody_and_its_answer_is_forgotten(
    node: HttpNode, start_b: StartNode, holding: asyncio.Event
) -> None:
    holding.set()
    b, told = await opened(start_b, node), []
    holding.clear()
    post = posted_to(b, node, told, seq=1)
    await until(lambda: node.counters.get("pushes_received") == 1 and node.inbox.inflight_bytes)
    post.cancel()
    post.cancel()
    holding.set()
    posted_to(b, node, told, seq=2)
    await until(lambda: told)
    assert len(told) == 1
    assert told[0] is not post
    assert node.counters.get("pushes_received") == 3
    assert len(lanes_of(b)) == 1


async def test_a_post_and_a_push_that_are_not_answered_time_out_and_the_lane_stays(
    node: HttpNode, start_b: StartNode, holding: asyncio.Event
) -> None:
    holding.set()
    b, told = await opened(start_b, node), []
    holding.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    posted_to(b, node, told, seq=1, timeout_s=60.0)
    posted_to(b, node, told, seq=2, timeout_s=0.05)  # an earlier end than the one before
    with pytest.raises(NetworkError, match=r"timed out after 0\.1 s"):
        await b.world.push(node.url, frame_to(node, seq=3), 0.1)
    assert loop.time() - began >= 0.099
    (late,) = told
    assert isinstance(late.outcome, NetworkError)
    assert str(late.outcome) == "timed out after 0.05 s"
    holding.set()
    await until(lambda: len(told) == 2)
    assert told[1].outcome.reply.status == "merged"
    assert len(lanes_of(b)) == 1


async def test_of_pushes_that_come_at_once_one_is_begun_at_once_and_all_are_merged_in_order(
    node: HttpNode, tasks_made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    deliver = node.passive.deliver

    async def noted(admission: Any, body: Any) -> Any:
        seen.append(admission.message.seq)
        return await deliver(admission, body)

    monkeypatch.setattr(node.passive, "deliver", noted)
    async with Peer(node.url) as peer:
        tasks_made.clear()
        await peer.send(b"".join(framed(frame_for(node, seq=n), n) for n in range(8)))
        for n in range(8):
            assert (await peer.reply(n))["status"] == "merged"
    assert seen == list(range(8))
    assert 0 < sum("_deliver" in name for name in tasks_made) < 8


@pytest.mark.parametrize(
    ("error", "status"), [(PeerError("not_finite", "a test"), "refused"), (KeyError("x"), None)]
)
async def test_what_fails_at_once_is_refused_or_ends_the_lane(
    node: HttpNode, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str | None
) -> None:
    reported: list[dict[str, Any]] = []

    async def failing(*_: Any) -> Answer:
        raise error

    monkeypatch.setattr(node.algorithm, "receive", failing)
    handler: Callable[..., Any] = lambda _, context: reported.append(context)  # noqa: E731
    asyncio.get_running_loop().set_exception_handler(handler)
    async with Peer(node.url) as peer:
        await peer.send(framed(frame_for(node), 1))
        if status is not None:
            assert (await peer.reply(1))["status"] == status
        else:
            await until(lambda: reported)
            assert await peer.is_closed()
    assert [context["exception"] for context in reported] == ([] if status else [error])
    assert node.inbox.inflight_bytes == 0


async def test_what_begins_at_once_and_has_to_wait_goes_on_in_a_task(
    node: HttpNode, tasks_made: list[str], holding: asyncio.Event
) -> None:
    async with Peer(node.url) as peer:
        tasks_made.clear()
        await peer.send(framed(frame_for(node), 1))
        await until(lambda: tasks_made)
        assert node.inbox.inflight_bytes
        assert node.counters.get("pushes_received") == 0
        holding.set()
        assert (await peer.reply(1))["status"] == "merged"
    assert node.inbox.inflight_bytes == 0
