"""Peers: unknown, alive, suspect; and how long until the next try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.config import PeerEntry
from gossipnode.node.directory import Directory
from gossipnode.node.peers import ROUND_MAX, SLACK, Peer, PeerState, PeerTable


@pytest.mark.parametrize(
    ("failures", "pause"),
    [(1, 0.05), (2, 0.1), (3, 0.2), (4, 0.4), (5, 0.8), (6, 1.6), (7, 2.0), (8, 2.0), (5000, 2.0)],
)
def test_backoff_doubles_to_two_seconds(failures: int, pause: float) -> None:
    table = PeerTable(10)
    peer = table.add("a", "x")
    assert peer is not None
    peer.failures = failures - 1
    assert table.failed(peer, 100.0, 0.0) == pause / 2
    assert peer.retry_at == 100.0 + pause / 2
    peer.failures = failures - 1
    assert table.failed(peer, 100.0, 0.5) == pause * 0.75


@given(st.integers(0, 100), st.floats(0, 1, exclude_max=True))
def test_backoff_is_within_half_and_whole(failures: int, spread: float) -> None:
    table = PeerTable(10)
    peer = table.add("a", "x")
    assert peer is not None
    peer.failures = failures
    assert 0.025 <= table.failed(peer, 0.0, spread) <= 2.0


def test_hearing_of_a_peer_forgives_everything() -> None:
    table = PeerTable(10)
    peer = table.add("a", "x")
    assert peer is not None
    table.failed(peer, 1.0, 0.0)
    table.mark(peer, "suspect")
    peer.reason = "silent"
    table.heard(peer, 2.0, epoch=5)
    assert (peer.state, peer.reason, peer.failures, peer.retry_at) == ("alive", "", 0, 0.0)
    assert (peer.heard_at, peer.epoch) == (2.0, 5)
    table.heard(peer, 3.0, epoch=4)
    assert peer.epoch == 5


def test_a_leap_of_rounds_is_believed_when_it_is_said_twice() -> None:
    peer = Peer("a", "x")
    for said, believed in [
        (500, 500),  # the first word of a peer, which may have run for long
        (501, 501),
        (10**9, 501),
        (502, 502),
        (900, 502),
        (901, 901),
        (40, 40),  # started again from an old checkpoint
        (41, 41),
    ]:
        peer.tell_round(said)
        assert peer.round == believed, said


@pytest.mark.parametrize("absurd", [ROUND_MAX + SLACK + 1, 2**63 - 1])
def test_a_round_after_which_no_message_can_tell_another_is_never_believed(absurd: int) -> None:
    peer = Peer("a", "x")
    for said, believed in [(absurd, -1), (absurd, -1), (3, 3), (absurd, 3), (absurd, 3), (4, 4)]:
        peer.tell_round(said)
        assert peer.round == believed
    led = Peer("b", "x", round=ROUND_MAX + SLACK)  # it was led there, and counts on
    led.tell_round(led.round + 1)
    assert led.round == ROUND_MAX + SLACK + 1


def listing(names: str) -> Directory:
    return Directory([PeerEntry(id=name, address=f"http://{name}:1") for name in names])


def test_of_many_listed_peers_the_one_met_first_is_forgotten() -> None:
    table = PeerTable(10, listing("abcdef"), "f", kept=3)
    learnt = table.add("z", "http://z:1")
    for name in "abc":
        table.heard(table[name], 1.0)
    table.mark(table["a"], "suspect")
    table["b"].sending = True
    c = table["c"]
    assert table["d"].state == "unknown"  # takes the place of c
    assert table["c"] is not c  # which was forgotten, and takes that of d
    assert table["c"].state == "unknown"
    assert (table["a"].state, table["b"].state) == ("suspect", "alive")
    assert table["z"] is learnt
    assert len(table) == 6


def test_looking_at_all_peers_forgets_none() -> None:
    table = PeerTable(10, listing("abcdef"), "f", kept=2)
    for name in "ab":
        table.heard(table[name], 1.0)
    learnt = table.add("z", "http://z:1")
    seen = {peer.id: peer.state for peer in table}
    assert seen == {"a": "alive", "b": "alive", **dict.fromkeys("cdez", "unknown")}
    assert [peer.id for peer in table][-1] == "z"
    assert table["z"] is learnt
    assert (table["a"].state, table["b"].state) == ("alive", "alive")


def test_where_all_are_suspect_or_busy_the_bound_holds_as_far_as_it_can() -> None:
    table = PeerTable(10, listing("abcd"), kept=2)
    for name in "ab":
        table.mark(table[name], "suspect")
    table["b"].sending = True
    assert table["c"].state == "unknown"
    assert table["a"].state == "unknown"
    assert table["b"].state == "suspect"
    assert table.states == {"alive": 0, "suspect": 1, "down": 0, "left": 0, "unknown": 3}


def test_candidates_are_those_not_suspect_or_due() -> None:
    table = PeerTable(10)
    for name in "abcd":
        table.add(name, name)
    table.mark(table["b"], "suspect")
    table["b"].retry_at = 10.0
    table.mark(table["c"], "alive")
    assert table.candidates(None, 9.99) == ["a", "c", "d"]
    assert table.candidates(None, 10.0) == ["a", "b", "c", "d"]
    assert table.candidates(("d", "b"), 9.99) == ["d"]


def test_the_table_is_bounded_but_updates_addresses() -> None:
    table = PeerTable(2)
    assert table.add("a", "1") is not None
    assert table.add("b", "2") is not None
    assert table.add("c", "3") is None
    assert "c" not in table
    updated = table.add("a", "4")
    assert updated is not None
    assert updated.address == "4"
    assert len(table) == 2


CROWD = Directory([PeerEntry(id=f"n{i}", address=f"http://n{i}:1") for i in range(10_000)])
STATES: tuple[PeerState, ...] = ("unknown", "alive", "suspect", "down", "left")


NAMES = st.sampled_from("abcdefz")
CHANGES = st.one_of(
    st.tuples(NAMES, st.sampled_from(STATES)),
    st.tuples(NAMES, st.sampled_from(["forget", "add"])),
    st.tuples(NAMES, st.just("sweep")),
)


@given(st.lists(CHANGES, max_size=40))
def test_the_counts_are_those_of_all_peers_one_by_one(changes: list[tuple[str, PeerState]]) -> None:
    table = PeerTable(10, listing("abcdefg"), "g", kept=4)
    table.add("z", "http://z:1")
    for name, change in changes:
        if change in STATES:
            if name in table.known or name != "z":  # whoever sends to it may do so after it is gone
                table.mark(table[name], change)
        elif change == "sweep":
            table.sweep({name})
        elif name == "z":
            (table.forget if change == "forget" else lambda z: table.add(z, "http://z:1"))(name)
        counted = Counter(peer.state for peer in table)
        assert table.states == {key: counted[key] for key in STATES}
        missed = {peer.id for peer in table if peer.state in ("suspect", "down")}
        assert table.troubled.keys() == missed
        assert [peer.id for peer in table.first((), 3)] == list(
            dict.fromkeys(peer.id for peer in table.first((), 3))
        )


def test_a_peer_that_is_forgotten_stays_until_nothing_is_sent_to_it_any_more() -> None:
    table = PeerTable(2, listing("ab"), "b")
    peer = table.add("z", "http://z:1")
    assert peer is not None
    table.mark(peer, "suspect")
    table.forget("z")
    table.forget("a")  # it is listed
    table.sweep({"z"})
    assert table.known["z"] is peer  # whoever sends to it finds it
    assert "z" not in table
    assert [one.id for one in table] == ["a"]
    assert table.candidates(None, 1e9) == ["a"]
    assert table.states == {"alive": 0, "suspect": 0, "down": 0, "left": 0, "unknown": 1}
    table.add("z", "http://z:2")
    assert (table["z"], peer.address, table.suspects) == (peer, "http://z:2", 1)
    table.forget("z")
    table.sweep(())
    assert "z" not in table.known
    for name in "xyz":
        table.forget("x")
        table.add(name, f"http://{name}:1")
    table.sweep(())
    assert {one.id for one in table} == {"a", "y", "z"}  # there was room again


def test_trouble_is_a_suspicion_or_a_refusal_and_ends_when_the_peer_is_heard_of() -> None:
    table = PeerTable(10, listing("abcd"))
    a, b, c, d = (table[name] for name in "abcd")
    a.refusal, b.refused_here, c.reason = "wrong_swarm: x", "too_large: y", "connection refused"
    for peer in (b, a, c, d):
        table.note_trouble(peer)
    assert list(table.troubled) == ["b", "a", "c"]
    a.refusal = b.refused_here = ""
    for peer in (a, b, c):
        table.heard(peer, 1.0)
    assert not table.troubled


def test_of_a_crowd_neighbours_and_those_in_trouble_are_shown_and_neither_hides_the_other() -> None:
    table = PeerTable(10, CROWD, "n0")
    for i in range(500, 600):
        table.mark(table[f"n{i}"], "suspect")
    for i in range(9000, 9100):
        table.mark(table[f"n{i}"], "alive")
    shown = [peer.id for peer in table.first(("n9999", "n501", "n3"), 64)]
    assert len(set(shown)) == 64
    assert {"n3", "n501", "n9999"} < set(shown)
    assert sum(table[name].state == "suspect" for name in shown) == 62
    numbers = [int(name[1:]) for name in shown]
    assert numbers == sorted(numbers)
    many = [f"n{i}" for i in range(1000, 2000)]
    shown = [peer.id for peer in table.first(many, 64)]
    assert sum(name in many for name in shown) == 32
    assert sum(table[name].state == "suspect" for name in shown) == 32


def test_without_neighbours_or_trouble_those_who_are_known_are_shown_first() -> None:
    table = PeerTable(10, CROWD, "n0")
    for i in range(9000, 9010):
        table.heard(table[f"n{i}"], 1.0)
    table.add("z", "http://z:1")
    shown = [peer.id for peer in table.first((), 20)]
    unknown = [f"n{i}" for i in range(1, 10)]
    assert shown == [*unknown, *(f"n{i}" for i in range(9000, 9010)), "z"]
    assert len(table.known) == 11


def test_showing_some_of_a_crowd_asks_for_no_more_neighbours_than_it_shows() -> None:
    asked = []

    def neighbours() -> Iterator[str]:
        for peer_id in CROWD.ids:
            asked.append(peer_id)
            yield peer_id

    table = PeerTable(10, CROWD, "else")
    assert len(table.first(neighbours(), 64)) == len(asked) == 64


@pytest.mark.parametrize("own", ["a", "c", "f", "else"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_together_are_the_whole_table_in_its_order(own: str, limit: int) -> None:
    table = PeerTable(10, listing("abcdef"), own)
    table.heard(table["b"], 1.0)
    for name in "yz":
        table.add(name, f"http://{name}:1")
    found: list[Peer] = []
    while page := table.page(found[-1].id if found else "", limit):
        assert len(page) <= limit
        found += page
    assert [peer.id for peer in found] == [name for name in "abcdefyz" if name != own]
    assert found == list(table)
    assert len(table.known) == 3
    for stranger in ("nobody", own):
        if stranger != "else":
            with pytest.raises(KeyError):
                table.page(stranger, limit)
