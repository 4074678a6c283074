"""Gossip-PGA: between P-SGD and D-PSGD, to the bit at both ends; and an H that all agree on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from q16_swarms import (
    BEST,
    NAMES,
    Matrix,
    W,
    gradients,
    models_of,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms.all_reduce import EVERYBODY, Mean
from gossipnode.algorithms.base import Arrival, Purpose
from gossipnode.algorithms.gossip_pga import GossipPGA, GossipPgaOptions, next_period
from gossipnode.errors import ConfigError
from gossipnode.simulation import Link

ETA = 0.1
FAST = {
    "algorithm__deadline_s": 0.1,
    "algorithm__start_deadline_s": 0.1,
    "network__push_timeout_s": 0.05,
}


def pga(X: Matrix, H: int, eta: float = ETA) -> Iterator[Matrix]:
    """Yield X after each round; H = 0 never takes the mean of all."""
    k = 0
    while True:
        half = X - eta * gradients(X)
        k += 1
        X = np.broadcast_to(half.mean(0), X.shape) if H and k % H == 0 else W @ half
        yield X


def after(H: int, rounds: int) -> Matrix:
    return next(islice(pga(start(), H), rounds - 1, None))


def spread(X: Matrix) -> float:
    return float(np.abs(X - X[0]).max())


@pytest.mark.parametrize("H", [0, 3, 4])
def test_sixteen_nodes_are_the_dense_recursion(source: str, H: int) -> None:
    for rounds in (24, 26):
        config = settings(source, "gossip_pga", ETA, algorithm__every=H, run__rounds=rounds)
        X = models_of(config)
        np.testing.assert_allclose(X, after(H, rounds), rtol=0, atol=1e-12)
        assert (spread(X) == 0) == bool(H and rounds % H == 0)


def test_every_round_is_psgd_to_the_bit(source: str) -> None:
    one = settings(source, "gossip_pga", ETA, algorithm__every=1, run__rounds=20)
    other = settings(source, "allreduce", ETA, run__rounds=20)
    assert np.array_equal(models_of(one), models_of(other))


def test_never_is_dpsgd_to_the_bit(source: str) -> None:
    one = settings(source, "gossip_pga", ETA, algorithm__every=0, run__rounds=20)
    other = settings(source, "dpsgd", ETA, run__rounds=20)
    assert np.array_equal(models_of(one), models_of(other))


@pytest.mark.parametrize("H", [0, 1, 4, 16])
def test_the_mean_goes_along_the_mean_gradient(H: int) -> None:
    before = start()
    for X in islice(pga(before, H), 200):
        expected = before.mean(0) - ETA * gradients(before).mean(0)
        np.testing.assert_allclose(X.mean(0), expected, rtol=0, atol=1e-13)
        before = X


def test_the_mean_of_a_swarm_goes_along_its_mean_gradient(source: str) -> None:
    def mean_after(rounds: int) -> Matrix:
        return models_of(
            settings(source, "gossip_pga", ETA, algorithm__every=4, run__rounds=rounds)
        )

    for k in (2, 3):  # into an ordinary round, and into one with the mean of all
        before = mean_after(k)
        expected = before.mean(0) - ETA * gradients(before).mean(0)
        np.testing.assert_allclose(mean_after(k + 1).mean(0), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("H", "published"), [(1, 0.0), (4, 0.028625), (16, 0.075695), (64, 0.10812), (0, 0.12085)]
)
def test_the_bias_is_the_published_one(H: int, published: float) -> None:
    away = [np.linalg.norm(X.mean(0) - BEST) for X in islice(pga(start(), H), 1024)]
    assert np.mean(away[-64:]) == pytest.approx(published, rel=5e-5, abs=1e-12)


# -- adapting H ------------------------------------------------------------------------------------


def test_the_period_follows_the_loss_between_its_limits() -> None:
    assert next_period(4, 2.0, 2.0, 64) == 4
    assert next_period(4, 2.0, 1.9, 64) == 5  # rounded up
    assert next_period(4, 2.0, 1e-9, 64) == next_period(4, 2.0, 0.0, 64) == 64
    assert next_period(4, 2.0, 1e9, 64) == 1


def test_the_first_means_are_the_warm_up() -> None:
    algorithm = GossipPGA(GossipPgaOptions(form="aga", every=4, warm_up=2), 1)
    x = np.zeros(1)

    def told(k: int, loss: float) -> tuple[int, int | None]:
        first = loss if algorithm.F_init is None else algorithm.F_init
        numbers = {"loss": loss, "first": first, "told": 1.0}
        algorithm.look_ahead(k, Mean(x, 16, numbers))
        return algorithm.H, algorithm.due

    assert algorithm.is_due(3)
    assert not algorithm.is_due(2)
    assert told(3, 8.0) == (4, 7)
    assert told(7, 4.0) == (4, 11)  # F_init = 4
    assert told(11, 2.0) == (8, 19)
    assert told(19, 1.0) == (16, 35)
    assert not algorithm.is_due(34)
    assert algorithm.is_due(35)


def periods(swarm: Any) -> set[tuple[int, int | None]]:
    return {(node.algorithm.H, node.algorithm.due) for node in swarm.up}


def test_all_nodes_find_the_same_period(source: str) -> None:
    config = settings(source, "aga", ETA, algorithm__every=2, algorithm__warm_up=1, run__rounds=40)
    with simulated(config) as swarm:
        swarm.run_to_end(within=100)
        assert len(periods(swarm)) == 1
        algorithm = swarm.nodes[NAMES[0]].algorithm
        assert isinstance(algorithm, GossipPGA)
        assert algorithm.H > 2  # the loss has fallen
        assert all(node.counters.get("missing_models") == 0 for node in swarm.up)


def test_one_that_was_away_is_taken_along(source: str) -> None:
    """It comes back with the H of its last checkpoint, or with none."""
    config = settings(
        source,
        "aga",
        ETA,
        algorithm__every=2,
        algorithm__warm_up=1,
        checkpoint__every_s=0.0,
        **FAST,
    )
    with simulated(config, stores=True, step_s=0.01) as swarm:
        swarm.run(0.5)
        swarm.kill(NAMES[3])
        swarm.run(1)
        swarm.restart(NAMES[3])
        swarm.run_until(lambda: len(periods(swarm)) == 1, within=20, every=0.01)
        missing = sum(node.counters.get("missing_models") for node in swarm.up)
        swarm.run(1)
        assert sum(node.counters.get("missing_models") for node in swarm.up) == missing


def test_two_with_different_periods_meet(source: str) -> None:
    config = settings(source, "aga", ETA, algorithm__every=4, algorithm__warm_up=1, **FAST)
    with simulated(config, step_s=0.01) as swarm:
        swarm.run(0.3)
        algorithm = swarm.nodes[NAMES[5]].algorithm
        assert isinstance(algorithm, GossipPGA)
        algorithm.H, algorithm.due = 200, 10_000
        swarm.run_until(lambda: len(periods(swarm)) == 1, within=20, every=0.01)
        swarm.expect_progress(1)


class Still:
    """A node whose params only ``commit`` changes; ``then`` happens after the first one."""

    round, loss = 3, None

    def __init__(self, then: Any) -> None:
        self.params, self.then = np.array([1.0]), then

    async def train(self, steps: int) -> None:
        del steps

    async def commit(self, after: Any, before: Any) -> None:
        self.params = self.params + (after - before)
        self.then()


async def test_a_mean_that_is_asked_for_while_the_mixture_is_committed_is_exact() -> None:
    algorithm: Any = GossipPGA(GossipPgaOptions(form="aga", every=100), 1)

    def ask() -> None:
        algorithm.due = min(algorithm.due, 3)

    async def combined(*_: Any) -> dict[str, Any]:
        return {"x": np.array([5.0])}

    async def mean_of_all(*_: Any) -> Mean:
        return Mean(np.array([9.0]), 2)

    algorithm.combine, algorithm.reduce.mean = combined, mean_of_all
    algorithm.send = lambda *_: None
    node: Any = Still(ask)
    await algorithm.step(node, 3)
    assert node.params[0] == 9.0


def told_to_all(k: int) -> Any:
    return Arrival("b", Purpose.MODEL, k, 0, {"sum": np.zeros(1)}, phase=EVERYBODY)


async def test_word_of_a_mean_that_is_over_asks_for_no_other() -> None:
    algorithm: Any = GossipPGA(GossipPgaOptions(form="aga", every=100), 1)
    algorithm.reduce.receive = lambda *_: None
    node: Any = Still(lambda: None)
    await algorithm.receive(node, told_to_all(3))
    assert algorithm.is_due(3)
    algorithm.look_ahead(3, Mean(np.zeros(1), 2))
    await algorithm.receive(node, told_to_all(3))  # before the round has ended
    assert algorithm.due == 103


async def test_word_of_a_far_round_does_not_put_off_the_first_mean() -> None:
    algorithm: Any = GossipPGA(GossipPgaOptions(form="aga", every=4), 1)
    algorithm.reduce.receive = lambda *_: None
    await algorithm.receive(Still(lambda: None), told_to_all(10**15))  # type: ignore[arg-type]
    assert not algorithm.is_due(4)
    assert algorithm.is_due(3 + 256)


def test_only_those_that_know_a_loss_are_asked_for_it(source: str) -> None:
    """One that takes no steps, or whose loss is no number, weighs nothing."""
    config = settings(source, "aga", ETA, algorithm__every=2, algorithm__warm_up=1, run__rounds=4)
    for reduction in ("ring", "naive", "server"):
        chosen = config.algorithm.model_copy(update={"reduction": reduction})
        with simulated(config.model_copy(update={"algorithm": chosen})) as swarm:
            idle: Any = swarm.nodes[NAMES[4]].algorithm
            idle.note_loss = lambda _: None
            swarm.run_to_end(within=100)
            means = {node.algorithm.F_init for node in swarm.up}  # type: ignore[attr-defined]
            assert len(means) == 1
            others = [node.algorithm for node in swarm.up if node.algorithm is not idle]
            assert all(one.numbers()["told"] == 1.0 for one in others)  # type: ignore[attr-defined]
            assert idle.F_init is not None


def test_a_loss_that_is_no_number_is_forgotten() -> None:
    algorithm, node = GossipPGA(GossipPgaOptions(form="aga"), 1), Still(lambda: None)
    for loss in (2.0, float("inf"), float("nan"), 2.0):
        node.loss = loss  # type: ignore[assignment]
        algorithm.note_loss(node)  # type: ignore[arg-type]
    assert algorithm.F == 2.0
    for loss, told in ((1e308, 1e-300), (1.0, 0.0), (-1e308, 1e-9), (1.0, -1.0)):
        numbers = {"loss": loss, "first": loss, "told": told}
        algorithm.look_ahead(0, Mean(np.zeros(1), 2, numbers))
        assert algorithm.F == 2.0


def test_an_earlier_life_sets_no_period_beyond_the_limit_and_no_loss_that_is_none() -> None:
    algorithm = GossipPGA(GossipPgaOptions(form="aga", every_max=64), 1)
    algorithm.restore({}, {"H": 200, "F": float("nan"), "F_init": 1.0, "means": 9, "due": 7})
    assert algorithm.H == 64
    assert algorithm.numbers() == {"loss": 0.0, "first": 0.0, "told": 0.0}


def test_its_rounds_have_no_ages(source: str) -> None:
    with pytest.raises(ConfigError, match="age is for gossip"):
        settings(source, "gossip_pga", ETA, algorithm__staleness="age")


# -- what a swarm must bear ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pga", "aga"])
def test_a_seed_is_a_run(source: str, form: str) -> None:
    config = settings(source, form, ETA, algorithm__every=3, run__rounds=12, **FAST)
    one, again, other = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one[0] == again[0] != other[0]
    assert np.array_equal(one[1], again[1])


@pytest.mark.parametrize("form", ["pga", "aga"])
def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str, form: str) -> None:
    flags = {"algorithm__every": 3, "algorithm__warm_up": 1, "checkpoint__every_s": 0.0}
    X = stopped_and_started(settings(source, form, ETA, run__rounds=14, **flags), 25)
    through = models_of(settings(source, form, ETA, run__rounds=25, **flags))
    np.testing.assert_allclose(X, through, rtol=0, atol=1e-12)
    if form == "pga":
        np.testing.assert_allclose(X, after(3, 25), rtol=0, atol=1e-12)


def test_under_loss_the_nodes_are_closer_together_than_with_dpsgd(source: str) -> None:
    """A tenth of the messages is lost: no mean is quite exact, but each is far better than none."""

    def spread_of(name: str, **flags: Any) -> float:
        config = settings(source, name, ETA, run__rounds=60, **{**FAST, **flags})
        with simulated(config, seed=1, link=Link(latency_s=0.001, loss=0.1)) as swarm:
            found = []
            while min(node.round for node in swarm.up) < 50:
                swarm.run(0.02)
                found.append(swarm.consensus_distance())
            return float(np.median(found))

    patient = {"algorithm__deadline_s": 0.3}
    assert spread_of("gossip_pga", algorithm__every=2, **patient) < 0.8 * spread_of("dpsgd")
