"""FedBuff: FedAvg where all answer at once; else each answer once, weighed by its staleness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config
from q16_swarms import BEST, NAMES, models_of, settings, simulated, stopped_and_started, trace_of

from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.fedbuff import FedBuff, FedBuffOptions
from gossipnode.algorithms.hub_clients import ANSWER, Work
from gossipnode.errors import ConfigError
from gossipnode.simulation import Link, SimulatedSwarm

ETA = 0.1
FAST = {
    "algorithm__deadline_s": 0.1,
    "algorithm__start_deadline_s": 0.1,
    "network__push_timeout_s": 0.05,
}


def config(source: str, rounds: int, tau: int, name: str = "fedbuff", **flags: Any) -> Any:
    return settings(source, name, ETA, run__rounds=rounds, training__local_steps=tau, **flags)


def small(nodes: int = 4, buffer: int = 2, **more: Any) -> SimulatedSwarm:
    """Return a swarm whose client i adds i in each step; a step takes a tenth of a second."""
    flags = {
        "algorithm__name": "fedbuff", "algorithm__buffer": buffer, "algorithm__deadline_s": 1.0,
        "algorithm__start_deadline_s": 1.0, "network__push_timeout_s": 0.5,
        "checkpoint__every_s": 0.5,
        **{key: more.pop(key) for key in list(more) if "__" in key},
    }  # fmt: skip
    learners = [PlainLearner([0.0], float(i)) for i in range(nodes)]
    return SimulatedSwarm(
        plain_config(**flags), nodes, learners=learners, step_s=0.1, stores=True,
        **{"link": Link(latency_s=0.01), **more},
    )  # fmt: skip


@pytest.mark.parametrize("tau", [1, 4])
def test_with_room_for_all_it_is_fedavg(source: str, tau: int) -> None:
    for rounds in (1, 30):
        one = models_of(config(source, rounds, tau, algorithm__buffer=16))
        other = models_of(config(source, rounds, tau, "fedavg"))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-13)
        assert np.array_equal(one, np.broadcast_to(one[0], one.shape))


def test_a_buffer_is_no_larger_than_the_swarm(source: str) -> None:
    """Else it would never be full: nobody trains twice from one model."""
    one, other = (models_of(config(source, 10, 2, algorithm__buffer=k)) for k in (16, 999))
    assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("staleness", "weights"),
    [
        ("polynomial", [1, 0.7071, 0.5774, 0.4472, 0.3333, 0.2425]),
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("hinge", [1, 1, 1, 1, 0.0244, 0.0083]),
        ("exponential", [1, 0.9048, 0.8187, 0.6703, 0.4493, 0.2019]),
    ],
)
async def test_answers_weigh_by_their_staleness(staleness: Any, weights: list[float]) -> None:
    """By the published table: 0, 1, 2, 4, 8 and 16 rounds behind."""

    class Node:
        params = np.zeros(1)

        async def compute(self, work: Any, *arguments: Any) -> Any:
            return work(*arguments)

    algorithm = FedBuff(FedBuffOptions(staleness=staleness, server_rate=3.0), 1)
    for delta, weight in zip((0, 1, 2, 4, 8, 16), weights, strict=True):
        used = [
            (20 - delta, Work({"delta": np.array([2.0])}, 1)),
            (20, Work({"delta": np.zeros(1)}, 1)),
        ]
        stepped = await algorithm.stepped(Node(), 20, used)  # type: ignore[arg-type]
        assert -stepped[0] / (3.0 * 2.0 / 2) == pytest.approx(weight, abs=5e-5)


def test_the_steps_of_a_swarm_of_uneven_speed_by_hand() -> None:
    """Three nodes, K = 2, steps of 0.1 s, 0.1 s (the hub's and n1's) and 0.25 s (n2's)."""
    with small(3, 2, link=Link(latency_s=0.001), run__rounds=4) as swarm:
        swarm.worlds["n2"].step_s = 0.25
        swarm.run_to_end(within=10)
        x = swarm.models()
    # x goes up by (0 + 1)/2 in rounds 0 and 1, at 0.1 and 0.2 s. The 2 of n2 comes at 0.25 s, of
    # round 0, when it is round 2: with the hub's 0, at 0.3 s, it fills the buffer; n1's 1, of
    # round 2, waits for round 3, where it is one round old.
    expected = 0.5 + 0.5 + (0 + 2 / np.sqrt(3)) / 2 + (1 / np.sqrt(2) + 0) / 2
    np.testing.assert_allclose(x, expected, rtol=1e-14)


def test_the_slow_do_not_hold_up_the_fast() -> None:
    with small(4, 2) as swarm:
        swarm.worlds["n3"].step_s = 5.0
        swarm.run(10)
        assert swarm.nodes["n0"].round > 50
        assert swarm.nodes["n0"].counters.get("peers_suspected") == 0


def test_no_answer_counts_twice() -> None:
    """Messages are repeated and clients say again what seems lost: still each Δ goes in once."""
    link = Link(latency_s=0.01, loss=0.2, reply_loss=0.2, duplicate=0.3)
    with small(4, 4, link=link, algorithm__staleness="constant", run__rounds=0) as swarm:
        used: list[list[float]] = []
        algorithm = swarm.nodes["n0"].algorithm
        assert isinstance(algorithm, FedBuff)
        stepped = algorithm.stepped

        async def noted(node: Any, k: int, batch: Any) -> Any:
            used.append([(v, float(work.parts["delta"][0])) for v, work in batch])
            return await stepped(node, k, batch)

        algorithm.stepped = noted  # type: ignore[method-assign]
        swarm.run(30)
    everything = [one for batch in used for one in batch]
    assert len(used) > 20
    assert len(set(everything)) == len(everything)  # (v, Δ): client i's Δ is −i


def test_no_answer_counts_twice_though_the_hub_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the hub its clients say their last answers again, and it knows which it has used."""
    used: list[tuple[int, float]] = []
    stepped = FedBuff.stepped

    async def noted(self: FedBuff, node: Any, k: int, batch: Any) -> Any:
        used.extend((v, float(work.parts["delta"][0])) for v, work in batch)
        return await stepped(self, node, k, batch)

    monkeypatch.setattr(FedBuff, "stepped", noted)
    with small(checkpoint__every_s=0.05) as swarm:
        swarm.run(2)
        # n1's answers arrive and are used, but what the hub sends it is lost.
        swarm.cut(["n0"], ["n1"])
        swarm.run(1.5)
        swarm.stop("n0")
        swarm.run(1)
        swarm.restart("n0")
        swarm.run(6)
        swarm.heal()
        swarm.run(2)
    of_clients = [one for one in used if one[1]]  # the hub's own Δ is 0
    assert len(of_clients) > 30
    assert len(set(of_clients)) == len(of_clients)


def test_nobody_is_waited_for_who_has_answered() -> None:
    """Two are dead: a buffer of four holds what two make, and no deadline is waited out."""
    with small(4, 4, algorithm__deadline_s=100.0) as swarm:
        swarm.run(2)
        swarm.kill("n2", "n3")
        swarm.run(2)  # until that is known
        before = swarm.nodes["n0"].round
        swarm.run(10)
        assert swarm.nodes["n0"].round > before + 30


def test_a_greeting_between_two_models_is_answered_with_the_next() -> None:
    with small() as swarm:
        swarm.run(1)
        hub: Any = swarm.nodes["n0"]
        hub.algorithm.owed, hub.algorithm.sent = set(), -1  # while it steps
        greeting = Arrival("n1", Purpose.MODEL, hub.round, 0, {"delta": np.zeros(1)}, phase=ANSWER)
        hub.algorithm.hear(hub, greeting)
        assert hub.algorithm.owed == {"n1"}


# -- who is missing --------------------------------------------------------------------------------


def test_a_buffer_that_cannot_be_filled_is_used_as_it_is() -> None:
    with small(4, 4) as swarm:
        swarm.run(2)
        swarm.kill("n2", "n3")
        before = swarm.nodes["n0"].round
        swarm.run(10)
        assert swarm.nodes["n0"].round > before + 5


def test_a_client_that_comes_back_takes_part_again() -> None:
    with small() as swarm:
        swarm.run(2)
        swarm.kill("n3")
        swarm.run(2)
        swarm.restart("n3")
        swarm.run(2)
        sent = swarm.frames["n3"]
        swarm.run(2)
        assert swarm.frames["n3"] > sent + 5


@pytest.mark.parametrize("wiped", [False, True])
def test_without_the_hub_clients_wait_and_go_on_with_it(wiped: bool) -> None:
    with small() as swarm:
        swarm.run(3)
        swarm.kill("n0")
        rounds = [node.round for node in swarm.up]
        x = max(node.params[0] for node in swarm.up)
        swarm.run(5)
        assert max(node.round for node in swarm.up) <= max(rounds) + 1  # what was on its way
        if wiped:
            swarm.wipe("n0")
        swarm.restart("n0")
        swarm.run(5)
        assert min(node.round for node in swarm.up) > max(rounds) + 3
        assert min(node.params[0] for node in swarm.up) > x


def test_a_hub_alone_neither_blocks_nor_spins() -> None:
    with small(training__local_steps=0) as swarm:
        swarm.kill("n1", "n2", "n3")
        swarm.run(10)
        assert 5 < swarm.nodes["n0"].round < 100


# -- what a swarm must bear ------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [5, 16])
def test_a_seed_is_a_run(source: str, buffer: int) -> None:
    flags = {"algorithm__buffer": buffer, **FAST}
    one, again, other = (trace_of(config(source, 8, 3, **flags), seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    flags = {"algorithm__buffer": 16, "checkpoint__every_s": 0.0}
    X = stopped_and_started(config(source, 12, 3, **flags), 25)
    np.testing.assert_allclose(X, models_of(config(source, 25, 3, **flags)), rtol=0, atol=1e-13)


def test_a_tenth_of_the_messages_lost_leaves_it_near_the_optimum(source: str) -> None:
    """With one client too few its pull is missing: η‖∇f_i(x*)‖τ/16, 0.053 on average."""
    link = Link(latency_s=0.001, loss=0.1)
    flags = {"algorithm__buffer": 16, **FAST}
    with simulated(config(source, 60, 2, **flags), seed=3, link=link) as swarm:
        away = []
        while swarm.nodes[NAMES[0]].round < 60:
            swarm.run(0.02)
            if swarm.nodes[NAMES[0]].round > 30:
                away.append(np.linalg.norm(swarm.nodes[NAMES[0]].params - BEST))
        swarm.run_to_end(within=100)
        assert np.median(away) < 0.0413 + 4 * 0.053


def test_its_rounds_have_no_ages(source: str) -> None:
    with pytest.raises(ConfigError, match="age is for gossip"):
        config(source, 5, 1, algorithm__staleness="age")


def test_its_rounds_are_no_rounds_of_a_graph(source: str) -> None:
    with pytest.raises(ConfigError, match="no rounds"):
        config(source, 5, 1, topology__graph="one_peer_exponential")
