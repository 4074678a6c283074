"""Mixing takes as much memory with sixteen neighbours as with two: each model is added as it comes.

Counted by tracemalloc, which numpy tells of all that it allocates, over rounds of real frames.
"""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest

from gossipnode.config import Config
from gossipnode.simulation import Link, SimulatedSwarm

NODES, ROUNDS = 17, 6


def models_at_most(graph: str, **algorithm: Any) -> float:
    """Return the most memory that a node takes on average, in models, besides its first one."""
    config = Config.model_validate(
        {
            "algorithm": algorithm,
            "topology": {"graph": graph},
            "task": {"kind": "mlp", "hidden": [400]},
            "training": {"local_steps": 1},
            "run": {"rounds": ROUNDS, "evaluate_every": 0},
            "checkpoint": {"enabled": False},
        }
    )
    with SimulatedSwarm(config, NODES, step_s=0.1, link=Link(latency_s=0.01)) as swarm:
        swarm.run_until(lambda: all(node.round >= 2 for node in swarm.up), within=10, every=0.01)
        gc.collect()
        tracemalloc.start()
        try:
            swarm.run_to_end(within=100)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert all(node.counters.get("missing_models") == 0 for node in swarm.nodes.values())
        (nbytes,) = {node.layout.nbytes for node in swarm.nodes.values()}
    return most / nbytes / NODES


@pytest.mark.parametrize("name", ["dpsgd", "dsgt"])
def test_the_degree_costs_no_memory(name: str) -> None:
    two, sixteen = (models_at_most(graph, name=name) for graph in ("ring", "complete"))
    assert two > 1  # it counts models at all
    assert sixteen - two < 3  # with 14 neighbours more: not one for each
