"""Params operations against dense float64 formulas, and what a layout promises."""

from __future__ import annotations

import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossipnode.errors import ConfigError
from gossipnode.learning import params as ops
from gossipnode.learning.dtypes import dtype_of
from gossipnode.learning.params import BLOCK, COPIED, PLAIN, Layout

SIZES = (1, 7, PLAIN, PLAIN + 1, COPIED + 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5)
DTYPES = ("float16", "bfloat16", "float32", "float64")

sizes = st.sampled_from(SIZES)
dtypes = st.sampled_from(DTYPES)
weights = st.floats(-2, 2)
seeds = st.integers(0, 2**32 - 1)


def vectors(seed: int, count: int, size: int, dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype_of(dtype)) for _ in range(count)]


@pytest.fixture(params=["BLAS", "numpy alone"])
def each_way(request, monkeypatch):
    """The sums by numpy's BLAS, and as they are where there is none."""
    if request.param == "numpy alone":
        monkeypatch.setattr(ops, "axpby", lambda letter: None)


# Large models on a busy machine take their time; that is no failure.
unhurried = settings(deadline=None)
# The fixture stays the same for all examples of a test, as it should.
for_each_way = settings(
    unhurried, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def locked(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


def assert_rounded(result: np.ndarray, exact: np.ndarray, scale: float) -> None:
    """Compare with float64 arithmetic: three roundings of terms no larger than scale."""
    eps = float(ml_dtypes.finfo(result.dtype).eps)
    assert np.abs(result.astype(np.float64) - exact).max() <= 3 * eps * scale


@pytest.mark.usefixtures("each_way")
@for_each_way
@given(seeds, sizes, dtypes, weights)
def test_merge_into_is_the_formula(seed, size, dtype, weight):
    incoming, own = vectors(seed, 2, size, dtype)
    a, b = incoming.astype(np.float64), own.astype(np.float64)
    ops.merge_into(incoming, locked(own), weight)
    assert_rounded(incoming, b + weight * (a - b), 30)
    assert np.array_equal(own.astype(np.float64), b)


@pytest.mark.usefixtures("each_way")
@for_each_way
@given(seeds, sizes, dtypes, weights)
def test_add_scaled_is_the_formula(seed, size, dtype, weight):
    acc, x = vectors(seed, 2, size, dtype)
    exact = acc.astype(np.float64) + weight * x.astype(np.float64)
    ops.add_scaled(acc, locked(x), weight)
    assert_rounded(acc, exact, 20)


@pytest.mark.usefixtures("each_way")
@for_each_way
@given(seeds, sizes, dtypes, weights)
def test_weighted_sum_into_is_the_formula(seed, size, dtype, weight):
    incoming, acc = vectors(seed, 2, size, dtype)
    exact = acc.astype(np.float64) + weight * incoming.astype(np.float64)
    ops.weighted_sum_into(incoming, locked(acc), weight)
    assert_rounded(incoming, exact, 20)


@unhurried
@given(seeds, sizes, dtypes)
def test_add_difference_into_is_the_formula(seed, size, dtype):
    after, before, current = vectors(seed, 3, size, dtype)
    exact = current.astype(np.float64) + (after.astype(np.float64) - before.astype(np.float64))
    ops.add_difference_into(after, locked(before), locked(current))
    assert_rounded(after, exact, 20)


@pytest.mark.parametrize("size", [4, PLAIN + 4, BLOCK + 4])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("each_way")
def test_merge_is_exact_at_the_ends_and_for_equal_inputs(dtype, size):
    kind = dtype_of(dtype)
    largest = float(ml_dtypes.finfo(kind).max)
    own = np.resize(np.array([largest, -largest, 1.5, 0.1]).astype(kind), size)
    other = np.resize(np.array([-largest, largest, 2.5, 0.7]).astype(kind), size)
    for weight, expected in ((0.0, own), (1.0, other)):
        incoming = other.copy()
        ops.merge_into(incoming, locked(own.copy()), weight)
        assert incoming.tobytes() == expected.tobytes()
    for weight in (0.1, 1 / 3, 0.5, 0.9):
        incoming = own.copy()
        ops.merge_into(incoming, own, weight)
        assert incoming.tobytes() == own.tobytes()


@pytest.mark.usefixtures("each_way")
@for_each_way
@given(seeds, st.sampled_from([5, PLAIN + 1, BLOCK + 1]), dtypes, st.floats(0, 1))
def test_merging_equal_inputs_gives_themselves(seed, size, dtype, weight):
    """Of every order of magnitude whose products with a share are normal numbers."""
    rng = np.random.default_rng(seed)
    span = 1 if dtype == "float16" else 25
    numbers = rng.standard_normal(size) * 10.0 ** rng.uniform(-span, span, size)
    own = numbers.astype(dtype_of(dtype))
    incoming = own.copy()
    ops.merge_into(incoming, locked(own), weight)
    assert incoming.tobytes() == own.tobytes()


@pytest.mark.usefixtures("each_way")
@for_each_way
@given(seeds, dtypes, st.floats(0, 1))
def test_a_merged_value_lies_between_the_two(seed, dtype, weight):
    incoming, own = vectors(seed, 2, PLAIN + 3, dtype)
    low, high = np.minimum(incoming, own), np.maximum(incoming, own)
    ops.merge_into(incoming, locked(own), weight)
    slack = 2 * float(ml_dtypes.finfo(own.dtype).eps) * np.maximum(abs(low), abs(high))
    assert (incoming.astype(np.float64) >= low.astype(np.float64) - slack).all()
    assert (incoming.astype(np.float64) <= high.astype(np.float64) + slack).all()


def test_an_unaligned_or_strided_model_is_merged_too():
    size = PLAIN + 1
    odd = np.zeros(4 * size + 1, np.uint8)[1:].view(np.float32)
    odd[:] = 4.0
    ops.merge_into(odd, np.full(size, 2.0, np.float32), 0.25)
    assert (odd == 2.5).all()
    strided = np.full(2 * size, 8.0, np.float32)[::2]
    ops.merge_into(strided, np.full(size, 4.0, np.float32), 0.25)
    assert (strided == 5.0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_models_can_be_summed_in_float32(dtype):
    acc = np.zeros(3, np.float32)
    x = np.array([60000, -60000, 1]).astype(dtype_of(dtype))
    for _ in range(4):
        ops.add_scaled(acc, x, 0.5)
    assert acc.dtype == np.float32
    assert np.array_equal(acc, 2 * x.astype(np.float32))


@unhurried
@given(seeds, st.floats(0, 1))
def test_bfloat16_is_rounded_once_to_nearest(seed, weight):
    """Half a unit in the last of bfloat16's 8 bits, and the three roundings of float32."""
    incoming, own = vectors(seed, 2, 1000, "bfloat16")
    a, b = incoming.astype(np.float64), own.astype(np.float64)
    exact = b + weight * (a - b)
    ops.merge_into(incoming, own, weight)
    allowed = 2.0**-8 * np.abs(exact) + 2.0**-22 * (np.abs(a) + np.abs(b))
    assert (np.abs(incoming.astype(np.float64) - exact) <= allowed).all()


def test_float16_is_computed_in_float32():
    """In float16 the difference 60000 − (−60000) overflows; the merged value does not."""
    incoming = np.array([60000], np.float16)
    ops.merge_into(incoming, np.array([-60000], np.float16), 0.5)
    assert incoming[0] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_finite_has_no_false_alarm_and_no_warning(dtype):
    dtype = dtype_of(dtype)
    largest = ml_dtypes.finfo(dtype).max
    tiny = ml_dtypes.finfo(dtype).smallest_subnormal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (largest, -largest, tiny, 0.0):
            assert ops.all_finite(np.full(3 * BLOCK + 11, value, dtype))
        mixed = np.resize(np.array([largest, -largest], dtype), 2 * BLOCK)
        assert ops.all_finite(locked(mixed))
        assert ops.all_finite(np.empty(0, dtype))


@pytest.mark.parametrize(
    ("dtype", "bad"), list(itertools.product(DTYPES, (np.inf, -np.inf, np.nan)))
)
def test_all_finite_sees_one_bad_element_anywhere(dtype, bad):
    dtype = dtype_of(dtype)
    for size in SIZES:
        for position in {0, size // 2, size - 1}:
            x = np.full(size, ml_dtypes.finfo(dtype).max, dtype)
            x[position] = bad
            with np.errstate(all="raise"), warnings.catch_warnings():
                warnings.simplefilter("error")
                assert not ops.all_finite(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extent_bounds_every_element_and_is_the_largest_of_many(dtype):
    dtype = dtype_of(dtype)
    for size in SIZES:
        for sign in (1, -1):
            x = np.resize(np.linspace(-1, 1, 97), size).astype(dtype)
            x[size // 2] = sign * 3
            found = ops.extent(locked(x))
            assert np.isfinite(found)
            assert found >= 3
            if size > PLAIN and dtype in (np.float32, np.float64):
                assert found == 3
    assert ops.extent(np.zeros(0, dtype)) >= 0


@pytest.mark.parametrize(
    ("dtype", "bad"), list(itertools.product(DTYPES, (np.inf, -np.inf, np.nan)))
)
def test_extent_is_infinite_where_an_element_is_not_finite(dtype, bad):
    dtype = dtype_of(dtype)
    for size in SIZES:
        for position in {0, size // 2, size - 1}:
            x = np.zeros(size, dtype)
            x[position] = bad
            assert ops.extent(x) == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stays_finite_does_however_the_terms_are_summed(dtype):
    dtype = dtype_of(dtype)
    largest = float(ml_dtypes.finfo(dtype).max)
    assert not ops.stays_finite(np.inf, dtype)
    assert not ops.stays_finite(largest, dtype)
    assert ops.stays_finite(largest / 2.001, dtype)
    # 64 terms of a weight that is rounded, whose magnitudes come to just below the bound
    bound = largest / 2.001
    x = np.full(BLOCK + 5, bound, dtype)
    acc = np.zeros_like(x)
    for _ in range(64):
        ops.add_scaled(acc, x, 1 / 64)
    assert ops.all_finite(acc)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_multiplies_in_place(dtype):
    dtype = dtype_of(dtype)
    for size in SIZES:
        x = np.resize(np.linspace(-1, 1, 97), size).astype(dtype)
        wanted = (x.astype(np.float64 if dtype == np.float64 else np.float32) * 0.375).astype(dtype)
        ops.scale(x, 0.375)
        np.testing.assert_array_equal(x, wanted)


@pytest.mark.parametrize("size", [3, BLOCK + 1])
def test_all_finite_sees_opposite_infinities(size):
    assert not ops.all_finite(np.resize(np.array([np.inf, -np.inf, 1], np.float32), size))


@pytest.mark.parametrize("size", [3, PLAIN + 1])
def test_all_finite_sees_a_signalling_nan(size):
    x = np.ones(size, np.float32)
    x.view(np.uint32)[size // 2] = 0x7F800001
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not ops.all_finite(x)


@unhurried
@given(seeds, st.integers(1, 5), sizes, dtypes)
def test_consensus_distance_is_the_formula(seed, count, size, dtype):
    models = vectors(seed, count, size, dtype)
    dense = np.stack(models).astype(np.float64)
    spread = dense - dense.mean(axis=0)
    expected = np.sqrt(np.square(spread).sum() / count)
    assert ops.consensus_distance(models) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_consensus_distance_of_huge_models_is_finite():
    largest = np.full(4, np.finfo(np.float32).max, np.float32)
    assert ops.consensus_distance([largest, -largest]) == pytest.approx(2 * float(largest[0]))


def digits_layout(**changes) -> Layout:
    options = {
        "shapes": {"weight": (64, 10), "bias": (10,)},
        "dtype": "float32",
        "meaning": ("class:0", "class:1"),
    } | changes
    return Layout.of(**options)


def test_layout_places_tensors_one_behind_the_other():
    layout = Layout.of({"a": (2, 3), "scale": (), "b": (4,)}, dtype="float64")
    assert [(t.name, t.shape, t.offset, t.size) for t in layout.tensors] == [
        ("a", (2, 3), 0, 6),
        ("scale", (), 6, 1),
        ("b", (4,), 7, 4),
    ]
    assert (layout.size, layout.nbytes, layout.dtype) == (11, 88, np.dtype("float64"))


def test_views_share_memory_with_params():
    layout = digits_layout()
    params = layout.zeros()
    views = layout.views(params)
    views["bias"][3] = 5
    views["weight"][1, 2] = 7
    assert params[643] == 5
    assert params[12] == 7
    assert all(np.shares_memory(view, params) for view in views.values())


def test_views_of_read_only_params_are_read_only():
    layout = digits_layout()
    views = layout.views(locked(layout.zeros()))
    with pytest.raises(ValueError, match="read-only"):
        views["bias"][0] = 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "float64"}, "dtype is float32 here, float64 there"),
        ({"shapes": {"weight": (64, 9), "bias": (9,)}}, "tensor 0 is weight (64, 10) at 0 here"),
        ({"shapes": {"weight": (64, 10)}}, "tensor 1 is bias (10,) at 640 here, absent there"),
        ({"shapes": {"w": (64, 10), "bias": (10,)}}, "w (64, 10) at 0 there"),
        ({"meaning": ("class:1", "class:0")}, "meaning 0 is class:0 here, class:1 there"),
        ({"meaning": ("class:0",)}, "meaning 1 is class:1 here, absent there"),
    ],
)
def test_every_difference_changes_the_schema_and_is_told(changes, words):
    here, there = digits_layout(), digits_layout(**changes)
    assert here.schema != there.schema
    assert words in here.difference(there)


def test_equal_layouts_share_the_schema():
    assert digits_layout().schema == digits_layout().schema
    assert digits_layout().difference(digits_layout()) == ""


def test_schema_is_stable_across_versions():
    """Nodes of different releases must agree: a change here is a change of the wire contract."""
    assert digits_layout().schema == "e074817c7da3de9ca8ff975c182ecb12"


def test_unknown_dtype_is_a_config_error():
    with pytest.raises(ConfigError, match="float16, bfloat16, float32, float64"):
        Layout.of({"a": (1,)}, dtype="int32")


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (np.zeros((650, 1), np.float32), "2 dimensions"),
        (np.zeros(1300, np.float32)[::2], "not contiguous"),
        (np.zeros(650), "float64"),
        (np.zeros(649, np.float32), "649 elements"),
    ],
)
def test_check_names_what_is_wrong(params, words):
    with pytest.raises(AssertionError, match=words):
        digits_layout().check(params)
