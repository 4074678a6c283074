"""What all tests share: a simulated swarm that fails tells how to run its test again."""

from __future__ import annotations

import shlex

import pytest

from gossipnode.simulation import SimulatedSwarm


@pytest.fixture(autouse=True)
def replayed_by_its_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command that replays a swarm be the one that runs this test alone."""
    command = f"pytest {shlex.quote(request.node.nodeid)}"
    monkeypatch.setattr(SimulatedSwarm, "replay_default", command)
