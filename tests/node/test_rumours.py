"""What is said about nodes: which row counts, how often it is told; and how long is waited."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.node.membership.patience import (
    HEALTH_MAX,
    TIMEOUT_FACTOR_MAX,
    LocalHealth,
    RoundTrips,
    SuspicionTimes,
)
from gossipnode.node.membership.rumours import Rumours, newness, times_told
from gossipnode.wire.members import STATES, Member

rows = st.builds(
    Member,
    id=st.sampled_from(["a", "b", "c"]),
    address=st.just(""),
    state=st.sampled_from(sorted(STATES)),
    epoch=st.integers(0, 3),
    incarnation=st.integers(0, 3),
)


def row(state: str, epoch: int = 1, incarnation: int = 0, node: str = "a") -> Member:
    return Member(node, "", state, epoch, incarnation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (row("alive"), row("suspect")),
        (row("suspect"), row("down")),
        (row("down"), row("left")),
        (row("left"), row("alive", incarnation=1)),
        (row("down", incarnation=9), row("alive", epoch=2)),
        (row("suspect", incarnation=1), row("alive", incarnation=2)),
    ],
)
def test_which_of_two_rows_counts(older: Member, newer: Member) -> None:
    for first, second in ((older, newer), (newer, older)):
        rumours = Rumours()
        rumours.tell(first, 8)
        assert rumours.tell(second, 8) == (second is newer)
        assert rumours.of("a") == newer


@given(st.lists(rows, max_size=30))
def test_an_older_row_never_wins_in_whatever_order_they_come(heard: list[Member]) -> None:
    rumours = Rumours()
    for one in heard:
        rumours.tell(one, 4)
    for node in {one.id for one in heard}:
        # The order told apart by hand: epoch, then incarnation, then how bad the state is.
        worst = ["alive", "suspect", "down", "left"]
        mine = [one for one in heard if one.id == node]
        best = max(mine, key=lambda r: (r.epoch, r.incarnation, worst.index(r.state)))
        assert rumours.of(node) == best


@given(st.lists(rows, max_size=12), st.randoms(use_true_random=False))
def test_two_who_heard_the_same_in_other_orders_say_the_same(heard: list[Member], rng) -> None:
    one, other = Rumours(), Rumours()
    for each in heard:
        one.tell(each, 4)
    rng.shuffle(heard)
    for each in heard:
        other.tell(each, 4)
    assert {r.id: newness(r) for r in one} == {r.id: newness(r) for r in other}


def test_the_newest_go_first_each_a_bounded_number_of_times() -> None:
    rumours = Rumours()
    for number in range(10):
        rumours.tell(row("suspect", node=f"n{number}"), nodes=16)
    assert [r.id for r in rumours.pick(3)] == ["n9", "n8", "n7"]
    told: dict[str, int] = {"n9": 1, "n8": 1, "n7": 1}
    while len(rumours):
        for one in rumours.pick(3):
            told[one.id] = told.get(one.id, 0) + 1
    assert set(told.values()) == {times_told(16)}
    assert rumours.pick() == []


@pytest.mark.parametrize("nodes", [16, 64, 256])
def test_a_rumour_reaches_everybody(nodes: int) -> None:
    """Synchronous turns, in each of which every node tells one random other."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        heard = [Rumours() for _ in range(nodes)]
        knows = {0}
        heard[0].tell(row("down", node="x"), nodes)
        for _turn in range(math.ceil(6 * math.log2(nodes))):
            for sender in range(nodes):
                receiver = int(rng.integers(nodes))
                for one in heard[sender].pick():
                    if receiver not in knows:
                        knows.add(receiver)
                        heard[receiver].tell(one, nodes)
            if len(knows) == nodes:
                break
        assert len(knows) == nodes, f"{nodes - len(knows)} had not heard"


def test_how_long_a_suspicion_lasts() -> None:
    times = SuspicionTimes.of(4.0, 0.5, 0.3, nodes=16, helpers=3)
    assert times.low_s == pytest.approx(4 * math.log10(16) * 0.5)
    assert times.high_s == pytest.approx(3 * times.low_s)
    waits = [times.seconds(confirmed) for confirmed in range(6)]
    assert waits == sorted(waits, reverse=True)
    assert (waits[0], waits[3], waits[5]) == (times.high_s, times.low_s, times.low_s)


@pytest.mark.parametrize(
    ("nodes", "wanted", "low_s"),
    [(2, 0, 2.0), (3, 1, 2.0), (4, 2, 2.0), (5, 3, 2.0), (100, 3, 4.0), (1000, 3, 6.0)],
)
def test_in_small_swarms_there_are_few_to_confirm(nodes: int, wanted: int, low_s: float) -> None:
    times = SuspicionTimes.of(4.0, 0.5, 0.3, nodes, helpers=3)
    assert times.wanted == wanted
    assert times.low_s == pytest.approx(low_s)
    assert times.seconds(wanted) == times.low_s


def test_where_answers_take_long_so_does_a_suspicion() -> None:
    assert SuspicionTimes.of(4.0, 0.5, 1.5, nodes=5, helpers=3).low_s == 6.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_an_answer_is_waited_for_within_bounds(took: list[float]) -> None:
    trips = RoundTrips(0.3)
    for seconds in took:
        trips.took(seconds)
    assert 0.3 <= trips.timeout_s <= 0.3 * TIMEOUT_FACTOR_MAX


def test_answers_of_half_a_second_of_jitter_are_waited_for() -> None:
    rng = np.random.default_rng(0)
    trips = RoundTrips(0.3)
    late = 0
    for number in range(5000):
        seconds = 0.04 + 0.5 * float(rng.random() + rng.random())
        late += number > 20 and seconds > trips.timeout_s
        trips.took(seconds)
    assert late < 5
    assert trips.timeout_s < 2.5


def test_fast_answers_are_waited_for_no_less_than_the_least() -> None:
    trips = RoundTrips(0.3)
    assert trips.timeout_s > 0.3  # before any was measured
    for _ in range(50):
        trips.took(0.001)
    assert trips.timeout_s == 0.3


def test_a_node_blames_itself_within_bounds() -> None:
    health = LocalHealth()
    assert health.factor == 1
    health.better()
    assert health.factor == 1
    health.worse(3)
    assert health.factor == 4
    health.better()
    assert health.factor == 3
    health.worse(100)
    assert health.score == HEALTH_MAX
