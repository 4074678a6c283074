"""Counters and history: closed names, monotone counts, a bounded curve that stays whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.node.counters import HELP, Counters
from gossipnode.node.history import History


def test_an_unknown_name_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        Counters().add("pushes_snet")


def test_counts_by_name_and_label() -> None:
    counters = Counters()
    counters.add("rounds")
    counters.add("rounds", 4)
    counters.add("pushes_refused", label=("code", "busy"))
    counters.add("pushes_refused", 2, label=("code", "draining"))
    assert counters.get("rounds") == 5
    assert counters.get("pushes_refused") == 0
    assert counters.get("pushes_refused", ("code", "draining")) == 2
    assert counters.by_label("pushes_refused") == {"busy": 1, "draining": 2}


def test_every_series_is_there_from_the_start_and_none_twice() -> None:
    counters = Counters()
    assert [name for name, _, _ in counters.items()] == list(HELP)
    counters.add("pushes_refused", label=("code", "busy"))
    rows = [(name, tuple(labels.items())) for name, labels, _ in counters.items()]
    assert len(rows) == len(set(rows)) == len(HELP)
    assert ("pushes_refused", (("code", "busy"),)) in rows


@given(st.integers(2, 40), st.integers(0, 400))
def test_history_stays_bounded_ordered_and_keeps_both_ends(limit: int, rows: int) -> None:
    history = History(limit)
    assert history.last is None
    for number in range(rows):
        history.add({"round": number})
    kept = [row["round"] for row in history.rows()]
    assert kept == sorted(set(kept))
    assert len(kept) <= limit
    if rows:
        assert kept[0] == 0
        assert kept[-1] == rows - 1
        assert len(kept) >= min(rows, limit // 2)
        assert history.last == {"round": rows - 1}


def test_history_since_a_round() -> None:
    history = History(10)
    for number in range(5):
        history.add({"round": number * 10})
    assert [row["round"] for row in history.rows(since=20)] == [20, 30, 40]
    assert history.rows(since=41) == []


def test_history_when_full_drops_every_second_row() -> None:
    history = History(4)
    for number in range(5):
        history.add({"round": number})
    assert [row["round"] for row in history.rows()] == [0, 2, 4]
