"""Sums whose bound is known are not looked through; those that may leave the range still are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossipnode.algorithms.base import Arrival, Outcome, Purpose
from gossipnode.algorithms.dpsgd import DPSGD, DpsgdOptions
from gossipnode.algorithms.lockstep import OpenRound
from gossipnode.errors import PeerError
from gossipnode.learning.params import PLAIN, extent

LARGEST = float(np.finfo(np.float32).max)


class Inline:
    """As much of a node as a sum asks for; remembers what was computed."""

    round, lead_max = 0, 1

    def __init__(self) -> None:
        self.names: list[str] = []

    async def compute(self, work, *vectors):
        self.names.append(work.__name__)
        with np.errstate(all="ignore"):
            return work(*vectors)


def arriving(sender: str, value: float, bound: float | None = None) -> Arrival:
    vector = np.full(PLAIN + 1, value, np.float32)
    arrival = Arrival(sender, Purpose.MODEL, 0, 0, {"x": vector})
    arrival.extent = extent(vector) if bound is None else bound
    return arrival


async def test_a_sum_that_cannot_overflow_is_not_looked_through() -> None:
    node, algorithm = Inline(), DPSGD(DpsgdOptions(), 1)
    for sender, value in (("a", 3.0), ("b", -5.0)):
        answer = await algorithm.accumulate(node, arriving(sender, value), 0.25, 0)
        assert answer.outcome is Outcome.BUFFERED
    now: OpenRound = algorithm.open[0]
    np.testing.assert_array_equal(now.acc["x"], np.full(PLAIN + 1, -0.5, np.float32))
    assert node.names == ["add_weighted", "add_weighted"]
    assert now.bound == 2.0


@pytest.mark.parametrize("bound", [None, math.inf], ids=["known", "unknown"])
async def test_a_sum_that_overflows_is_refused_and_changes_nothing(bound: float | None) -> None:
    node, algorithm = Inline(), DPSGD(DpsgdOptions(), 1)
    await algorithm.accumulate(node, arriving("a", LARGEST, bound), 0.75, 0)
    now = algorithm.open[0]
    before, known = now.acc["x"].copy(), now.bound
    with pytest.raises(PeerError, match="not finite"):
        await algorithm.accumulate(node, arriving("b", LARGEST, bound), 0.75, 0)
    np.testing.assert_array_equal(now.acc["x"], before)
    assert (now.arrived, now.mass, now.bound) == ({"a"}, 0.75, known)


async def test_a_large_sum_of_small_parts_counts_them_all() -> None:
    """No one of them would overflow; the bound is on their sum."""
    node, algorithm = Inline(), DPSGD(DpsgdOptions(), 1)
    for number in range(4):
        await algorithm.accumulate(node, arriving(f"{number}", LARGEST / 5), 1.0, 0)
    assert node.names == [
        "add_weighted",
        "add_weighted",
        "add_weighted_and_check",
        "add_weighted_and_check",
    ]
    with pytest.raises(PeerError, match="not finite"):
        await algorithm.accumulate(node, arriving("4", LARGEST / 5), 2.0, 0)
