"""Law 2: x(k+1) = Wx(k) + z(k+1) − z(k) follows the mean of signals that move.

It is D-PSGD in the form "combine, then adapt" whose step is z(k+1) − z(k), so the nodes run it
as they are. The lectures' "limit e/(1 − ρ)" is a bound: a drift along the slowest mode reaches it,
an oscillation stays far below.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plain_learner import PlainLearner, plain_config

from gossipnode.learning.learner import TrainResult
from gossipnode.simulation.swarm import SimulatedSwarm
from gossipnode.simulation.vectorised import VectorisedSwarm

N = 16
EYE = np.eye(N)
RING = (EYE + np.roll(EYE, 1, 0) + np.roll(EYE, -1, 0)) / 3
RHO = (1 + 2 * np.cos(2 * np.pi / N)) / 3
SLOWEST = np.cos(2 * np.pi * np.arange(N) / N)


class Follower(PlainLearner):
    """Starts at z(0); its step k adds z(k+1) − z(k)."""

    def __init__(self, signal: np.ndarray) -> None:
        super().__init__(signal[:1])
        self.signal = signal

    def train(self, params: Any, steps: int) -> TrainResult:
        k = self.steps_done
        params += self.signal[k + 1] - self.signal[k]
        self.steps_done += steps
        return TrainResult(0.0, steps, 1)


def followed(z: np.ndarray) -> np.ndarray:
    """Return x(k) for each row z(k) of shape (rounds + 1, N), from the matrix engine."""
    config = plain_config(algorithm__form="cta", topology__graph="ring")
    swarm = VectorisedSwarm(config, N, learners=[Follower(z[:, i]) for i in range(N)])
    swarm.models = z[0][:, None].copy()
    out = [z[0]]
    for _ in range(len(z) - 1):
        swarm.run(1)
        out.append(swarm.models[:, 0])
    return np.array(out)


def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def walk(rounds: int) -> np.ndarray:
    return np.cumsum(noise((rounds + 1, N), 1), axis=0)


def converging(rounds: int) -> np.ndarray:
    return noise((N,), 2) + 0.9 ** np.arange(rounds + 1)[:, None] * noise((N,), 3)


def oscillating(rounds: int, period: float) -> np.ndarray:
    phases = noise((N,), 4)
    k = np.arange(rounds + 1)[:, None]
    return noise((N,), 5) + np.sin(2 * np.pi * k / period + phases)


def test_sum_of_x_is_sum_of_z() -> None:
    """z walks away to some 20, whose unit in the last place is 4e-15; 16 of them are summed."""
    z = walk(300)
    apart = followed(z).sum(1) - z.sum(1)
    assert np.abs(apart).max() <= 1e-12


def test_nodes_do_as_the_recursion_says() -> None:
    z = walk(25)
    x = z[0]
    for k in range(25):
        x = RING @ x + z[k + 1] - z[k]
    config = plain_config(algorithm__form="cta", topology__graph="ring", run__rounds=25)
    with SimulatedSwarm(config, N, learners=[Follower(z[:, i]) for i in range(N)]) as swarm:
        swarm.run_to_end()
        np.testing.assert_allclose(swarm.models()[:, 0], x, rtol=0, atol=1e-13)
        assert swarm.total()[0] == pytest.approx(z[-1].sum(), abs=1e-12)


def test_converges_when_z_does() -> None:
    z = converging(700)
    np.testing.assert_allclose(followed(z)[-1], z[-1].mean(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("period", [2.0, 7.3, 40.0])
def test_stays_within_the_bound_when_z_oscillates(period: float) -> None:
    """‖x(k) − x̄(k)‖ ≤ ρᵏ‖z(0) − z̄(0)‖ + e/(1 − ρ) with e = max‖Δz − mean Δz‖."""
    z = oscillating(600, period)
    x = followed(z)
    step = np.diff(z, axis=0)
    e = np.linalg.norm(step - step.mean(1, keepdims=True), axis=1).max()
    error = np.linalg.norm(x - z.mean(1, keepdims=True), axis=1)
    start = np.linalg.norm(z[0] - z[0].mean())
    assert (error <= RHO ** np.arange(601) * start + e / (1 - RHO) + 1e-12).all()
    assert 0.01 * e < error[400:].max() < 0.9 * e / (1 - RHO), "a bound, not the limit"


def test_a_drift_along_the_slowest_mode_reaches_the_bound() -> None:
    """After 800 rounds ρᵏ is 1e-18, and nothing is left but e/(1 − ρ)."""
    z = 0.01 * np.arange(801)[:, None] * SLOWEST
    e = 0.01 * np.linalg.norm(SLOWEST)
    error = np.linalg.norm(followed(z)[-1])
    assert error == pytest.approx(e / (1 - RHO), rel=1e-11)
