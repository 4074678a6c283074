"""The split that figures are quoted for, and standardization against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from gossipnode.errors import DataError
from gossipnode.learning.data import Dataset, Standardizer, split

NAMES = ("a", "b", "c")


def dataset(count: int) -> Dataset:
    features = np.arange(count * 3, dtype=np.float32).reshape(count, 3)
    return Dataset(features, np.arange(count), ("x", "y"), NAMES)


def test_split_of_ten_thousand_is_the_common_one():
    train, test = split(dataset(10_000), 0.2, 0)
    order = np.random.default_rng(0).permutation(10_000)
    assert np.array_equal(train.targets, order[:8000])
    assert np.array_equal(test.targets, order[8000:])
    assert np.array_equal(test.features[:, 0], 3 * order[8000:])


@given(st.integers(1, 200), st.floats(0, 0.9), st.integers(0, 100))
def test_split_is_an_exact_cover(count, fraction, seed):
    train, test = split(dataset(count), fraction, seed)
    parts = [train.targets] + ([] if test is None else [test.targets])
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert (0 if test is None else len(test)) == round(count * fraction)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standardizer_is_scikit_learns(dtype):
    features = np.random.default_rng(0).normal(5, 3, (9000, 3)).astype(dtype)
    expected = StandardScaler().fit_transform(features.astype(np.float64))
    Standardizer.fit(features, NAMES).apply(features)
    assert features.dtype == dtype
    # Both add up 9000 numbers, in different orders: √9000 roundings apart.
    assert np.abs(features - expected).max() < 95 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_features_become_zero_exactly(dtype):
    features = np.full((1001, 3), 0.1, dtype)
    features[:, 1] = 1e30
    standardizer = Standardizer.fit(features, NAMES)
    assert standardizer.scale.tolist() == [1, 1, 1]
    standardizer.apply(features)
    assert not features.any()


def test_json_keeps_every_bit():
    features = np.random.default_rng(0).standard_normal((50, 3))
    standardizer = Standardizer.fit(features, NAMES)
    again = Standardizer.from_json(json.loads(json.dumps(standardizer.to_json())))
    assert np.array_equal(again.mean, standardizer.mean)
    assert np.array_equal(again.scale, standardizer.scale)
    assert again.feature_names == NAMES


GOOD = {"feature_names": ["a"], "mean": [0.0], "scale": [1.0]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "need the lists"),
        ({"mean": [1], "scale": [1]}, "need the lists"),
        (GOOD | {"mean": [1, 2]}, "differ in length"),
        (GOOD | {"mean": ["x"]}, "must be numbers"),
        (GOOD | {"scale": [0]}, "finite and positive"),
        (GOOD | {"mean": [float("nan")]}, "finite"),
    ],
)
def test_bad_statistics_are_refused(value, words):
    with pytest.raises(DataError, match=words):
        Standardizer.from_json(value)


def test_statistics_file_faults_are_named(tmp_path):
    path = tmp_path / "statistics.json"
    with pytest.raises(DataError, match="cannot be read"):
        Standardizer.read(path)
    path.write_text('{"mean":\n oops}')
    with pytest.raises(DataError, match="row 2, column 2: is no JSON"):
        Standardizer.read(path)


def test_statistics_of_other_features_are_refused():
    standardizer = Standardizer.fit(np.eye(3), NAMES)
    with pytest.raises(DataError, match="statistics of 'b' stand where the data has 'B'"):
        standardizer.check(("a", "B", "c"))
    with pytest.raises(DataError, match="3 features do not fit data of 2"):
        standardizer.check(("a", "b"))
