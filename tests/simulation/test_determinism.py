"""The same arguments give the same run, whatever fails: each algorithm under each kind of fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation.faults import FAULTS

ALGORITHMS = {
    "dpsgd atc": {"algorithm.name": "dpsgd", "algorithm.form": "atc"},
    "dpsgd cta": {"algorithm.name": "dpsgd", "algorithm.form": "cta"},
    "dpsgd exponential": {"algorithm.name": "dpsgd", "topology.graph": "exponential"},
    "gossip push": {"algorithm.name": "gossip"},
    "gossip push_pull": {"algorithm.name": "gossip", "algorithm.exchange": "push_pull"},
}
# Jitter, so that a seed decides something whatever the fault is; lines that pushes wait for.
LINK = Link(latency_s=0.05, jitter_s=0.05, up_bytes_s=1e5, down_bytes_s=1e5)
DURATION_S = 8.0


@dataclass
class Trace:
    """What a run left: every delivery in one digest, the models, and what failed."""

    digest: str
    models: Any
    fired: dict[str, int]
    frames: dict[str, int]
    bytes_sent: list[int]


Story = Callable[[SimulatedSwarm], object]


def crash(swarm: SimulatedSwarm) -> None:
    """Kill a node in the middle of a write."""
    swarm.slow_disk("n1", 1.0)
    swarm.run_until(lambda: swarm.worlds["n1"].store.unsynced is not None, within=5, every=0.25)
    swarm.kill("n1")


def back(swarm: SimulatedSwarm, *, wipe: bool = False) -> None:
    swarm.kill("n1")
    if wipe:
        swarm.wipe("n1")
    swarm.run(1)
    swarm.restart("n1")


# What is wrong with the wires, and what happens after two seconds.
WIRES = {
    "loss": replace(LINK, loss=0.1),
    "reply_loss": replace(LINK, reply_loss=0.1),
    "duplicate": replace(LINK, duplicate=0.2),
    "overtaken": Link(latency_s=0.05, jitter_s=0.3, duplicate=1.0),
}
STORIES: dict[str, Story] = {
    "cut": lambda swarm: swarm.cut(["n0"], ["n1", "n2", "n3"]),
    "partition": lambda swarm: swarm.partition(["n0", "n1"], ["n2", "n3"]),
    "one_way": lambda swarm: swarm.cut(["n2"], ["n3"]),
    "kill": lambda swarm: swarm.kill("n1"),
    "unsynced": crash,
    "slow_disk": lambda swarm: swarm.slow_disk("n1", 1.0),
    "wipe": lambda swarm: back(swarm, wipe=True),
    "stop": lambda swarm: swarm.stop("n1"),
    "restart": back,
    "late": lambda swarm: swarm.start_late("n3"),
    "pause": lambda swarm: swarm.pause("n1"),
    "slow": lambda swarm: swarm.slow_down("n1", 3.0),
    "skew": lambda swarm: swarm.skew_clock("n1", -3600.0),
}


def config(name: str) -> Config:
    flags = {key.replace(".", "__"): value for key, value in ALGORITHMS[name].items()}
    if "dpsgd" in name:
        flags |= {"algorithm__deadline_s": 1.0, "algorithm__start_deadline_s": 1.0}
    else:
        flags |= {"algorithm__period_s": 0.2}
    return plain_config(
        **flags,
        run__rounds=1000,
        run__drain_deadline_s=1.0,
        checkpoint__every_s=2.0,
        network__push_timeout_s=1.0,
    )


def played(name: str, fault: str, seed: int, *, objects: bool = False) -> Trace:
    # Steps of different sizes, so that whatever comes in another order gives another model.
    learners = [PlainLearner([float(i)] * 3, 0.1 * i) for i in range(4)]
    with SimulatedSwarm(
        config(name),
        4,
        seed=seed,
        link=WIRES.get(fault, LINK),
        # An echo is overtaken by what its sender does next, and must not wait long for that.
        step_s=0.01 if fault == "overtaken" else 0.2,
        learners=learners,
        stores=True,
        late=["n3"] if fault == "late" else [],
        objects=objects,
    ) as swarm:
        swarm.run(2)
        STORIES.get(fault, lambda swarm: None)(swarm)
        swarm.run(DURATION_S)
        return Trace(
            swarm.trace_hash,
            swarm.models(),
            dict(swarm.network.fired),
            dict(swarm.frames),
            [node.counters.get("bytes_sent") for node in swarm.nodes.values()],
        )


def test_each_kind_of_fault_is_tried() -> None:
    assert WIRES.keys() | STORIES.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_seed_is_a_run_and_another_seed_is_another(name: str, fault: str) -> None:
    one, again, other = (played(name, fault, seed) for seed in (1, 1, 2))
    assert one.fired[fault] > 0
    assert one.digest == again.digest
    assert np.array_equal(one.models, again.models)
    assert (one.fired, one.frames) == (again.fired, again.frames)
    assert other.digest != one.digest  # the models may be equal: lockstep bears much


@pytest.mark.parametrize("fault", ["loss", "duplicate", "restart"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_objects_in_place_of_frames_give_the_same_run_to_the_byte(name: str, fault: str) -> None:
    """Their sizes decide when they arrive, and their checksums are in the trace."""
    frames, objects = (played(name, fault, 1, objects=how) for how in (False, True))
    assert sum(frames.bytes_sent) > 0
    assert frames.bytes_sent == objects.bytes_sent
    assert frames.digest == objects.digest
    assert np.array_equal(frames.models, objects.models)
    assert (frames.fired, frames.frames) == (objects.fired, objects.frames)
