"""PowerGossip where messages get lost, and nodes: what one end alone has added is taken back."""

from __future__ import annotations

import numpy as np
import pytest
from power_gossip_swarms import (
    LAYOUT,
    PULL,
    assert_alike,
    config,
    counted,
    drift,
    edges_of,
    recursion,
    spread,
    swarm_of,
    torus,
)
from q16_swarms import HASTY, NAMES, Matrix, after, lose

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface
from gossipnode.algorithms.power_gossip import PowerGossip, PowerGossipOptions
from gossipnode.errors import PeerError
from gossipnode.simulation import Link

# Steps take 10 ms here: who waits 5 ms longer misses nothing but what is lost.
SHORT = {"algorithm__deadline_s": 0.005, "algorithm__start_deadline_s": 0.005}


def test_what_one_end_alone_has_added_it_takes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 4, 5, 6, of=PowerGossip)  # 4 misses what 5 sends in round 6
    with swarm_of(config(12, **SHORT), step_s=0.01) as swarm:
        drifts = []
        for k in range(1, 13):
            swarm.run_until(lambda k=k: all(n.round >= k for n in swarm.up), 10, every=1e-4)
            drifts.append(drift(swarm))
        # 5 has added what 4 has not; in the next round it hears so.
        assert [k for k, gone in enumerate(drifts) if gone > 1e-13] == [6]
        assert drifts[6] > 1e-3
        taken = {node.id: node.counters.get("taken_back") for node in swarm.up}
        assert {name: number for name, number in taken.items() if number} == {NAMES[5]: 1}
        assert counted(swarm, "resyncs") == 0
        assert_alike(swarm)
        # One exchange did not take place, and of one round the other end knew nothing to use.
        assert edges_of(swarm)[NAMES[4], NAMES[5]].t == 10


def test_a_tenth_of_all_messages_lost_leaves_the_sum_when_losses_end() -> None:
    rng, receive = np.random.default_rng(1), PowerGossip.receive

    async def losing(self: PowerGossip, node: NodeInterface, arrival: Arrival) -> Answer:
        if arrival.round < 100 and rng.random() < 0.1:
            raise PeerError("not_finite", "lost")
        return await receive(self, node, arrival)

    with swarm_of(config(130, "torus", **SHORT), step_s=0.01) as swarm:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PowerGossip, "receive", losing)
            swarm.run_until(lambda: all(n.round >= 100 for n in swarm.up), 100, every=0.005)
            drifted, missing = drift(swarm), counted(swarm, "missing_models")
            spread_then = spread(swarm.models())
            swarm.run_to_end(within=100)
        assert drifted > 1e-3
        assert missing > 500
        assert counted(swarm, "taken_back") > 200
        assert counted(swarm, "resyncs") == 0
        assert drift(swarm) < 1e-13
        assert spread(swarm.models()) < spread_then
        assert_alike(swarm)


def test_both_ends_missing_each_other_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lose(monkeypatch, 4, 5, 6, of=PowerGossip)
    lose(monkeypatch, 5, 4, 6, of=PowerGossip)
    with swarm_of(config(12, **SHORT), step_s=0.01) as swarm:
        swarm.run_to_end(within=100)
        assert drift(swarm) < 1e-13
        assert counted(swarm, "taken_back") == counted(swarm, "resyncs") == 0
        # They suspect each other, and so miss more than the one round.
        rounds = 12 - edges_of(swarm)[NAMES[4], NAMES[5]].t
        assert counted(swarm, "missing_models") == 2 * rounds > 0
        assert_alike(swarm)


def test_nothing_is_saved_on_what_is_not_sent() -> None:
    with swarm_of(config(60, **SHORT), step_s=0.01) as swarm:
        swarm.run_until(lambda: all(n.round >= 20 for n in swarm.up), 100, every=0.005)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=100)
        for node in (swarm.nodes[NAMES[6]], swarm.nodes[NAMES[8]]):
            get = node.counters.get
            pushes = get("pushes_sent")
            assert 60 + 20 <= pushes < 2 * 60  # a suspect is tried now and then
            header = (get("bytes_sent") + get("bytes_saved")) / pushes - 8 * LAYOUT.size
            assert 0 < header < 400


@pytest.mark.long
def test_who_went_back_to_a_checkpoint_begins_its_edges_anew_with_the_others() -> None:
    slow = {**HASTY, "checkpoint__every_s": 0.1}
    with swarm_of(config(250, "torus", **slow), PULL, step_s=0.01, stores=True) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[7])
        swarm.run(0.8)
        swarm.restart(NAMES[7])
        swarm.run_until(lambda: all(n.round >= 200 for n in swarm.up), 100, every=0.005)
        assert swarm.nodes[NAMES[7]].counters.get("rounds_skipped") > 0
        assert 0 < counted(swarm, "resyncs") <= 4 * 8  # of its four edges, at both ends
        began_anew = counted(swarm, "resyncs")
        swarm.run_to_end(within=100)
        assert counted(swarm, "resyncs") == began_anew
        assert_alike(swarm)
        of = [edge.t for (i, _), edge in edges_of(swarm).items() if i == NAMES[7]]
        assert len(of) == 4
        assert min(of) > 50


def test_a_swarm_that_is_stopped_goes_on_where_it_was() -> None:
    rows, W = torus()
    expected = after(recursion(rows, W, 2, PULL), 20)
    lingering = config(9, "torus", run__linger=True)
    with swarm_of(lingering, PULL, stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        swarm.stop(*swarm.names)
        swarm.config = config(20, "torus", run__linger=True)
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_until(lambda: all(n.round == 20 for n in swarm.up), within=60, every=0.1)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
        assert counted(swarm, "resyncs") == 0
        assert {edge.t for edge in edges_of(swarm).values()} == {20}


def test_edges_of_another_rank_are_forgotten() -> None:
    one, other = (PowerGossip(PowerGossipOptions(rank=rank), 1) for rank in (1, 2))
    with swarm_of(config(3, rank=1, run__linger=True), stores=True) as swarm:
        swarm.run_until(lambda: all(n.state == "finished" for n in swarm.up), within=10, every=0.1)
        state = swarm.nodes[NAMES[0]].algorithm.state()
        one.restore(*state)
        assert one.state()[1] == state[1]
        swarm.stop(*swarm.names)
        swarm.config = config(6, rank=2)
        for name in swarm.names:
            swarm.restart(name)
        swarm.run_to_end(within=10)
        assert {edge.t for edge in edges_of(swarm).values()} == {3}
        assert drift(swarm) < 1e-13
        assert_alike(swarm)
    assert other.state() == ({}, {"rank": 2, "edges": {}})


def test_a_dead_node_blocks_nobody() -> None:
    slow = {"algorithm__deadline_s": 0.5, "network__push_timeout_s": 0.5}
    with swarm_of(config(60, **slow), PULL, step_s=0.01) as swarm:
        swarm.run(0.1)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=2.5)
        assert [node.round for node in swarm.up] == [60] * 15


def test_a_seed_is_a_run() -> None:
    def run(seed: int) -> tuple[str, Matrix]:
        link = Link(latency_s=0.001, jitter_s=0.002, loss=0.05)
        with swarm_of(config(30, "torus", **HASTY), PULL, seed=seed, link=link) as swarm:
            swarm.run_to_end(within=1000)
            return swarm.trace_hash, swarm.models()

    (one, X), (again, Y), (other, _) = run(1), run(1), run(2)
    assert one == again != other
    assert np.array_equal(X, Y)
