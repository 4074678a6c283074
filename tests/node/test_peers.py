"""Peers: unknown, alive, suspect; and how long until the next try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.config import PeerEntry
from gossipnode.node.directory import Directory
from gossipnode.node.peers import Peer, PeerTable


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
    peer.state, peer.reason = "suspect", "silent"
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


def listing(names: str) -> Directory:
    return Directory([PeerEntry(id=name, address=f"http://{name}:1") for name in names])


def test_of_many_listed_peers_the_one_met_first_is_forgotten() -> None:
    table = PeerTable(10, listing("abcdef"), "f", kept=3)
    learnt = table.add("z", "http://z:1")
    for name in "abc":
        table.heard(table[name], 1.0)
    table["a"].state = "suspect"
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
        table[name].state = "suspect"
    table["b"].sending = True
    assert table["c"].state == "unknown"
    assert table["a"].state == "unknown"
    assert table["b"].state == "suspect"


def test_candidates_are_those_not_suspect_or_due() -> None:
    table = PeerTable(10)
    for name in "abcd":
        table.add(name, name)
    table["b"].state, table["b"].retry_at = "suspect", 10.0
    table["c"].state = "alive"
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
