"""Nodes die, with what their disk had not synced; they come back, new ones come, all come back."""

from __future__ import annotations

import numpy as np
import pytest
from setting import counted, learning, rounds_apart

BOTH = pytest.mark.parametrize("algorithm", ["dpsgd", "gossip"])


def is_writing(swarm, name):
    return swarm.worlds[name].store.unsynced is not None


@BOTH
def test_a_crash_loses_what_was_not_synced_and_the_node_catches_up(algorithm):
    with learning(algorithm, stores=True) as swarm:
        swarm.slow_disk("n2", 3.0)
        swarm.run(12)
        swarm.run_until(lambda: is_writing(swarm, "n2"), within=10, every=0.1)
        before = swarm.nodes["n2"]
        swarm.kill("n2")
        assert swarm.network.fired["unsynced"] == 1
        swarm.run(20)
        swarm.expect_progress(5)
        after = swarm.restart("n2")
        assert 0 < after.age == before.durable_age < before.age
        assert after.epoch > before.epoch
        ahead = max(node.round for node in swarm.up)
        swarm.run_until(lambda: after.age >= before.age, within=30)
        if algorithm == "dpsgd":
            swarm.run_until(lambda: after.round >= ahead, within=10)
            assert rounds_apart(swarm) <= 4
        swarm.expect_progress(5)


def test_those_that_wait_for_one_that_hangs_say_so_until_they_go_on():
    with learning("dpsgd") as swarm:
        swarm.run(10)
        assert not any(node.reason for node in swarm.up)
        swarm.pause("n2")
        swarm.run(2)
        waiting = {n.id: n.reason for n in swarm.up if n.reason.startswith("waiting for n2: round")}
        assert waiting.keys() == {*swarm.nodes["n2"].row.weights}
        assert all(
            text == f"waiting for n2: round {swarm.nodes[n].round}" for n, text in waiting.items()
        )
        swarm.run(3)  # past the deadline
        assert not any("n2" in node.reason for node in swarm.up)
        swarm.resume("n2")
        swarm.run(5)
        assert not any(node.reason for node in swarm.up)


@BOTH
def test_a_machine_that_is_replaced_begins_anew_and_learns_from_the_others(algorithm):
    with learning(algorithm, stores=True) as swarm:
        swarm.run(40)
        usual = swarm.consensus_distance()
        swarm.kill("n7")
        swarm.wipe("n7")
        swarm.run(10)
        newcomer = swarm.restart("n7")
        assert (newcomer.age, newcomer.round) == (0, 0)
        assert (newcomer.params == 0).all()
        swarm.run(40)
        swarm.expect_consensus_below(1.5 * usual)
        swarm.expect_progress(5)
        assert newcomer.age > 100


@BOTH
def test_one_that_comes_late_is_let_in(algorithm):
    with learning(algorithm, late=["n4"]) as swarm:
        swarm.run(30)
        assert swarm.nodes["n4"].state == "created"
        late = swarm.start_late("n4")
        swarm.run(40)
        assert late.counters.get("pushes_received") > 50
        assert late.age > 100
        swarm.expect_progress(5)
        if algorithm == "dpsgd":
            assert rounds_apart(swarm) <= 4


@BOTH
def test_after_a_power_cut_everywhere_the_swarm_goes_on_from_its_disks(algorithm):
    with learning(algorithm, stores=True) as swarm:
        swarm.run(33)
        kept = {node.id: (node.durable_age, node.age) for node in swarm.up}
        swarm.kill(*swarm.names)
        assert not swarm.up
        swarm.run(60)
        for name in swarm.names:
            node = swarm.restart(name)
            durable, lost = kept[name]
            assert 0 < durable == node.age < lost
        swarm.expect_progress(10)
        swarm.run(30)
        assert min(node.age for node in swarm.up) > max(age for _, age in kept.values())
        if algorithm == "dpsgd":
            assert rounds_apart(swarm) <= 4
            missing = counted(swarm, "missing_models")
            swarm.run(10)
            assert counted(swarm, "missing_models") == missing


@BOTH
def test_stopped_in_good_order_a_swarm_loses_nothing(algorithm):
    """One after the other, as an upgrade does it; each comes back with the model that it had."""
    with learning(algorithm, stores=True, run__drain_deadline_s=1.0) as swarm:
        for name in swarm.names:
            swarm.run(5)
            before = swarm.nodes[name]
            swarm.stop(name)
            swarm.run(1)
            after = swarm.restart(name)
            assert after is not before
            np.testing.assert_array_equal(after.params, before.params)
            assert (after.age, after.round) == (before.age, before.round)
        swarm.run(10)
        swarm.expect_progress(5)
