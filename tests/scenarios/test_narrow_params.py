"""Swarms of float16 or bfloat16 params: they learn, send half, and find back after a loss."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossipnode.configfile import load_config
from gossipnode.errors import ConfigError
from gossipnode.learning.dtypes import dtype_of
from gossipnode.learning.params import consensus_distance
from gossipnode.node.checkpoint import FileStore
from gossipnode.node.world import Snapshot
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation.vectorised import VectorisedSwarm

NARROW = ["float16", "bfloat16"]
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ring": {"algorithm.deadline_s": 2.0, "run.rounds": 40},
    "push": {"algorithm.name": "gossip", "algorithm.period_s": 0.5},
    "push_pull": {
        "algorithm.name": "gossip",
        "algorithm.period_s": 0.5,
        "algorithm.exchange": "push_pull",
    },
}


def swarm_of(dtype: str, algorithm: str, **options: Any) -> SimulatedSwarm:
    common = {"run.evaluate_every": 0, "task.dtype": dtype}
    config = load_config(flags={**common, **ALGORITHMS[algorithm]})
    return SimulatedSwarm(config, 4, link=Link(latency_s=0.03), step_s=0.02, **options)


def bytes_sent(swarm: SimulatedSwarm) -> int:
    return sum(node.counters.get("bytes_sent") for node in swarm.up)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", NARROW)
def test_four_nodes_learn_the_digits_and_send_half_the_bytes(dtype: str, algorithm: str) -> None:
    with swarm_of("float32", algorithm) as wide:
        wide.run(4)
        bytes_wide, frames_wide = bytes_sent(wide), sum(wide.frames.values())
    with swarm_of(dtype, algorithm) as swarm:
        swarm.run(4)
        assert sum(swarm.frames.values()) == frames_wide
        # Half of a body of 2600 bytes; the head, some 200 bytes, stays.
        assert 0.5 < bytes_sent(swarm) / bytes_wide < 0.55
        swarm.run(26)
        accuracy = [node.learner.evaluate(node.params).accuracy for node in swarm.up]
        params = [node.params for node in swarm.up]
        assert all(x.dtype == dtype_of(dtype) for x in params)
    assert statistics.fmean(accuracy) > 0.9
    dense = np.stack(params).astype(np.float64)
    expected = np.sqrt(np.square(dense - dense.mean(axis=0)).sum() / 4)
    assert consensus_distance(params) == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", ["ring", "push_pull"])
def test_objects_in_place_of_frames_make_the_same_run(algorithm: str) -> None:
    hashes = set()
    for objects in (False, True):
        with swarm_of("bfloat16", algorithm, objects=objects) as swarm:
            swarm.run(5)
            hashes.add((swarm.trace_hash, b"".join(node.params.tobytes() for node in swarm.up)))
    assert len(hashes) == 1


def test_a_checkpoint_keeps_bfloat16_to_the_bit(tmp_path: Path) -> None:
    params = np.random.default_rng(0).standard_normal(650).astype(dtype_of("bfloat16"))
    momentum = np.arange(650, dtype=np.float32)
    store = FileStore(tmp_path, 3, lambda: 1000.0)
    store.save(Snapshot({"params": params, "learner/momentum": momentum}, {"age": 5}))
    assert b'"BF16"' in store.files()[0].read_bytes()
    loaded = FileStore(tmp_path, 3, lambda: 1000.0).load()
    assert loaded is not None
    assert loaded.arrays["params"].dtype == params.dtype
    assert loaded.arrays["params"].tobytes() == params.tobytes()
    assert loaded.arrays["learner/momentum"].tobytes() == momentum.tobytes()


def test_a_bfloat16_node_comes_back_from_its_checkpoint() -> None:
    with swarm_of("bfloat16", "push", stores=True) as swarm:
        swarm.run(10)
        swarm.stop("n1")
        swarm.run(1)
        node = swarm.restart("n1")
        assert node.params.dtype == dtype_of("bfloat16")
        assert node.durable_age > 0
        swarm.run(5)


def test_the_matrix_engine_says_that_it_takes_no_narrow_params() -> None:
    config = load_config(flags={"task.dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"task\.dtype"):
        VectorisedSwarm(config, 4)
