"""Bad lines between real processes: one-way, slow, reset now and then, and what comes twice.

Each node knows each other one under the address of a proxy, a proxy for each direction of dialling.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
from chaos.swarms import (
    DPSGD,
    GOSSIP,
    Lines,
    Nodes,
    OnLoopback,
    aside,
    lines,
    metric,
    nodes,
    through,
)
from daemon.processes import until

from gossipnode.wire import Kind, decode_prefix

RING = [(0, 1), (1, 2), (2, 3), (3, 0)]
BOTH = [*RING, *((j, i) for i, j in RING)]
ALL = [(i, j) for i in range(4) for j in range(4) if i != j]
# Of a gossip swarm's rounds, each of which takes a period: the last may or may not be counted.
SLOWER_MAX = 1.15
WINDOW_ROUNDS = 12
SHORT = 3
DUPLICATES = 'pushes_merged_total{outcome="duplicate"}'


@contextlib.asynccontextmanager
async def four_with(
    folder: Path, toml: str, pairs: Iterable[tuple[int, int]]
) -> AsyncIterator[tuple[Nodes, Lines]]:
    """Yield four nodes that have met, and the lines between them."""
    place = OnLoopback(4)
    async with lines(place, pairs) as proxies:
        with nodes(folder, place, 4, toml, dialled=through(place, proxies)) as four:
            four.launch()
            await aside(four.wait_for_round, 5)
            yield four, proxies


@pytest.mark.timeout(240)
async def test_a_line_that_leads_one_way_stops_nobody(tmp_path: Path) -> None:
    """What n1 says reaches n2, what n2 says never reaches n1: pushes, answers, connections."""
    toml = DPSGD.format(deadline_s=1.0)
    async with four_with(tmp_path, toml, BOTH) as (four, proxies):
        proxies[1, 2].only("there")
        proxies[2, 1].only("back")
        # What n2 had said is with n1 by then.
        await aside(four.go_on, 5)
        heard = await aside(four.received, 1, 2)
        await aside(four.go_on, 20)
        assert await aside(four.received, 1, 2) == heard
        for each in (proxies[1, 2], proxies[2, 1]):
            each.heal()
        before = await aside(four.received, 1, 2), await aside(four.received, 2, 1)

        def both_ways() -> bool:
            return four.received(1, 2) > before[0] and four.received(2, 1) > before[1]

        await aside(until, both_ways, "pushes go both ways again")
        await aside(four.go_on, 5)


async def rounds_take(four: Nodes, which: tuple[int, ...], rounds: int) -> float:
    """Return the seconds in which ``which`` do so many rounds more."""
    began = time.monotonic()
    await aside(four.go_on, rounds, *which)
    return time.monotonic() - began


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "pairs", [SHORT, pytest.param(10, marks=pytest.mark.long)], ids=["short", "long"]
)
async def test_a_peer_at_1_kb_a_second_slows_nobody(tmp_path: Path, pairs: int) -> None:
    """A model of 2.6 kB takes n3 three seconds; the others have a period of 0.1 s.

    Windows with and without the slow lines take turns, and each pair is compared. The short form
    is for a machine that has other work: what else it does may slow all of its windows but one.
    """
    async with four_with(tmp_path, GOSSIP.format(period_s=0.1), ALL) as (four, proxies):
        slow = [proxy for pair, proxy in proxies.items() if 3 in pair]
        ratios = []
        for _ in range(pairs):
            for each in slow:
                each.heal()
            calm = await rounds_take(four, (0, 1, 2), WINDOW_ROUNDS)
            for each in slow:
                each.slow(1000)
            ratios.append(await rounds_take(four, (0, 1, 2), WINDOW_ROUNDS) / calm)
        rank = len(ratios) // 2 if pairs > SHORT else 0
        assert sorted(ratios)[rank] <= SLOWER_MAX, ratios
        for each in slow:
            each.heal()
        await aside(four.go_on, 5)


@pytest.mark.timeout(240)
async def test_connections_that_are_reset_now_and_then_cost_no_round(tmp_path: Path) -> None:
    toml = DPSGD.format(deadline_s=2.0)
    async with four_with(tmp_path, toml, BOTH) as (four, proxies):
        for proxy in proxies.values():
            proxy.reset_after(10_000)

        def resets() -> int:
            return sum(proxy.resets for proxy in proxies.values())

        await aside(until, lambda: resets() >= 20, "connections are reset")
        await aside(four.go_on, 10)
        for proxy in proxies.values():
            proxy.heal()
        before = {pair: await aside(four.received, *pair) for pair in BOTH}
        await aside(
            until,
            lambda: all(four.received(*pair) > count for pair, count in before.items()),
            "all push to each other",
        )


def bodies(said: bytes) -> list[bytes]:
    """Return the bodies of the HTTP requests that are there to their ends."""
    found = []
    while (end := said.find(b"\r\n\r\n")) >= 0:
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", said[:end])
        stop = end + 4 + (int(length[1]) if length else 0)
        if stop > len(said):
            break
        found.append(said[end + 4 : stop])
        said = said[stop:]
    return found


def models(said: bytes) -> int:
    """Return how many frames among them bring a model; others ask who is there."""
    return sum(decode_prefix(body).kind == Kind.MODEL for body in bodies(said) if body)


@pytest.mark.timeout(240)
async def test_what_comes_twice_is_merged_once(tmp_path: Path) -> None:
    """All that n0 has ever pushed to n1 over one connection is sent once more, by somebody else."""
    toml = GOSSIP.format(period_s=0.1) + "[network]\nlanes = false\n"
    async with four_with(tmp_path, toml, [(0, 1)]) as (four, proxies):
        line = proxies[0, 1]
        await aside(until, lambda: models(bytes(line.recorded)) >= 4, "n0 pushes to n1")
        line.stall()
        said = bytes(line.recorded)  # at once: n0 will try over another connection
        url = four.place.address(1)
        before = await aside(metric, url, DUPLICATES)
        requests = len(bodies(said))
        answer = await line.replay(said, lambda got: got.count(b"HTTP/1.1 ") == requests)
        # The last of them may have been held back: it is new to n1.
        assert answer.count(b"duplicate") >= models(said) - 1
        assert answer.count(b"duplicate") + answer.count(b"merged") == models(said)
        assert await aside(metric, url, DUPLICATES) - before == answer.count(b"duplicate")
        line.heal()
        await aside(four.go_on, 5)
