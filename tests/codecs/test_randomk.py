"""Random-k: the drawn are the k smallest words of the generator, and right on average."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb, sqrt
from typing import Any

import numpy as np
import pytest
import sparse_oracle
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gossipnode.codecs import randomk
from gossipnode.codecs.base import Coded, Vector
from gossipnode.codecs.randomk import RandomK, drawn
from gossipnode.errors import PeerError

SEEDS = st.integers(0, 2**64 - 1)
FRACTIONS = st.one_of(st.floats(0, 1, exclude_min=True), st.sampled_from([1e-9, 0.5, 1.0]))
VECTORS = st.one_of(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e290, 1e290)),
)


def decoded(coded: Coded) -> Vector:
    RandomK.check(coded, ())
    return RandomK.decode(coded, coded.data, ())


def test_the_slow_generator_gives_the_words_of_numpy() -> None:
    for seed in (0, 7, 2**64 - 1):
        words = np.random.Philox(key=seed).random_raw(10)
        assert words.tolist() == sparse_oracle.philox(seed, 10)


@given(SEEDS, st.integers(1, 80), st.data())
def test_the_k_smallest_words_are_drawn(seed: int, d: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, d))
    assert np.flatnonzero(drawn(seed, k, d)).tolist() == sparse_oracle.drawn(seed, k, d)


@pytest.mark.parametrize("k", [1, 2, 1000, 100_000, 199_000, 199_999, 200_000])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_many(seed: int, k: int) -> None:
    d = 200_000
    order = np.argsort(np.random.Philox(key=seed).random_raw(d), kind="stable")
    assert np.array_equal(np.flatnonzero(drawn(seed, k, d)), np.sort(order[:k]))


def test_a_bad_guess_of_the_bound_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    d, k, calls = 5000, 2500, []
    expected = [drawn(seed, k, d) for seed in range(20)]
    split = randomk._split

    def counted(*arguments: int) -> Any:
        calls.append(arguments)
        return split(*arguments)

    monkeypatch.setattr(randomk, "_split", counted)
    monkeypatch.setattr(randomk, "_SPREAD", 1)
    monkeypatch.setattr(randomk, "isqrt", lambda _: 0)
    for seed in range(20):
        assert np.array_equal(drawn(seed, k, d), expected[seed])
    assert len(calls) > 20


def test_equal_words_go_to_the_lowest_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    class Few:
        def __init__(self, key: int) -> None:
            self.words = np.random.default_rng(key).integers(0, 3, 100).astype(np.uint64)
            self.words <<= np.uint64(62)

        def random_raw(self, n: int) -> Any:
            return self.words[:n].copy()

    monkeypatch.setattr(np.random, "Philox", Few)
    for k in range(1, 101):
        order = np.argsort(Few(1).words, kind="stable")
        assert np.array_equal(np.flatnonzero(drawn(1, k, 100)), np.sort(order[:k]))


def test_what_was_drawn_last_is_kept_and_nothing_else() -> None:
    """A round's messages of one shared seed are one draw; what is kept is a byte a coordinate."""
    first = drawn(5, 300, 1000)
    assert drawn(5, 300, 1000) is first
    assert not first.flags.writeable
    assert not drawn(5, 1000, 1000).flags.writeable
    for other in ((6, 300, 1000), (5, 301, 1000), (5, 300, 1001)):
        assert not np.array_equal(drawn(*other), first)
    again = drawn(5, 300, 1000)
    assert again is not first
    assert np.array_equal(again, first)
    assert drawn.cache_info().currsize == 1


@given(VECTORS, FRACTIONS, SEEDS)
def test_the_drawn_come_back_and_the_others_are_zero(x: Vector, fraction: float, seed: int) -> None:
    codec, before = RandomK(fraction), x.copy()
    coded = codec.encode(x, seed)
    y, k = decoded(coded), codec.count(x.size)
    expected = np.zeros_like(x)
    mask = drawn(seed, k, x.size)
    expected[mask] = x[mask]
    assert y.tobytes() == expected.tobytes()
    assert y.dtype == x.dtype
    assert y.flags.writeable
    assert x.tobytes() == before.tobytes()
    assert (coded.seed, coded.nbytes) == (seed, k * x.itemsize)
    assert coded.bits is coded.scale is coded.zero is coded.norm is None
    assert codec.encode(x, seed).data.tobytes() == coded.data.tobytes()


@given(VECTORS, FRACTIONS, SEEDS)
def test_unbiased_values_are_larger_by_d_over_k(x: Vector, fraction: float, seed: int) -> None:
    plain, codec = RandomK(fraction), RandomK(fraction, unbiased=True)
    factor = x.dtype.type(x.size / codec.count(x.size))
    y = decoded(codec.encode(x, seed))
    assert np.array_equal(y, decoded(plain.encode(x, seed)) * factor)


@pytest.mark.parametrize(("d", "k"), [(5, 2), (6, 3), (7, 1), (4, 4)])
def test_the_mean_over_all_choices_is_exact(d: int, k: int) -> None:
    # One seed for each of the (d over k) choices: the mean over them is the expectation.
    x, seeds = np.arange(1.0, d + 1), {}
    for seed in range(2000):
        seeds.setdefault(tuple(np.flatnonzero(drawn(seed, k, d)).tolist()), seed)
    assert sorted(seeds) == list(combinations(range(d), k))
    plain = [decoded(RandomK(k / d).encode(x, seed)) for seed in seeds.values()]
    whole = float(x @ x)
    assert np.mean([(x - y) @ (x - y) for y in plain]) == pytest.approx(
        (1 - k / d) * whole, rel=1e-12
    )
    fair = [decoded(RandomK(k / d, unbiased=True).encode(x, seed)) for seed in seeds.values()]
    assert np.mean(fair, axis=0) == pytest.approx(x, rel=1e-12)
    errors = [(x - y) @ (x - y) for y in fair]
    assert np.mean(errors) == pytest.approx((d / k - 1) * whole, rel=1e-12, abs=1e-12)


def test_each_choice_is_as_likely() -> None:
    d, k, seeds = 6, 3, 10_000
    counts: dict[bytes, int] = {}
    for seed in range(seeds):
        choice = drawn(seed, k, d).tobytes()
        counts[choice] = counts.get(choice, 0) + 1
    each = seeds / comb(d, k)
    chi2 = sum((count - each) ** 2 / each for count in counts.values())
    assert len(counts) == comb(d, k)
    assert chi2 < 57.4  # 19 degrees of freedom: more in one of 10⁵ generators


def test_the_error_is_as_large_as_it_should_be_on_average() -> None:
    d, k, seeds = 200, 20, 2000
    x = np.random.default_rng(0).standard_normal(d)
    errors = [squared_error(x, RandomK(k / d), seed) for seed in range(seeds)]
    # What is kept is the sum of k of the d squares, drawn without replacement.
    variance = k * (1 - k / d) * (x**2).var(ddof=1)
    off = np.mean(errors) - (1 - k / d) * float(x @ x)
    assert abs(off) < 4.5 * sqrt(variance / seeds)  # more in one of 10⁵ generators
    assert np.var(errors) == pytest.approx(variance, rel=0.25)


def squared_error(x: Vector, codec: RandomK, seed: int) -> float:
    error = x - decoded(codec.encode(x, seed))
    return float(error @ error)


def test_unbiased_is_right_on_average() -> None:
    d, k, seeds = 50, 5, 4000
    codec, x = RandomK(k / d, unbiased=True), np.random.default_rng(1).standard_normal(d)
    mean = sum(decoded(codec.encode(x, seed)) for seed in range(seeds)) / seeds
    deviations = (mean - x) / (np.abs(x) * sqrt((d / k - 1) / seeds))
    assert np.abs(deviations).max() < 5  # 50 of them: more in one of 3·10⁴ generators


def test_delta() -> None:
    assert RandomK(0.01).delta(1000) == 0.01
    assert RandomK(0.01).delta(10) == 0.1
    assert RandomK(1.0).delta(3) == 1.0
    assert RandomK(0.01, unbiased=True).delta(1000) == 0.0
    assert RandomK(0.5, unbiased=True).is_unbiased
    assert not RandomK(0.5).is_unbiased
    assert RandomK.draws


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        (np.float32, "00000040000080400000a040"),
        (np.float64, "000000000000004000000000000010400000000000001440"),
    ],
)
def test_golden(dtype: Any, data: str) -> None:
    coded = RandomK(0.5).encode(np.arange(1, 7).astype(dtype), 7)
    assert coded.data.tobytes().hex() == data
    assert sparse_oracle.drawn(7, 3, 6) == [1, 3, 4]
    assert decoded(coded).tolist() == [0, 2, 0, 4, 5, 0]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"seed": None}, "seed"),
        ({"data": np.zeros(0, np.uint8)}, "nbytes"),
        ({"data": np.zeros(7, np.uint8)}, "nbytes"),
        ({"data": np.zeros(44, np.uint8)}, "nbytes"),
        ({"dtype": "float64", "data": np.zeros(12, np.uint8)}, "nbytes"),
    ],
)
def test_claims_refused(changed: dict[str, Any], key: str) -> None:
    coded = RandomK(0.5).encode(np.ones(10, np.float32), 7)
    with pytest.raises(PeerError, match=f"malformed_frame: {key} "):
        RandomK.check(replace(coded, **changed), ())


@given(st.binary(max_size=100), st.integers(1, 30), SEEDS, st.sampled_from(["float32", "float64"]))
def test_any_bytes_are_values_or_refused(raw: bytes, size: int, seed: int, dtype: str) -> None:
    coded = Coded("randomk", dtype, size, np.frombuffer(raw, np.uint8), seed=seed)
    k, rest = divmod(len(raw), np.dtype(dtype).itemsize)
    if rest or not 1 <= k <= size:
        with pytest.raises(PeerError, match="malformed_frame: nbytes "):
            RandomK.check(coded, ())
        return
    y = decoded(coded)
    assert y.dtype == dtype
    assert y[sparse_oracle.drawn(seed, k, size)].tobytes() == raw


def test_bytes_may_begin_anywhere() -> None:
    x = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    coded = RandomK(0.3).encode(x, 3)
    frame = np.concatenate([np.zeros(3, np.uint8), coded.data])
    frame.flags.writeable = False
    assert np.array_equal(RandomK.decode(coded, frame[3:], ()), decoded(coded))


def test_beyond_the_type_is_infinite_and_no_warning() -> None:
    x = np.full(10, 3e38, np.float32)
    assert np.isinf(decoded(RandomK(0.1, unbiased=True).encode(x, 1))).sum() == 1
