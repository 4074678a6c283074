"""The learner: exact determinism, exact continuation, quiet divergence, shared test data."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from gossipnode.errors import ConfigError, DataError
from gossipnode.learning.batches import BatchStream
from gossipnode.learning.learner import Learner, NumpyLearner, build_learner
from gossipnode.learning.prepare import forget_loaded_data, prepare
from gossipnode.learning.tasks import Batch


def digits(**changes) -> NumpyLearner:
    return build_learner(**({"task": "softmax", "data": "digits", "share_count": 4} | changes))


def trained(learner: Learner, steps: int, seed: int = 0) -> np.ndarray:
    params = learner.initial_params(seed)
    learner.train(params, steps)
    return params


@pytest.mark.parametrize("batch_size", [0, 7, 32])
def test_training_is_the_recursion_on_the_documented_batches(batch_size):
    learner = digits(batch_size=batch_size, seed=5, share_index=2, l2=0.01, dtype="float64")
    shared = learner._train_data
    params = learner.initial_params(0)
    result = learner.train(params, 9)
    stream = BatchStream(len(shared), batch_size, np.random.default_rng([5, 2]))
    x, gradient, losses = learner.initial_params(0), np.empty(650), []
    for _ in range(9):
        picked = stream.next()
        batch = Batch(shared.features[picked], shared.targets[picked])
        losses.append(learner.task.loss_and_gradient(x, batch, gradient))
        x = x - 0.1 * gradient
    assert np.allclose(params, x, rtol=1e-12, atol=1e-15)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert (result.steps, result.samples) == (9, len(shared))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"task": "mlp", "momentum": 0.5}])
def test_restored_learner_continues_to_the_bit(options):
    options = options | {"schedule": "inverse_sqrt", "schedule_steps": 10}
    first, second = digits(**options), digits(**options, seed=77)
    params = trained(first, 23)
    arrays, meta = first.state()
    saved = {name: array.copy() for name, array in arrays.items()}
    second.restore(saved, json.loads(json.dumps(meta)))
    continued = params.copy()
    first.train(params, 60)
    second.train(continued, 60)
    assert np.array_equal(params, continued)
    assert second.steps_done == 83


def test_restore_copies_the_arrays():
    first, second = digits(momentum=0.9), digits(momentum=0.9)
    trained(first, 3)
    arrays, meta = first.state()
    second.restore(arrays, meta)
    kept = arrays["momentum"].copy()
    trained(second, 3)
    assert np.array_equal(arrays["momentum"], kept)


def test_schedule_counts_steps_across_calls():
    once, twice = (digits(schedule="step", schedule_steps=7) for _ in range(2))
    params = trained(twice, 5)
    twice.train(params, 12)
    assert np.array_equal(trained(once, 17), params)


def test_no_steps_change_nothing():
    learner = digits()
    params = learner.initial_params(0)
    assert learner.train(params, 0).loss == 0
    assert not params.any()
    assert learner.steps_done == 0


@pytest.mark.parametrize("task", ["softmax", "mlp"])
def test_divergence_is_quiet_and_visible(task):
    learner = digits(task=task, learning_rate=1e30, l2=1.0)
    params = learner.initial_params(0)
    with np.errstate(all="raise"):
        result = learner.train(params, 50)
        learner.evaluate(params)
    assert not np.isfinite(result.loss)
    assert not np.isfinite(params).all()


def test_nodes_start_equal_and_draw_different_batches():
    first, second = (digits(task="mlp", share_index=index) for index in (0, 1))
    assert first.layout.schema == second.layout.schema
    assert np.array_equal(first.initial_params(3), second.initial_params(3))
    assert not np.array_equal(first.initial_params(3), first.initial_params(4))
    assert not np.array_equal(trained(first, 1), trained(second, 1))


def test_shares_cover_the_training_split_and_test_is_common():
    learners = [digits(share_index=index, partition="dirichlet:0.5") for index in range(4)]
    assert sum(learner.samples for learner in learners) == 1797 - round(1797 * 0.2)
    assert {learner.evaluate(np.zeros(650, np.float32)).samples for learner in learners} == {359}
    assert all(learner._test_data is learners[0]._test_data for learner in learners)
    shares = [learner._train_data.features for learner in learners]
    assert not any(np.shares_memory(shares[0], other) for other in shares[1:])


def test_data_is_loaded_once_until_forgotten():
    forget_loaded_data()
    for index in range(4):
        digits(share_index=index)
    assert prepare.cache_info().misses == 1
    forget_loaded_data()
    assert prepare.cache_info().currsize == 0


def test_local_standardization_is_measured_on_the_training_split():
    learner = digits(standardize="local", share_count=1, dtype="float64")
    train = learner._train_data.features
    assert np.abs(train.mean(axis=0)).max() < 1e-12
    spread = train.std(axis=0)
    assert ((np.abs(spread - 1) < 1e-12) | (spread == 0)).all()
    assert np.abs(learner._test_data.features.mean(axis=0)).max() > 1e-3


def test_statistics_file_is_applied(tmp_path):
    path = tmp_path / "statistics.json"
    local = digits(standardize="local")
    path.write_text(json.dumps(local.describe()["standardizer"]))
    shared = digits(standardize=str(path))
    assert np.array_equal(shared._train_data.features, local._train_data.features)
    with pytest.raises(DataError, match="nowhere"):
        digits(standardize=str(tmp_path / "nowhere"))


def test_cached_samples_cannot_be_written():
    learner = digits(share_count=1)
    with pytest.raises(ValueError, match="read-only"):
        learner._train_data.features[0, 0] = 1


def test_evaluate_runs_beside_train():
    """Evaluations during training equal those before it: the two share no buffer."""
    learner = digits(task="mlp", share_count=1)
    fixed = learner.initial_params(1)
    expected = learner.evaluate(fixed)
    trainer = threading.Thread(target=trained, args=(learner, 300))
    trainer.start()
    seen = [learner.evaluate(fixed)]
    while trainer.is_alive():
        seen.append(learner.evaluate(fixed))
    trainer.join()
    assert set(seen) == {expected}


@pytest.mark.parametrize(
    ("batch_size", "steps", "brief"),
    [(32, 1, True), (32, 5, True), (32, 25, False), (0, 2, True), (0, 3, False), (1, 8, False)],
)
def test_few_steps_on_few_params_are_brief(batch_size, steps, brief):
    # A step costs 2^17 for its calls, and 650 params times 12 more than the samples of a batch: of
    # 2^20 there is room for 6 steps of 32 samples, 7 of one, and 2 of all 360.
    assert digits(batch_size=batch_size).is_brief(steps) is brief


@pytest.mark.parametrize("task", ["softmaxx", "", "svm"])
def test_unknown_task_tells_the_known(task):
    with pytest.raises(ConfigError, match="linear, softmax, mlp, quadratic"):
        digits(task=task)


def quadratics(path, nodes: int = 3, size: int = 4):
    rng = np.random.default_rng(0)
    F = rng.standard_normal((nodes, 6, size))
    A, b = F.transpose(0, 2, 1) @ F, rng.standard_normal((nodes, size))
    np.savez(path, A=A, b=b)
    return A, b


def test_no_step_is_brief_whose_cost_is_not_that_of_samples(tmp_path):
    quadratics(tmp_path / "q.npz")
    learner = build_learner(task="quadratic", data=f"npz:{tmp_path / 'q.npz'}", share_count=3)
    assert not learner.is_brief(1)


def test_quadratic_trains_on_its_own_and_evaluates_the_mean(tmp_path):
    A, b = quadratics(tmp_path / "q.npz")
    learner = build_learner(
        task="quadratic",
        data=f"npz:{tmp_path / 'q.npz'}",
        dtype="float64",
        share_index=1,
        share_count=3,
        learning_rate=0.01,
    )
    params = trained(learner, 2)
    x = 0.01 * b[1]
    x = x - 0.01 * (A[1] @ x - b[1])
    assert np.allclose(params, x, rtol=1e-13)
    mean = x @ A.mean(axis=0) @ x / 2 - b.mean(axis=0) @ x
    assert learner.evaluate(params).loss == pytest.approx(mean, rel=1e-12)
    assert learner.evaluate(params).accuracy is None
    assert learner.samples == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"A": np.ones((3, 4, 5))}, "A has shape (3, 4, 5)"),
        ({"b": np.ones((3, 5))}, "b has shape (3, 5); (4,) or (nodes, 4)"),
        ({"A": np.triu(np.ones((4, 4)))}, "row 1, column 2: A of node 0 is not symmetric"),
        ({"b": np.ones((2, 4))}, "b holds 2 nodes; 3 are needed"),
        ({"b": np.full(4, np.nan)}, "finite numbers"),
        ({"A": np.array([["x"]])}, "finite numbers"),
    ],
)
def test_quadratic_faults_are_named(tmp_path, changes, words):
    arrays = {"A": np.eye(4), "b": np.ones(4)} | changes
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(DataError) as caught:
        build_learner(task="quadratic", data=f"npz:{tmp_path / 'q.npz'}", share_count=3)
    assert words in str(caught.value)
    assert caught.value.file == str(tmp_path / "q.npz")


def test_quadratic_needs_npz():
    with pytest.raises(ConfigError, match="npz:FILE with arrays A and b"):
        build_learner(task="quadratic", data="digits")
