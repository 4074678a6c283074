"""Drafts: made once, late, and to the end, whoever of those that wait is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gossipnode.node.draft import Draft
from gossipnode.wire.frame import Frame


async def test_a_draft_is_made_once_and_goes_on_when_who_waits_is_given_up() -> None:
    made: list[Frame] = []
    may_go_on = asyncio.Event()

    def make() -> Frame:
        made.append(Frame(b"head", []))
        return made[-1]

    async def work(do: Callable[[], Frame]) -> Frame:
        await may_go_on.wait()
        return do()

    draft = Draft(make)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(draft.sealed(work, tasks)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert not made
        may_go_on.set()
    assert waiting[0].cancelled()
    assert waiting[1].result() is waiting[2].result() is made[0]
    async with asyncio.TaskGroup() as tasks:
        assert await draft.sealed(work, tasks) is made[0]
    assert len(made) == 1
