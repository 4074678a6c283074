"""QSGD."""

from __future__ import annotations

import math
import random

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
    qsgd_decoded,
    qsgd_encoded,
    refusal,
    refused_or_a_vector,
    there_and_back,
    vectors,
    with_bytes,
)

from gossipnode.codecs import decode, rounding
from gossipnode.codecs.bits import BLOCK, code_dtype, unpack
from gossipnode.codecs.qsgd import LEVELS_MAX, QSGD
from gossipnode.errors import PeerError

LEVELS = st.one_of(st.integers(1, 20), st.sampled_from([127, 128, 255, 256, 1000, LEVELS_MAX]))
SEEDS = st.integers(0, 2**64 - 1)
GOLDEN = np.array([1, -2, 0, 2, -4, 2, -2, 4, 0.5], np.float32)


def expected_error(x, s):
    """E‖Q(x) − x‖²/‖x‖², value by value: p(1 − p) of a level squared."""
    y = np.abs(x) * s / np.linalg.norm(x)
    p = y - np.floor(y)
    return float((p * (1 - p)).sum()) / s**2


@given(vectors(np.float32), LEVELS, SEEDS)
def test_float32_is_coded_as_the_specification_says(x, s, seed):
    coded, y = there_and_back(QSGD(s), x, seed)
    assert coded.norm == pytest.approx(math.hypot(*x.tolist()), rel=1e-14)
    assert bytes(coded.data) == qsgd_encoded(x.tolist(), s, coded.norm, seed)
    assert y.tolist() == qsgd_decoded(coded)


@given(vectors(np.float64, min_value=-1e100, max_value=1e100), LEVELS, SEEDS)
def test_float64_is_coded_as_the_specification_says(x, s, seed):
    if 0 < np.abs(x).max() < 1e-100:
        return
    coded, y = there_and_back(QSGD(s), x, seed)
    assert coded.norm == pytest.approx(math.hypot(*x.tolist()), rel=1e-14)
    assert bytes(coded.data) == qsgd_encoded(x.tolist(), s, coded.norm, seed)
    assert y.tolist() == qsgd_decoded(coded)


@given(vectors(), LEVELS, SEEDS)
def test_every_value_moves_by_less_than_a_level(x, s, seed):
    coded, y = there_and_back(QSGD(s), x, seed)
    level = np.longdouble(coded.norm) / s
    kind = np.finfo(x.dtype)
    slack = np.abs(y) * np.longdouble(kind.eps) + kind.smallest_subnormal + coded.norm * 1e-15
    moved = np.abs(y.astype(np.longdouble) - x.astype(np.longdouble))
    assert (moved <= level + slack).all()


@pytest.mark.parametrize("s", [1, 16, 127, 128, 32767])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [*ODD_SIZES, 2 * BLOCK + 5])
def test_every_size(size, dtype, s):
    x = normal(size, dtype)
    coded, y = there_and_back(QSGD(s), x, seed=size)
    assert coded.bits == math.ceil(math.log2(2 * s + 1))
    assert coded.nbytes == math.ceil(size * coded.bits / 8)
    assert (np.abs(y - x) <= coded.norm / s * (1 + 1e-6)).all()


def test_blocks_go_on_with_the_same_numbers():
    x = normal(2 * BLOCK + 5, np.float32)
    coded, _ = there_and_back(QSGD(16), x, seed=5)
    assert bytes(coded.data) == qsgd_encoded(x.tolist(), 16, coded.norm, 5)


@pytest.mark.parametrize("value", [0.0, 0.25, 1 / 3, 1.0, 5.5, 126.999, 127.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_over_all_random_numbers_the_mean_of_the_codes_is_the_value(value, sign, monkeypatch):
    # Eight bits leave 24 to chance: each of the 2^24 numbers r meets the value once.
    counted = [0]

    def fractions(source, n, bits):
        assert bits == 8
        counted[0] += n
        return np.arange(counted[0] - n, counted[0], dtype=np.uint32)

    monkeypatch.setattr(rounding, "fractions", fractions)
    x = np.full(2**24, sign * value, np.float32)
    data = rounding.rounded(x, 8, 0, factor=2.0**24, zero=127)
    codes = np.empty(x.size, code_dtype(8))
    unpack(data, 8, codes)
    mean = int(codes.sum(dtype=np.int64)) / 2**24 - 127  # exact
    exact = float(np.float32(sign * value))
    assert abs(mean - exact) <= 2.0**-25
    if (exact * 2**24).is_integer():
        assert mean == exact
    assert codes.max() - codes.min() <= 1


def test_over_many_seeds_the_mean_is_the_vector():
    # Hoeffding: each value's mean over N draws out of two levels is farther from the truth than
    # level·√(ln(2/p)/2N) with probability p at most; 2000 values, p = 1e-9 each.
    x, s, N = normal(2000), 16, 400
    mean = np.zeros(2000)
    for seed in range(N):
        mean += there_and_back(QSGD(s), x, seed)[1] / N
    level = np.linalg.norm(x) / s
    assert np.abs(mean - x).max() <= level * math.sqrt(math.log(2e9) / (2 * N))
    assert np.abs(mean - x).max() > level / 100  # it is random all the same


@pytest.mark.parametrize(
    ("s", "figure", "digits", "bound"), [(16, 1.249, 3, 2.795), (256, 0.0050, 4, 0.0305)]
)
def test_the_error_of_two_thousand_gaussians(s, figure, digits, bound):
    x, N = normal(2000), 100
    expected = expected_error(x, s)
    assert round(expected, digits) == figure
    assert QSGD(s).omega(2000) == pytest.approx(bound, abs=5e-4)
    assert expected <= QSGD(s).omega(2000)
    errors = [
        np.square(there_and_back(QSGD(s), x, seed)[1] - x).sum() / (x @ x) for seed in range(N)
    ]
    # Six standard errors of the mean, as the sample has them.
    assert np.mean(errors) == pytest.approx(expected, abs=6 * np.std(errors) / math.sqrt(N))


@given(vectors(np.float64, min_value=-1e3, max_value=1e3), LEVELS)
def test_the_expected_error_keeps_its_bound(x, s):
    if np.linalg.norm(x) < 1e-3:
        return
    error = expected_error(x, s)
    codec = QSGD(s, contractive=True)
    omega = codec.omega(x.size)
    assert error <= omega * (1 + 1e-12)
    # E‖x − Q/(1+ω)‖² = (ω² + error)/(1+ω)²
    assert (omega**2 + error) / (1 + omega) ** 2 <= (1 - codec.delta(x.size)) * (1 + 1e-12)


def test_contractive_contracts_where_the_plain_one_expands():
    x, s = normal(2000), 4
    plain, shrunk = QSGD(s), QSGD(s, contractive=True)
    assert plain.delta(2000) == 0
    assert (plain.is_unbiased, shrunk.is_unbiased) == (True, False)
    assert shrunk.delta(2000) == pytest.approx(1 / (1 + 2000**0.5 / 4))
    assert np.square(there_and_back(plain, x)[1] - x).sum() > x @ x
    errors = [np.square(there_and_back(shrunk, x, i)[1] - x).sum() for i in range(20)]
    assert np.mean(errors) < (1 - shrunk.delta(2000)) * (x @ x)


def test_the_seed_decides():
    x = normal(500, np.float32)
    coded = [bytes(QSGD(16).encode(x, seed).data) for seed in (7, 7, 8, 2**64 - 1)]
    assert coded[0] == coded[1]
    assert len(set(coded)) == 3


def test_a_view_that_may_not_be_written_is_coded_as_its_copy():
    x = normal(1000, np.float32)[::3]
    x.flags.writeable = False
    assert bytes(QSGD(5).encode(x, 3).data) == bytes(QSGD(5).encode(x.copy(), 3).data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_stays_zero(dtype):
    coded, y = there_and_back(QSGD(16), np.zeros(9, dtype))
    assert coded.norm == 0
    assert not y.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", ["smallest_subnormal", "tiny", "max"])
def test_one_value_alone_is_exact_however_small_or_great(dtype, value):
    x = np.array([-getattr(np.finfo(dtype), value), 0, 0], dtype)
    for s in (1, 3, 16):
        np.testing.assert_array_equal(there_and_back(QSGD(s), x)[1], x)


def test_beyond_the_range_is_the_largest():
    x = np.full(50, 3e38, np.float32)
    coded, y = there_and_back(QSGD(1), x, seed=1)
    assert coded.norm > FLOAT32_MAX
    assert set(np.unique(y)) == {0, np.finfo(np.float32).max}
    x = np.full(50, 1.5e308)
    coded, y = there_and_back(QSGD(1), x, seed=1)
    assert coded.norm == np.finfo(np.float64).max
    assert set(np.unique(y)) == {0, coded.norm}


def test_golden():
    coded, y = there_and_back(QSGD(3), GOLDEN, seed=42)
    assert bytes(coded.data).hex() == qsgd_encoded(GOLDEN.tolist(), 3, coded.norm, 42).hex()
    assert bytes(coded.data).hex() == "d328aa03"
    assert (coded.bits, coded.norm, coded.zero) == (3, 49.25**0.5, 3.0)
    assert y.tolist() == qsgd_decoded(coded)


def test_the_example_of_the_specification():
    coded, y = there_and_back(QSGD(2), np.array([3, 0, -4, 0], np.float32), seed=42)
    assert (coded.bits, coded.norm, coded.zero) == (3, 5.0, 2.0)
    assert bytes(coded.data).hex(" ") == "13 04"
    assert y.tolist() == [2.5, 0, -5, 0]


@examples(80, 300)
@given(mutations(QSGD(3).encode(GOLDEN)), st.integers(0, 2**32))
def test_a_stranger_is_refused_or_decoded(claim, seed):
    refused_or_a_vector(claim, random.Random(seed))


def test_refusals_name_the_key():
    coded = QSGD(3).encode(GOLDEN)
    assert refusal(coded) is None
    assert refusal(coded, nbytes=5) == "nbytes is not 4, which size and codec make it"
    assert refusal(coded, size=2**62).startswith("nbytes")
    assert refusal(coded, norm=None) == "norm is missing"
    assert refusal(coded, norm=-1.0).startswith("norm is not 0 to")
    assert refusal(coded, norm=math.inf) == "norm is not finite"
    assert refusal(coded, zero=None) == "zero is missing"
    assert refusal(coded, zero=2.5) == "zero is not whole"
    assert refusal(coded, zero=0.0) == "zero is not 1 to 32767"
    assert refusal(coded, zero=32768.0) == "zero is not 1 to 32767"
    assert refusal(coded, zero=4.0) == "bits is not 4, as zero makes it"
    assert refusal(coded, bits=None) == "bits is not 3, as zero makes it"


def test_a_code_that_stands_for_nothing_is_refused():
    coded = with_bytes(QSGD(3).encode(GOLDEN), b"\xff\xff\xff\x07")
    with pytest.raises(PeerError, match="a code is above 6"):
        decode(coded, coded.data, ())
