"""Counts the faults that fire in the scenarios: one that never does tests nothing.

``test_every_fault.py`` looks at the counts at the end, and only where every scenario ran: a single
test, or a choice by ``-k``, owes no fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gossipnode.simulation import SimulatedSwarm
from gossipnode.simulation.faults import Fired

HERE = Path(__file__).parent
LAST = "test_every_fault.py"

FIRED = Fired()


@pytest.fixture(scope="session")
def fired() -> Fired:
    """How often each fault has fired so far, in all scenarios of this run."""
    return FIRED


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count the faults of every swarm that a scenario enters."""
    entered: list[SimulatedSwarm] = []
    enter = SimulatedSwarm.__enter__

    def remembered(swarm: SimulatedSwarm) -> SimulatedSwarm:
        entered.append(swarm)
        return enter(swarm)

    monkeypatch.setattr(SimulatedSwarm, "__enter__", remembered)
    yield
    for swarm in entered:
        FIRED.update(swarm.network.fired)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember that somebody asked for a part only; long scenarios are left out as a rule."""
    part = [item for item in items if item.get_closest_marker("long") is None]
    if any(HERE in item.path.parents for item in part):
        chosen.append("by a choice")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the look at the counts at the end, or skip it where it would see a part."""
    last = [item for item in items if item.path == HERE / LAST]
    if not last:
        return
    items[:] = [item for item in items if item not in last] + last
    missing = {*HERE.glob("test_*.py")} - {item.path for item in items}
    by_name = any("::" in argument for argument in config.args)
    if missing or by_name or chosen or hasattr(config, "workerinput"):
        for item in last:
            item.add_marker(pytest.mark.skip(reason="only a part of the scenarios runs"))


chosen: list[str] = []
