"""The mailbox: what is kept, for whom is waited and how long, and who is to blame."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.algorithms.base import Arrival, Outcome, Purpose
from gossipnode.algorithms.dpsgd import DpsgdOptions
from gossipnode.algorithms.mailbox import ANY_LEAD, Mailbox
from gossipnode.algorithms.waiting import PROBE_EVERY_S
from gossipnode.errors import PeerError
from gossipnode.simulation import loop as virtual_time

OPTIONS = DpsgdOptions(deadline_s=3.0, start_deadline_s=10.0)
OTHERS = ("b", "c", "d")


class Around:
    """What a mailbox sees of its node; peers are alive unless a test says otherwise."""

    nodes = 4

    def __init__(self) -> None:
        self.round, self.stopping = 0, False
        self.counts: Counter[str] = Counter()
        self.rounds: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.suspected: dict[str, str] = {}
        self.probed: list[tuple[float, list[str]]] = []
        self.told: list[tuple[float, str]] = []

    def time(self) -> float:
        return asyncio.get_running_loop().time()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return not self.stopping

    def peer_round(self, peer: str) -> int:
        return self.rounds.get(peer, -1)

    def is_expected(self, peer: str) -> bool:
        return peer not in self.suspected

    def is_unknown(self, peer: str) -> bool:
        return peer in self.unknown

    def suspect(self, peer: str, reason: str) -> None:
        self.suspected[peer] = reason

    def probe(self, peers: list[str]) -> None:
        self.probed.append((self.time(), list(peers)))

    def tell(self, reason: str) -> None:
        if reason != (self.told[-1][1] if self.told else ""):
            self.told.append((self.time(), reason))

    def count(self, what: str, amount: int = 1) -> None:
        self.counts[what] += amount


class Case:
    """A mailbox, its node, and the messages of a test."""

    def __init__(self, room: int = 2) -> None:
        self.node: Any = Around()
        self.mailbox = Mailbox(OPTIONS, room)
        self.seq = 0

    def put(self, sender: str, round_: int, phase: int = 0, order: Any = None) -> Outcome:
        self.seq += 1
        arrival = Arrival(
            sender, Purpose.MODEL, round_, 0, {"x": np.zeros(1)},
            phase=phase, order=order or (1, self.seq),
        )  # fmt: skip
        return self.mailbox.put(self.node, arrival).outcome

    async def take(self, round_: int, phase: int = 0, **how: Any) -> tuple[list[str], float]:
        """Return whose messages came, and how long that took."""
        began = self.node.time()
        found = await self.mailbox.take(self.node, (round_, phase), OTHERS, **how)
        return list(found), self.node.time() - began

    def later(self, seconds: float, *message: Any) -> None:
        asyncio.get_running_loop().call_later(seconds, self.put, *message)


def run(story: Coroutine[Any, Any, None]) -> None:
    virtual_time.run(story)


def test_what_came_is_returned_in_the_order_asked_for_as_soon_as_it_is_complete() -> None:
    async def story() -> None:
        case = Case()
        assert case.put("d", 0) is Outcome.BUFFERED
        case.later(0.25, "c", 0)
        case.later(0.5, "b", 0)
        assert await case.take(0) == (["b", "c", "d"], 0.5)
        assert case.node.counts["missing_models"] == 0
        assert case.mailbox.box == {}

    run(story())


def test_who_misses_the_deadline_is_suspected_and_not_waited_for_again() -> None:
    async def story() -> None:
        case = Case()
        case.put("b", 0)
        assert await case.take(0) == (["b"], 3.0)
        assert case.node.suspected.keys() == {"c", "d"}
        assert case.node.counts["missing_models"] == 2
        case.put("b", 1)
        assert await case.take(1) == (["b"], 0.0)

    run(story())


def test_a_wait_that_takes_long_says_for_whom_until_it_ends() -> None:
    async def story() -> None:
        case = Case()
        case.later(0.75, "b", 0)
        case.later(1.75, "c", 0)
        await case.take(0)
        assert case.node.told == [
            (0.5, "waiting for b, c and 1 more: round 0"),
            (1.0, "waiting for c and d: round 0"),
            (2.0, "waiting for d: round 0"),
            (3.0, ""),
        ]
        for sender in OTHERS:
            case.later(0.4, sender, 1)
        await case.take(1)
        assert len(case.node.told) == 4  # one that is short says nothing

    run(story())


def test_those_missing_are_asked_whether_they_listen() -> None:
    async def story() -> None:
        case = Case()
        case.put("b", 0)
        await case.take(0)
        assert [at for at, _ in case.node.probed] == pytest.approx(
            [PROBE_EVERY_S * n for n in range(1, 6)]
        )
        assert all(asked == ["c", "d"] for _, asked in case.node.probed)

    run(story())


def test_without_blame_nobody_is_suspected() -> None:
    async def story() -> None:
        case = Case()
        assert await case.take(0, within=1.25, blame=False) == ([], 1.25)
        assert case.node.suspected == {}

    run(story())


def test_those_never_heard_of_may_still_be_starting() -> None:
    async def story() -> None:
        case = Case()
        case.node.unknown = {"c"}
        await asyncio.sleep(1)
        assert (await case.take(0))[1] == 10.0  # counted from the first time
        case.node.suspected.clear()
        assert (await case.take(1))[1] == 3.0  # that time is over

    run(story())


def test_a_suspicion_ends_the_wait() -> None:
    async def story() -> None:
        case = Case()

        def drop() -> None:
            case.node.suspected |= dict.fromkeys(OTHERS, "refused")
            case.mailbox.recheck(case.node)

        asyncio.get_running_loop().call_later(0.75, drop)
        assert await case.take(0) == ([], 0.75)

    run(story())


def test_a_later_message_of_a_sender_means_that_this_one_will_not_come() -> None:
    async def story() -> None:
        case = Case()
        for sender in ("c", "d"):
            case.put(sender, 0, 1)
        case.later(0.5, "b", 0, 2)
        assert await case.take(0, 1) == (["c", "d"], 0.5)
        assert await case.take(0, 2, within=0.5) == (["b"], 0.5)

    run(story())


def test_one_that_went_back_to_an_older_round_in_a_new_life_is_waited_for() -> None:
    async def story() -> None:
        case = Case()
        case.put("b", 9, 0, (1, 100))
        case.put("b", 2, 0, (2, 1))
        case.put("c", 3)
        case.later(1.0, "b", 3, 0, (2, 2))
        assert await case.take(3, within=1.5, blame=False) == (["b", "c"], 1.5)
        # What an overtaken message of the old life says is no news.
        case.put("b", 8, 0, (1, 99))
        assert case.mailbox.heard["b"] == ((2, 2), (3, 0))

    run(story())


@pytest.mark.parametrize(("lead", "waited"), [(0, 0.0), (1, 0.0), (2, 3.0), (ANY_LEAD, 3.0)])
def test_who_is_too_far_ahead_has_sent_all_it_will(lead: int, waited: float) -> None:
    async def story() -> None:
        case = Case()
        case.node.rounds = dict.fromkeys(OTHERS, 7)
        assert await case.take(5, lead=lead) == ([], waited)

    run(story())


def test_what_comes_for_a_beat_that_is_over_is_dropped_and_counted() -> None:
    async def story() -> None:
        case = Case()
        case.put("b", 0, 0)
        case.put("b", 1, 0)
        assert await case.take(1, 0, within=0.5) == (["b"], 0.5)
        assert case.node.counts["late_dropped"] == 1  # round 0 was never taken
        assert case.put("c", 1, 0) is Outcome.DROPPED
        assert case.put("c", 0, 7) is Outcome.DROPPED
        assert case.node.counts["late_dropped"] == 3
        assert case.put("c", 1, 1) is Outcome.BUFFERED

    run(story())


def test_a_second_message_of_the_same_beat_changes_nothing() -> None:
    case = Case()
    assert case.put("b", 0) is Outcome.BUFFERED
    first = case.mailbox.box[0, 0]["b"]
    assert case.put("b", 0) is Outcome.DUPLICATE
    assert case.mailbox.box[0, 0]["b"] is first


def test_a_new_life_of_a_sender_says_it_anew() -> None:
    case = Case()
    case.put("b", 0, 0, (1, 50))
    assert case.put("b", 0, 0, (2, 1)) is Outcome.BUFFERED
    assert case.mailbox.box[0, 0]["b"].order == (2, 1)
    assert case.put("b", 0, 0, (1, 51)) is Outcome.DUPLICATE
    assert case.mailbox.box[0, 0]["b"].order == (2, 1)


def test_early_messages_have_room_and_the_awaited_always() -> None:
    async def story() -> None:
        case = Case(room=2)
        case.put("b", 1)
        case.put("b", 2)
        with pytest.raises(PeerError, match="early"):
            case.put("b", 3)
        # One that sends too much takes no place from the others.
        assert case.put("c", 1) is Outcome.BUFFERED
        case.later(0.5, "d", 0)
        assert await case.take(0, within=1.0) == (["d"], 0.5)  # b and c are past round 0

    run(story())


def test_an_interrupted_wait_returns_what_there_is() -> None:
    async def story() -> None:
        case = Case()
        case.mailbox.interrupt()  # nobody waits
        case.put("c", 0)
        asyncio.get_running_loop().call_later(0.25, case.mailbox.interrupt)
        assert await case.take(0) == (["c"], 0.25)
        assert case.node.suspected == {}

    run(story())


def test_a_node_that_stops_waits_no_longer_and_blames_nobody() -> None:
    async def story() -> None:
        case = Case()

        def stop() -> None:
            case.node.stopping = True
            assert case.mailbox.waiting is not None
            case.mailbox.waiting.complete.set()

        asyncio.get_running_loop().call_later(0.5, stop)
        assert await case.take(0) == ([], 0.5)
        assert case.node.suspected == {}

    run(story())


def test_skipping_forgets_what_is_of_no_use() -> None:
    case = Case()
    case.put("b", 1)
    case.put("c", 2)
    case.put("d", 2, 1)
    case.mailbox.skip(case.node, (2, 1))
    assert list(case.mailbox.box) == [(2, 1)]
    assert case.node.counts["late_dropped"] == 2
    assert case.put("b", 2, 0) is Outcome.DROPPED
    assert case.mailbox.furthest(("b", "c")) == 2
    assert case.mailbox.furthest(()) == -1


BEATS = st.tuples(st.integers(0, 6), st.integers(0, 2))


@given(st.lists(st.tuples(st.sampled_from(OTHERS), BEATS), max_size=60), BEATS)
def test_no_more_is_kept_than_there_is_room_for_and_nothing_twice(
    messages: list[tuple[str, tuple[int, int]]], over: tuple[int, int]
) -> None:
    case = Case(room=3)
    case.mailbox.skip(case.node, over)
    kept = set()
    for sender, beat in messages:
        try:
            outcome = case.put(sender, *beat)
        except PeerError:
            assert sum(s == sender for s, _ in kept) == 3
            continue
        if outcome is Outcome.BUFFERED:
            assert (sender, beat) not in kept
            kept.add((sender, beat))
        else:
            assert (outcome is Outcome.DUPLICATE) == ((sender, beat) in kept)
    assert kept == {(s, beat) for beat, came in case.mailbox.box.items() for s in came}
    assert all(beat >= over for _, beat in kept)
    assert all(sum(s == sender for s, _ in kept) <= 3 for sender in OTHERS)
