"""Memory is given back after crowds, and after nothing else."""

from __future__ import annotations

import asyncio
import sys

import pytest
from loopback import until

from gossipnode.network import trim


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    calls: list[bool] = []
    monkeypatch.setattr(trim, "give_back", lambda: calls.append(True))
    return calls


async def test_it_is_given_back_once_when_a_crowd_has_gone(given: list[bool]) -> None:
    crowd = trim.Crowd(0.01)
    for count in (*range(1, 101), *range(99, -1, -1)):
        crowd.now(count)
    await until(lambda: given)
    for count in (1, 2, 1, 0, 63, 0):  # no crowd
        crowd.now(count)
    assert crowd._timer is None
    for count in (64, 0, 64, 0):  # twice, but within one rest
        crowd.now(count)
    await until(lambda: len(given) == 2)
    await asyncio.sleep(0)
    assert crowd._timer is None


async def test_while_most_of_them_are_there_nothing_is_done(given: list[bool]) -> None:
    crowd = trim.Crowd(0.0)
    for count in (100, 26, 100, 50, 27):
        crowd.now(count)
        assert crowd._timer is None
    crowd.now(25)
    assert crowd._timer is not None
    crowd.close()
    crowd.close()


def test_glibc_can() -> None:
    assert trim.give_back() == (sys.platform == "linux")
