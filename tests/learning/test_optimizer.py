"""SGD against hand-unrolled recursions; schedules against tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossipnode.errors import ConfigError
from gossipnode.learning.optimizer import SGD
from gossipnode.learning.schedule import SCHEDULES, schedule


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_follow_the_recursion(momentum, nesterov):
    rng = np.random.default_rng(0)
    params = rng.standard_normal(7)
    x, m = params.copy(), np.zeros(7)
    optimizer = SGD(0.1, momentum, nesterov)
    for step in range(6):
        g, lr = rng.standard_normal(7), 0.1 / (1 + step)
        m = momentum * m + g
        x = x - lr * (g + momentum * m if nesterov else m)
        optimizer.step(params, g, lr)
        assert np.allclose(params, x, rtol=1e-13, atol=1e-15)


def test_without_momentum_there_is_no_state():
    optimizer = SGD(0.1)
    optimizer.step(np.zeros(3), np.ones(3), 0.1)
    assert optimizer.state == {}


def test_momentum_lives_in_state():
    optimizer = SGD(1.0, 0.5)
    params = np.zeros(2, np.float32)
    for _ in range(3):
        optimizer.step(params, np.ones(2, np.float32), 1.0)
    assert optimizer.state["momentum"].tolist() == [1.75, 1.75]
    assert optimizer.state["momentum"].dtype == np.float32
    assert params.tolist() == [-4.25, -4.25]


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("constant", {0: 1, 10**9: 1}),
        ("step", {0: 1, 99: 1, 100: 0.2, 199: 0.2, 200: 0.04}),
        ("inverse_sqrt", {0: 1, 100: 1 / math.sqrt(2), 300: 0.5, 800: 1 / 3}),
        ("cosine", {0: 1, 50: 0.6, 100: 0.2, 25: 0.6 + 0.4 / math.sqrt(2), 10**6: 0.2}),
    ],
)
def test_schedule_table(name, table):
    factor = schedule(name, steps=100, factor=0.2)
    for step, expected in table.items():
        assert factor(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_one_and_never_grow(name):
    factors = [schedule(name, steps=30, factor=0.1)(t) for t in range(200)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert min(factors) > 0


def test_unknown_schedule_tells_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        schedule("cosin")
