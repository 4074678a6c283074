"""Virtual time: timers fire in order and at their instants, and nobody waits for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.simulation.loop import StuckError, run


def now() -> float:
    return asyncio.get_running_loop().time()


# Eighths are exact in binary, and so are their sums: instants can be compared with ==.
EIGHTHS = st.integers(1, 80_000).map(lambda n: n / 8)


@given(st.lists(EIGHTHS, min_size=1, max_size=20))
def test_sleepers_wake_in_order_at_exact_instants(delays):
    async def main() -> list[tuple[float, float]]:
        woken = []

        async def sleeper(delay: float) -> None:
            await asyncio.sleep(delay)
            woken.append((now(), delay))

        await asyncio.gather(*map(sleeper, delays))
        return woken

    assert run(main()) == [(delay, delay) for delay in sorted(delays)]


@given(EIGHTHS, EIGHTHS)
def test_a_timeout_cuts_at_its_instant_and_not_before(patience, work):
    async def main() -> tuple[bool, float]:
        try:
            async with asyncio.timeout(patience):
                await asyncio.sleep(work)
        except TimeoutError:
            return False, now()
        return True, now()

    if patience != work:
        assert run(main()) == (work < patience, min(patience, work))


def test_an_hour_passes_at_once():
    began = time.monotonic()

    async def main() -> float:
        await asyncio.sleep(3600)
        return now()

    assert run(main()) == 3600
    assert time.monotonic() - began < 60


def test_time_stands_still_while_somebody_is_ready():
    async def main() -> set[float]:
        seen = set()
        for _ in range(1000):
            await asyncio.sleep(0)
            seen.add(now())
        return seen

    assert run(main()) == {0.0}


def test_tasks_that_wait_for_one_another_for_ever_are_told():
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StuckError, match="never comes"):
        run(main())


@pytest.mark.parametrize("waiters", [1, 2, 5])
def test_those_who_wait_until_an_instant_in_turns_get_there(waiters):
    """Less than a nanosecond is left: asyncio's clock resolution counts that as over already."""

    async def waiter(until: float, phase: int) -> int:
        turns = 0
        for _ in range(phase):
            await asyncio.sleep(0)
        while now() < until:
            turns += 1
            assert turns < 100, "the clock stands still"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until - now()):
                    await asyncio.Event().wait()
        return turns

    async def main() -> None:
        await asyncio.sleep(1032.129662240)
        await asyncio.gather(*(waiter(now() + 5e-10, phase) for phase in range(waiters)))

    run(main())


def test_no_timer_fires_before_its_instant():
    async def main() -> list[float]:
        early = []
        instants = [1.0 + i * 1e-10 for i in range(50)]

        async def sleeper(instant: float) -> None:
            await asyncio.sleep(instant)
            early.append(instant - now())

        await asyncio.gather(*map(sleeper, instants))
        return early

    assert max(run(main())) <= 0
