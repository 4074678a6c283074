"""Memory comes back when nobody holds it any more, and not before."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.errors import PeerError
from gossipnode.network.pool import IDLE_BLOCKS_MAX, RECYCLED_BYTES_MIN, BufferPool

LARGE = RECYCLED_BYTES_MIN


def taken(pool: BufferPool, nbytes: int = LARGE) -> np.ndarray:
    """A vector as the node makes it from an arrived body."""
    body = pool.take(nbytes)
    pool.arrived(nbytes)
    return np.frombuffer(body, "<f4", nbytes // 4, 0)


@pytest.mark.parametrize("nbytes", [8, LARGE])
def test_a_system_without_memory_is_busy_and_nothing_stays_reserved(
    nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    pool = BufferPool(2**30)
    monkeypatch.setattr(np, "empty", none)
    with pytest.raises(PeerError) as caught:
        pool.take(nbytes)
    monkeypatch.undo()
    assert (caught.value.code, pool.inflight_bytes) == ("busy", 0)


def test_a_body_is_used_again_only_when_its_last_view_is_gone() -> None:
    pool = BufferPool(2**30)
    vector = taken(pool)
    address = vector.ctypes.data
    inner = vector[100:].reshape(2, -1).view(np.uint8)
    del vector
    assert (pool.lent_blocks, pool.idle_bytes) == (1, 0)
    other = taken(pool)
    assert other.ctypes.data != address
    assert not np.shares_memory(other, inner)
    del inner
    assert (pool.lent_blocks, pool.idle_bytes) == (1, LARGE)
    again = taken(pool)
    assert (again.ctypes.data, pool.recycled) == (address, 1)


def test_a_body_that_was_thrown_away_is_used_again() -> None:
    pool = BufferPool(2**30)
    body = pool.take(LARGE)
    pool.arrived(LARGE)
    assert pool.idle_bytes == 0
    del body
    assert pool.idle_bytes == LARGE


def test_no_more_waits_than_may_and_none_after_trimming() -> None:
    pool = BufferPool(2**30)
    vectors = [taken(pool) for _ in range(5)]
    vectors.clear()
    assert pool.idle_bytes == IDLE_BLOCKS_MAX * LARGE
    pool.trim()
    assert (pool.idle_bytes, pool.lent_blocks) == (0, 0)


def test_a_block_of_another_size_is_not_lent() -> None:
    pool = BufferPool(2**30)
    taken(pool)
    body = pool.take(2 * LARGE)
    assert (len(body), pool.recycled, pool.idle_bytes) == (2 * LARGE, 0, 0)


def test_small_bodies_are_mallocs_business() -> None:
    pool = BufferPool(2**30)
    body = pool.take(LARGE - 1)
    assert not body.readonly
    assert pool.lent_blocks == 0


def test_a_body_may_die_in_another_thread() -> None:
    pool = BufferPool(2**30)
    held = [taken(pool)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert (pool.lent_blocks, pool.idle_bytes) == (0, LARGE)


def test_a_body_outlives_its_pool() -> None:
    pool = BufferPool(2**30)
    vector = taken(pool)
    vector[:] = 7
    del pool
    assert (vector == 7).all()


def test_what_arrives_is_bounded_but_one_body_is_always_let_in() -> None:
    pool = BufferPool(100)
    assert len(pool.take(500)) == 500
    with pytest.raises(PeerError) as caught:
        pool.take(1)
    assert caught.value.code == "busy"
    pool.arrived(500)
    pool.take(60)
    pool.take(40)
    with pytest.raises(PeerError):
        pool.take(1)
    assert pool.inflight_bytes == 100


@given(st.lists(st.tuples(st.sampled_from(["take", "drop"]), st.integers(0, 3)), max_size=40))
def test_two_bodies_never_share_memory(steps: list[tuple[str, int]]) -> None:
    pool = BufferPool(2**40)
    held: list[np.ndarray] = []
    for what, where in steps:
        if what == "take":
            vector = taken(pool, LARGE * (1 + where % 2))
            assert not any(np.shares_memory(vector, other) for other in held)
            held.append(vector)
            del vector
        elif held:
            del held[where % len(held)]
        assert pool.lent_blocks == len(held)
        assert len(pool._idle) <= IDLE_BLOCKS_MAX
