"""Uniform levels between the least and the greatest value."""

from __future__ import annotations

import math
import random
from fractions import Fraction

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
    uniform_decoded,
    uniform_encoded,
    vectors,
    with_bytes,
)

from gossipnode.codecs import decode, rounding
from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.uniform import Uniform
from gossipnode.errors import PeerError

BITS = st.integers(1, 8)
SEEDS = st.integers(0, 2**64 - 1)
GOLDEN = np.array([-1, 0, 0.5, 1, 2, 3, 2.5, -0.25, 0.125], np.float32)


def expected_error(x, bits):
    """E‖Q(x) − x‖², value by value: p(1 − p) of a level squared."""
    step = (x.max() - x.min()) / (2**bits - 1)
    if step == 0:
        return 0.0
    p = (x - x.min()) / step
    p -= np.floor(p)
    return float((p * (1 - p)).sum()) * step**2


@given(vectors(np.float32), BITS, SEEDS)
def test_float32_is_coded_as_the_specification_says(x, bits, seed):
    coded, y = there_and_back(Uniform(bits), x, seed)
    assert (coded.zero, coded.scale) == (x.min(), x.max())
    assert bytes(coded.data) == uniform_encoded(x.tolist(), bits, seed)
    assert y.tolist() == uniform_decoded(coded)


@given(vectors(np.float64, min_value=-1e100, max_value=1e100), BITS, SEEDS)
def test_float64_is_coded_as_the_specification_says(x, bits, seed):
    if 0 < np.abs(x).max() < 1e-100:
        return
    coded, y = there_and_back(Uniform(bits), x, seed)
    assert (coded.zero, coded.scale) == (x.min(), x.max())
    assert bytes(coded.data) == uniform_encoded(x.tolist(), bits, seed)
    assert y.tolist() == uniform_decoded(coded)


@given(vectors(), BITS, SEEDS)
def test_both_ends_are_exact_and_nothing_moves_by_a_level(x, bits, seed):
    _, y = there_and_back(Uniform(bits), x, seed)
    ends = (x == x.min()) | (x == x.max())
    np.testing.assert_array_equal(y[ends], x[ends])
    assert (y.min(), y.max()) == (x.min(), x.max())
    # In fractions: a spread may be beyond any dtype.
    level = (Fraction(float(x.max())) - Fraction(float(x.min()))) / (2**bits - 1)
    kind = np.finfo(x.dtype)
    for v, w in zip(x.tolist(), y.tolist(), strict=True):
        slack = Fraction(float(kind.eps)) * max(abs(Fraction(v)), abs(Fraction(w)), level)
        slack += Fraction(float(kind.smallest_subnormal))
        assert abs(Fraction(v) - Fraction(w)) <= level + 2 * slack


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*ODD_SIZES, 2 * BLOCK + 5])
def test_every_size(size, dtype, bits):
    x = normal(size, dtype)
    coded, y = there_and_back(Uniform(bits), x, seed=size)
    assert coded.nbytes == math.ceil(size * bits / 8)
    step = (x.max() - x.min()) / (2**bits - 1)
    assert np.abs(y - x).max() <= step * (1 + 1e-5)


def test_blocks_go_on_with_the_same_numbers():
    x = normal(2 * BLOCK + 5, np.float32)
    coded, _ = there_and_back(Uniform(5), x, seed=5)
    assert bytes(coded.data) == uniform_encoded(x.tolist(), 5, 5)


@pytest.mark.parametrize("value", [0.0, 2.0**-24, 0.3, 100 + 1 / 3, 254.9999, 255.0])
def test_over_all_random_numbers_the_mean_is_the_value(value, monkeypatch):
    # Eight bits leave 24 to chance: each of the 2^24 numbers r meets the value once.
    drawn = [0]

    def fractions(source, n, bits):
        assert bits == 8
        drawn[0] += n
        return np.arange(drawn[0] - n, drawn[0], dtype=np.uint32)

    monkeypatch.setattr(rounding, "fractions", fractions)
    codec = Uniform(8)
    x = np.full(2**24, value)
    monkeypatch.setattr("gossipnode.codecs.uniform.extremes", lambda x: (0.0, 255.0))
    coded, y = there_and_back(codec, x)
    assert np.unique(y).size <= 2
    mean = int(coded.data.sum(dtype=np.int64)) / 2**24
    assert abs(mean - value) <= 2.0**-25
    if (value * 2**24).is_integer():
        assert mean == value


def test_over_many_seeds_the_mean_is_the_vector():
    # Hoeffding, as for QSGD: 2000 values, p = 1e-9 each.
    x, N = normal(2000), 400
    mean = np.zeros(2000)
    for seed in range(N):
        mean += there_and_back(Uniform(2), x, seed)[1] / N
    level = (x.max() - x.min()) / 3
    assert np.abs(mean - x).max() <= level * math.sqrt(math.log(2e9) / (2 * N))
    assert np.abs(mean - x).max() > level / 100  # it is random all the same


def test_the_error_of_two_thousand_gaussians():
    x, N = normal(2000), 100
    step = (x.max() - x.min()) / 255
    expected = expected_error(x, 8) / 2000
    assert f"{expected:.2e}" == "1.24e-04"
    assert expected == pytest.approx(step**2 / 6, rel=0.02)
    assert expected <= step**2 / 4
    errors = [np.square(there_and_back(Uniform(8), x, seed)[1] - x).mean() for seed in range(N)]
    assert np.mean(errors) == pytest.approx(expected, abs=6 * np.std(errors) / math.sqrt(N))


@given(vectors(np.float64, min_value=-1e3, max_value=1e3), BITS)
def test_the_expected_error_keeps_its_bound(x, bits):
    if np.linalg.norm(x) < 1e-3:
        return
    error = expected_error(x, bits) / (x @ x)
    plain, shrunk = Uniform(bits), Uniform(bits, contractive=True)
    omega = plain.omega(x.size)
    assert error <= omega + 1e-12
    assert plain.delta(x.size) == max(0, 1 - omega)
    assert (omega**2 + error) / (1 + omega) ** 2 <= 1 - shrunk.delta(x.size) + 1e-12


def test_the_bound_is_nearly_attained():
    # Everything between two ends lies in the middle of the two levels around zero.
    x = np.array([-1.0, *[1e-9] * 10_000, 1.0])
    assert expected_error(x, 1) / (x @ x) == pytest.approx(Uniform(1).omega(x.size), rel=1e-6)


def test_contractive_contracts_where_the_plain_one_expands():
    x = normal(2000)
    x[0] = 30.0
    plain, shrunk = Uniform(1), Uniform(1, contractive=True)
    assert plain.delta(2000) == 0
    assert shrunk.delta(2000) == pytest.approx(1 / 1000)
    assert (plain.is_unbiased, shrunk.is_unbiased) == (True, False)
    assert bytes(plain.encode(x, 4).data) == bytes(shrunk.encode(x, 4).data)
    assert np.square(there_and_back(plain, x)[1] - x).sum() > x @ x
    errors = [np.square(there_and_back(shrunk, x, i)[1] - x).sum() for i in range(20)]
    assert np.mean(errors) < (1 - shrunk.delta(2000)) * (x @ x)


@given(vectors(max_size=1), st.integers(1, 300), BITS)
def test_a_constant_vector_is_exact(one, times, bits):
    x = np.repeat(one, times)
    np.testing.assert_array_equal(there_and_back(Uniform(bits), x)[1], x)


def test_two_values_are_always_exact():
    for bits in range(1, 9):
        assert Uniform(bits).delta(1) == Uniform(bits).delta(2) == 1
        x = np.array([0.1, 0.7], np.float32)
        np.testing.assert_array_equal(there_and_back(Uniform(bits), x)[1], x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_whole_range_and_the_subnormal_one_are_halved_without_overflow(dtype):
    kind = np.finfo(dtype)
    most, least = kind.max, kind.smallest_subnormal
    for lo, hi in ((-most, most), (0, most), (-least, least), (0, 8 * least), (-most, -most / 2)):
        middle = np.array([lo, *[lo / 2 + hi / 2] * 400, hi], dtype)
        _, y = there_and_back(Uniform(1), middle, seed=1)
        # Of 400 throws of a coin; fewer than 100 heads come once in 10^25.
        assert set(np.unique(y)) == {dtype(lo), dtype(hi)}
        assert 100 < (y == dtype(hi)).sum() < 300


def test_the_seed_decides():
    x = normal(500, np.float32)
    coded = [bytes(Uniform(4).encode(x, seed).data) for seed in (7, 7, 8, 2**64 - 1)]
    assert coded[0] == coded[1]
    assert len(set(coded)) == 3


def test_golden():
    coded, y = there_and_back(Uniform(3), GOLDEN, seed=42)
    assert bytes(coded.data).hex() == uniform_encoded(GOLDEN.tolist(), 3, 42).hex()
    assert bytes(coded.data).hex() == "90e63b02"
    assert (coded.bits, coded.zero, coded.scale) == (3, -1.0, 3.0)
    assert y.tolist() == uniform_decoded(coded)


def test_the_example_of_the_specification():
    coded, y = there_and_back(Uniform(3), np.array([-1, 0, 0.5, 1, 2, 3], np.float32), seed=42)
    assert (coded.bits, coded.zero, coded.scale) == (3, -1.0, 3.0)
    assert bytes(coded.data).hex(" ") == "90 e6 03"
    assert [str(value) for value in y] == [
        "-1.0", "0.14285715", "0.14285715", "0.71428573", "2.4285715", "3.0",
    ]  # fmt: skip


@examples(80, 300)
@given(mutations(Uniform(3).encode(GOLDEN)), st.integers(0, 2**32))
def test_a_stranger_is_refused_or_decoded(claim, seed):
    refused_or_a_vector(claim, random.Random(seed))


def test_refusals_name_the_key():
    coded = Uniform(3).encode(GOLDEN)
    assert refusal(coded) is None
    assert refusal(coded, nbytes=5) == "nbytes is not 4, which size and codec make it"
    assert refusal(coded, size=2**62).startswith("nbytes")
    for bits in (None, 0, 9, 64):
        assert refusal(coded, bits=bits) == "bits is not 1 to 8"
    assert refusal(coded, zero=None) == "zero is missing"
    assert refusal(coded, scale=None) == "scale is missing"
    assert refusal(coded, zero=math.nan) == "zero is not finite"
    assert refusal(coded, scale=math.inf) == "scale is not finite"
    assert refusal(coded, zero=-1e39).startswith("zero is not -3.4")
    assert refusal(coded, scale=-1.5).startswith("scale is not -1 to 3.4")


def test_bits_after_the_last_code_are_refused():
    coded = with_bytes(Uniform(3).encode(GOLDEN), b"\0\0\0\x08")
    with pytest.raises(PeerError, match="after the last number"):
        decode(coded, coded.data, ())
