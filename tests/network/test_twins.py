"""Two nodes that run with one id: the earlier one stops, for it has seen the other one itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from loopback import PATIENCE_S, config_of, frame_for, push, until
from test_membership_frames import answer_of, question

from gossipnode.config import PeerEntry
from gossipnode.errors import NetworkError
from gossipnode.network import HttpNode
from gossipnode.node.membership import twins
from gossipnode.wire import Member

GOSSIP = {"name": "gossip", "period_s": 0.05}
QUICK = {"probe_period_s": 0.05}


@contextlib.asynccontextmanager
async def running(
    folder: Path, name: str, *peers: HttpNode
) -> AsyncIterator[tuple[HttpNode, asyncio.Task[None]]]:
    """A node that runs, and the task that it runs in."""
    config = config_of(
        folder,
        node={"id": name, "data_dir": str(folder)},
        algorithm=GOSSIP,
        membership=QUICK,
        run={"drain_deadline_s": 5.0},
    )
    listed = tuple(PeerEntry(id=peer.id, address=peer.url) for peer in peers)
    async with HttpNode(config, peers=listed) as node:
        task = asyncio.create_task(node.run())
        yield node, task
        node.request_stop()
        await asyncio.wait([task])


async def test_of_two_nodes_with_one_id_the_earlier_stops_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "b", "b") as (b, _):
        async with running(tmp_path / "one", "a", b) as (one, task):
            await until(lambda: "a" in b.peers and b.peers["a"].pushes_received)
            async with running(tmp_path / "two", "a", b) as (two, other):
                assert two.epoch > one.epoch
                async with asyncio.timeout(PATIENCE_S):
                    with pytest.raises(NetworkError, match=rf"id a .* {two.url}; .*--id"):
                        await task
                assert one.counters.get("duplicate_ids") == 1
                assert one.state == "failed"
                assert two.counters.get("duplicate_ids") == 1
                assert two.status().duplicate_id == one.url
                # It has stopped, so that nobody need look for it any more.
                monkeypatch.setattr(twins, "OVER_S", 0.1)
                await until(lambda: two.status().duplicate_id == "")
                assert not other.done()
                # The same id at another address: the peer that was met there is the later one.
                await until(lambda: b.peers["a"].address == two.url)
        assert b.peers["a"].state != "down"


async def test_two_that_cannot_be_told_apart_fill_no_log(
    node: HttpNode, caplog: pytest.LogCaptureFixture
) -> None:
    """The earlier one goes on, where both are said to be at one address: its peers refuse it."""

    async def alternate(*epochs: int) -> int:
        caplog.clear()
        for seq in range(5):
            for epoch in epochs:
                frame = frame_for(node, epoch=epoch, seq=seq, address="http://127.0.0.1:9")
                await push(node.url, frame)
        told = [r for r in caplog.records if r.getMessage() == "push.refused_here"]
        return sum(record.levelno >= logging.WARNING for record in told)

    assert await alternate(2, 1) == 1
    assert await alternate(3, 2) == 1  # a later life still is news
    assert node.counters.get("pushes_refused", ("code", "stale_epoch")) == 10


async def told_of(node: HttpNode, address: str, epoch: int) -> None:
    """Say to a node that a later life of its own id is at ``address``."""
    row = Member("a", address, "alive", epoch, 0)
    answer = await push(node.url, question(node, sender="b", members=(row,)))
    assert answer_of(answer.body).control == "ack"


async def test_nobody_stops_because_of_a_rumour_alone(tmp_path: Path) -> None:
    async with running(tmp_path / "b", "b") as (b, _), running(tmp_path / "a", "a", b) as (a, task):
        await told_of(a, b.url, a.epoch + 10**6)  # where somebody else answers
        await until(lambda: b.counters.get("controls_received", ("word", "ping")))
        round_ = a.round
        await until(lambda: a.round > round_ + 3)  # and the answer has long been there
        assert not task.done()
        assert a.counters.get("duplicate_ids") == 0
        assert a.status().duplicate_id == ""


@pytest.mark.parametrize("address", ["", "http://169.254.169.254:80", "nonsense"])
async def test_no_address_is_dialled_that_no_peer_has(tmp_path: Path, address: str) -> None:
    async with running(tmp_path / "a", "a") as (a, task):
        await told_of(a, address, a.epoch + 1)
        assert not a.counters.by_label("controls_sent")
        assert not task.done()


async def test_an_earlier_life_is_told_where_the_later_one_is(node: HttpNode) -> None:
    node.peers.add("c", "http://127.0.0.1:9")
    later = question(node, sender="c", epoch=7, address="http://127.0.0.1:10")
    assert answer_of((await push(node.url, later)).body).control == "ack"
    assert node.peers["c"].address == "http://127.0.0.1:10"
    message = answer_of((await push(node.url, question(node, sender="c", epoch=6))).body)
    assert message.control == "nack"
    assert message.members == (Member("c", "http://127.0.0.1:10", "alive", 7, 0),)


async def test_a_listed_peer_stays_where_the_list_has_it(start_node: Any) -> None:
    node = await start_node(peers=(PeerEntry(id="c", address="http://127.0.0.1:9"),))
    moved = question(node, sender="c", epoch=7, address="http://127.0.0.1:10")
    await push(node.url, moved)
    assert node.peers["c"].address == "http://127.0.0.1:9"
    message = answer_of((await push(node.url, question(node, sender="c", epoch=6))).body)
    assert message.members == (Member("c", "http://127.0.0.1:10", "alive", 7, 0),)
