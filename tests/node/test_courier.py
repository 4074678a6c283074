"""The courier: once more after a break, then suspected; refusals remembered; insistence bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from gossipnode.algorithms.base import Purpose
from gossipnode.errors import NetworkError, PeerError
from gossipnode.node.counters import Counters
from gossipnode.node.courier import LASTING, RETRY_LEAST_S, Courier
from gossipnode.node.outbox import Parcel
from gossipnode.node.peers import PeerTable
from gossipnode.node.world import Receipt
from gossipnode.simulation import loop as virtual_time
from gossipnode.wire.frame import Frame
from gossipnode.wire.reply import Reply

FRAME_BYTES = 12


class Post:
    """A world of which only ``push`` exists: it answers by script, then says ``merged``."""

    def __init__(
        self, *script: Receipt | Exception, insist: bool = False, timed: bool = False
    ) -> None:
        self.script = list(script)
        self.instants: list[float] = []
        self.seconds = 0.0  # that an answer takes
        self.sent: list[bytes] = []
        self.changed: list[str] = []
        self.refusals: list[tuple[str, str]] = []
        self.counters = Counters()
        self.peers = PeerTable(10)
        added = self.peers.add("p", "memory://p")
        assert added is not None
        self.peer = added
        self.courier = Courier(
            world=self,  # type: ignore[arg-type]
            peers=self.peers,
            counters=self.counters,
            rng=lambda: np.random.default_rng(0),
            on_refusal=lambda peer, code: self.refusals.append((peer, code)),
            timeout_s=30.0,
            insist=insist,
            on_change=self.changed.append,
            on_exchange=self.exchanged,
            timed=timed,
        )

    def post(self, *_: Any) -> None:
        """Nothing can be sent without a task here."""

    async def push(self, address: str, frame: Frame, timeout_s: float) -> Receipt:
        assert (address, timeout_s) == ("memory://p", 30.0)
        self.instants.append(asyncio.get_running_loop().time())
        self.sent.append(frame.head)
        await asyncio.sleep(self.seconds)
        answer = self.script.pop(0) if self.script else merged()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wall_time(self) -> float:
        return 1e9

    async def exchanged(self, *_: Any) -> None:
        raise AssertionError("nobody asked for an exchange")

    def put(self, tasks: asyncio.TaskGroup, number: int = 0) -> None:
        own = np.zeros(1)
        frame = Frame(b"%012d" % number, [])
        self.courier.put("p", Parcel(frame, Purpose.MODEL, own, 0), tasks)

    def get(self, name: str) -> int:
        return self.counters.get(name)


def merged(round_: int = 3) -> Receipt:
    return Receipt(reply=Reply("merged", "p", round_, 9))


def refused(code: str, retry_after_s: float | None = None) -> Receipt:
    return Receipt(reply=Reply("refused", "p", 0, 0, code, "because", retry_after_s))


def gone() -> Exception:
    return NetworkError("connection refused")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    virtual_time.run(main())


def test_an_answer_is_counted_and_tells_the_peers_clock() -> None:
    async def main() -> None:
        post = Post(merged(round_=8))
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert (post.peer.state, post.peer.round, post.peer.age) == ("alive", 8, 9)
        assert post.changed == ["p"]
        assert post.get("pushes_sent") == post.get("pushes_acknowledged") == 1
        assert post.get("bytes_sent") == FRAME_BYTES

    run(main)


@pytest.mark.parametrize("code", [None, "busy", "draining"])
def test_another_node_at_its_address_is_no_sign_of_life_of_a_peer(code: str | None) -> None:
    """Addresses are given to others: a peer that was gone stayed alive by who came after it."""

    async def main() -> None:
        status = "merged" if code is None else "refused"
        answer = Receipt(reply=Reply(status, "q", 99, 99, code))
        post = Post(merged(), answer)
        for _ in range(2):
            async with asyncio.TaskGroup() as tasks:
                post.put(tasks)
        assert (post.peer.state, post.peer.round, post.peer.age) == ("suspect", 3, 9)
        assert post.peer.reason == "another node answers there: q"
        assert (post.get("pushes_acknowledged"), post.get("pushes_failed")) == (1, 1)

    run(main)


def test_nobody_waits_for_a_peer_to_start_where_another_node_answers() -> None:
    async def main() -> None:
        post = Post(Receipt(reply=Reply("merged", "q", 0, 0)), insist=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert (post.peer.state, len(post.sent)) == ("suspect", 1)

    run(main)


def test_another_node_that_refuses_for_good_is_told_by_its_refusal() -> None:
    async def main() -> None:
        other = Reply("refused", "q", 0, 0, "wrong_swarm", "this is swarm other")
        post = Post(Receipt(reply=other))
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert (post.peer.state, post.peer.reason) == (
            "suspect",
            "wrong_swarm: this is swarm other",
        )

    run(main)


@pytest.mark.parametrize("fault", [gone(), PeerError("malformed_frame", "no reply")])
def test_a_living_peer_is_tried_once_more_then_suspected(fault: Exception) -> None:
    async def main() -> None:
        post = Post(merged(), fault, fault)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(1.0)
            post.put(tasks)
        assert post.instants[:2] == [0.0, 1.0]
        assert 1.025 <= post.instants[2] <= 1.05
        assert len(post.instants) == 3
        assert post.peer.state == "suspect"
        assert post.get("pushes_failed") == 2
        assert post.get("peers_suspected") == 1

    run(main)


def test_one_broken_connection_means_nothing() -> None:
    async def main() -> None:
        post = Post(merged(), gone(), merged(), gone(), merged())
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                post.put(tasks, 7)
                await asyncio.sleep(1.0)
        assert post.peer.state == "alive"
        assert post.get("peers_suspected") == 0
        assert post.get("pushes_sent") == 5
        assert len(set(post.sent)) == 1, "a repeat is the same frame"

    run(main)


def test_an_unknown_peer_of_a_random_graph_is_given_up_at_once() -> None:
    async def main() -> None:
        post = Post(gone())
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert post.peer.state == "suspect"
        assert len(post.instants) == 1

    run(main)


def test_an_unknown_neighbour_is_insisted_upon() -> None:
    async def main() -> None:
        post = Post(*[gone() for _ in range(40)], insist=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert len(post.instants) == 41
        assert post.peer.state == "alive"
        assert post.get("peers_suspected") == 0
        pauses = np.diff(post.instants)
        assert 0.025 <= pauses[0] <= 0.05
        assert (pauses <= 2.0).all()
        assert (pauses[8:] >= 1.0).all()

    run(main)


def test_insisting_ends_where_something_newer_waits() -> None:
    async def main() -> None:
        post = Post(*[gone() for _ in range(5)], insist=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks, 1)
            await asyncio.sleep(0.01)
            post.put(tasks, 2)
        assert post.sent[0].endswith(b"1")
        assert all(head.endswith(b"2") for head in post.sent[1:])
        assert post.get("pushes_replaced") == 1

    run(main)


@pytest.mark.parametrize("code", [*sorted(LASTING), "draining"])
def test_a_lasting_refusal_is_not_repeated(code: str) -> None:
    async def main() -> None:
        post = Post(refused(code), insist=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert len(post.instants) == 1
        assert post.peer.state == "suspect"
        assert post.peer.refusal == post.peer.reason == f"{code}: because"
        assert post.counters.by_label("pushes_refused_by_peer") == {code: 1}
        assert post.refusals == [("p", code)]

    run(main)


def test_a_refusal_is_forgotten_once_the_peer_takes_a_push() -> None:
    async def main() -> None:
        post = Post(refused("wrong_graph"), merged())
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(3.0)
            post.put(tasks)
        assert post.peer.state == "alive"
        assert post.peer.refusal == ""

    run(main)


def test_a_peer_that_is_busy_for_no_time_at_all_is_not_asked_without_end() -> None:
    async def main() -> None:
        post = Post(*[refused("busy", 1e-9) for _ in range(10)])
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert (np.diff(post.instants) >= RETRY_LEAST_S * 0.999).all()

    run(main)


def test_who_adapts_to_the_speed_remembers_nothing_of_pushes_that_are_over() -> None:
    async def main() -> None:
        post = Post(merged(), refused("stale_epoch"), timed=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(1.0)
            post.put(tasks)
        assert not post.courier._left

    run(main)


def test_a_busy_peer_is_asked_again_when_it_says() -> None:
    async def main() -> None:
        post = Post(refused("busy", 0.75), refused("busy"), refused("busy", 1e6), merged())
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert post.instants == pytest.approx([0.0, 0.75, 0.85, 30.85], abs=1e-12)
        assert post.peer.state == "alive"
        assert post.get("peers_suspected") == 0

    run(main)


@pytest.mark.parametrize("code", ["checksum_mismatch", "not_finite", "malformed_frame"])
def test_a_passing_refusal_is_neither_repeated_nor_held_against_the_peer(code: str) -> None:
    async def main() -> None:
        post = Post(merged(), refused(code))
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(1.0)
            post.put(tasks)
        assert len(post.instants) == 2
        assert post.peer.state == "alive"

    run(main)


def test_who_lacks_a_base_is_there_and_the_algorithm_is_told() -> None:
    async def main() -> None:
        post = Post(gone(), refused("missing_base"))
        told: list[tuple[str, str, str]] = []
        post.courier.on_refusal = lambda peer, code: told.append((peer, code, post.peer.state))
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(0.1)
            assert post.peer.state == "suspect"
            post.put(tasks)
        assert told == [(post.peer.id, "missing_base", "alive")]
        assert len(post.instants) == 2
        assert post.get("peers_suspected") == 1

    run(main)


def test_a_suspect_is_left_alone_until_it_is_due() -> None:
    async def main() -> None:
        post = Post(gone())
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            post.put(tasks)
            await asyncio.sleep(0.01)
            assert len(post.instants) == 1
            await asyncio.sleep(0.05)
            post.put(tasks)
        assert len(post.instants) == 2
        assert post.peer.state == "alive"

    run(main)


def test_an_answer_does_not_clear_who_missed_a_deadline() -> None:
    """It lives, but whether it will send its model in time, only a message of its own shows."""

    async def main() -> None:
        post = Post()
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(1.0)
            post.courier.suspect("p", "no model within the deadline")
            post.put(tasks)
        assert post.peer.state == "suspect"
        assert post.peer.round == 3

    run(main)


def test_flush_repeats_nothing() -> None:
    async def main() -> None:
        post = Post(*[gone() for _ in range(100)], insist=True)
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(10.0)
            tried = len(post.instants)
            assert await post.courier.flush(20.0)
        assert len(post.instants) == tried
        assert asyncio.get_running_loop().time() == 10.0

    run(main)


def test_pushes_are_not_timed_where_nobody_asks_for_their_speed() -> None:
    async def main() -> None:
        post = Post()
        post.seconds = 0.5
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
        assert post.counters.get("pushes_acknowledged") == 1
        assert post.courier.bytes_per_s == 0.0

    run(main)


def test_the_speed_of_pushes_is_told() -> None:
    async def main() -> None:
        post = Post(timed=True)
        assert post.courier.bytes_per_s == 0.0
        for seconds in (0.5, 0.5, 2.0):
            post.seconds = seconds
            async with asyncio.TaskGroup() as tasks:
                post.put(tasks)
        weights = [0.81, 0.9, 1.0]
        spent = 0.5 * weights[0] + 0.5 * weights[1] + 2.0 * weights[2]
        nbytes = len(post.sent[-1])
        assert post.courier.bytes_per_s == pytest.approx(sum(weights) * nbytes / spent, rel=1e-9)

    run(main)


def test_a_peer_may_be_forgotten_before_what_was_given_up_has_ended() -> None:
    async def main() -> None:
        post = Post()
        post.seconds = 60.0
        async with asyncio.TaskGroup() as tasks:
            post.put(tasks)
            await asyncio.sleep(1)
            post.courier.lose(post.peer, "down", "silent")
            post.peers.forget("p")
            post.peers.sweep(post.courier.busy)
            assert "p" not in post.peers.known
        assert not post.peer.sending

    run(main)
