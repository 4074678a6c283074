"""Where local steps are taken: brief ones on the loop, after a turn of it, others in a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gossipnode.network.world import DaemonWorld


async def test_brief_steps_are_taken_on_the_loop_and_others_in_the_trainers_thread() -> None:
    world = DaemonWorld()

    def where() -> str:
        return threading.current_thread().name

    assert await world.train(where, 1, brief=True) == threading.current_thread().name
    assert await world.train(where, 1) == "train"
    await world.close()


async def test_who_does_nothing_but_brief_steps_lets_others_have_their_turns() -> None:
    world, turns = DaemonWorld(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for step in range(100):
        assert await world.train(lambda: turns, 1, brief=True) > step
    task.cancel()
    await world.close()


async def test_brief_steps_wait_for_those_under_way_in_the_thread() -> None:
    world, begun, go_on, order = DaemonWorld(), asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def long() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(30)
        order.append("long")

    first = asyncio.create_task(world.train(long, 1))
    await begun.wait()
    second = asyncio.create_task(world.train(lambda: order.append("brief"), 1, brief=True))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, second)
    assert order == ["long", "brief"]
    await world.close()


async def test_what_brief_steps_raise_is_raised() -> None:
    world = DaemonWorld()
    with pytest.raises(ZeroDivisionError):
        await world.train(lambda: 1 // 0, 1, brief=True)
    await world.close()
