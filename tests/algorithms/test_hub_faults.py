"""A hub and its clients: who is missing, who comes back, and what nobody may bring about."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.hub_clients import ANSWER
from gossipnode.simulation import Link, SimulatedSwarm
from gossipnode.simulation.swarm import SimulationError


def small(form: str = "fedavg", nodes: int = 4, **more: Any) -> SimulatedSwarm:
    """Return a swarm whose client i adds i in each step, a step a tenth of a second."""
    flags = {
        "algorithm__name": form, "algorithm__deadline_s": 1.0, "algorithm__start_deadline_s": 1.0,
        "network__push_timeout_s": 0.5, "checkpoint__every_s": 0.5,
        **{key: more.pop(key) for key in list(more) if "__" in key},
    }  # fmt: skip
    learners = [PlainLearner([0.0], float(i)) for i in range(nodes)]
    return SimulatedSwarm(
        plain_config(**flags), nodes, learners=learners, step_s=0.1, stores=True,
        **{"link": Link(latency_s=0.01), **more},
    )  # fmt: skip


def test_the_model_is_made_of_the_clients_that_are_there() -> None:
    with small() as swarm:
        swarm.run(2)
        swarm.kill("n3")
        swarm.run(3)
        before = swarm.nodes["n0"]
        k, x = before.round, before.params[0]
        swarm.run(1)
        assert before.round > k + 5  # nobody waits for a dead one twice
        assert before.params[0] == pytest.approx(x + (before.round - k) * (0 + 1 + 2) / 3)


@pytest.mark.parametrize("form", ["fedavg", "fedadam"])
def test_a_client_that_comes_back_takes_part_again(form: str) -> None:
    with small(form) as swarm:
        swarm.run(2)
        swarm.kill("n3")
        swarm.run(4)
        swarm.restart("n3")
        swarm.run(1.5)
        hub, client = swarm.nodes["n0"], swarm.nodes["n3"]
        missing = hub.counters.get("missing_models")
        swarm.expect_progress(1)
        assert hub.counters.get("missing_models") == missing
        assert abs(hub.round - client.round) <= 1


@pytest.mark.parametrize("wiped", [False, True])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_without_the_hub_clients_wait_and_go_on_with_it(how: str, wiped: bool) -> None:
    """Even where it has lost its disk: the clients still have its model."""
    with small() as swarm:
        swarm.run(3)
        getattr(swarm, how)("n0")
        rounds = [node.round for node in swarm.up]
        x = max(node.params[0] for node in swarm.up)
        swarm.run(5)
        assert [node.round for node in swarm.up] == rounds
        for node in swarm.up:
            assert node.peers["n0"].state == "suspect"
            assert node.counters.get("missing_models") > 0
        if wiped:
            swarm.wipe("n0")
        swarm.restart("n0")
        swarm.expect_progress(3)
        assert swarm.nodes["n0"].round > max(rounds) + 3
        swarm.expect_progress(1)
        assert min(node.params[0] for node in swarm.up) > x
        swarm.run_until(lambda: swarm.consensus_distance() == 0, within=1)


def test_clients_say_once_that_the_hub_is_gone_and_once_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def logged() -> list[tuple[str, str, str]]:
        return [
            (record.levelname, record.getMessage(), record.fields["id"])  # type: ignore[attr-defined]
            for record in caplog.records
            if record.name == "gossipnode.algorithms"
        ]

    clients = ["n1", "n2", "n3"]
    with caplog.at_level(logging.INFO, "gossipnode.algorithms"), small() as swarm:
        swarm.run(2)
        assert not logged()
        swarm.kill("n0")
        swarm.run(10)
        assert sorted(logged()) == [("WARNING", "hub.lost", name) for name in clients]
        for node in swarm.up:
            status = node.status()
            assert status.state == "running"
            assert status.reason == "waiting for the hub n0, which does not answer: start it again"
        caplog.clear()
        swarm.restart("n0")
        swarm.run(5)
        assert sorted(logged()) == [("INFO", "hub.back", name) for name in clients]
        swarm.run_until(lambda: not any(node.reason for node in swarm.up), within=1)


def test_a_hub_that_waits_for_a_dead_client_says_so() -> None:
    with small(algorithm__start_deadline_s=60.0) as swarm:
        swarm.run(2)
        swarm.stop("n0", "n3")
        swarm.wipe("n0")
        hub = swarm.restart("n0")
        swarm.run(5)
        assert hub.reason == f"waiting for n3: round {hub.round}"
        swarm.run(60)
        assert hub.reason == ""
        swarm.run(1)
        assert hub.state == "running"


def test_a_hub_that_hangs_is_waited_for() -> None:
    with small() as swarm:
        swarm.run(2)
        swarm.pause("n0")
        swarm.run(10)
        rounds = [node.round for node in swarm.up]
        swarm.resume("n0")
        swarm.run(5)
        assert all(n.round > k + 5 for n, k in zip(swarm.up, rounds, strict=True))


def test_a_hub_that_is_stopped_in_a_round_keeps_the_model_of_all() -> None:
    """Not that of the clients, itself among them, which had answered by then."""
    with small() as swarm:
        swarm.worlds["n3"].step_s = 0.5
        swarm.run(1.9)  # three rounds of 0.52 s, and a fourth in which only n3 is missing
        swarm.stop("n0")
        hub = swarm.nodes["n0"]
        assert hub.params[0] == 3 * (0 + 1 + 2 + 3) / 4
        assert hub.round == 4


def test_clients_of_a_dead_hub_stop_when_they_are_asked_to() -> None:
    with small() as swarm:
        swarm.run(2)
        swarm.kill("n0")
        swarm.run(3)
        at = swarm.time
        swarm.stop("n1", "n2", "n3")
        assert swarm.time - at < 0.2


def test_a_duration_ends_clients_of_a_dead_hub() -> None:
    with small(run__duration_s=6.0) as swarm:
        swarm.run(2)
        swarm.kill("n0")
        swarm.run_to_end(within=6.5)


def test_a_client_that_never_hears_of_the_last_model_ends() -> None:
    with small(run__rounds=10) as swarm:
        swarm.run_until(lambda: swarm.nodes["n3"].round == 9, within=10, every=0.01)
        swarm.cut(["n0"], ["n3"])
        swarm.run_to_end(within=20)
        assert [node.round for node in swarm.up] == [10, 10, 10, 9]


def test_a_cut_client_is_missed_and_comes_back() -> None:
    with small() as swarm:
        swarm.run(2)
        swarm.partition(["n3"], ["n0", "n1", "n2"])
        swarm.run(6)
        assert swarm.nodes["n0"].round > swarm.nodes["n3"].round + 5
        swarm.heal()
        swarm.run(5)
        rounds = [node.round for node in swarm.up]
        assert max(rounds) - min(rounds) <= 1


def test_a_hub_alone_neither_blocks_nor_spins() -> None:
    with small(nodes=1, run__rounds=30) as swarm:
        swarm.run_to_end(within=100)
    with small(training__local_steps=0) as swarm:
        swarm.kill("n1", "n2", "n3")
        swarm.run(10)
        assert 5 < swarm.nodes["n0"].round < 100


@pytest.mark.parametrize("form", ["fedavg", "fedbuff"])
def test_a_hub_that_is_set_back_is_told_before_any_deadline(form: str) -> None:
    """Its clients' word comes while it trains, and they work on the model that they had before."""
    patient = {"algorithm__deadline_s": 100.0, "algorithm__start_deadline_s": 100.0}
    with small(form, checkpoint__every_s=0.0, **patient) as swarm:
        swarm.run(3)
        swarm.kill("n0")
        swarm.run(1)
        rounds = [node.round for node in swarm.up]
        swarm.restart("n0")
        assert swarm.nodes["n0"].round == 0
        swarm.run_until(lambda: min(n.round for n in swarm.up) > max(rounds) + 5, within=8)


@pytest.mark.parametrize("rounds", [0, 50])
def test_one_absurd_round_does_not_carry_the_hub_away(rounds: int) -> None:
    with small(run__rounds=rounds) as swarm:
        swarm.run(1)
        hub: Any = swarm.nodes["n0"]
        k = hub.round
        for round_ in (2**62, 10**6):
            greeting = Arrival(
                "n1", Purpose.MODEL, round_, 0, {"half": np.zeros(1)}, {"samples": 0}, phase=ANSWER
            )
            hub.peers["n1"].tell_round(round_)
            hub.algorithm.hear(hub, greeting)
        swarm.run(1)
        assert k < hub.round < 30


@pytest.mark.parametrize("form", ["fedavg", "fedbuff"])
@pytest.mark.parametrize("stuck", ["n0", "n2"])
def test_a_round_without_an_end_is_found(form: str, stuck: str) -> None:
    """Of the hub or of a client: with a hub that is there, all waits have an end."""

    async def for_ever(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    def story() -> None:
        with small(form) as swarm:
            swarm.run(1)
            algorithm: Any = swarm.nodes[stuck].algorithm
            algorithm.take = algorithm.step = algorithm.collect = for_ever
            for _ in range(60):
                swarm.run(1)

    with pytest.raises(SimulationError, match=f"{stuck} is stuck"):
        story()


@pytest.mark.parametrize("form", ["fedavg", "fedbuff"])
def test_waiting_for_a_hub_that_is_gone_is_no_fault(form: str) -> None:
    with small(form) as swarm:
        swarm.run(1)
        swarm.kill("n0")
        for _ in range(40):
            swarm.run(1)
        swarm.restart("n0")
        for _ in range(3):
            swarm.run(1)
        assert all(node.peers["n0"].state == "alive" for node in swarm.up if node.id != "n0")
