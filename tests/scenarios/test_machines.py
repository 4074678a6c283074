"""Machines that are slow, stand still, or have the wrong time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from setting import learning

from gossipnode.simulation import Link, SimulatedSwarm

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


@BOTH
def test_a_clock_set_back_makes_a_machine_without_a_disk_a_stranger_for_as_long(algorithm):
    """Its new life seems older than the last one, and so is refused."""
    with learning(algorithm, late=["n1"]) as swarm:
        swarm.skew_clock("n1", 40.0)
        swarm.start_late("n1")
        swarm.run(10)
        swarm.kill("n1")
        swarm.skew_clock("n1", 0.0)
        node = swarm.restart("n1")
        swarm.run(20)
        refused = node.counters.by_label("pushes_refused_by_peer")
        assert refused["stale_epoch"] > 0
        told = {row.refusal.partition(":")[0] for row in node.status().peers}
        assert "stale_epoch" in told
        swarm.kill("n1")
        swarm.run(20)
        node = swarm.restart("n1")
        swarm.run(20)
        assert not node.counters.by_label("pushes_refused_by_peer")
        assert node.counters.get("pushes_acknowledged") > 0


def test_a_machine_keeps_its_speed_and_its_clock_over_a_restart():
    with learning("gossip") as swarm:
        swarm.slow_down("n1", 4.0)
        swarm.skew_clock("n1", 7.0)
        swarm.kill("n1")
        swarm.restart("n1")
        assert swarm.worlds["n1"].step_s == 4 * swarm.step_s
        assert swarm.worlds["n1"].clock_skew_s == 7.0


def test_a_process_that_dies_over_a_delivery_acknowledges_nothing(monkeypatch):
    """Its merges take three seconds here, and it is killed one second into the first."""
    delivered: list[tuple[float, str]] = []
    note = SimulatedSwarm.delivered

    def noted(swarm: SimulatedSwarm, receiver: str, message: Any, outcome: str) -> None:
        delivered.append((swarm.time, receiver))
        note(swarm, receiver, message, outcome)

    monkeypatch.setattr(SimulatedSwarm, "delivered", noted)
    with learning("gossip", stores=True) as swarm:
        swarm.run(5)
        node, deliver = swarm.nodes["n1"], swarm.nodes["n1"].passive.deliver

        async def slowly(admission: Any, body: Any) -> Any:
            delivery = await deliver(admission, body)
            await asyncio.sleep(3)
            return delivery

        node.passive.deliver = slowly  # type: ignore[method-assign]
        received = node.counters.get("pushes_received")
        swarm.run_until(lambda: node.counters.get("pushes_received") > received, within=10)
        swarm.run(1)
        swarm.kill("n1")
        killed_at = swarm.time
        swarm.run(10)
        after = [receiver for instant, receiver in delivered if instant > killed_at]
        assert after
        assert "n1" not in after


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        (lambda swarm: swarm.partition(["n0"], ["typo"]), "no node typo; there are n0, n1"),
        (lambda swarm: swarm.cut(["typo"], ["n0"]), "no node typo"),
        (lambda swarm: swarm.kill("typo"), "no node typo"),
        (lambda swarm: swarm.stop("typo"), "no node typo"),
        (lambda swarm: swarm.pause("typo"), "no node typo"),
        (lambda swarm: swarm.skew_clock("typo", 1.0), "no node typo"),
        (lambda swarm: swarm.slow_down("typo", 2.0), "no node typo"),
        (lambda swarm: swarm.restart("n0"), "n0 is not down"),
        (lambda swarm: swarm.wipe("n0"), "n0 is not down"),
        (lambda swarm: swarm.slow_disk("n0", 1.0), "n0 has no disk; make the swarm with stores"),
    ],
)
def test_a_verb_tells_what_is_wrong_and_counts_no_fault_that_was_none(verb, what):
    with learning("gossip") as swarm:
        with pytest.raises(ValueError, match=what):
            verb(swarm)
        assert not swarm.network.fired
        assert not swarm.down


def test_whether_a_peer_listens_is_known_after_the_way_there_and_back():
    with learning("gossip", link=Link(latency_s=2.0)) as swarm:
        world = swarm.worlds["n0"]
        swarm.kill("n1")

        def asked(timeout_s: float) -> tuple[bool, float]:
            began = swarm.time
            found = swarm._complete(world.is_listening("http://n1:1", timeout_s))
            return found, swarm.time - began

        assert asked(5.0) == (False, 4.0)
        assert asked(3.0) == (True, 3.0)  # no answer proves nothing
        swarm.cut(["n1"], ["n0"])
        assert asked(5.0) == (True, 5.0)
