"""Norms: the order of adding, and ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from slow_codecs import added, normal, vectors

from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.norms import euclidean, extremes, largest, mean_magnitude, power_for


@pytest.mark.parametrize("size", [1, 7, 8, 9, 127, 129, 1000, BLOCK, BLOCK + 1, 3 * BLOCK + 77])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_added_in_one_order(size, dtype):
    x = normal(size, dtype) ** 3
    runs = [x[at : at + BLOCK].astype(np.float64) for at in range(0, size, BLOCK)]
    total = math.fsum(added(np.abs(run).tolist()) for run in runs)
    assert mean_magnitude(x) == total / size
    assert euclidean(x, 1.0) == math.sqrt(math.fsum(added((run * run).tolist()) for run in runs))


@given(vectors())
def test_norms_are_right_in_every_range(x):
    power = power_for(x)
    assert math.frexp(power)[0] == 0.5
    values = [math.ldexp(v, math.frexp(power)[1] - 1) for v in x.tolist()]
    assert euclidean(x, power) == pytest.approx(math.hypot(*values), rel=1e-14)
    assert euclidean(x, power) >= max(map(abs, values))
    assert largest(x) == np.abs(x).max()
    assert extremes(x) == (x.min(), x.max())
    mean = math.fsum(map(abs, values)) / x.size / power
    assert mean_magnitude(x) == pytest.approx(mean, rel=1e-14, abs=5e-324)
