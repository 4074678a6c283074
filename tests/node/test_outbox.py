"""The outbox: one in flight, one that waits, the newest wins, nothing overtakes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gossipnode.node.outbox import Outbox
from gossipnode.simulation import loop as virtual_time


class Wire:
    """Takes ``seconds`` for each parcel; a parcel here is a number."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.sent: list[tuple[str, Any, float]] = []
        self.replaced: list[str] = []
        self.outbox = Outbox(self.send, self.replaced.append, lambda *_: None, lambda *_: True)

    async def send(self, peer: str, parcel: Any, posted: None) -> None:
        assert posted is None, "nothing can be posted here"
        self.sent.append((peer, parcel, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.seconds)

    def put(self, peer: str, parcel: Any, tasks: asyncio.TaskGroup) -> None:
        self.outbox.put(peer, parcel, tasks)


def test_the_newest_replaces_what_waits_but_not_what_is_in_flight() -> None:
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as tasks:
            wire.put("a", 0, tasks)
            await asyncio.sleep(0.5)
            assert not wire.outbox.is_full("a")
            for number in (1, 2, 3):
                wire.put("a", number, tasks)
            assert wire.outbox.is_full("a")
            assert await wire.outbox.flush(10.0)
        assert wire.sent == [("a", 0, 0.0), ("a", 3, 1.0)]
        assert wire.replaced == ["a", "a"]

    virtual_time.run(main())


def test_a_slow_peer_costs_the_others_nothing() -> None:
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as tasks:
            for peer in "abc":
                wire.put(peer, 0, tasks)
        assert [instant for _, _, instant in wire.sent] == [0.0, 0.0, 0.0]
        assert asyncio.get_running_loop().time() == 1.0

    virtual_time.run(main())


def test_frames_to_one_peer_leave_in_order() -> None:
    async def main() -> None:
        wire = Wire(0.1)
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                wire.put("a", number, tasks)
                await asyncio.sleep(0.03)
        numbers = [number for _, number, _ in wire.sent]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 49
        assert len(numbers) + len(wire.replaced) == 50

    virtual_time.run(main())


def test_flush_waits_as_long_as_allowed_then_gives_up() -> None:
    async def main() -> None:
        wire, loop = Wire(100.0), asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            wire.put("a", 0, tasks)
            wire.put("b", 0, tasks)
            await asyncio.sleep(1.0)
            wire.put("a", 1, tasks)
            assert not await wire.outbox.flush(5.0)
        assert loop.time() == 6.0
        assert [parcel for _, parcel, _ in wire.sent] == [0, 0]
        assert await wire.outbox.flush(0.0), "nothing is left"

    virtual_time.run(main())


def test_flush_of_an_empty_outbox_takes_no_time() -> None:
    async def main() -> None:
        assert await Wire().outbox.flush(5.0)
        assert asyncio.get_running_loop().time() == 0.0

    virtual_time.run(main())


def test_a_slot_serves_again_after_it_was_idle() -> None:
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as tasks:
            wire.put("a", 0, tasks)
            assert await wire.outbox.flush(9.0)
            wire.put("a", 1, tasks)
            assert await wire.outbox.flush(9.0)
        assert wire.sent == [("a", 0, 0.0), ("a", 1, 1.0)]
        assert wire.replaced == []

    virtual_time.run(main())


def test_what_is_dropped_before_it_began_holds_up_nobody() -> None:
    async def main() -> None:
        wire = Wire()
        async with asyncio.TaskGroup() as tasks:
            wire.put("a", 0, tasks)
            wire.outbox.drop("a")  # in the same turn of the loop: the task has not begun
            assert await wire.outbox.flush(10.0)
            wire.put("a", 1, tasks)
            assert await wire.outbox.flush(10.0)
        assert [number for _, number, _ in wire.sent] == [1]

    virtual_time.run(main())


class Letter:
    """What ``Mail`` has posted: nobody is told of it once it is cancelled."""

    outcome = None

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Mail(Wire):
    """Takes parcels without a task; an odd number needs one after its answer."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__(seconds)
        self.given_up: list[str] = []
        self.posted: list[tuple[Any, float]] = []
        self.outbox = Outbox(self.go_on, self.replaced.append, self.post, self.is_over)

    async def go_on(self, peer: str, parcel: Any, posted: Any) -> None:
        assert isinstance(posted, Letter) == (parcel == self.posted[-1][0])
        await self.send(peer, parcel, None)

    def post(self, _: str, parcel: Any, answered: Callable[[Any], None]) -> Letter:
        letter, loop = Letter(), asyncio.get_running_loop()
        letter.number = parcel  # type: ignore[attr-defined]
        self.posted.append((parcel, loop.time()))
        loop.call_later(self.seconds, lambda: letter.cancelled or answered(letter))
        return letter

    def is_over(self, peer: str, posted: Any) -> bool:
        if posted is None:
            self.given_up.append(peer)
            return True
        return posted.number % 2 == 0  # type: ignore[no-any-return]


def test_what_is_posted_needs_a_task_only_where_its_answer_is_not_the_end_of_it() -> None:
    async def main() -> None:
        mail = Mail()
        async with asyncio.TaskGroup() as tasks:
            for number in (0, 2, 4):  # 2 is replaced: one waits
                mail.put("a", number, tasks)
            await asyncio.sleep(1.5)
            mail.put("a", 5, tasks)
            await asyncio.sleep(1.0)
            assert mail.sent == []
            mail.put("a", 6, tasks)
            assert await mail.outbox.flush(9.0)
        assert mail.posted == [(0, 0.0), (4, 1.0), (5, 2.0)]
        assert mail.sent == [("a", 5, 3.0), ("a", 6, 4.0)], "in order, and nothing overtakes"
        assert mail.replaced == ["a"]

    virtual_time.run(main())


def test_what_is_posted_can_be_given_up() -> None:
    async def main() -> None:
        mail, loop = Mail(), asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            mail.put("a", 1, tasks)
            mail.put("a", 2, tasks)
            mail.outbox.drop("a")
            assert await mail.outbox.flush(0.0)
            mail.put("a", 4, tasks)
            mail.put("b", 4, tasks)
            assert not await mail.outbox.flush(0.5)
        assert mail.given_up == ["a", "a", "b"]
        assert [number for number, _ in mail.posted] == [1, 4, 4]
        await asyncio.sleep(2.0)
        assert mail.sent == []
        assert loop.time() == 2.5

    virtual_time.run(main())


def test_what_is_dropped_between_its_answer_and_the_task_is_given_up() -> None:
    async def main() -> None:
        mail, loop = Mail(), asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            mail.put("a", 1, tasks)
            loop.call_later(1.0, mail.outbox.drop, "a")  # at the instant of the answer, after it
            await asyncio.sleep(2.0)
            assert await mail.outbox.flush(0.0)
        assert (mail.sent, mail.given_up) == ([], ["a"])

    virtual_time.run(main())


def test_a_bug_of_ours_in_taking_an_answer_ends_the_node_and_not_the_network() -> None:
    async def main() -> None:
        mail = Mail()

        def broken(_: str, posted: Any) -> bool:
            raise KeyError(posted.number)

        mail.outbox = Outbox(mail.go_on, mail.replaced.append, mail.post, broken)

        async def live() -> None:
            async with asyncio.TaskGroup() as tasks:
                mail.put("a", 1, tasks)
                await asyncio.sleep(2.0)

        with pytest.raises(ExceptionGroup) as caught:
            await live()
        assert caught.group_contains(KeyError)
        assert await mail.outbox.flush(0.0)

    virtual_time.run(main())
