"""Signs and one magnitude."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from slow_codecs import (
    FLOAT32_MAX,
    ODD_SIZES,
    mutations,
    normal,
    refusal,
    refused_or_a_vector,
    sign_encoded,
    there_and_back,
    vectors,
    with_bytes,
)

from gossipnode.codecs import decode
from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.sign import Sign
from gossipnode.errors import PeerError

GOLDEN = np.array([1, -2, 0, -0.0, 3, -4, 5, -6, 7, -8], np.float32)


def exact(x):
    return [Fraction(float(value)) for value in x]


@given(vectors())
def test_each_value_becomes_its_sign_times_the_scale(x):
    coded, y = there_and_back(Sign(), x)
    assert bytes(coded.data) == sign_encoded(x)
    np.testing.assert_array_equal(y, np.where(x < 0, -1, 1) * x.dtype.type(coded.scale))


@given(vectors())
def test_the_scale_is_the_mean_magnitude_rounded_once(x):
    coded, _ = there_and_back(Sign(), x)
    mean = sum(map(abs, exact(x))) / x.size
    # The nearest number of the dtype, but for the last bits of sums in float64.
    slack = mean * Fraction(x.size, 2**52) if x.dtype == np.float64 else mean / Fraction(2**45)
    below = Fraction(float(np.nextafter(x.dtype.type(coded.scale), x.dtype.type(0))))
    spacing = Fraction(float(np.spacing(x.dtype.type(min(coded.scale, FLOAT32_MAX / 2)))))
    spacing = max(spacing, Fraction(coded.scale) - below)
    assert abs(Fraction(coded.scale) - mean) <= spacing / 2 + slack


@given(vectors())
def test_the_error_is_what_it_is_to_be_exactly(x):
    # ‖x‖² − ‖x‖₁²/d, and d(a' − a)² for the rounded scale a'.
    coded, y = there_and_back(Sign(), x)
    values, a = exact(x), sum(map(abs, exact(x))) / x.size
    error = sum((v - w) ** 2 for v, w in zip(values, exact(y), strict=True))
    squares = sum(v**2 for v in values)
    rounding = x.size * (Fraction(coded.scale) - a) ** 2
    assert error == squares - a**2 * x.size + rounding
    assert error <= squares
    if coded.scale >= 2.0**-126 and x.dtype == np.float32:
        assert error <= (1 - Fraction(Sign().delta(x.size))) * squares


def test_the_error_of_two_thousand_gaussians():
    x = normal(2000)
    _, y = there_and_back(Sign(), x)
    identity = 1 - np.abs(x).sum() ** 2 / (2000 * (x @ x))
    assert (x - y) @ (x - y) / (x @ x) == pytest.approx(identity, abs=1e-14)
    assert identity == pytest.approx(0.359175, abs=5e-7)


def test_a_spike_attains_the_guarantee():
    x = np.zeros(100, np.float64)
    x[17] = 3.0
    _, y = there_and_back(Sign(), x)
    assert (x - y) @ (x - y) / (x @ x) == pytest.approx(1 - Sign().delta(100), abs=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*ODD_SIZES, BLOCK, BLOCK + 1, 8 * BLOCK + 3])
def test_every_size(size, dtype):
    x = normal(size, dtype)
    coded, y = there_and_back(Sign(), x)
    assert coded.nbytes == -(-size // 8)
    np.testing.assert_array_equal(np.sign(y), np.sign(x))
    assert (y[0], np.unique(np.abs(y)).size) == (np.sign(x[0]) * coded.scale, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_stays_zero_and_a_zero_is_positive(dtype):
    coded, y = there_and_back(Sign(), np.zeros(9, dtype))
    assert (coded.scale, bytes(coded.data), y.any()) == (0.0, b"\0\0", False)
    _, y = there_and_back(Sign(), np.array([0.0, -0.0, 2.0, -2.0], dtype))
    assert y.tolist() == [1, 1, 1, -1]


@pytest.mark.parametrize("most", [np.finfo(np.float32).max, np.finfo(np.float64).max])
def test_the_greatest_numbers_come_back(most):
    x = np.array([most, -most, most], type(most))
    _, y = there_and_back(Sign(), x)
    np.testing.assert_array_equal(y, x)


def test_golden():
    coded, y = there_and_back(Sign(), GOLDEN)
    assert bytes(coded.data).hex() == "a202" == sign_encoded(GOLDEN).hex()
    assert coded.scale == float(np.float32(3.6))
    assert coded.bits is coded.zero is coded.norm is coded.seed is None
    assert (y < 0).tolist() == [False, True, False, False, False, True, False, True, False, True]


def test_the_example_of_the_specification():
    coded, y = there_and_back(Sign(), np.array([1, -2, 0, 3], np.float32))
    assert (coded.scale, bytes(coded.data).hex()) == (1.5, "02")
    assert y.tolist() == [1.5, -1.5, 1.5, 1.5]


@examples(80, 300)
@given(mutations(Sign().encode(GOLDEN)), st.integers(0, 2**32))
def test_a_stranger_is_refused_or_decoded(claim, seed):
    refused_or_a_vector(claim, random.Random(seed))


def test_refusals_name_the_key():
    coded = Sign().encode(GOLDEN)
    assert refusal(coded) is None
    assert refusal(coded, nbytes=3) == "nbytes is not 2, which size and codec make it"
    assert refusal(coded, size=2**63 - 1).startswith("nbytes")
    assert refusal(coded, scale=None) == "scale is missing"
    assert refusal(coded, scale=-1.0).startswith("scale is not 0 to ")
    assert refusal(coded, scale=1e39).startswith("scale is not 0 to ")
    assert refusal(coded, scale=1e39, dtype="float64") is None
    assert refusal(coded, scale=float("nan")) == "scale is not finite"


def test_bits_after_the_last_sign_are_refused():
    coded = with_bytes(Sign().encode(GOLDEN), b"\xa2\x06")
    with pytest.raises(PeerError, match="after the last number"):
        decode(coded, coded.data, ())
