"""Wires are cut, in one direction or both, and mended."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest
from memory_swarm import swarm_of
from plain_learner import PlainLearner
from setting import counted, learning, options, rounds_apart, still

from gossipnode.node.node import Node

BOTH = pytest.mark.parametrize("algorithm", ["dpsgd", "gossip"])


@BOTH
def test_each_half_agrees_with_itself_and_both_with_one_another_once_mended(algorithm):
    with still(algorithm) as swarm:
        left, right = swarm.names[:4], swarm.names[4:]
        swarm.partition(left, right)
        swarm.run(60)
        for half in (left, right):
            models = np.stack([swarm.nodes[name].params for name in half])
            assert np.ptp(models, axis=0).max() < 1e-6
        assert swarm.consensus_distance() > 1
        swarm.heal()
        swarm.expect_progress(5)
        swarm.run(60)
        swarm.expect_consensus_below(1e-6)


def test_lockstep_in_two_halves_keeps_what_each_half_had():
    """Both ends of a cut edge keep its weight for themselves: W stays doubly stochastic."""
    with still("dpsgd") as swarm:
        before = swarm.models()
        swarm.partition(swarm.names[:4], swarm.names[4:])
        swarm.run(60)
        assert counted(swarm, "missing_models") > 100
        models = swarm.models()
        for half in (slice(0, 4), slice(4, 8)):
            np.testing.assert_allclose(models[half].mean(0), before[half].mean(0), atol=1e-13)


@BOTH
def test_halves_that_learn_drift_apart_and_find_together_again(algorithm):
    with learning(algorithm) as swarm:
        swarm.run(30)
        together = swarm.consensus_distance()
        swarm.partition(swarm.names[:4], swarm.names[4:])
        swarm.run(30)
        swarm.expect_progress(5)
        apart = swarm.consensus_distance()
        assert apart > together
        swarm.heal()
        swarm.expect_progress(5)
        swarm.run(60)
        swarm.expect_consensus_below((together + apart) / 2)


def test_mended_halves_are_in_lockstep_again():
    with learning("dpsgd") as swarm:
        swarm.run(10)
        swarm.partition(swarm.names[:4], swarm.names[4:])
        swarm.slow_down("n6", 3.0)
        swarm.run(30)
        assert rounds_apart(swarm) > 20
        swarm.slow_down("n6", 1.0)
        swarm.heal()
        swarm.run(30)
        # Neighbours are at most one round apart, and four edges lead half-way round the ring.
        assert rounds_apart(swarm) <= 4
        missing = counted(swarm, "missing_models")
        swarm.run(30)
        assert counted(swarm, "missing_models") == missing


@BOTH
def test_a_node_that_hears_another_and_is_not_heard_stops_nobody(algorithm):
    """n0 hears n1, n1 does not hear n0: n0's answers are lost too, so n1 repeats in vain."""
    with still(algorithm) as swarm:
        swarm.run(20)
        swarm.cut(["n0"], ["n1"])
        swarm.expect_progress(10)
        swarm.run(60)
        swarm.expect_progress(5)
        if algorithm == "dpsgd":  # gossip has something newer to send by then
            assert swarm.outcomes["duplicate"] > 0
        # The others connect the two.
        swarm.expect_consensus_below(1e-6)
        swarm.heal()
        swarm.expect_progress(5)


def test_a_node_that_nobody_hears_hears_and_follows_the_others():
    with learning("gossip") as swarm:
        swarm.cut(["n0"], swarm.names[1:])
        swarm.run(60)
        swarm.expect_progress(5)
        others = np.mean([swarm.nodes[name].params for name in swarm.names[1:]], axis=0)
        # Alone it would be at its goal, (0, 0); theirs lie around (4, -4).
        assert swarm.nodes["n0"].params[0] > others[0] / 2
        assert counted(swarm, "peers_suspected") > 0


@pytest.mark.parametrize(
    "flags", [{"training__local_steps": 0}, {"step_s": 0.0}], ids=["no steps", "quick steps"]
)
def test_a_node_that_hears_nobody_lets_time_pass(monkeypatch, flags):
    rounds: Counter[tuple[str, float]] = Counter()
    close = Node.end_round

    async def counted_close(node: Node) -> None:
        instant = (node.id, node.time())
        rounds[instant] += 1
        assert rounds[instant] <= 1000, f"{node.id} closed 1000 rounds in no time"
        await close(node)

    monkeypatch.setattr(Node, "end_round", counted_close)
    with still("dpsgd", **flags) as swarm:
        swarm.run(5)
        swarm.partition(["n0"], swarm.names[1:])
        swarm.run(20)
        swarm.heal()
        swarm.run(20)
        assert rounds_apart(swarm) <= 4


def test_a_node_that_is_alone_and_takes_no_steps_lets_the_rest_of_its_process_run():
    """In real time, where its rounds take some microseconds: its loop must serve others as well."""

    async def scenario() -> None:
        config = options("dpsgd", training__local_steps=0, run__rounds=0)
        learners = [PlainLearner([0.0]), PlainLearner([1.0])]
        async with swarm_of(config, ["a", "b"], learners) as swarm:
            node = swarm.nodes["a"]
            node.peers.mark(node.peers["b"], "suspect")
            swarm.launch("a")
            before = node.round
            for _ in range(200):
                await asyncio.sleep(0)
                assert node.round <= before + 1, "rounds that nobody else gets a turn between"
                before = node.round
            assert before > 10

    asyncio.run(scenario())
