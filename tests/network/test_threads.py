"""A thread of one's own: results, errors, order, and what is never begun."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import numpy as np
import pytest

from gossipnode.network.threads import Hand


async def test_work_is_done_elsewhere_in_order_and_its_result_comes_back() -> None:
    hand, order = Hand("test"), []

    def note(number: int) -> tuple[int, str]:
        order.append(number)
        return number, threading.current_thread().name

    assert await asyncio.gather(*(hand.do(note, number) for number in range(20))) == [
        (number, "test") for number in range(20)
    ]
    assert order == list(range(20))
    hand.close()


async def test_what_work_raises_is_raised_where_it_is_awaited_and_the_next_is_done() -> None:
    hand = Hand("test")
    failing, next_ = hand.do(int, "x"), hand.do(int, "3")
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    assert await next_ == 3
    hand.close()


async def test_it_is_busy_only_while_it_works() -> None:
    hand, begun, may_end = Hand("test"), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return may_end.wait(20)

    assert not hand.is_busy
    working = hand.do(work)
    await asyncio.to_thread(begun.wait, 20)
    assert hand.is_busy
    may_end.set()
    assert await working
    assert not hand.is_busy
    hand.close()


async def test_what_has_not_begun_is_cancelled_at_the_end_or_before() -> None:
    hand, may_end, done = Hand("test"), threading.Event(), []
    working = hand.do(may_end.wait, 20)
    given_up, waiting = hand.do(done.append, 1), hand.do(done.append, 2)
    given_up.cancel()
    hand.close()
    hand.close()
    may_end.set()
    assert await working
    assert waiting.cancelled()
    assert done == []
    with pytest.raises(RuntimeError, match="no more work"):
        hand.do(print)


async def test_a_result_that_nobody_awaits_any_more_is_dropped() -> None:
    hand, may_end = Hand("test"), threading.Event()
    working = hand.do(may_end.wait, 20)
    working.cancel()
    may_end.set()
    assert await hand.do(int, "3") == 3
    hand.close()


async def test_nothing_of_what_is_done_is_kept() -> None:
    hand = Hand("test")
    given = np.zeros(3)
    seen = weakref.ref(given)
    made = weakref.ref(await hand.do(np.negative, given))
    del given
    assert await hand.do(int, "3") == 3
    gc.collect()
    assert seen() is None
    assert made() is None
    hand.close()


async def test_no_thread_before_the_first_piece_of_work() -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "the only one"]

    hand = Hand("the only one")
    assert threads() == []
    await hand.do(int)
    assert threads() == ["the only one"]
    hand.close()


def test_a_loop_that_is_gone_does_not_break_the_thread() -> None:
    hand, may_end = Hand("test"), threading.Event()

    async def leave_something() -> None:
        hand.do(may_end.wait, 20)

    asyncio.run(leave_something())
    may_end.set()
    hand.close()
    assert hand._thread is not None
    hand._thread.join(20)
    assert not hand._thread.is_alive()
