"""A view lets go of a peer while it is asked: nothing is noted of it any more, and nothing ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from loopback import StartNode, message_for
from test_long_frames import LONG, running
from test_poisoned_views import SHORT, row, shuffle_of, told

from gossipnode.network import HttpNode
from gossipnode.node.membership.detector import Detector
from gossipnode.node.world import Receipt
from gossipnode.wire import Kind, Reply

NOBODY = {"alive": 0, "suspect": 0, "down": 0, "left": 0, "unknown": 0}


class Asked:
    """A node that knows ``b``, which has just begun to be asked; ``answer`` comes later."""

    def __init__(self, node: HttpNode) -> None:
        self.node, self.peer, self.then = node, node.peers["b"], list[Callable[[Any], None]]()
        membership = node.membership
        assert membership is not None
        (self.detector,) = [part for part in membership.parts if isinstance(part, Detector)]
        membership.ask = lambda *arguments: self.then.append(arguments[-1])  # type: ignore[method-assign]

    def hear_and_ask(self) -> None:
        """Be old news to each other, so that silence means something."""
        self.node.peers.heard(self.peer, self.node.time() - 100)
        self.detector.probe(self.peer, self.node.time())

    def forget(self) -> None:
        shuffle = shuffle_of(self.node)
        shuffle.view.remove("b")
        shuffle._keep_learnt()
        assert "b" not in self.node.peers.known

    def wait(self, until_s: float, *, for_helpers: bool = False) -> None:
        """Take all turns as they fall due, without a moment's delay, from now to ``until_s``."""
        now = began = self.node.time()
        while now < began + until_s and not (for_helpers and self.detector.probes["b"].is_helped):
            now = self.detector.tick(now)

    def nothing_is_noted(self) -> None:
        self.wait(until_s=120)
        assert self.node.peers.states == NOBODY
        assert not self.detector.probes
        assert not self.detector.standing.suspicions
        assert not list(self.detector.hearsay.rumours)


@pytest.fixture
async def asked(start_node: StartNode) -> Asked:
    node = await start_node(**SHORT)
    await told(node, [row("b")])
    return Asked(node)


async def test_its_silence_means_nothing(asked: Asked) -> None:
    asked.hear_and_ask()
    asked.forget()
    asked.nothing_is_noted()


async def test_its_silence_means_nothing_once_helpers_are_asked(asked: Asked) -> None:
    asked.hear_and_ask()
    asked.wait(until_s=120, for_helpers=True)
    asked.forget()
    asked.nothing_is_noted()


@pytest.mark.parametrize("code", [None, "draining"])
async def test_its_answer_means_nothing(asked: Asked, code: str | None) -> None:
    asked.detector.probe(asked.peer, asked.node.time())
    asked.forget()
    status = "merged" if code is None else "refused"
    (then,) = asked.then
    then(Receipt(reply=Reply(status, "b", 0, 0, code)))  # type: ignore[arg-type]
    asked.nothing_is_noted()


async def test_whoever_is_known_again_is_another_record(asked: Asked) -> None:
    asked.hear_and_ask()
    asked.forget()
    await told(asked.node, [row("b")])
    assert asked.node.peers["b"] is not asked.peer
    asked.wait(until_s=120)
    assert asked.node.peers["b"].state == "unknown"


async def test_it_is_asked_for_somebody_else_meanwhile(asked: Asked) -> None:
    node = asked.node
    await told(node, [row("c")])
    question = message_for(
        node, node.params, kind=Kind.CONTROL, parts=(), control="ping_req", age=0,
        sender="c", members=(row("b"),), scalars={"timeout_s": 0.01},
    )  # fmt: skip
    membership = node.membership
    assert membership is not None
    answering = asyncio.ensure_future(membership.answer(question))
    await asyncio.sleep(0)  # to its first wait
    asked.forget()
    frame = await answering
    assert not isinstance(frame, Reply)
    assert frame.head


GOSSIP = {"name": "gossip"}
SAMPLED = {"name": "partial_gossip", "form": "sampled"}
PARTITIONED = {"name": "partial_gossip", "parts": 2}


@pytest.mark.parametrize("algorithm", [GOSSIP, SAMPLED, PARTITIONED])
async def test_its_message_goes_to_nobody_if_it_was_still_being_made(
    start_node: StartNode, algorithm: dict[str, Any]
) -> None:
    """What is long is rounded or picked by a thread, and a view is exchanged meanwhile."""
    coded = {"codec": {"name": "float16"}} if algorithm is GOSSIP else {}
    slow = {**algorithm, "period_s": 3600.0}
    node = await start_node(**SHORT, **LONG, **coded, algorithm=slow)
    await told(node, [row("b")])
    async with running(node):
        sending = asyncio.ensure_future(node.algorithm.send(node, ["b"], 0))  # type: ignore[attr-defined]
        await asyncio.sleep(0)  # to its first wait
        Asked(node).forget()
        assert not sending.done()
        await sending
        assert not node.courier.busy
    assert node.state != "failed"


async def test_who_asked_it_trains_on_and_waits_for_no_answer(
    start_node: StartNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer came while the node was training, and a view was exchanged behind it."""
    node = await start_node(**SHORT, algorithm={"name": "adpsgd"}, run={"rounds": 1})
    await told(node, [row("b")])

    async def train(steps: int) -> None:
        node.courier.close()
        Asked(node).forget()

    monkeypatch.setattr(node, "train", train)
    await node.run()
    assert node.round == 1
