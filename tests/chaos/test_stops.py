"""Processes that stand still for a while, and all of them killed at once."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path

import pytest
from chaos.swarms import DPSGD, GOSSIP, Nodes, OnLoopback, nodes
from daemon.processes import until
from properties import longer

READY_S = 10.0
FULL = 16
SAVING = "[checkpoint]\nevery_s = 0.2\n"
TOML = {"dpsgd": DPSGD.format(deadline_s=2.0), "gossip": GOSSIP.format(period_s=0.1)}


def stand_still(four: Nodes, seconds: float) -> None:
    """Let n1 stand still; the others go on, and it comes back to where they are."""
    process = four.running[1]
    others = (0, 2, 3)
    process.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            four.go_on(3, *others)
    finally:
        process.signal(signal.SIGCONT)
    before = [(four.received(1, j), four.received(j, 1)) for j in (0, 2)]
    ahead = max(four.round(j) for j in others)

    def is_back() -> bool:
        now = [(four.received(1, j), four.received(j, 1)) for j in (0, 2)]
        both = zip(now, before, strict=True)
        return all(a > c and b > d for (a, b), (c, d) in both)

    until(is_back, "n1 and its neighbours push to each other again")
    four.go_on(5)
    if "dpsgd" in four.toml:
        until(lambda: four.round(1) >= ahead, "n1 is in the others' round")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("algorithm", longer(TOML, but=["dpsgd"]))
@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.long)])
def test_a_process_that_stood_still_catches_up(
    tmp_path: Path, algorithm: str, seconds: float
) -> None:
    with nodes(tmp_path, OnLoopback(4), 4, TOML[algorithm]) as four:
        four.launch()
        four.wait_for_round(5)
        stand_still(four, seconds)


def restart_all(some: Nodes) -> list[float]:
    """Kill all and start all again; return how long each took to be ready.

    As many start at a time as there are processors: a start is a start, not a queue for them.
    """
    count = len(some.names)
    durable = {}
    for i in range(count):
        until(lambda i=i: some.status(i).get("durable_age", 0) > 0, f"n{i} has a checkpoint")
    # A durable age that was told is one that must be there again.
    for i in range(count):
        durable[i] = some.status(i)["durable_age"]
    for i in range(count):
        some.running[i].signal(signal.SIGKILL)
    assert [some.running.pop(i).ended() for i in range(count)] == [-signal.SIGKILL] * count
    took: list[float] = []
    at_once = os.cpu_count() or 1
    for first in range(0, count, at_once):
        some_now = range(first, min(first + at_once, count))
        began = time.monotonic()
        some.launch(*some_now)
        ready = dict.fromkeys(some_now, math.inf)
        until(lambda ready=ready, began=began: _note(some, ready, began), "they are ready")
        took += ready.values()
    for i in range(count):
        status = some.status(i)
        assert status["age"] >= durable[i], f"n{i} is behind its durable age"
        assert status["durable_age"] >= durable[i]
    return took


def _note(some: Nodes, ready: dict[int, float], began: float) -> bool:
    for i, seconds in ready.items():
        if seconds == math.inf and some.is_ready(i):
            ready[i] = time.monotonic() - began
    return math.inf not in ready.values()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [3, pytest.param(FULL, marks=pytest.mark.long)])
def test_all_are_killed_and_all_come_back(tmp_path: Path, count: int) -> None:
    with nodes(tmp_path, OnLoopback(count), count, TOML["dpsgd"] + SAVING) as some:
        some.launch()
        some.wait_for_round(3, 200.0)
        took = restart_all(some)
        print(f"ready after {sorted(round(s, 2) for s in took)} s")
        if count == FULL:  # the small form shares the machine with other tests
            assert max(took) <= READY_S
        some.go_on(5, patience_s=200.0)
        learned = [i for i in range(count) if "checkpoint.loaded" in some.running[i].said()]
        assert learned == list(range(count))
