"""A disk that takes no more, or fails: the node says so, goes on without it, and recovers alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from daemon.test_abuse import QUICK, running
from network.loopback import frame_for, get, push, until
from plain_learner import PlainLearner

from gossipnode.node import memory
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.disk import Disk


@pytest.mark.parametrize(
    ("code", "call"),
    [
        (errno.ENOSPC, "write"),
        (errno.EIO, "sync"),
        (errno.EDQUOT, "create"),
        (errno.EROFS, "replace"),
        (errno.EIO, "sync_folder"),
        (errno.EIO, "close"),
    ],
)
async def test_training_and_gossip_go_on_and_readyz_says_degraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    monkeypatch.setattr(memory, "RETRY_S", 0.02)
    checkpoint = {"every_s": 0.02}
    learner = PlainLearner([0.0] * 100, 1.0)
    async with running(tmp_path, learner, algorithm=QUICK, checkpoint=checkpoint) as node:
        await until(lambda: node.counters.get("checkpoints_written"))

        def fails(*arguments: Any) -> None:
            if call == "close":
                os.close(arguments[1])
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(Disk, call, fails)
            await until(lambda: node.checkpoint_error)
            durable, age, failures = node.durable_age, node.age, failed(node)
            await until(lambda: node.age > age + 10 and failed(node) > failures + 1)
            answer = await get(node.url, "/readyz")
            assert (answer.status, answer.json()["ready"]) == (200, True)
            assert os.strerror(code) in answer.json()["degraded"]
            assert b"gossipnode_degraded 1.0" in (await get(node.url, "/metrics")).body
            # A model of 0.0 and age 0 against an older one: it counts nothing, but is taken.
            assert (await push(node.url, frame_for(node, age=0))).msgpack()["status"] == "merged"
            assert node.durable_age == durable
        await until(lambda: not node.checkpoint_error and node.durable_age > durable)
        assert (await get(node.url, "/readyz")).json() == {"ready": True}
        assert b"gossipnode_degraded 0.0" in (await get(node.url, "/metrics")).body
    names = {path.suffix for path in tmp_path.iterdir()}  # noqa: ASYNC240 - the node has ended
    assert ".new" not in names
    snapshot = FileStore(tmp_path, 3, lambda: 0.0).load()
    assert snapshot is not None
    assert snapshot.facts["age"] >= durable


def failed(node: Any) -> int:
    count: int = node.counters.get("checkpoint_failures")
    return count
