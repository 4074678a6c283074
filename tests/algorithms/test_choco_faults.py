"""CHOCO on bad wires and through crashes: copies are never wrong, and never stay behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from choco_swarms import TOP, Witness, lagging, lazy_fixed_point, spread, witness
from q16_swarms import BEST, HASTY, LINK, NAMES, A, b, lose, settings, simulated

from gossipnode.algorithms.base import Answer, Arrival, NodeInterface
from gossipnode.algorithms.choco import Choco
from gossipnode.config import Config
from gossipnode.simulation import Link, SimulatedSwarm

__all__ = ["witness"]

BAD = Link(latency_s=0.001, jitter_s=0.02, loss=0.1, reply_loss=0.05, duplicate=0.1)
GAMMA = {"algorithm__gamma": 0.3, **TOP}


def config(source: str, rounds: int, **flags: Any) -> Config:
    return settings(source, "choco", 0.05, run__rounds=rounds, **{**HASTY, **GAMMA, **flags})


def resyncs(swarm: SimulatedSwarm) -> int:
    return sum(node.counters.get("resyncs") for node in swarm.up)


def finish(swarm: SimulatedSwarm, within: float = 60) -> None:
    """Run to the end over good wires, and expect all copies to be those of the last round."""
    swarm.network.link = LINK
    swarm.run_to_end(within=within)
    assert not lagging(swarm)


@pytest.mark.parametrize("codec", ["topk", "qsgd", "none"])
def test_on_bad_wires_no_copy_is_wrong_and_afterwards_none_is_behind(
    source: str, codec: str, witness: Witness
) -> None:
    """Pushes are lost, their answers too, they come twice and overtake one another."""
    with simulated(config(source, 60, codec__name=codec), link=BAD, step_s=0.01) as swarm:
        swarm.run_until(lambda: min(n.round for n in swarm.up) > 40, within=60, every=0.1)
        for kind in ("loss", "reply_loss", "duplicate"):
            assert swarm.network.fired[kind] > 10, kind
        assert swarm.network.fired["overtaken"] > 0
        finish(swarm)
        assert resyncs(swarm) > 50
        assert witness.compared > 400


def test_afterwards_it_rests_where_it_would_have(source: str) -> None:
    with simulated(config(source, 240), link=BAD, step_s=0.01) as swarm:
        swarm.run_until(lambda: min(n.round for n in swarm.up) > 30, within=60, every=0.1)
        finish(swarm)
        X = lazy_fixed_point(A, b, 0.05, 0.3)
        np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=1e-2)


def test_a_lost_difference_costs_one_model_whole(
    source: str, monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    lose(monkeypatch, 5, 6, 20, of=Choco)  # not_finite: it is sent no more
    with simulated(config(source, 40), step_s=0.01) as swarm:
        finish(swarm)
        assert resyncs(swarm) == swarm.nodes[NAMES[6]].counters.get("resyncs") == 1
        assert sum(node.counters.get("missing_models") for node in swarm.up) == 1
        assert sum(node.counters.get("peers_suspected") for node in swarm.up) == 0
        assert swarm.outcomes["missing_base"] == 1


def test_what_is_missed_is_made_up_for_within_the_same_round(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node forgets a copy: the difference is refused, x̂ comes whole, nobody is missed."""
    receive = Choco.receive

    async def forgetting(self: Choco, node: NodeInterface, arrival: Arrival) -> Answer:
        here = node.id, arrival.sender, arrival.round
        if here == (NAMES[5], NAMES[6], 20) and "q" in arrival.parts:
            self.copies.of.pop(NAMES[6])
        return await receive(self, node, arrival)

    expected = models(config(source, 40))
    monkeypatch.setattr(Choco, "receive", forgetting)
    # The sender is in its next steps when it hears of it.
    with simulated(config(source, 40), step_s=0.01) as swarm:
        finish(swarm)
        assert resyncs(swarm) == 1
        assert sum(node.counters.get("missing_models") for node in swarm.up) == 0
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)


def models(made: Config) -> Any:
    with simulated(made) as swarm:
        swarm.run_to_end(within=100)
        return swarm.models()


def test_replaced_differences_end_in_a_resync(source: str, witness: Witness) -> None:
    """A paused node takes nothing: what waits for it is replaced by what is newer."""
    slow = {"algorithm__deadline_s": 0.2, "network__push_timeout_s": 5.0}
    with simulated(config(source, 120, **slow), step_s=0.01) as swarm:
        swarm.run(0.3)
        swarm.pause(NAMES[4])
        swarm.run(0.6)
        swarm.resume(NAMES[4])
        finish(swarm)
        assert resyncs(swarm) >= 2
        assert swarm.nodes[NAMES[4]].counters.get("rounds_skipped") > 0


@pytest.mark.parametrize("is_wiped", [False, True], ids=["checkpoint", "none"])
def test_a_killed_node_comes_back(source: str, is_wiped: bool, witness: Witness) -> None:
    made = config(source, 200, checkpoint__every_s=0.1)
    with simulated(made, step_s=0.01, stores=True) as swarm:
        swarm.run(0.5)
        swarm.kill(NAMES[7])
        if is_wiped:
            swarm.wipe(NAMES[7])
        swarm.run(0.4)
        node = swarm.restart(NAMES[7])
        # Its x̂ of a checkpoint is new to all; without one its neighbours' x̂ are new to it.
        finish(swarm)
        back = node.counters.get("resyncs")
        assert back >= 2
        assert resyncs(swarm) >= back + 2
        X = lazy_fixed_point(A, b, 0.05, 0.3)
        np.testing.assert_allclose(swarm.models(), X, rtol=0, atol=0.1)


def test_a_dead_node_blocks_nobody_and_is_let_go(source: str) -> None:
    slow = {"algorithm__deadline_s": 0.5, "network__push_timeout_s": 0.5}
    with simulated(config(source, 240, **slow), step_s=0.01) as swarm:
        swarm.run(0.3)
        swarm.kill(NAMES[7])
        swarm.run_to_end(within=10.0)
        assert [node.round for node in swarm.up] == [240] * 15
        X = swarm.models()
        # The chain that is left, whose ends keep the weight of who is gone.
        left = [i for i in range(16) if i != 7]
        V = np.eye(16)
        for i, j in zip(left[7:] + left[:6], left[8:] + left[:7], strict=False):
            V[i, j] = V[j, i] = 0.1
            V[i, i] -= 0.1
            V[j, j] -= 0.1
        expected = resting(V[np.ix_(left, left)], A[left], b[left], 0.05)
        np.testing.assert_allclose(X, expected, rtol=0, atol=0.02)


def resting(V: Any, A: Any, b: Any, eta: float) -> Any:
    """Return where X = V(X − ηg(X)) rests."""
    n, d = b.shape
    G = np.zeros((n * d, n * d))
    for i in range(n):
        G[i * d : (i + 1) * d, i * d : (i + 1) * d] = A[i]
    K, eye = np.kron(V, np.eye(d)), np.eye(n * d)
    return np.linalg.solve(eye - K @ (eye - eta * G), K @ (eta * b.ravel())).reshape(n, d)


def test_a_repeated_push_is_added_once(source: str, witness: Witness) -> None:
    """Every second answer is lost, so that every second push is made twice."""
    link = Link(latency_s=0.001, reply_loss=0.5)
    flags = {"algorithm__deadline_s": 5.0, "algorithm__start_deadline_s": 5.0}
    with simulated(config(source, 30, **flags), link=link) as swarm:
        swarm.run_to_end(within=100)
        assert swarm.outcomes["duplicate"] > 100
        assert witness.compared > 200


def test_nodes_that_begin_late_or_apart_heal(source: str, witness: Witness) -> None:
    made = config(source, 80)
    with simulated(made, step_s=0.01, late=[NAMES[3]]) as swarm:
        swarm.partition(NAMES[:8], NAMES[8:])
        swarm.run(0.3)
        swarm.start_late(NAMES[3])
        swarm.run(0.2)
        swarm.heal()
        finish(swarm)
        assert spread(swarm.models()) < 2
        assert np.linalg.norm(swarm.models().mean(0) - BEST) < 0.5


@pytest.mark.long
def test_a_lost_message_moves_the_mean_by_no_more_than_a_difference(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rest by nothing: what was held serves."""
    expected = models(config(source, 202))
    lose(monkeypatch, 5, 6, 200, of=Choco)
    with simulated(config(source, 202)) as swarm:
        swarm.run_to_end(within=100)
        # The disagreement of the two is 1, a hundredth of which would be left of it here.
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-3)
        assert sum(node.counters.get("missing_models") for node in swarm.up) > 0


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_a_seed_is_a_run_on_bad_wires(source: str, loss: float) -> None:
    link = Link(latency_s=0.001, jitter_s=0.004, loss=loss, duplicate=0.1)
    found = []
    for _ in range(2):
        with simulated(config(source, 30, codec__name="qsgd"), link=link, seed=3) as swarm:
            swarm.run_to_end(within=100)
            found.append((swarm.trace_hash, swarm.models().tobytes()))
    assert found[0] == found[1]
