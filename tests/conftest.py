"""What all tests share: a simulated swarm that fails tells how to run its test again."""

from __future__ import annotations

import os
import shlex

import pytest
from hypothesis import settings

from gossipnode.simulation import SimulatedSwarm

# The width of a terminal that is not there, set where tests run side by side.
os.environ.pop("COLUMNS", None)

# How long an example takes says something of the machine and nothing of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def replayed_by_its_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command that replays a swarm be the one that runs this test alone."""
    command = f"pytest {shlex.quote(request.node.nodeid)}"
    monkeypatch.setattr(SimulatedSwarm, "replay_default", command)
