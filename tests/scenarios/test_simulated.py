"""What a swarm does when the world is unkind, told with the simulator's verbs.

Digits, softmax, real training; times are virtual seconds. A local step takes 20 ms, five of them
a round, and a wire 30 ms.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from plain_learner import PlainLearner

from gossipnode.config import Config
from gossipnode.configfile import load_config
from gossipnode.simulation import Link, SimulatedSwarm

LINK = Link(latency_s=0.03)
STEP_S = 0.02


def config(**flags: Any) -> Config:
    common = {"run.evaluate_every": 0, "data.partition": "dirichlet:0.5"}
    return load_config(flags={**common, **{k.replace("__", "."): v for k, v in flags.items()}})


def ring(**flags: Any) -> Config:
    return config(algorithm__deadline_s=2.0, **flags)


def gossip(**flags: Any) -> Config:
    return config(algorithm__name="gossip", algorithm__period_s=0.5, **flags)


def accuracy(swarm: SimulatedSwarm) -> float:
    return statistics.fmean(node.learner.evaluate(node.params).accuracy for node in swarm.up)


@pytest.mark.parametrize("make", [ring, gossip])
def test_two_halves_drift_apart_and_find_together_again(make):
    learners = [PlainLearner([0.0], 1.0 if i < 4 else -1.0) for i in range(8)]
    options = make(training__local_steps=1)
    with SimulatedSwarm(options, 8, link=LINK, step_s=STEP_S, learners=learners) as swarm:
        left, right = swarm.names[:4], swarm.names[4:]
        swarm.run(20)
        together = swarm.consensus_distance()
        swarm.partition(left, right)
        swarm.run(20)
        assert swarm.consensus_distance() > 3 * together
        swarm.heal()
        swarm.run(40)
        swarm.expect_consensus_below(1.5 * together)


def test_a_ring_cut_in_two_goes_on_in_both_halves_and_agrees_when_mended():
    with SimulatedSwarm(ring(), 8, link=LINK, step_s=STEP_S) as swarm:
        swarm.run(20)
        swarm.partition(swarm.names[:4], swarm.names[4:])
        swarm.run(20)
        swarm.expect_progress(5)
        swarm.heal()
        swarm.run(60)
        swarm.expect_progress(5)
        rounds = [node.round for node in swarm.up]
        assert max(rounds) - min(rounds) <= 4  # half the ring: lockstep again
        assert accuracy(swarm) > 0.9


def test_a_wire_that_carries_one_way_only_stops_nobody():
    with SimulatedSwarm(ring(), 6, link=LINK, step_s=STEP_S) as swarm:
        swarm.run(10)
        swarm.cut(["n0"], ["n1"])
        swarm.run(30)
        swarm.expect_progress(5)
        swarm.heal()
        swarm.run(60)
        swarm.expect_progress(5)
        missing = swarm.nodes["n1"].counters.get("missing_models")
        swarm.run(20)
        assert swarm.nodes["n1"].counters.get("missing_models") == missing


def test_gossip_learns_though_a_third_of_all_pushes_is_lost():
    lossy = Link(latency_s=0.03, jitter_s=0.1, loss=0.3, reply_loss=0.1, duplicate=0.1)
    with SimulatedSwarm(gossip(), 16, link=lossy, step_s=STEP_S) as swarm:
        swarm.run_until(lambda: accuracy(swarm) > 0.9, within=100, every=5)
        assert swarm.network.fired["loss"] > 500
        swarm.expect_progress(5)


def test_a_straggler_paces_lockstep_and_not_gossip():
    paces = {}
    for name, options in (("lockstep", ring()), ("gossip", gossip())):
        with SimulatedSwarm(options, 8, link=LINK, step_s=STEP_S) as swarm:
            swarm.slow_down("n3", 10.0)  # a round's steps take it 1 s
            swarm.run(60)
            paces[name] = [node.round for node in swarm.up if node.id != "n3"]
    assert max(paces["lockstep"]) <= 60 / 1.0 + 4
    assert min(paces["gossip"]) >= 60 / 0.5 * 0.9


def test_killed_nodes_come_back_with_what_their_disk_holds_and_catch_up():
    options = ring(checkpoint__every_s=5.0)
    with SimulatedSwarm(options, 6, link=LINK, step_s=STEP_S, stores=True) as swarm:
        swarm.run(23)
        before = swarm.nodes["n2"].age
        swarm.kill("n2")
        swarm.run(10)
        node = swarm.restart("n2")
        assert 0 < node.age < before
        swarm.run_until(lambda: node.round >= max(other.round for other in swarm.up) - 3, within=30)
        swarm.run(30)
        assert accuracy(swarm) > 0.9
        swarm.expect_progress(5)


def test_a_paused_node_is_waited_for_once_and_welcomed_back():
    with SimulatedSwarm(ring(), 5, link=LINK, step_s=STEP_S) as swarm:
        swarm.run(10)
        swarm.pause("n4")
        swarm.run(30)
        others = [node for node in swarm.up if node.id != "n4"]
        a_round = 5 * STEP_S + LINK.latency_s
        # Five rounds fewer, at most, than without it but for one deadline of 2 s.
        assert min(node.round for node in others) >= (40 - 2) / a_round - 5
        swarm.resume("n4")
        swarm.run(20)
        swarm.expect_progress(5)
        rounds = [node.round for node in swarm.up]
        assert max(rounds) - min(rounds) <= 2


def test_a_clock_on_the_wall_that_is_wrong_changes_no_model():
    models = []
    for skew_s in (0.0, -86_400.0):
        with SimulatedSwarm(ring(run__rounds=30), 4, link=LINK, step_s=STEP_S) as swarm:
            swarm.skew_clock("n1", skew_s)
            swarm.run_to_end()
            models.append(swarm.models())
    assert (models[0] == models[1]).all()
