"""The same arguments give the same run, faults included; and what must be noticed is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.config import Config
from gossipnode.node.inbox import Inbox
from gossipnode.simulation import Link, SimulatedSwarm, SimulationError

LINK = Link(
    latency_s=0.05, jitter_s=0.05, up_bytes_s=1e5, down_bytes_s=1e5,
    loss=0.02, reply_loss=0.02, duplicate=0.05,
)  # fmt: skip
ALGORITHMS = {
    "dpsgd atc": {"algorithm.name": "dpsgd", "algorithm.form": "atc"},
    "dpsgd cta": {"algorithm.name": "dpsgd", "algorithm.form": "cta"},
    "dpsgd exponential": {"algorithm.name": "dpsgd", "topology.graph": "exponential"},
    "gossip push": {"algorithm.name": "gossip"},
    "gossip push_pull": {"algorithm.name": "gossip", "algorithm.exchange": "push_pull"},
}
FAULTS = {
    "loss", "reply_loss", "duplicate", "cut", "kill", "restart", "pause", "slow", "skew",
}  # fmt: skip


@dataclass
class Trace:
    """What a run left: every delivery in one digest, and the models."""

    digest: str
    models: Any
    fired: dict[str, int]
    frames: dict[str, int]


def config(name: str) -> Config:
    flags = {key.replace(".", "__"): value for key, value in ALGORITHMS[name].items()}
    deadline = {"algorithm__deadline_s": 3.0} if "dpsgd" in name else {}
    return plain_config(**flags, **deadline, run__rounds=1000, checkpoint__every_s=5.0)


def played(name: str, seed: int) -> Trace:
    """Run eight nodes through every fault there is."""
    # Steps of different sizes, so that whatever comes in another order gives another model.
    learners = [PlainLearner([float(i)] * 3, 0.1 * i) for i in range(8)]
    with SimulatedSwarm(
        config(name), 8, seed=seed, link=LINK, step_s=0.2, learners=learners, stores=True
    ) as swarm:
        n = swarm.names
        swarm.slow_down(n[1], 3.0)
        swarm.skew_clock(n[2], -3600.0)
        swarm.run(15)
        swarm.partition(n[:4], n[4:])
        swarm.kill(n[3])
        swarm.run(10)
        swarm.heal()
        swarm.pause(n[5])
        swarm.restart(n[3])
        swarm.run(10)
        swarm.resume(n[5])
        swarm.cut(n[:1], n[1:])
        swarm.run(5)
        swarm.heal()
        swarm.run(10)
        return Trace(
            swarm.trace_hash, swarm.models(), dict(swarm.network.fired), dict(swarm.frames)
        )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_seed_is_a_run_and_another_seed_is_another(name):
    one, again, other = played(name, 1), played(name, 1), played(name, 2)
    assert one.digest == again.digest
    assert np.array_equal(one.models, again.models)
    assert (one.fired, one.frames) == (again.fired, again.frames)
    assert other.digest != one.digest
    assert not np.array_equal(other.models, one.models)
    assert {kind for kind, count in one.fired.items() if count} == FAULTS


# -- the checkers ---------------------------------------------------------------------------------


def doubling(**more: Any) -> SimulatedSwarm:
    """A swarm on wires that deliver every push twice."""
    link = Link(latency_s=0.01, duplicate=1.0)
    gossip = plain_config(algorithm__name="gossip", run__rounds=100)
    learners = [PlainLearner([float(i)]) for i in range(3)]
    return SimulatedSwarm(gossip, 3, seed=7, link=link, learners=learners, **more)


def test_a_double_merge_is_told_with_seed_time_and_how_to_replay_it(monkeypatch):
    monkeypatch.setattr(Inbox, "mark", lambda self, message: True)
    with pytest.raises(SimulationError) as raised, doubling(replay="play --seed 7") as swarm:
        swarm.run_to_end()
    text = str(raised.value)
    assert re.fullmatch(
        r"seed 7, t = \d+\.\d{6} s: n\d merged \('n\d', \d+, \d+\) twice; replay: play --seed 7",
        text,
    )


def test_an_inbox_that_is_sound_raises_no_alarm():
    with doubling() as swarm:
        swarm.run_to_end()
    assert swarm.outcomes["duplicate"] > 100


def end_with(spoil: Callable[[SimulatedSwarm], None]) -> None:
    """Let five seconds pass, spoil something, and leave the swarm to its checkers."""
    with doubling() as swarm:
        swarm.run(5)
        spoil(swarm)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_params_that_are_not_finite_are_told(value):
    def spoil(swarm: SimulatedSwarm) -> None:
        bad = np.array([value])
        bad.flags.writeable = False
        swarm.nodes["n1"].replica.params = bad

    with pytest.raises(SimulationError, match=r"seed 7, t = 5\.0+ s: n1 .* not finite"):
        end_with(spoil)


def test_params_that_anyone_may_write_to_are_told():
    def spoil(swarm: SimulatedSwarm) -> None:
        swarm.nodes["n2"].replica.params = np.zeros(1)

    with pytest.raises(SimulationError, match="n2 has params one may write to"):
        end_with(spoil)


def test_memory_that_is_reserved_for_ever_is_told():
    def spoil(swarm: SimulatedSwarm) -> None:
        swarm.nodes["n0"].inbox.inflight_bytes += 4

    with pytest.raises(SimulationError, match="n0 still holds 4 bytes"):
        end_with(spoil)


def test_what_is_expected_in_vain_is_told():
    with doubling() as swarm:
        with pytest.raises(SimulationError, match=r"not below 0\.001"):
            swarm.expect_consensus_below(1e-3)
        with pytest.raises(SimulationError, match="did not hold within 3 s"):
            swarm.run_until(lambda: swarm.time > 5, within=3)
        swarm.pause("n0")
        with pytest.raises(SimulationError, match="no round closed in 20 s by n0"):
            swarm.expect_progress(20)
        with pytest.raises(SimulationError, match="1 nodes did not finish within 500 s"):
            swarm.run_to_end(within=500)


def test_a_push_repeated_after_its_receivers_crash_may_be_merged_again():
    """What was merged and not kept is lost with the crash, so the repeat is no double merge."""
    gossip = plain_config(algorithm__name="gossip", run__rounds=100, network__push_timeout_s=1.0)
    with SimulatedSwarm(
        gossip,
        2,
        seed=1,
        link=Link(latency_s=0.01),
        learners=[PlainLearner([0.0]), PlainLearner([1.0])],
        stores=True,
    ) as swarm:
        # No answer of n1 comes through, so n0 sends again what n1 has merged.
        swarm.cut(["n1"], ["n0"])
        swarm.run_until(lambda: swarm.outcomes["merged"] > 0, within=10, every=0.001)
        swarm.kill("n1")
        swarm.restart("n1")
        swarm.heal()
        swarm.run(20)
