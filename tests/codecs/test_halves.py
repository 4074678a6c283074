"""float16 and bfloat16, beside struct's and ml_dtypes' own."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from slow_codecs import (
    ODD_SIZES,
    mutations,
    normal,
    refusal,
    refused_or_a_vector,
    there_and_back,
    vectors,
)

from gossipnode.codecs import Coded, check, decode
from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.halves import BFloat16, Float16

CODECS = (Float16(), BFloat16())
RELATIVE = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST_NORMAL = {"float16": 2.0**-14, "bfloat16": 2.0**-126}
GOLDEN = np.array([1, -2.5, 0.1, 65504, 1 + 2.0**-11, 1 + 3 * 2.0**-11], np.float32)


def nearest_bfloat16(value):
    """The nearest number of eight significant bits, ties to even; of its normal range."""
    if value == 0:
        return value
    mantissa, exponent = math.frexp(value)
    return math.ldexp(round(mantissa * 2**8), exponent - 8)


@given(vectors(np.float32, min_value=-65504, max_value=65504))
def test_float16_is_that_of_struct_where_no_scale_is_needed(x):
    coded, y = there_and_back(Float16(), x)
    if np.abs(x).max() >= 2.0**-4:
        assert coded.scale is None
        assert bytes(coded.data) == struct.pack(f"<{x.size}e", *x.tolist())
        assert y.tolist() == list(struct.unpack(f"<{x.size}e", bytes(coded.data)))


@given(vectors(min_value=-1.0, max_value=2.0**100))
def test_bfloat16_is_that_of_ml_dtypes_and_of_arithmetic(x):
    x[0] = 1.0
    coded, y = there_and_back(BFloat16(), x)
    assert coded.scale is None
    if x.dtype == np.float32:  # ml_dtypes rounds a float64 twice
        assert bytes(coded.data) == x.astype(ml_dtypes.bfloat16).tobytes()
    for v, w in zip(x.tolist(), y.tolist(), strict=True):
        if v == 0 or abs(v) >= 2.0**-126:
            assert w == nearest_bfloat16(v)
        else:
            assert abs(v - w) <= 2.0**-133


def test_a_float64_is_rounded_once():
    # Just above the middle of two bfloat16, but not so for float32.
    x = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 3 * 2.0**-8 - 2.0**-40])
    _, y = there_and_back(BFloat16(), x)
    assert y.tolist() == [1 + 2.0**-7, 1, 1 + 2.0**-6, 1 + 2.0**-7]


@pytest.mark.parametrize("codec", CODECS)
@given(x=vectors())
def test_the_relative_error_keeps_its_bound(codec, x):
    coded, y = there_and_back(codec, x)
    scale = 1.0 if coded.scale is None else coded.scale
    bound = RELATIVE[codec.name]
    kind = np.finfo(x.dtype)
    for v, w in zip(x.tolist(), y.tolist(), strict=True):
        error = abs(Fraction(v) - Fraction(w))
        if Fraction(abs(v)) >= Fraction(LEAST_NORMAL[codec.name]) * Fraction(scale):
            slack = Fraction(float(kind.smallest_subnormal)) / 2 if abs(v) < kind.tiny else 0
            assert error <= abs(Fraction(v)) * Fraction(bound) + slack
        else:
            least = Fraction(LEAST_NORMAL[codec.name]) * Fraction(bound) * Fraction(scale)
            assert error <= least + Fraction(float(kind.smallest_subnormal)) / 2


@pytest.mark.parametrize("codec", CODECS)
@given(x=vectors())
def test_the_squared_error_keeps_delta(codec, x):
    if np.abs(x).max() < np.finfo(x.dtype).tiny:
        return
    _, y = there_and_back(codec, x)
    error = sum(
        (Fraction(v) - Fraction(w)) ** 2 for v, w in zip(x.tolist(), y.tolist(), strict=True)
    )
    squares = sum(Fraction(v) ** 2 for v in x.tolist())
    assert error <= (1 - Fraction(codec.delta(x.size))) * squares


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=100))
def test_every_float16_comes_back(bits):
    x = np.array(bits, np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return
    for dtype in (np.float32, np.float64):
        _, y = there_and_back(Float16(), x.astype(dtype))
        np.testing.assert_array_equal(y, x.astype(dtype))


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=100))
def test_every_bfloat16_comes_back_that_is_normal(bits):
    x = (np.array(bits, np.uint32) << np.uint32(16)).view(np.float32)
    x = x[np.isfinite(x) & ((np.abs(x) >= 2.0**-126) | (x == 0))]
    if x.size == 0:
        return
    for dtype in (np.float32, np.float64):
        _, y = there_and_back(BFloat16(), x.astype(dtype))
        np.testing.assert_array_equal(y, x.astype(dtype))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("magnitude", [1e-300, 1e-44, 1e-30, 1e-9, 1.0, 1e6, 1e30, 3e38, 1e300])
@pytest.mark.parametrize("size", [1, 9, BLOCK + 1])
def test_every_magnitude_and_size(codec, dtype, magnitude, size):
    kind = np.finfo(dtype)
    if not float(kind.tiny) <= magnitude / 2 < magnitude <= float(kind.max):
        return
    x = (magnitude * np.random.default_rng(1).uniform(0.5, 1, size)).astype(dtype)
    x[::2] *= -1
    coded, y = there_and_back(codec, x)
    assert coded.nbytes == 2 * size
    assert (np.abs(y / x - 1) <= RELATIVE[codec.name]).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_gaussians_and_zeros(codec, dtype, size):
    x = normal(size, dtype)
    _, y = there_and_back(codec, x)
    np.testing.assert_allclose(y, x, rtol=RELATIVE[codec.name], atol=2.0**-25)
    coded, y = there_and_back(codec, np.zeros(size, dtype))
    assert coded.scale is None
    assert not y.any()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_greatest_stays_finite(codec, dtype):
    most = np.finfo(dtype).max
    x = np.array([most, -most, 1.0, most / 3], dtype)
    _, y = there_and_back(codec, x)
    assert (np.abs(y[:2] / x[:2] - 1) <= RELATIVE[codec.name]).all()
    assert y[1] == -y[0]


def test_small_differences_do_not_vanish():
    x = normal(1000, np.float32) * np.float32(1e-12)
    assert not x.astype(np.float16).any()
    coded, y = there_and_back(Float16(), x)
    assert math.frexp(coded.scale)[0] == 0.5
    np.testing.assert_allclose(y, x, rtol=2.0**-11, atol=2.0**-39 * np.abs(x).max())


def test_a_view_that_may_not_be_written_is_coded_as_its_copy():
    x = normal(1000, np.float32)[::3]
    x.flags.writeable = False
    for codec in CODECS:
        assert bytes(codec.encode(x).data) == bytes(codec.encode(x.copy()).data)


def test_golden():
    coded, _ = there_and_back(Float16(), GOLDEN)
    # 65504 is 7bff; 1 + 2^-11 and 1 + 3·2^-11 are ties.
    assert bytes(coded.data).hex() == "003c00c1662eff7b003c023c"
    coded, _ = there_and_back(BFloat16(), GOLDEN)
    assert bytes(coded.data).hex() == "803f20c0cd3d8047803f803f"
    # 2^13, −2.5·2^13 and 0.1·2^13.
    coded, _ = there_and_back(Float16(), GOLDEN[:3] / np.float32(64))
    assert (coded.scale, bytes(coded.data).hex()) == (2.0**-19, "007000f56662")


@pytest.mark.parametrize("codec", CODECS)
def test_what_a_stranger_sends_infinite_comes_out_so_without_a_warning(codec):
    data = np.array([0x7C00, 0x7F80, 0x7D01, 0xFFFF, 0x7FA0], "<u2").view(np.uint8)
    for dtype in ("float32", "float64"):
        for scale in (None, 2.0**112):
            coded = Coded(codec.name, dtype, 5, data, scale=scale)
            check(coded, ())
            y = decode(coded, coded.data, ())
            assert not np.isfinite(y).all()


@pytest.mark.parametrize("codec", CODECS)
@examples(60, 200)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_stranger_is_refused_or_decoded(codec, data, seed):
    claim = data.draw(mutations(codec.encode(GOLDEN)))
    refused_or_a_vector(claim, random.Random(seed))


@pytest.mark.parametrize("codec", CODECS)
def test_refusals_name_the_key(codec):
    coded = codec.encode(GOLDEN)
    assert refusal(coded) is None
    assert refusal(coded, nbytes=11) == "nbytes is not 12, which size and codec make it"
    assert refusal(coded, size=2**62).startswith("nbytes")
    assert refusal(coded, scale=3.0) == "scale is no power of two"
    assert refusal(coded, scale=0.0).startswith("scale is not 1.17549e-38 to 5.19")
    assert refusal(coded, scale=2.0**113).startswith("scale is not")
    assert refusal(coded, scale=2.0**113, dtype="float64") is None
    assert refusal(coded, scale=math.nan) == "scale is not finite"
