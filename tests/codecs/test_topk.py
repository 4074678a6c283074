"""Top-k: exactly the largest, errors as the page proves them, and nothing believed."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sparse_oracle
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossipnode.codecs import topk
from gossipnode.codecs.base import Coded, Vector
from gossipnode.codecs.topk import BITS, TopK, largest
from gossipnode.errors import PeerError

FRACTIONS = st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([1e-9, 0.01, 0.5, 1.0]))
DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def vectors(draw: st.DrawFn, size_max: int = 60) -> Vector:
    """Few numbers with many ties, or any finite ones, of either type."""
    dtype = np.dtype(draw(DTYPES))
    width = 8 * dtype.itemsize
    anything = st.floats(allow_nan=False, allow_infinity=False, width=32 if width == 32 else 64)
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5])
    common = st.floats(-4, 4, width=16)
    elements = draw(st.sampled_from([anything, few, common]))
    return draw(hnp.arrays(dtype, st.integers(1, size_max), elements=elements))


def decoded(coded: Coded) -> Vector:
    TopK.check(coded, ())
    return TopK.decode(coded, coded.data, ())


def by_sorting(x: Vector, k: int) -> list[int]:
    """The k largest of a list sorted by Python, the lowest of equal ones first."""
    values = [abs(v) for v in x.tolist()]
    return sorted(sorted(range(len(values)), key=lambda c: (-values[c], c))[:k])


def squared(x: Vector) -> float:
    return float((x.astype(np.longdouble) ** 2).sum())


@given(vectors(), st.data())
def test_the_largest_of_all_and_the_lowest_of_equals(x: Vector, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, x.size))
    assert largest(x, k).tolist() == by_sorting(x, k)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "few", "zero", "near", "wide"])
@pytest.mark.parametrize("k", [1, 2999, 150_000, 299_999])
def test_the_largest_of_many(dtype: Any, kind: str, k: int) -> None:
    d, rng = 300_000, np.random.default_rng(3)
    assert d > topk._COUNTED, "these are found by counting"
    x: Vector = {
        "normal": lambda: rng.standard_normal(d),
        "few": lambda: rng.integers(-3, 4, d),
        "zero": lambda: np.zeros(d),
        "near": lambda: 1 + rng.random(d) * 1e-4,  # alike in all but the last digits
        "wide": lambda: 10 ** rng.uniform(-37, 37, d),
    }[kind]().astype(dtype)
    order = np.lexsort((np.arange(d), -np.abs(x)))
    assert np.array_equal(largest(x, k), np.sort(order[:k]))


@given(vectors(), FRACTIONS)
def test_plain_values_come_back_and_the_error_is_the_tail(x: Vector, fraction: float) -> None:
    codec, before = TopK(fraction), x.copy()
    coded = codec.encode(x)
    y, kept = decoded(coded), by_sorting(x, codec.count(x.size))
    assert x.tobytes() == before.tobytes()
    assert y.dtype == x.dtype
    assert y.flags.writeable
    expected = np.zeros_like(x)
    expected[kept] = x[kept]
    assert y.tobytes() == expected.tobytes()
    assert coded.bits == 8 * x.itemsize
    assert coded.scale is coded.zero is coded.norm is coded.seed is None


@pytest.mark.parametrize(
    ("fraction", "d", "k"),
    [(0.01, 10, 1), (0.5, 5, 2), (0.5, 7, 4), (0.01, 25_000_000, 250_000), (1, 9, 9), (1e-9, 1, 1)],
)
def test_how_many_are_kept(fraction: float, d: int, k: int) -> None:
    assert TopK(fraction).count(d) == k


@given(vectors(), FRACTIONS, st.sampled_from(BITS))
def test_the_slow_reader_reads_the_same(x: Vector, fraction: float, bits: int) -> None:
    coded = TopK(fraction, bits).encode(x)
    assert coded.bits is not None
    slow = sparse_oracle.topk(
        coded.data.tobytes(), x.size, x.dtype.name, coded.bits, coded.scale, coded.zero
    )
    assert decoded(coded).tobytes() == np.array(slow, x.dtype).tobytes()


@given(vectors(), FRACTIONS, st.sampled_from(BITS))
def test_the_same_bytes_each_time(x: Vector, fraction: float, bits: int) -> None:
    a, b = (TopK(fraction, bits).encode(x, seed) for seed in (0, 5))
    assert (a.data.tobytes(), a.scale, a.zero) == (b.data.tobytes(), b.scale, b.zero)


@st.composite
def normal_vectors(draw: st.DrawFn) -> Vector:
    """Vectors without subnormal numbers whose squares a double holds."""
    tame = st.floats(1e-30, 1e30, width=64).map(np.float32).map(float)
    one = st.one_of(st.just(0.0), tame, tame.map(lambda v: -v), st.sampled_from([1.0, -1.0, 0.5]))
    dtype = draw(DTYPES)
    return draw(hnp.arrays(dtype, st.integers(1, 40), elements=one))


@given(normal_vectors(), FRACTIONS, st.sampled_from(BITS))
@example(np.array([14.0, *[1.0] * 300, 0.0], np.float32), 1.0, 4)  # half a level each
@example(np.array([14.0, *[0.999] * 5000, 0.0], np.float32), 1.0, 4)
@example(np.array([254.0, *[1.0] * 5000, 0.0], np.float32), 1.0, 8)
@example(np.array([1.0, 0.0, 0.0, 0.0]), 1.0, 1)
@example(np.ones(16), 0.25, 1)
@example(np.ones(16, np.float32), 0.25, 4)
def test_the_error_keeps_to_delta(x: Vector, fraction: float, bits: int) -> None:
    codec = TopK(fraction, bits)
    delta, y = codec.delta(x.size), decoded(codec.encode(x))
    assert 0 < delta <= 1
    error, whole = squared(x.astype(np.longdouble) - y), squared(x)
    assert error <= (1 - delta) * whole + 1e-15 * whole


def test_delta_of_one_bit_is_met() -> None:
    for x in (np.array([1.0, 0, 0, 0]), np.ones(4), np.ones(3)):
        for fraction in (0.5, 1.0):
            codec = TopK(fraction, 1)
            k, d = codec.count(x.size), x.size
            left = 1 - squared(x - decoded(codec.encode(x))) / squared(x)
            assert left == pytest.approx(1 / k if x[-1] == 0 else k / d, abs=1e-12)
            assert codec.delta(d) == pytest.approx(min(1 / k, k / d), rel=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_delta_of_levels_is_met(bits: int) -> None:
    # All but the largest and a zero lie just below the middle between the two lowest levels.
    top = 2.0 * (2 ** (bits - 1) - 1)
    x = np.array([top, *[1 - 1e-9] * 30_000, 0.0])
    codec = TopK(1.0, bits)
    left = 1 - squared(x - decoded(codec.encode(x))) / squared(x)
    assert codec.delta(x.size) <= left == pytest.approx(codec.delta(x.size), rel=1e-4)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_narrow_values_cost_next_to_nothing_of_delta_at_one_percent(bits: int) -> None:
    assert TopK(0.01, bits).delta(10_000) == pytest.approx(0.01, rel=2e-4)


@given(vectors(), FRACTIONS)
def test_one_bit_errs_by_exactly_what_the_mean_leaves(x: Vector, fraction: float) -> None:
    if not np.all((x == 0) | ((np.abs(x) > 1e-30) & (np.abs(x) < 1e30))):
        return
    codec = TopK(fraction, 1)
    coded = codec.encode(x)
    kept = np.abs(x[by_sorting(x, codec.count(x.size))].astype(np.longdouble))
    expected = squared(x) - float(kept.sum() ** 2) / kept.size
    error = squared(x.astype(np.longdouble) - decoded(coded))
    # The mean is rounded to the vector's type once: that is all that may differ.
    assert error == pytest.approx(expected, rel=1e-12, abs=squared(x) * 1e-13)


@pytest.mark.parametrize(("bits", "worst"), [(16, 2**-11), (8, 0.5 / 127), (4, 0.5 / 7)])
@given(vectors(), FRACTIONS)
def test_narrow_values_are_off_by_half_a_step(
    bits: int, worst: float, x: Vector, fraction: float
) -> None:
    coded = TopK(fraction, bits).encode(x)
    kept = by_sorting(x, TopK(fraction).count(x.size))
    y = decoded(coded)
    m = np.abs(x[kept].astype(np.longdouble))
    span = m.max() - (m.min() if bits < 16 else 0)
    error = np.abs(y[kept].astype(np.longdouble) - x[kept])
    tiny = np.finfo(x.dtype).smallest_subnormal
    assert (error <= worst * span * (1 + 1e-9) + m.max() * np.finfo(x.dtype).eps + tiny).all()
    assert not np.delete(y, kept).any()
    if bits < 16:
        assert abs(y[kept[int(m.argmax())]]) == np.abs(x).max()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 1000])
def test_the_zero_vector_stays_zero(bits: int, dtype: Any, d: int) -> None:
    for fraction in (1e-9, 0.3, 1.0):
        y = decoded(TopK(fraction, bits).encode(np.zeros(d, dtype)))
        assert y.tobytes() == bytes(d * np.dtype(dtype).itemsize)


def test_the_largest_numbers_do_not_overflow() -> None:
    for dtype in (np.float32, np.float64):
        x = np.array([1, -1, 1, 0.25], dtype) * np.finfo(dtype).max
        for bits in BITS:
            y = decoded(TopK(0.75, bits).encode(x))
            assert y[:3].tolist() == x[:3].tolist(), bits


def test_figures_of_gaussian_vectors() -> None:
    x = np.random.default_rng(0).standard_normal(2000)
    for k, delta in ((20, 0.0894), (200, 0.4393)):
        y = decoded(TopK(k / 2000).encode(x))
        assert 1 - squared(x - y) / squared(x) == pytest.approx(delta, abs=5e-5)


# Positions 1, 3 and 5: the bitmap 2a.
GOLDEN = [
    (32, np.float32, 0.5, None, None, "03000040c0000000400000c0bf012a"),
    (32, np.float64, 0.5, None, None, "0300000000000008c00000000000000040000000000000f8bf012a"),
    (16, np.float32, 0.5, 3.0, None, "0300bc553900b8012a"),
    (8, np.float32, 0.5, 3.0, 1.5, "03ff2a80012a"),
    (4, np.float32, 0.5, 3.0, 1.5, "032f08012a"),
    (1, np.float32, 0.5, 2.1666666666666665, None, "0305012a"),
]
X = [0.5, -3.0, 0.0, 2.0, 0.25, -1.5]


@pytest.mark.parametrize(("bits", "dtype", "fraction", "scale", "zero", "data"), GOLDEN)
def test_golden(
    bits: int, dtype: Any, fraction: float, scale: float | None, zero: float | None, data: str
) -> None:
    coded = TopK(fraction, bits).encode(np.array(X, dtype))
    assert (coded.data.tobytes().hex(), coded.scale, coded.zero) == (data, scale, zero)
    assert coded.bits is not None
    y = decoded(coded)
    slow = sparse_oracle.topk(bytes.fromhex(data), 6, y.dtype.name, coded.bits, scale, zero)
    assert y.tolist() == slow
    assert np.flatnonzero(y).tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"bits": None}, "bits"),
        ({"bits": 64}, "bits"),
        ({"bits": 2}, "bits"),
        ({"scale": None}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"scale": 1e39}, "scale"),
        ({"zero": None}, "zero"),
        ({"zero": -0.5}, "zero"),
        ({"zero": 4.0}, "zero"),
        ({"zero": float("nan")}, "zero"),
        ({"size": 2**40 + 1}, "size"),
        ({"data": np.zeros(2, np.uint8)}, "nbytes"),
        ({"data": np.zeros(10, np.uint8)}, "nbytes"),
        ({"bits": 32, "data": np.zeros(5, np.uint8)}, "nbytes"),
    ],
)
def test_claims_refused(changed: dict[str, Any], key: str) -> None:
    coded = TopK(0.5, 4).encode(np.array(X, np.float32))
    with pytest.raises(PeerError, match=f"malformed_frame: {key} ") as refused:
        TopK.check(replace(coded, **changed), ())
    assert refused.value.code == "malformed_frame"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("000000000000", "keeps 1 to 6"),
        ("070000000000", "keeps 1 to 6"),
        ("830000000000", "keeps 1 to 6"),
        ("ffffffffffff", "does not tell"),
        ("ff", "does not tell"),
        ("06ffff", "do not fit"),
        ("0321f1012a", "bits after the last number"),
        ("032101012b", "bits set after"),
    ],
)
def test_bytes_refused(data: str, reason: str) -> None:
    raw = np.frombuffer(bytes.fromhex(data), np.uint8)
    coded = Coded("topk", "float32", 6, raw, bits=4, scale=3.0, zero=1.5)
    with pytest.raises(PeerError, match=reason) as refused:
        TopK.decode(coded, raw, ())
    assert refused.value.code == "malformed_frame"


def agreed(coded: Coded) -> None:
    """The fast reader takes what the slow one takes, and refuses what it refuses."""
    assert coded.bits is not None
    try:
        TopK.check(coded, ())
    except PeerError as error:  # fewer or more bytes than any encoding has
        assert str(error).startswith("malformed_frame: nbytes ")  # noqa: PT017
        return
    try:
        slow = sparse_oracle.topk(
            coded.data.tobytes(), coded.size, coded.dtype, coded.bits, coded.scale, coded.zero
        )
    except sparse_oracle.MalformedError:
        with pytest.raises(PeerError, match="malformed_frame"):
            TopK.decode(coded, coded.data, ())
    else:
        y = TopK.decode(coded, coded.data, ())
        with np.errstate(over="ignore"):
            assert np.array_equal(y, np.array(slow, coded.dtype), equal_nan=True)


@given(vectors(), FRACTIONS, st.sampled_from(BITS), st.data())
def test_changed_bytes_are_read_as_the_page_says_or_refused(
    x: Vector, fraction: float, bits: int, data: st.DataObject
) -> None:
    coded = TopK(fraction, bits).encode(x)
    raw = bytearray(coded.data.tobytes())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: len(raw) - data.draw(st.integers(0, 1))] + data.draw(st.binary(max_size=2))
    agreed(replace(coded, data=np.frombuffer(bytes(raw), np.uint8)))


@given(st.binary(min_size=1, max_size=50), st.integers(1, 200), st.sampled_from(BITS), DTYPES)
def test_any_bytes_are_read_as_the_page_says_or_refused(
    raw: bytes, size: int, bits: int, dtype: Any
) -> None:
    bits = 64 if bits == 32 and dtype is np.float64 else bits
    name = np.dtype(dtype).name
    data = np.frombuffer(raw, np.uint8)
    agreed(Coded("topk", name, size, data, bits=bits, scale=2.0, zero=0.5))


def test_infinite_halves_are_handed_on() -> None:
    coded = TopK(0.5, 16).encode(np.array(X, np.float32))
    data = coded.data.copy()
    data[1:3] = [0x00, 0x7C]
    assert np.isinf(TopK.decode(coded, data, ())).sum() == 1


def test_bytes_may_begin_anywhere() -> None:
    x = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    for bits in BITS:
        coded = TopK(0.3, bits).encode(x)
        frame = np.concatenate([np.zeros(3, np.uint8), coded.data])
        frame.flags.writeable = False
        assert np.array_equal(TopK.decode(coded, frame[3:], ()), decoded(coded))


@pytest.mark.parametrize(("fraction", "bits", "models"), [(0.01, 32, 0.1), (0.5, 4, 1.0)])
def test_memory(fraction: float, bits: int, models: float) -> None:
    d = 3_000_000
    x = np.random.default_rng(0).standard_normal(d).astype(np.float32)
    coded = TopK(fraction, bits).encode(x)
    tracemalloc.start()
    TopK(fraction, bits).encode(x)
    encoding = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    TopK.decode(coded, coded.data, ())
    decoding = tracemalloc.get_traced_memory()[1] - x.nbytes  # but for what is returned
    tracemalloc.stop()
    blocks = 6_000_000  # histograms and blocks: 2¹⁸ numbers of 8 bytes, and their masks
    assert max(encoding, decoding) < models * x.nbytes + blocks
