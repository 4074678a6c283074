"""What all tests share: a swarm that fails tells how to replay it; logs stay as they were."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator

import pytest
from hypothesis import settings

# As in a node, and before numpy is there: where tests run side by side, the threads of BLAS spin
# while they wait for a core that another's threads spin on.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from gossipnode.simulation import SimulatedSwarm  # noqa: E402  (it imports numpy)

# The width of a terminal that is not there, set where tests run side by side.
os.environ.pop("COLUMNS", None)

# How long an example takes says something of the machine and nothing of the code. The same ones
# in each run, so that a change which breaks nothing fails nothing; `make test-long` draws others.
settings.register_profile("drawn", deadline=None)
settings.register_profile("repeated", deadline=None, derandomize=True)
settings.load_profile("repeated")


@pytest.fixture(autouse=True)
def replayed_by_its_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command that replays a swarm be the one that runs this test alone."""
    command = f"pytest {shlex.quote(request.node.nodeid)}"
    monkeypatch.setattr(SimulatedSwarm, "replay_default", command)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo what a verb that ran in this process did to the program's logger."""
    logger = logging.getLogger("gossipnode")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
