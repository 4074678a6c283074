"""Dynamic average consensus: what each node knows of the whole swarm, and what a loss does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from q16_swarms import (
    HASTY,
    LINK,
    NAMES,
    Matrix,
    W,
    lose,
    models_of,
    settings,
    simulated,
    stopped_and_started,
)

from gossipnode.algorithms.dynamic_average import DynamicAverage, Reading, Told
from gossipnode.algorithms.lockstep import Lockstep
from gossipnode.cli.status import lines_of
from gossipnode.config import Config
from gossipnode.errors import ConfigError
from gossipnode.learning.learner import build_learner
from gossipnode.simulation import Link, SimulatedSwarm

RHO = float(np.linalg.norm(W - 1 / 16, 2))
FORMS = [
    "dpsgd", "dsgt", "diging", "atc_gt", "d2", "exact_diffusion", "extra", "qgm", "decentlam",
    "dmsgd", "momentum_tracking", "edm",
]  # fmt: skip


def sharing(source: str, name: str, **flags: Any) -> Config:
    return settings(source, name, 0.01, algorithm__swarm_metrics=True, **flags)


def mixed(averages: list[DynamicAverage], z: Matrix, lost: tuple[int, int] | None = None) -> None:
    """Be one round on the ring with the readings ``z``; ``lost`` is (to, from)."""
    told = [Told() for _ in averages]
    said = [average.tell(Reading(0.0, 0.0, 0.0)) for average in averages]
    for i in range(16):
        for j in ((i - 1) % 16, (i + 1) % 16):
            if (i, j) != lost:
                told[i].add(said[j], W[i, j])
    for i, average in enumerate(averages):
        average.mix(told[i], Reading(*z[i]))


def estimates(averages: list[DynamicAverage]) -> Matrix:
    return np.array([average.x for average in averages])


@given(st.integers(0, 2**32 - 1))
def test_the_sum_of_estimates_is_that_of_readings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    averages = [DynamicAverage() for _ in range(16)]
    for _ in range(30):
        z = rng.standard_normal((16, 3))
        mixed(averages, z)
        np.testing.assert_allclose(estimates(averages).sum(0), z.sum(0), rtol=0, atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_each_stays_within_the_bound(seed: int) -> None:
    """From equal readings on, ‖x − z̄‖ ≤ e/(1 − ρ) where ‖Δz‖ ≤ e."""
    rng = np.random.default_rng(seed)
    averages, z, e = [DynamicAverage() for _ in range(16)], np.zeros((16, 3)), 0.0
    for _ in range(100):
        news = rng.standard_normal((16, 3))
        z = z + news
        e = max(e, float(np.linalg.norm(news - news.mean(0), axis=0).max()))
        mixed(averages, z)
        away = np.linalg.norm(estimates(averages) - z.mean(0), axis=0)
        assert away.max() <= e / (1 - RHO) * (1 + 1e-9)


def test_what_stays_is_known_to_all_at_last() -> None:
    averages, z = [DynamicAverage() for _ in range(16)], np.arange(48.0).reshape(16, 3)
    for _ in range(600):
        mixed(averages, z)
    np.testing.assert_allclose(estimates(averages), np.tile(z.mean(0), (16, 1)), atol=1e-10)


def test_a_loss_breaks_the_sum_for_ever_unless_all_begin_anew() -> None:
    averages, z = [DynamicAverage() for _ in range(16)], np.arange(48.0).reshape(16, 3)
    for k in range(600):
        mixed(averages, z, lost=(0, 15) if k == 2 else None)
    assert np.abs(estimates(averages) - z.mean(0)).max() > 0.1
    for average in averages:
        average.begin_anew()
    for _ in range(700):
        mixed(averages, z)
    np.testing.assert_allclose(estimates(averages), np.tile(z.mean(0), (16, 1)), atol=1e-10)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_reading_that_is_no_number_is_not_told(bad: float) -> None:
    average = DynamicAverage()
    assert average.tell(Reading(bad, 1.0, 2.0)) == {"loss": 0.0, "steps_per_s": 1.0, "samples": 2.0}
    average.mix(Told(), Reading(bad, 3.0, bad))
    assert average.x == Reading(0.0, 3.0, 2.0)


def test_what_a_peer_says_cannot_overflow() -> None:
    average, told = DynamicAverage(), Told()
    average.tell(Reading(1.0, 1.0, 1.0))
    for _ in range(2):
        told.add({"loss": 1.7e308, "steps_per_s": 0.0, "samples": 0.0}, 1.0)
    average.mix(told, Reading(2.0, 2.0, 2.0))
    assert average.x == Reading(2.0, 2.0, 2.0)


# -- in a swarm ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_params_are_the_same_to_the_bit(source: str, form: str) -> None:
    plain = models_of(settings(source, form, 0.01, run__rounds=20))
    assert np.array_equal(models_of(sharing(source, form, run__rounds=20)), plain)


def sums(swarm: SimulatedSwarm) -> tuple[Matrix, Matrix]:
    """Return Σx and Σz, whatever round each node is in: all have closed the same one."""
    averages = [node.algorithm.average for node in swarm.up]
    return np.array([a.x for a in averages]).sum(0), np.array([a.z for a in averages]).sum(0)


@pytest.mark.parametrize("form", ["dpsgd", "atc_gt", "extra"])
def test_a_swarm_keeps_the_sum(source: str, form: str) -> None:
    for rounds in (1, 7, 30):
        config = sharing(source, form, run__rounds=rounds)
        with simulated(config, step_s=0.01) as swarm:
            swarm.slow_down(NAMES[3], 2.5)
            swarm.run_to_end(within=100)
            x, z = sums(swarm)
            np.testing.assert_allclose(x, z, rtol=1e-12)


def test_every_node_knows_the_swarm(source: str) -> None:
    """One node is ten times slower with its steps; in lockstep all do as many a second."""
    config = sharing(source, "dpsgd", run__rounds=200, training__learning_rate=0.1)
    with simulated(config, step_s=0.01) as swarm:
        swarm.slow_down(NAMES[3], 10.0)
        swarm.run_to_end(within=100)
        losses = [node.loss for node in swarm.up]
        for node in swarm.up:
            status = node.status()
            assert status.swarm_loss == pytest.approx(np.mean(losses), rel=1e-3)
            assert status.swarm_samples == 16
            # The slow one waits for nobody: its rounds, and so all rounds, take 100 ms.
            assert status.swarm_steps_per_s == pytest.approx(160, rel=1e-3)


def test_uneven_shares_are_counted() -> None:
    names, n = NAMES[:5], 5
    config = Config.model_validate(
        {
            "algorithm": {"name": "dpsgd", "swarm_metrics": True},
            "data": {"partition": "quantity:0.5"},
            "run": {"rounds": 80, "evaluate_every": 0},
        }
    )
    shares = [
        build_learner(
            task="softmax", data="digits", partition="quantity:0.5", share_index=i, share_count=n
        ).samples
        for i in range(n)
    ]
    with SimulatedSwarm(config, names=names, link=LINK, objects=True) as swarm:
        swarm.run_to_end(within=100)
        assert [node.status().swarm_samples for node in swarm.up] == [sum(shares)] * n
        assert len(set(shares)) > 1


def test_after_a_loss_all_begin_anew_and_are_right_again(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, 4, 5, 20)
    config = sharing(source, "dpsgd", run__rounds=60, **HASTY)
    with simulated(config, step_s=0.01) as swarm:
        swarm.run_until(lambda: swarm.up[0].round == 30, within=10, every=0.001)
        x, z = sums(swarm)
        assert np.abs(x - z).max() > 1e-3
        swarm.run_to_end(within=100)
        assert [node.counters.get("metrics_resyncs") for node in swarm.up] == [1] * 16
        assert not any(node.counters.get("restarts") for node in swarm.up)
        np.testing.assert_allclose(*sums(swarm), rtol=1e-12)


def test_without_beginning_anew_the_sum_stays_wrong(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, 4, 5, 20)
    monkeypatch.setattr(Lockstep, "restart_is_due", lambda self, k: False)
    with simulated(sharing(source, "dpsgd", run__rounds=60, **HASTY), step_s=0.01) as swarm:
        swarm.run_to_end(within=100)
        x, z = sums(swarm)
        assert np.abs(x - z).max() > 1e-3


def test_a_swarm_that_loses_messages_all_the_time_stays_near(source: str) -> None:
    link = Link(latency_s=0.001, loss=0.02)
    with simulated(sharing(source, "dpsgd", run__rounds=200), step_s=0.01, link=link) as swarm:
        swarm.run_to_end(within=1000)
        for node in swarm.up:
            status = node.status()
            assert status.swarm_samples == pytest.approx(16, abs=1)


def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str) -> None:
    config = sharing(source, "dpsgd", run__rounds=30)
    plain = settings(source, "dpsgd", 0.01, run__rounds=60)
    X = stopped_and_started(config, 60)
    np.testing.assert_allclose(X, models_of(plain), rtol=0, atol=1e-12)


def test_the_status_tells_it_in_words(source: str) -> None:
    with simulated(sharing(source, "dpsgd", run__rounds=50)) as swarm:
        swarm.run_to_end(within=100)
        from dataclasses import asdict

        lines = lines_of(asdict(swarm.up[0].status()))
        assert any(line.startswith("swarm ") and "16 samples" in line for line in lines)
    with simulated(settings(source, "dpsgd", 0.01, run__rounds=5)) as swarm:
        swarm.run_to_end(within=100)
        status = swarm.up[0].status()
        assert status.swarm_loss is status.swarm_samples is status.swarm_steps_per_s is None
        assert not any(line.startswith("swarm ") for line in lines_of(asdict(status)))


def test_means_need_columns_that_add_to_one(source: str) -> None:
    with pytest.raises(ConfigError, match="doubly stochastic"):
        sharing(source, "dpsgd", topology__graph="el_local")
    settings(source, "dpsgd", 0.01, topology__graph="el_local")
