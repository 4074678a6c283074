"""Momentum that is tracked, corrected or looks ahead, against dense recursions on Q16."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest
from memory_swarm import swarm_of
from plain_learner import PlainLearner, plain_config
from q16_swarms import (
    BEST,
    EYE,
    HASTY,
    Matrix,
    Recursion,
    W,
    after,
    gradients,
    lacking,
    lose,
    models_of,
    rms,
    settings,
    simulated,
    start,
    stopped_and_started,
    trace_of,
)

from gossipnode.algorithms import build_algorithm
from gossipnode.errors import ConfigError
from gossipnode.simulation import loop as virtual_time

BETA = MU = 0.9


def tracking(X: Matrix, eta: float, missed: int = -99) -> Iterator[Matrix]:
    """As the paper writes it: c has mean zero, and x goes along m − c.

    In round ``missed`` node 4 misses node 5, and 16 rounds later all begin anew.
    """
    for k in count():
        V = lacking(4, 5) if k == missed else W
        if k in (0, missed + 16):
            m, c = gradients(X), np.zeros_like(X)
        X, c = V @ (X - eta * (m - c)), V @ (c - m) + m
        m = BETA * m + gradients(X)
        yield X


def edm(X: Matrix, eta: float, missed: int = -99) -> Iterator[Matrix]:
    """x^{k+2} = W̄(2x^{k+1} − x^k − η(m^{k+1} − m^k))."""
    for k in count():
        V = (EYE + (lacking(4, 5) if k == missed else W)) / 2
        if k in (0, missed + 16):
            m = gradients(X)
            X, old = V @ (X - eta * m), X
        else:
            m_old, m = m, BETA * m + gradients(X)
            X, old = V @ (2 * X - old - eta * (m - m_old)), X
        yield X


def dmsgd_ahead(X: Matrix, eta: float) -> Iterator[Matrix]:
    m = np.zeros_like(X)
    while True:
        g = gradients(X)
        m = BETA * m + g
        X = W @ (X - eta * (g + BETA * m))
        yield X


def decentlam_ahead(X: Matrix, eta: float) -> Iterator[Matrix]:
    m = np.zeros_like(X)
    while True:
        g = (X - W @ (X - eta * gradients(X))) / eta
        m = BETA * m + g
        X = X - eta * (g + BETA * m)
        yield X


def qgm_ahead(X: Matrix, eta: float) -> Iterator[Matrix]:
    hat = np.zeros_like(X)
    while True:
        g = gradients(X)
        new = W @ (X - eta * (g + BETA * (BETA * hat + g)))
        hat, X = MU * hat + (1 - MU) * (X - new) / eta, new
        yield X


UNBIASED: dict[str, Recursion] = {"momentum_tracking": tracking, "edm": edm}
AHEAD: dict[str, Recursion] = {
    "dmsgd": dmsgd_ahead,
    "decentlam": decentlam_ahead,
    "qgm": qgm_ahead,
}


@pytest.mark.parametrize("name", UNBIASED)
def test_sixteen_nodes_are_the_dense_recursion(source: str, name: str) -> None:
    X = models_of(settings(source, name, 0.005, run__rounds=40))
    np.testing.assert_allclose(X, after(UNBIASED[name](start(), 0.005), 40), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", AHEAD)
def test_looking_ahead_is_the_dense_recursion(source: str, name: str) -> None:
    config = settings(source, name, 0.01, run__rounds=40, algorithm__nesterov=True)
    expected = after(AHEAD[name](start(), 0.01), 40)
    np.testing.assert_allclose(models_of(config), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED)
def test_uneven_data_leave_no_bias(name: str) -> None:
    # edm adds up what rounding does to x from round to round: 4e-15 each time.
    limit = {"momentum_tracking": 1e-12, "edm": 1e-10}[name]
    assert rms(after(UNBIASED[name](start(), 0.005), 4000)) < limit


@pytest.mark.parametrize(
    ("name", "distance", "spread"),
    [
        ("dmsgd", 0.1208488, 1.057010),  # D-PSGD's of η/(1 − β) = 0.1
        ("decentlam", 0.0274152, 0.2511296),  # D-PSGD's of η = 0.01
    ],
)
def test_looking_ahead_rests_where_momentum_does(name: str, distance: float, spread: float) -> None:
    X = after(AHEAD[name](start(), 0.01), 8000)
    assert np.linalg.norm(X.mean(0) - BEST) == pytest.approx(distance, rel=5e-6)
    away = np.sqrt(((X - X.mean(0)) ** 2).sum(1).mean())
    assert away == pytest.approx(spread, rel=5e-6)


def test_qgm_that_looks_ahead_rests_where_a_longer_step_does() -> None:
    """At rest m̂ = 0 and m = g: a fixed point of D-PSGD with (1 + β)η, here a linear system."""
    X = after(qgm_ahead(start(), 0.01), 8000)
    np.testing.assert_allclose(X, W @ (X - 0.019 * gradients(X)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_goes_as_heavy_ball_along_the_mean_gradient(name: str) -> None:
    """x̄^{k+1} = x̄^k − ηm̄^k, m̄^k = βm̄^{k−1} + ḡ^k."""
    before, m = start(), np.zeros(10)
    for X in islice(UNBIASED[name](start(), 0.005), 500):
        m = BETA * m + gradients(before).mean(0)
        np.testing.assert_allclose(X.mean(0), before.mean(0) - 0.005 * m, rtol=0, atol=1e-12)
        before = X


@pytest.mark.parametrize("name", UNBIASED)
def test_after_a_loss_all_begin_anew(
    source: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(monkeypatch, 4, 5, 20)
    with simulated(settings(source, name, 0.005, run__rounds=60, **HASTY)) as swarm:
        swarm.run_to_end(within=60)
        assert [node.counters.get("restarts") for node in swarm.up] == [1] * 16
        expected = after(UNBIASED[name](start(), 0.005, missed=20), 60)
        np.testing.assert_allclose(swarm.models(), expected, rtol=0, atol=1e-12)
    assert rms(after(UNBIASED[name](start(), 0.005, missed=20), 4000)) < 1e-10


@pytest.mark.parametrize("name", UNBIASED)
def test_a_swarm_that_is_stopped_goes_on_where_it_was(source: str, name: str) -> None:
    X = stopped_and_started(settings(source, name, 0.005, run__rounds=30), 60)
    np.testing.assert_allclose(X, after(UNBIASED[name](start(), 0.005), 60), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", UNBIASED)
def test_a_seed_is_a_run(source: str, name: str) -> None:
    config = settings(source, name, 0.005, run__rounds=30, **HASTY)
    (one, X), (again, Y), (other, _) = (trace_of(config, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert np.array_equal(X, Y)


def test_a_state_of_another_form_is_not_taken_up(source: str) -> None:
    one, other = (build_algorithm(settings(source, name, 0.05)) for name in UNBIASED)
    other.restore({"psi": start()[0], "m": start()[1]}, {"form": "edm"})
    arrays, facts = other.state()
    assert arrays.keys() == {"m", "psi"}
    one.restore(arrays, facts)
    assert one.state()[0] == {}


def test_edm_needs_a_symmetric_w(source: str) -> None:
    with pytest.raises(ConfigError, match="symmetric and the same in every round"):
        settings(source, "edm", 0.05, topology__graph="exponential")
    settings(source, "momentum_tracking", 0.05, topology__graph="exponential")


def test_a_learner_without_gradients_is_refused_at_the_start() -> None:
    learners = [PlainLearner([0.0]), PlainLearner([1.0])]

    async def main() -> None:
        async with swarm_of(plain_config(algorithm__name="edm"), ["a", "b"], learners):
            pass

    with pytest.raises(ConfigError, match="edm takes gradients, and PlainLearner hands out none"):
        virtual_time.run(main())


def test_local_steps_are_refused_with_the_line_to_change(source: str) -> None:
    with pytest.raises(ConfigError, match=r"is 5: change that line .* local_steps = 1"):
        settings(source, "edm", 0.05, training__local_steps=5)
