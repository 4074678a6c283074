"""Work that was begun without a task, and takes one only once it has to wait.

Next to all that a node does with an arrival is done at once, and a task costs as much as a small
merge: made, entered into the loop's queue, and a turn of the loop until it runs. So whoever calls
begins the coroutine by ``send(None)``; where that returns what it waits for, ``go_on`` is the rest,
for a task. Invariant: the work runs as in a task from its beginning, but that there is none up to
its first wait.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def go_on(work: Coroutine[Any, Any, T], waiting: Any) -> T:
    """Be the rest of ``work``, which was begun without a task and waits for ``waiting``."""
    return await _rest(work, waiting)


@coroutine
def _rest(work: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, None, T]:
    try:
        while True:
            try:
                yield waiting
            except BaseException as error:  # noqa: BLE001 - a cancellation among them: for ``work``
                waiting = work.throw(error)
            else:
                waiting = work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
