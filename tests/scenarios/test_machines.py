"""Machines that are slow, stand still, or have the wrong time."""

from __future__ import annotations

import pytest
from setting import learning

BOTH = pytest.mark.parametrize("algorithm", ["dpsgd", "gossip"])


def test_a_straggler_does_not_slow_gossip_down():
    rounds = {}
    for factor in (1.0, 12.0):
        with learning("gossip") as swarm:
            swarm.slow_down("n3", factor)  # 12: a period's step takes 3 s, six periods
            swarm.run(60)
            rounds[factor] = {node.id: node.round for node in swarm.up}
    assert 10 < rounds[12.0].pop("n3") < rounds[1.0].pop("n3") / 4
    for name, round_ in rounds[12.0].items():
        assert abs(round_ - rounds[1.0][name]) <= 1


@BOTH
def test_a_process_that_stands_still_for_a_minute_holds_up_nobody_and_catches_up(algorithm):
    with learning(algorithm) as swarm:
        swarm.run(20)
        swarm.pause("n5")
        swarm.run(10)  # lockstep waits for it once, to the deadline
        still, others = swarm.nodes["n5"], [n for n in swarm.up if n.id != "n5"]
        before = [node.round for node in others]
        swarm.run(60)
        a_round = 0.3 if algorithm == "dpsgd" else 0.5
        assert min(node.round for node in others) - min(before) > 0.8 * 60 / a_round
        stood = still.age
        swarm.resume("n5")
        swarm.run(20)
        assert still.age > stood + 50
        swarm.expect_progress(5)


@BOTH
@pytest.mark.parametrize("skew_s", [-86_400.0, 3600.0])
def test_a_wrong_clock_on_the_wall_changes_nothing(algorithm, skew_s):
    hashes = []
    for seconds in (0.0, skew_s):
        with learning(algorithm, stores=True) as swarm:
            swarm.skew_clock("n1", seconds)
            swarm.run(20)
            swarm.kill("n1")
            swarm.restart("n1")
            swarm.skew_clock("n1", seconds)
            swarm.run(20)
            hashes.append(swarm.trace_hash)
    assert hashes[0] == hashes[1]


@BOTH
def test_a_process_that_stands_still_sends_nothing_and_can_be_killed(algorithm):
    with learning(algorithm) as swarm:
        swarm.run(20)
        swarm.pause("n5")
        swarm.run(1)  # what was on its way when it stopped
        before = swarm.frames["n5"]
        swarm.run(20)
        assert swarm.frames["n5"] == before
        swarm.kill("n5")
        swarm.expect_progress(5)
