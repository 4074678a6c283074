"""The lectures' regression for drones: two blocks of features, nodes that miss each other's data.

Each drone measures where it is (position block) and what it senses (sensor block), and predicts
a load that depends on both linearly. A drone that flies one corridor only sees no variation in
part of its features, so that its own data do not determine the model; averaged gradients do.
"""

from __future__ import annotations

import numpy as np
import pytest

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.tasks import Batch, LinearRegression

POSITION, SENSOR = ("x", "y", "z"), ("wind", "payload")
NAMES = tuple(f"position.{n}" for n in POSITION) + tuple(f"sensor.{n}" for n in SENSOR)
TRUTH = np.array([0.5, -1.0, 2.0, 1.5, -0.7, 0.3])  # the last is the bias


def flight(rng: np.random.Generator, frozen: int, samples: int = 200) -> Dataset:
    """One drone's samples; feature ``frozen`` never varies."""
    features = rng.standard_normal((samples, len(NAMES)))
    features[:, frozen] = 0
    targets = features @ TRUTH[:-1] + TRUTH[-1] + 0.01 * rng.standard_normal(samples)
    return Dataset(features, targets, (), NAMES)


def descend(flights: list[Dataset], steps: int) -> np.ndarray:
    """Full-gradient descent on the mean of the drones' losses."""
    task = LinearRegression(NAMES, dtype="float64")
    params, gradient = task.initial_params(np.random.default_rng(0)), np.empty(task.layout.size)
    for _ in range(steps):
        total = np.zeros_like(params)
        for data in flights:
            task.loss_and_gradient(params, Batch(data.features, data.targets), gradient)
            total += gradient
        params -= 0.3 * total / len(flights)
    return params


@pytest.fixture
def flights() -> list[Dataset]:
    rng = np.random.default_rng(0)
    return [flight(rng, frozen) for frozen in range(len(NAMES))]


def test_together_the_drones_find_the_least_squares_model(flights):
    features = np.vstack([data.features for data in flights])
    targets = np.concatenate([data.targets for data in flights])
    wide = np.hstack([features, np.ones((len(features), 1))])
    expected = np.linalg.lstsq(wide, targets)[0]
    params = descend(flights, 400)
    assert np.allclose(params, expected, atol=1e-10)
    assert np.allclose(params, TRUTH, atol=0.005)


def test_alone_a_drone_knows_nothing_of_the_feature_that_it_never_saw_vary(flights):
    for frozen, data in enumerate(flights):
        params = descend([data], 400)
        assert params[frozen] == 0
        others = np.arange(len(TRUTH)) != frozen
        assert np.allclose(params[others], TRUTH[others], atol=0.01)
