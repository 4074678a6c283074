"""The replica: differences are applied, snapshots are never torn, refusals change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import PeerError
from gossipnode.node.replica import Replica
from gossipnode.simulation import loop as virtual_time


async def inline(work: Callable[..., Any], *vectors: Any) -> Any:
    with np.errstate(all="ignore"):
        return work(*vectors)


async def slowly(work: Callable[..., Any], *vectors: Any) -> Any:
    """As the worker thread: others run between the call and its result."""
    await asyncio.sleep(1.0)
    return await inline(work, *vectors)


def vector(*values: float) -> Any:
    return np.array(values, np.float64)


def test_commit_without_a_merge_takes_the_buffer_itself() -> None:
    async def main() -> None:
        replica = Replica(vector(1, 2), 3, inline)
        after = vector(5, 6)
        await replica.commit(after, replica.params, steps=4)
        assert replica.params is after
        assert replica.age == 7
        assert not after.flags.writeable

    virtual_time.run(main())


def test_what_merges_while_training_stays() -> None:
    async def main() -> None:
        replica = Replica(vector(0, 0), 2, inline)
        before = replica.params
        await replica.merge(vector(8, 4), 0.25, age=10)  # -> (2, 1)
        await replica.commit(before + vector(10, 20), before, steps=3)
        np.testing.assert_array_equal(replica.params, [12, 21])
        assert replica.age == 13  # the merged age is the maximum, then the steps come on top
        np.testing.assert_array_equal(before, [0, 0])

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("own", "other", "expected"), [(0, 9, 9), (9, 0, 9), (4, 4, 4)], ids=["newer", "older", "same"]
)
def test_merged_age_is_the_larger_one(own: int, other: int, expected: int) -> None:
    async def main() -> None:
        replica = Replica(vector(0), own, inline)
        await replica.merge(vector(1), 0.5, other)
        assert replica.age == expected

    virtual_time.run(main())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_refusal_changes_nothing(bad: float) -> None:
    async def main() -> None:
        replica = Replica(vector(1, 2), 3, inline)
        before = replica.params
        with pytest.raises(PeerError, match="not_finite"):
            await replica.merge(vector(bad, 0), 0.5, 99)
        with pytest.raises(PeerError, match="not_finite"):
            await replica.commit(vector(0, bad), before, 99)
        assert replica.params is before
        assert replica.age == 3
        np.testing.assert_array_equal(before, [1, 2])

    virtual_time.run(main())


def test_two_finite_models_whose_change_overflows_are_refused() -> None:
    async def main() -> None:
        top = np.finfo(np.float64).max
        replica = Replica(vector(top), 0, inline)
        with pytest.raises(PeerError, match="not_finite"):
            await replica.merge(vector(-top), 0.5, 0)  # −max − max is −inf on the way
        assert replica.params[0] == top

    virtual_time.run(main())


def test_a_cancelled_merge_changes_nothing_and_holds_up_nobody() -> None:
    async def main() -> None:
        replica = Replica(vector(0), 0, slowly)
        before = replica.params
        task = asyncio.create_task(replica.merge(vector(4), 0.5, 1))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert replica.params is before
        await replica.merge(vector(8), 0.5, 1)
        assert replica.params[0] == 4.0

    virtual_time.run(main())


def test_merges_that_overlap_in_the_worker_are_all_applied() -> None:
    async def main() -> None:
        replica = Replica(vector(0), 0, slowly)
        before = replica.params
        async with asyncio.TaskGroup() as group:
            group.create_task(replica.merge(vector(8), 0.5, 1))  # 0 -> 4
            group.create_task(replica.commit(before + 1.0, before))  # 4 -> 5
            group.create_task(replica.merge(vector(9), 0.5, 1))  # 5 -> 7
        assert replica.params[0] == 7.0

    virtual_time.run(main())


@given(st.lists(st.tuples(st.booleans(), st.integers(-8, 8)), min_size=1, max_size=20))
def test_a_snapshot_never_changes(changes: list[tuple[bool, int]]) -> None:
    async def main() -> None:
        replica = Replica(vector(1, -1), 0, inline)
        held = []
        for is_merge, value in changes:
            snapshot = replica.params
            held.append((snapshot, snapshot.copy()))
            if is_merge:
                await replica.merge(vector(value, -value), 0.25, 0)
            else:
                origin = held[len(held) // 2][0]  # training that began some changes ago
                await replica.commit(origin + value, origin, steps=1)
        for snapshot, copy in held:
            np.testing.assert_array_equal(snapshot, copy)
            assert not snapshot.flags.writeable

    virtual_time.run(main())


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6, width=32), st.floats(0, 1)), min_size=1, max_size=30)
)
def test_merges_stay_in_the_hull(merges: list[tuple[float, float]]) -> None:
    async def main() -> None:
        replica = Replica(np.zeros(1, np.float64), 0, inline)
        for value, weight in merges:
            await replica.merge(vector(value), weight, 0)
        low = min(0.0, *(value for value, _ in merges))
        high = max(0.0, *(value for value, _ in merges))
        rounding = 1e-9 * max(1.0, -low, high)
        assert low - rounding <= replica.params[0] <= high + rounding

    virtual_time.run(main())
