"""Who is there: a crash is seen by all, nobody who lives is taken for gone, who is back is used.

Nodes that gossip so rarely that models tell next to nothing: what is seen, is seen by asking.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from plain_learner import PlainLearner, plain_config
from setting import counted, learning, still

from gossipnode.node.membership.detector import Detector
from gossipnode.node.world import Receipt
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.wire.reply import Reply

LAN = Link(latency_s=0.002)
BAD = Link(latency_s=0.02, jitter_s=0.5, loss=0.05)


def idle(nodes: int, seed: int = 0, link: Link = LAN, **more: Any) -> SimulatedSwarm:
    """A swarm whose nodes know each other and say nothing of themselves."""
    config = plain_config(algorithm__name="gossip", algorithm__period_s=86_400.0, **more)
    learners = [PlainLearner([float(i)]) for i in range(nodes)]
    return SimulatedSwarm(
        config, nodes, seed=seed, link=link, learners=learners, membership=True, objects=True
    )


def introduce(swarm: SimulatedSwarm, settle_s: float = 10.0) -> None:
    """Let everybody have heard of everybody, and some asking pass."""
    for node in swarm.nodes.values():
        for name in swarm.names:
            if name != node.id:
                node.peers.heard(node.peers[name], swarm.time)
    swarm.run(settle_s + 0.01 * swarm.seed)


def detector_of(swarm: SimulatedSwarm, name: str) -> Detector:
    membership = swarm.nodes[name].membership
    assert membership is not None
    (detector,) = [part for part in membership.parts if isinstance(part, Detector)]
    return detector


def states_of(swarm: SimulatedSwarm, name: str) -> set[str]:
    return {node.peers[name].state for node in swarm.up if node.id != name}


def fall_silent(swarm: SimulatedSwarm, name: str, how: str) -> None:
    match how:
        case "killed":
            swarm.kill(name)
        case "paused":
            swarm.pause(name)
        case "cut off":
            swarm.partition([name], [other for other in swarm.names if other != name])


def times_seen(swarm: SimulatedSwarm, name: str, within: float) -> Iterator[float]:
    """Yield after how long each of the others no longer samples ``name``."""
    began = swarm.time
    waiting = {node.id: node for node in swarm.up if node.id != name}
    while waiting and swarm.time - began < within:
        swarm.run(0.02)
        for other in [j for j, node in waiting.items() if node.peers[name].state != "alive"]:
            assert name not in waiting[other].peers.candidates(None, swarm.time)
            del waiting[other]
            yield swarm.time - began
    assert not waiting, f"{len(waiting)} never saw it"


def crashes(count: int, link: Link = LAN) -> list[float]:
    """Return after how long each of the 15 others saw each of ``count`` crashes."""
    seen: list[float] = []
    for seed in range(count):
        with idle(16, seed, link) as swarm:
            introduce(swarm)
            name = f"n{seed % 16}"
            fall_silent(swarm, name, ("paused", "cut off")[seed % 2])
            seen += times_seen(swarm, name, within=30)
    return seen


def test_a_silent_black_hole_is_seen_by_all() -> None:
    seen = sorted(crashes(20))
    assert statistics.median(seen) <= 2.0
    assert seen[int(0.99 * len(seen))] <= 6.0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("link", [LAN, Link(latency_s=0.05)], ids=["lan", "wan"])
def test_two_hundred_silent_black_holes_are_seen_by_all(link: Link) -> None:
    seen = sorted(crashes(200, link))
    assert len(seen) == 200 * 15
    assert statistics.median(seen) <= 2.0
    assert seen[int(0.99 * len(seen))] <= 6.0


@pytest.mark.parametrize("how", ["killed", "paused", "cut off"])
def test_who_is_gone_is_down_for_all_and_gets_no_models(how: str) -> None:
    with idle(5) as swarm:
        introduce(swarm)
        fall_silent(swarm, "n2", how)
        others = [node for node in swarm.up if node.id != "n2"]
        swarm.run_until(lambda: {node.peers["n2"].state for node in others} == {"down"}, within=6.0)
        for node in others:
            assert "n2" not in node.peers.candidates(None, swarm.time)
            assert node.peers["n2"].reason
            assert node.counters.get("peers_down") == 1
            before = node.peers["n2"].pushes_sent
            swarm.run(30)
            assert node.peers["n2"].pushes_sent == before


def test_a_process_that_stood_still_is_used_again_at_once_by_all() -> None:
    with idle(8) as swarm:
        introduce(swarm)
        swarm.pause("n2")
        swarm.run_until(lambda: states_of(swarm, "n2") == {"down"}, within=12.0)
        swarm.resume("n2")
        swarm.run_until(lambda: states_of(swarm, "n2") == {"alive"}, within=8.0)
        swarm.run(10)
        assert states_of(swarm, "n2") == {"alive"}
        # It had not lived to see its turns, and takes nobody for gone because of that.
        assert set(swarm.nodes["n2"].peers.states.items()) >= {("down", 0), ("suspect", 0)}
        assert swarm.nodes["n2"].counters.get("peers_down") == 0


def test_a_node_that_is_started_again_is_used_again_by_all() -> None:
    with idle(8) as swarm:
        introduce(swarm)
        swarm.kill("n2")
        swarm.run_until(lambda: states_of(swarm, "n2") == {"down"}, within=12.0)
        swarm.restart("n2")
        swarm.run_until(lambda: states_of(swarm, "n2") == {"alive"}, within=12.0)
        assert counted(swarm, "peers_returned") >= 7


def test_a_mended_wire_is_used_again_on_both_sides() -> None:
    with idle(8) as swarm:
        introduce(swarm)
        left, right = swarm.names[:4], swarm.names[4:]
        swarm.partition(left, right)
        swarm.run(30)
        for node in swarm.up:
            assert node.peers.states["down"] == 4
        swarm.heal()
        swarm.run_until(lambda: all(n.peers.states["alive"] == 7 for n in swarm.up), within=15.0)


def test_who_cannot_be_reached_by_one_alone_is_alive_by_the_word_of_helpers() -> None:
    with idle(6) as swarm:
        introduce(swarm)
        swarm.cut(["n0"], ["n1"])
        swarm.run(60)
        assert swarm.nodes["n0"].peers["n1"].state == "alive"
        assert counted(swarm, "peers_down") == 0
        assert swarm.nodes["n0"].counters.get("probes_failed") > 0


def test_who_stops_in_good_order_says_so_and_raises_no_alarm() -> None:
    with idle(8) as swarm:
        introduce(swarm)
        swarm.stop("n2")
        swarm.run(0.1)
        assert states_of(swarm, "n2") == {"left"}
        swarm.run(60)
        assert states_of(swarm, "n2") == {"left"}
        assert counted(swarm, "peers_suspected") == counted(swarm, "peers_down") == 0
        swarm.restart("n2")
        swarm.run_until(lambda: states_of(swarm, "n2") <= {"alive"}, within=30.0)


def test_a_late_goodbye_of_an_earlier_life_does_not_end_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer that a node stops may be overtaken by the first words of its next life."""
    with still("dpsgd", 3, stores=True, membership=True, link=LAN) as swarm:
        swarm.run(3)
        n1, detector = swarm.nodes["n1"], detector_of(swarm, "n1")
        on_their_way = []
        with monkeypatch.context() as patch:
            patch.setattr(n1.membership, "ask", lambda *asked: on_their_way.append(asked[-1]))
            detector.probe(n1.peers["n0"], swarm.time)
        swarm.stop("n0")
        life = swarm.restart("n0").epoch
        swarm.run_until(lambda: n1.peers["n0"].epoch == life, within=1.0)
        (answered,) = on_their_way
        swarm.wires.loop.call_soon(answered, Receipt(Reply("refused", "n0", 0, 0, code="draining")))
        swarm.run(3)
        assert n1.peers["n0"].state == "alive"
        missing = counted(swarm, "missing_models")
        swarm.expect_progress(2)
        assert counted(swarm, "missing_models") == missing


def test_two_nodes_and_nobody_to_help() -> None:
    with idle(2) as swarm:
        introduce(swarm)
        swarm.pause("n1")
        swarm.run_until(lambda: states_of(swarm, "n1") == {"down"}, within=6.0)
        swarm.resume("n1")
        swarm.run_until(lambda: states_of(swarm, "n1") == {"alive"}, within=8.0)


def test_a_node_alone_asks_nobody() -> None:
    with idle(1) as swarm:
        swarm.run(60)
        assert not swarm.nodes["n0"].counters.by_label("controls_sent")


def campaign(nodes: int, hours: float, seed: int = 0) -> SimulatedSwarm:
    """Let ``nodes`` live for ``hours`` on bad wires, and return the swarm, which is over."""
    with idle(nodes, seed, BAD) as swarm:
        introduce(swarm)
        swarm.run(3600 * hours)
    return swarm


def test_nobody_who_lives_is_taken_for_gone_on_bad_wires() -> None:
    swarm = campaign(16, 0.1)
    assert counted(swarm, "peers_down") == 0
    assert swarm.network.fired["loss"] > 500
    assert counted(swarm, "probes_failed") > 100


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_nobody_is_taken_for_gone_in_ten_thousand_peer_hours() -> None:
    """A tenth of what ``python -m benchmarks.watching_peers false --nodes 256`` does."""
    swarm = campaign(128, 1e4 / (128 * 127))
    assert counted(swarm, "peers_down") == 0


def test_the_traffic_of_a_node_does_not_grow_with_the_swarm() -> None:
    rates: dict[int, float] = {}
    for nodes in (16, 64, 256):
        with idle(nodes) as swarm:
            introduce(swarm, 1.0)
            before, began = counted(swarm, "control_bytes_sent"), swarm.time
            swarm.run(4)
            sent = counted(swarm, "control_bytes_sent") - before
            rates[nodes] = sent / nodes / (swarm.time - began)
    assert max(rates.values()) < 1.1 * min(rates.values()), rates
    assert max(rates.values()) < 1000  # bytes a second, of a node, questions and answers


@pytest.mark.parametrize("algorithm", ["dpsgd", "gossip"])
def test_a_swarm_that_asks_agrees_as_one_that_does_not(algorithm: str) -> None:
    with still(algorithm, membership=True) as swarm:
        swarm.run(40)
        swarm.expect_consensus_below(1e-3)
        assert counted(swarm, "peers_suspected") == 0


def test_rounds_go_on_without_who_fell_silent() -> None:
    with learning("dpsgd", membership=True, algorithm__deadline_s=30.0) as swarm:
        swarm.run(10)
        swarm.pause("n3")
        swarm.run(6)  # far less than the deadline
        before = {node.id: node.round for node in swarm.up if node.id != "n3"}
        swarm.run(5)
        assert all(swarm.nodes[name].round > k + 5 for name, k in before.items())
        swarm.resume("n3")
        swarm.run_until(lambda: states_of(swarm, "n3") <= {"alive", "unknown"}, within=20.0)


def test_the_same_seed_gives_the_same_trace() -> None:
    hashes = set()
    for _ in range(2):
        with idle(8, 5, BAD) as swarm:
            introduce(swarm)
            swarm.pause("n1")
            swarm.run(20)
            hashes.add(swarm.trace_hash)
    assert len(hashes) == 1


def test_one_that_is_slow_contradicts_and_stays() -> None:
    """All answers of one node take longer than anybody waits, for a while."""
    with idle(8) as swarm:
        introduce(swarm)
        for other in swarm.names:
            if other != "n4":
                swarm.network.set_link(other, "n4", Link(latency_s=1.4))
        swarm.run(20)
        assert counted(swarm, "peers_down") == 0
        assert swarm.nodes["n4"].counters.get("suspicions_refuted") > 0
        assert detector_of(swarm, "n4").hearsay.incarnation > 0
        swarm.run(20)
        assert states_of(swarm, "n4") <= {"alive", "suspect"}
