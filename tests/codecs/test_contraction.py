"""What QSGD and uniform send where a contraction is needed: the best multiple of what was drawn."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_codecs import (
    added,
    fractions,
    inner,
    normal,
    slack,
    squared,
    there_and_back,
    unpacked,
    vectors,
)

from gossipnode.codecs.bits import BLOCK, code_dtype, unpack
from gossipnode.codecs.qsgd import LEVELS_MAX, QSGD
from gossipnode.codecs.uniform import Uniform

SEEDS = st.integers(0, 2**64 - 1)
BOTH = st.one_of(
    st.builds(Uniform, st.integers(1, 8), st.just(True)),
    st.builds(
        QSGD,
        st.one_of(st.integers(1, 20), st.sampled_from([127, 255, LEVELS_MAX])),
        st.just(True),
    ),
)
GOLDEN = np.array([1, -2, 0, 2, -4, 2, -2, 4, 0.5], np.float32)


def plain(codec):
    """The same without the contraction."""
    return QSGD(codec.levels) if isinstance(codec, QSGD) else Uniform(codec.bits)


def meant(coded):
    """What the codes stand for, exactly, before it is rounded to any dtype."""
    codes = unpacked(bytes(coded.data), coded.bits, coded.size)
    if coded.codec == "qsgd":
        s = int(coded.zero)
        return [Fraction(coded.norm) * (c - s) / s for c in codes]
    n, low, high = 2**coded.bits - 1, Fraction(coded.zero), Fraction(coded.scale)
    return [(low * (n - c) + high * c) / n for c in codes]


def limit(coded):
    """The a at which a number sent leaves its range: that of the dtype, norms that of float64."""
    if coded.codec == "qsgd":
        return Fraction(float(np.finfo(np.float64).max)) / Fraction(coded.norm)
    largest = max(abs(coded.zero), abs(coded.scale))
    return Fraction(float(np.finfo(coded.dtype).max)) / Fraction(largest)


@given(vectors(max_size=30), BOTH, SEEDS)
def test_it_is_the_nearest_multiple_of_what_was_drawn(x, codec, seed):
    """‖x − a·q‖² = ‖x‖² − ⟨x, q⟩²/‖q‖², but for what rounding two numbers to doubles adds."""
    unscaled, coded = plain(codec).encode(x, seed), codec.encode(x, seed)
    assert bytes(unscaled.data) == bytes(coded.data)
    v, q = fractions(x), meant(unscaled)
    product, squares = max(Fraction(0), inner(v, q)), inner(q, q)
    a = min(product / squares, limit(unscaled)) if squares else 0
    best = inner(v, v) - 2 * a * product + a**2 * squares
    error = squared(v, meant(coded))
    assert abs(error - best) <= Fraction(1e-14) * inner(v, v) + slack(v)


@given(vectors(max_size=30), BOTH, SEEDS)
def test_it_is_never_farther_away_than_zero(x, codec, seed):
    """‖x − y‖ ≤ ‖x − a·q‖ + u‖a·q‖ ≤ √(1 + u²)‖x‖ if rounding to the dtype takes a share of u."""
    kind = np.finfo(x.dtype)
    _, y = there_and_back(codec, x, seed)
    v = fractions(x)
    bound = (1 + Fraction(float(kind.epsneg)) ** 2 + Fraction(1e-14)) * inner(v, v)
    assert squared(v, fractions(y)) <= bound + slack(v, float(kind.smallest_subnormal))


@given(vectors(max_size=30), BOTH, SEEDS)
def test_it_is_at_least_as_near_as_with_the_factor_that_suits_the_worst(x, codec, seed):
    v, q = fractions(x), meant(plain(codec).encode(x, seed))
    constant = [each / (1 + Fraction(codec.omega(x.size))) for each in q]
    error = squared(v, meant(codec.encode(x, seed)))
    assert error <= squared(v, constant) + Fraction(1e-14) * inner(v, v) + slack(v)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "codec", [QSGD(7, True), QSGD(300, True), Uniform(1, True), Uniform(6, True)]
)
@pytest.mark.parametrize("size", [3, 8, 1001, BLOCK, 2 * BLOCK + 5])
def test_sums_are_added_in_one_order(size, codec, dtype):
    """Bit for bit: products are folded within a block, blocks added exactly, codes are whole."""
    x = normal(size, dtype)
    unscaled, coded = plain(codec).encode(x, 3), codec.encode(x, 3)
    codes = np.empty(size, code_dtype(coded.bits))
    unpack(coded.data, coded.bits, codes)
    codes = codes.tolist()
    if coded.codec == "qsgd":
        shift, step = -codec.levels, 1.0
    else:
        n, low, high = 2**coded.bits - 1, unscaled.zero, unscaled.scale
        shift, step = low * n / (high - low), (high - low) / n
    products = [(c + shift) * v for c, v in zip(codes, x.tolist(), strict=True)]
    product = math.fsum(added(products[at : at + BLOCK]) for at in range(0, size, BLOCK))
    squares = sum(c * c for c in codes) + 2 * shift * sum(codes) + shift * shift * size
    a = product / (step * squares)
    if coded.codec == "qsgd":
        assert coded.norm == a * codec.levels
    else:
        assert (coded.zero, coded.scale) == (a * low, a * high)


@pytest.mark.parametrize(
    ("codec", "share"), [(Uniform(4, True), 0.1), (Uniform(8, True), 1e-3), (QSGD(127, True), 0.1)]
)
def test_a_common_vector_is_not_shrunk_as_the_worst_would_be(codec, share):
    x = normal(7850, np.float32)
    _, y = there_and_back(codec, x, 1)
    assert codec.delta(x.size) < 0.95
    assert np.square(x - y).sum() < share * np.square(x).sum()


def test_what_points_away_is_not_sent():
    """Two ends, and small values whose codes by chance outweigh them: once in 400 seeds."""
    x = np.full(52, 0.2, np.float32)
    x[:2] = -1, 1
    away = 0
    for seed in range(2000):
        codes = unpacked(bytes(Uniform(1).encode(x, seed).data), 1, 52)
        product = 2 + 0.2 * sum(2 * c - 1 for c in codes[2:])
        coded = Uniform(1, contractive=True).encode(x, seed)
        assert (coded.scale > 0) == (-coded.zero > 0) == (product > 1e-6)
        away += product < 0
    assert 0 < away < 50


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_every_code_is_that_of_zero_zero_is_sent(dtype):
    x = np.full(200, 1e-3, dtype)
    seeds = [seed for seed in range(400) if not there_and_back(QSGD(1), x, seed)[1].any()]
    for seed in seeds:
        coded, y = there_and_back(QSGD(1, contractive=True), x, seed)
        assert coded.norm == 0
        assert not y.any()
    x = np.array([1.0] + [1e-9] * 9, dtype)
    assert there_and_back(QSGD(1, contractive=True), x, 0)[1].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_stay_within_the_range(dtype):
    """Rounded down to a third of the largest, 0.6 of it asks for a multiple above 1."""
    most = np.finfo(dtype).max
    x = np.array([most / 3, *[most * dtype(0.6)] * 3, most], dtype)
    limited = 0
    for seed in range(64):
        coded, _ = there_and_back(Uniform(1, contractive=True), x, seed)
        limited += coded.scale == most
        v = fractions(x)
        assert squared(v, meant(coded)) <= squared(v, meant(Uniform(1).encode(x, seed)))
    assert 0 < limited < 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_values_and_equal_ones_are_exact(dtype):
    for x in ([0.1], [0.1, -0.7], [0.3] * 50, [0.0] * 5):
        x = np.array(x, dtype)
        np.testing.assert_array_equal(there_and_back(Uniform(3, contractive=True), x, 1)[1], x)


def test_golden():
    coded = QSGD(3, contractive=True).encode(GOLDEN, seed=42)
    codes = unpacked(bytes.fromhex("d328aa03"), 3, 9)
    assert bytes(coded.data).hex() == "d328aa03"
    product = sum(x * (c - 3) for x, c in zip(GOLDEN.tolist(), codes, strict=True))
    assert coded.norm == product / sum((c - 3) ** 2 for c in codes) * 3
    coded = Uniform(3, contractive=True).encode(GOLDEN, seed=42)
    assert bytes(coded.data).hex() == "d40aeb04"
    assert (coded.zero, coded.scale) == (-66.5 / 17, 66.5 / 17)
