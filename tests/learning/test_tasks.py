"""Losses against formulas written out in scipy and numpy; gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from sklearn.linear_model import LogisticRegression, Ridge

from gossipnode.learning.data.dataset import Dataset
from gossipnode.learning.tasks import (
    Batch,
    LinearRegression,
    MultilayerPerceptron,
    Quadratic,
    SoftmaxRegression,
)

FEATURES = ("a", "b", "c", "d")
LABELS = ("x", "y", "z")


def samples(seed: int, count: int, *, classes: int = 3, dtype="float64") -> Batch:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, len(FEATURES))).astype(dtype)
    targets = rng.integers(0, classes, count) if classes else rng.standard_normal(count)
    return Batch(features, targets.astype(np.int64 if classes else dtype))


def dataset(batch: Batch, labels=LABELS) -> Dataset:
    return Dataset(batch.features, batch.targets, labels, FEATURES)


def quadratic(seed: int, size: int) -> Quadratic:
    rng = np.random.default_rng(seed)
    F = rng.standard_normal((size + 2, size))
    return Quadratic(F.T @ F, rng.standard_normal(size))


TASKS = {
    "linear": lambda l2: (LinearRegression(FEATURES, l2=l2, dtype="float64"), 0),
    "softmax": lambda l2: (SoftmaxRegression(FEATURES, LABELS, l2=l2, dtype="float64"), 3),
    "mlp": lambda l2: (
        MultilayerPerceptron(FEATURES, LABELS, hidden=(6,), l2=l2, dtype="float64"),
        3,
    ),
    "mlp deep": lambda l2: (
        MultilayerPerceptron(FEATURES, LABELS, hidden=(5, 7), l2=l2, dtype="float64"),
        3,
    ),
    "mlp flat": lambda l2: (
        MultilayerPerceptron(FEATURES, LABELS, hidden=(), l2=l2, dtype="float64"),
        3,
    ),
    "quadratic": lambda l2: (quadratic(4, 9), 3),
}


@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("count", [1, 8])
def test_gradient_is_the_slope_of_the_loss(name, l2, count):
    task, classes = TASKS[name](l2)
    batch = samples(1, count, classes=classes)
    params = np.random.default_rng(2).standard_normal(task.layout.size)
    gradient = np.full_like(params, np.nan)
    task.loss_and_gradient(params, batch, gradient)
    scratch = np.empty_like(params)
    slope = scipy.optimize.approx_fprime(
        params, lambda p: task.loss_and_gradient(p, batch, scratch), 1e-7
    )
    assert np.abs(slope - gradient).max() < 1e-5 * max(1, np.abs(gradient).max())


@pytest.mark.parametrize("name", TASKS)
def test_params_and_batch_are_left_alone(name):
    task, classes = TASKS[name](0.1)
    batch = samples(1, 5, classes=classes)
    params = np.random.default_rng(2).standard_normal(task.layout.size)
    for array in (params, *batch):
        array.flags.writeable = False
    task.loss_and_gradient(params, batch, np.empty(params.size))
    task.evaluate(params, dataset(batch, LABELS if classes else ()))


def test_softmax_loss_is_scipys():
    task = SoftmaxRegression(FEATURES, LABELS, l2=0.2, dtype="float64")
    batch = samples(3, 20)
    params = np.random.default_rng(4).standard_normal(task.layout.size)
    weight, bias = params[:12].reshape(4, 3), params[12:]
    log_p = scipy.special.log_softmax(batch.features @ weight + bias, axis=1)
    plain = -log_p[np.arange(20), batch.targets].mean()
    loss = task.loss_and_gradient(params, batch, np.empty_like(params))
    assert loss == pytest.approx(plain + 0.1 * (params @ params), rel=1e-13)
    evaluation = task.evaluate(params, dataset(batch))
    assert evaluation.loss == pytest.approx(plain, rel=1e-13)
    assert evaluation.accuracy == (log_p.argmax(axis=1) == batch.targets).mean()
    assert evaluation.samples == 20


def test_softmax_minimum_is_scikit_learns():
    """At scikit-learn's minimum of the same loss (bias unpenalized there, so l2 = 0) no slope."""
    batch = samples(5, 60)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    model.fit(batch.features, batch.targets)
    params = np.concatenate([model.coef_.T.ravel(), model.intercept_])
    gradient = np.empty_like(params)
    SoftmaxRegression(FEATURES, LABELS, dtype="float64").loss_and_gradient(params, batch, gradient)
    assert np.abs(gradient).max() < 1e-6


def test_linear_minimum_is_scikit_learns():
    batch = samples(6, 40, classes=0)
    l2 = 0.5
    wide = np.hstack([batch.features, np.ones((40, 1))])  # the bias is penalized, as documented
    params = Ridge(alpha=40 * l2, fit_intercept=False, tol=1e-12).fit(wide, batch.targets).coef_
    gradient = np.empty_like(params)
    task = LinearRegression(FEATURES, l2=l2, dtype="float64")
    loss = task.loss_and_gradient(params, batch, gradient)
    assert np.abs(gradient).max() < 1e-12
    residual = wide @ params - batch.targets
    expected = residual @ residual / 80 + l2 / 2 * params @ params
    assert loss == pytest.approx(expected, rel=1e-13)
    evaluation = task.evaluate(params, dataset(batch, ()))
    assert evaluation.loss == pytest.approx(residual @ residual / 80, rel=1e-13)
    assert evaluation.accuracy is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_logits_neither_overflow_nor_lose_the_loss(dtype):
    task = SoftmaxRegression(("a",), ("x", "y"), dtype=dtype)
    params = np.array([1e30, -1e30, 0, 0], dtype)
    batch = Batch(np.array([[1.0], [-1.0]], dtype), np.array([0, 0]))
    gradient = np.empty_like(params)
    loss = task.loss_and_gradient(params, batch, gradient)
    assert loss == pytest.approx(1e30, rel=1e-6)
    assert gradient.tolist() == [0.5, -0.5, -0.5, 0.5]


def test_mlp_without_hidden_layers_is_softmax_regression():
    batch = samples(7, 10)
    mlp = MultilayerPerceptron(FEATURES, LABELS, hidden=(), l2=0.1, dtype="float64")
    softmax = SoftmaxRegression(FEATURES, LABELS, l2=0.1, dtype="float64")
    params = np.random.default_rng(8).standard_normal(15)
    gradients = np.empty((2, 15))
    losses = [
        t.loss_and_gradient(params, batch, g)
        for t, g in zip((mlp, softmax), gradients, strict=True)
    ]
    assert losses[0] == losses[1]
    assert np.array_equal(gradients[0], gradients[1])


def test_mlp_evaluation_agrees_with_its_training_loss():
    batch = samples(9, 30)
    task = MultilayerPerceptron(FEATURES, LABELS, hidden=(8, 4), dtype="float64")
    params = task.initial_params(np.random.default_rng(0))
    loss = task.loss_and_gradient(params, batch, np.empty_like(params))
    assert task.evaluate(params, dataset(batch)).loss == pytest.approx(loss, rel=1e-13)


def test_mlp_starts_with_he_variance_and_zero_biases():
    names = tuple(f"f{i}" for i in range(200))
    task = MultilayerPerceptron(names, LABELS, hidden=(300,), dtype="float64")
    views = task.layout.views(task.initial_params(np.random.default_rng(0)))
    assert views["layer0.weight"].std() == pytest.approx(np.sqrt(2 / 200), rel=0.02)
    assert views["layer1.weight"].std() == pytest.approx(np.sqrt(2 / 300), rel=0.1)
    assert not views["layer0.bias"].any()
    assert not views["layer1.bias"].any()


@pytest.mark.parametrize("name", TASKS)
def test_equal_seeds_start_equal(name):
    task, _ = TASKS[name](0.0)
    first, second = (task.initial_params(np.random.default_rng(3)) for _ in range(2))
    task.layout.check(first)
    assert np.array_equal(first, second)


def test_quadratic_at_its_minimum():
    task = quadratic(1, 6)
    minimum = np.linalg.solve(task.A, task.b)
    gradient = np.empty(6)
    loss = task.loss_and_gradient(minimum, None, gradient)
    assert np.abs(gradient).max() < 1e-12
    assert loss == pytest.approx(-task.b @ minimum / 2, rel=1e-12)
    assert loss < 0


def test_evaluation_of_many_rows_is_blocked_exactly():
    batch = samples(11, 10_000)
    task = SoftmaxRegression(FEATURES, LABELS, dtype="float64")
    params = np.random.default_rng(4).standard_normal(15)
    loss = task.loss_and_gradient(params, batch, np.empty_like(params))
    assert task.evaluate(params, dataset(batch)).loss == pytest.approx(loss, rel=1e-12)


def test_labels_and_features_are_part_of_the_schema():
    one = SoftmaxRegression(FEATURES, LABELS).layout
    relabelled = SoftmaxRegression(FEATURES, ("x", "z", "y")).layout
    renamed = SoftmaxRegression(("a", "b", "d", "c"), LABELS).layout
    assert len({one.schema, relabelled.schema, renamed.schema}) == 3
    assert "class:y here, class:z there" in one.difference(relabelled)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_is_not_finite_predicts_nothing_right(bad):
    task = SoftmaxRegression(("a",), ("x", "y"))
    data = Dataset(np.ones((3, 1), np.float32), np.zeros(3, np.int64), ("x", "y"), ("a",))
    params = np.array([bad, 0, 0, 0], np.float32)  # argmax alone would call every row "x"
    with np.errstate(invalid="ignore"):
        evaluation = task.evaluate(params, data)
    assert evaluation.accuracy == 0
    assert np.isnan(evaluation.loss)
