"""The loop's turn while a body arrives: who reads on, and who gives way."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from gossipnode.network import turns
from gossipnode.network.records import READ_BYTES
from gossipnode.network.turns import Breather, Turns


class Transport(asyncio.ReadTransport):
    """Says what it was told."""

    def __init__(self, **extra: object) -> None:
        super().__init__(extra)
        self.told: list[str] = []
        self.reading, self.closing = True, False

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.told.append("pause")
        self.reading = False

    def resume_reading(self) -> None:
        self.told.append("resume")
        self.reading = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def read(breather: Breather, clock: list[float], seconds: float, nbytes: int = READ_BYTES) -> None:
    breather.begin()
    clock[0] += seconds
    breather.end(nbytes)


async def next_turn() -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_reads_that_take_long_together_are_stopped_until_the_next_turn(
    clock: list[float],
) -> None:
    transport = Transport()
    breather = Breather(transport, asyncio.get_running_loop())
    for _ in range(2):
        read(breather, clock, 0.4 * turns.TURN_S)
        assert transport.told == []
    read(breather, clock, 0.4 * turns.TURN_S)
    assert transport.told == ["pause"]
    await next_turn()
    assert transport.told == ["pause", "resume"]


async def test_each_turn_has_a_time_of_its_own(clock: list[float]) -> None:
    transport = Transport()
    breather = Breather(transport, asyncio.get_running_loop())
    for _ in range(5):
        read(breather, clock, 0.9 * turns.TURN_S)
        await next_turn()
    assert transport.told == []


async def test_a_read_that_did_not_fill_its_buffer_has_nothing_behind_it(
    clock: list[float],
) -> None:
    transport = Transport()
    breather = Breather(transport, asyncio.get_running_loop())
    read(breather, clock, 10 * turns.TURN_S, READ_BYTES - 1)
    await next_turn()
    assert transport.told == []


async def test_of_tls_a_read_that_did_not_fill_its_buffer_may_have_more_behind_it(
    clock: list[float],
) -> None:
    transport = Transport(ssl_object=object())
    breather = Breather(transport, asyncio.get_running_loop())
    for _ in range(2):
        read(breather, clock, 0.4 * turns.TURN_S, READ_BYTES // 2)
        assert transport.told == []
    read(breather, clock, 0.4 * turns.TURN_S, READ_BYTES // 2)
    assert transport.told == ["pause"]
    await next_turn()
    assert transport.told == ["pause", "resume"]


async def test_neither_who_has_stopped_nor_who_has_gone_is_told_to_read(
    clock: list[float],
) -> None:
    transport = Transport()
    breather = Breather(transport, asyncio.get_running_loop())
    transport.reading = False
    read(breather, clock, 10 * turns.TURN_S)
    await next_turn()
    assert transport.told == []
    transport.reading = True
    read(breather, clock, 10 * turns.TURN_S)
    transport.closing = True
    await next_turn()
    assert transport.told == ["pause"]


async def test_who_is_alone_does_not_wait() -> None:
    """That the coroutine ends before it has yielded is what ``StopIteration`` says."""
    for _ in range(3):
        with pytest.raises(StopIteration):
            Turns().take().send(None)


async def test_between_two_turns_others_have_theirs() -> None:
    given, told = Turns(), list[str]()

    async def take(name: str) -> None:
        await given.take()
        told.append(name)

    def other() -> None:
        told.append(".")
        if len(told) < 100:
            asyncio.get_running_loop().call_soon(other)

    takers = [asyncio.ensure_future(take(name)) for name in "abcde"]
    asyncio.get_running_loop().call_soon(other)
    takers[1].cancel()
    await asyncio.gather(*takers, return_exceptions=True)
    text = "".join(told)
    assert text.replace(".", "") == "acde"  # first come, first served
    assert all(piece for piece in re.split("[acde]", text)[1:-1]), text
    await asyncio.sleep(0.0)
    await given.take()
