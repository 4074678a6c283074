"""Tensors as matrices, and bases of few directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from slow_codecs import philox

from gossipnode.codecs.matrices import drawn, orthonormalised, sizes, split
from gossipnode.learning.params import Layout

SHAPES = st.lists(array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12), max_size=6)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def layout_of(shapes):
    return Layout.of({str(number): shape for number, shape in enumerate(shapes)})


@given(SHAPES, st.integers(1, 5))
def test_every_element_is_in_one_matrix_or_plain(shapes, rank):
    layout = layout_of(shapes)
    parted = split(layout.tensors, rank)
    x = np.arange(layout.size, dtype=np.float64)
    found = [matrix.of(x).reshape(-1) for matrix in parted.matrices]
    found += [x[run] for run in parted.plain]
    assert sorted(np.concatenate([*found, []]).tolist()) == x.tolist()
    assert parted.plain_size == layout.size - sum(m.rows * m.columns for m in parted.matrices)


@given(SHAPES, st.integers(1, 5))
def test_matrices_are_those_that_become_less_than_half(shapes, rank):
    expected = []
    for spec in layout_of(shapes).tensors:
        if len(spec.shape) >= 2:
            m, n = spec.shape[0], int(np.prod(spec.shape[1:]))
            r = min(rank, m, n)
            if r * (m + n) < m * n / 2:
                expected.append((spec.offset, m, n, r))
    parted = split(layout_of(shapes).tensors, rank)
    assert [(m.offset, m.rows, m.columns, m.rank) for m in parted.matrices] == expected
    assert sum(sizes(parted.matrices)) == sum(r * (m + n) for _, m, n, r in expected)


def test_a_kernel_is_a_matrix_of_its_first_extent():
    (matrix,) = split(Layout.of({"k": (20, 3, 5, 5)}).tensors, 4).matrices
    x = np.arange(1500.0)
    assert (matrix.rows, matrix.columns, matrix.rank) == (20, 75, 4)
    assert matrix.of(x).base is x
    assert matrix.of(x)[7, 8] == x.reshape(20, 3, 5, 5)[7, 0, 1, 3]


@given(SHAPES)
def test_what_is_plain_goes_there_and_back(shapes):
    layout = layout_of(shapes)
    parted = split(layout.tensors, 1)
    x = np.arange(1.0, layout.size + 1)
    values = np.empty(parted.plain_size)
    parted.gathered(x, values)
    back = np.zeros(layout.size)
    parted.scattered(values, back)
    for matrix in parted.matrices:
        assert not matrix.of(back).any()
        matrix.of(back)[:] = matrix.of(x)
    assert back.tolist() == x.tolist()


@given(st.integers(0, 2**64 - 1), st.integers(0, 3), st.integers(1, 3), st.integers(1, 9))
def test_words_become_numbers_as_the_specification_says(key, number, rank, extent):
    words = philox_of_matrix(key, number, rank * extent)
    expected = [((word >> 12) + 0.5) / 2**51 - 1 for word in words]
    found = drawn(key, number, rank, extent)
    assert found.shape == (rank, extent)
    assert found.reshape(-1).tolist() == expected
    assert (np.abs(found) < 1).all()


def philox_of_matrix(key, number, count):
    """The key's second word is the matrix's number; its first word alone is ``philox``."""
    if number == 0:
        return philox(key, count)
    generator = np.random.Philox(key=np.array([key, number], np.uint64))
    return generator.random_raw(count).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rank", "extent"), [(1, 1), (1, 1000), (3, 3), (5, 7), (40, 200)])
def test_a_basis_is_orthonormal_and_spans_what_it_is_of(rank, extent, dtype):
    rows = np.random.default_rng(rank).standard_normal((rank, extent)).astype(dtype)
    basis = orthonormalised(rows)
    assert basis.dtype == np.float64
    np.testing.assert_allclose(basis @ basis.T, np.eye(rank), atol=1e-14)
    np.testing.assert_allclose(rows @ basis.T @ basis, rows, atol=1e-12)
    # Of the first c rows the first c are a basis, whatever follows.
    assert np.array_equal(orthonormalised(rows[: rank // 2 + 1]), basis[: rank // 2 + 1])


def test_nearly_dependent_rows_give_orthogonal_ones():
    rng = np.random.default_rng(0)
    row = rng.standard_normal(50)
    rows = np.array([row, row + 1e-8 * rng.standard_normal(50), row * 3])
    basis = orthonormalised(rows)
    np.testing.assert_allclose(basis @ basis.T, np.diag([1, 1, 0]), atol=1e-14)


def test_for_a_row_that_says_nothing_new_a_spare_one_comes():
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 6))
    rows = np.array([a, 2 * a, np.zeros(6), b])
    without = orthonormalised(rows)
    assert [bool(row.any()) for row in without] == [True, False, False, True]
    spare = np.array([b, c, c, a])
    basis = orthonormalised(rows, spare)
    assert [bool(row.any()) for row in basis] == [True, True, False, True]
    np.testing.assert_allclose(basis @ basis.T, np.diag([1, 1, 0, 1]), atol=1e-14)
    assert np.array_equal(basis[1], orthonormalised(np.array([a, c]))[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_direction(bad):
    rows = np.array([[1.0, bad, 2.0], [3.0, 0.0, 4.0]])
    assert orthonormalised(rows).tolist() == [[0, 0, 0], [0.6, 0, 0.8]]


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE))
def test_whatever_the_magnitudes_rows_are_orthonormal_or_zero(rows):
    basis = orthonormalised(rows)
    there = np.diag(basis.any(axis=1).astype(float))
    np.testing.assert_allclose(basis @ basis.T, there, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exponent", [-1070, -600, 0, 600, 1020])
def test_a_power_of_two_changes_nothing(exponent):
    rows = np.array([[3.0, 1.0, 2.0], [1.0, 0.0, 1.0]])
    assert np.array_equal(orthonormalised(np.ldexp(rows, exponent)), orthonormalised(rows))


def folded(terms):
    """Add what lies beyond the first half to it, until one number is left."""
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms = [
            a + b if b is not None else a
            for a, b in zip(terms[:half], [*terms[half:], None][:half], strict=True)
        ]
    return terms[0]


def gram_schmidt(rows):
    """The same number by number, as docs/wire.md has it; of rows that are independent."""
    basis = []
    for row in rows:
        exponent = math.frexp(max(abs(x) for x in row))[1]
        left = [math.ldexp(x, -exponent) for x in row]
        for _ in range(2):
            if basis:
                inside = [folded([b * x for b, x in zip(q, left, strict=True)]) for q in basis]
                parts = zip(*basis, strict=True)
                left = [
                    x - folded([i * b for i, b in zip(inside, part, strict=True)])
                    for x, part in zip(left, parts, strict=True)
                ]
        length = math.sqrt(folded([x * x for x in left]))
        basis.append([x / length for x in left])
    return basis


@pytest.mark.parametrize(("rank", "extent"), [(1, 1), (1, 7), (2, 8), (3, 301), (5, 64)])
def test_a_basis_is_the_same_bits_as_number_by_number(rank, extent):
    rows = drawn(rank, 0, rank, extent)
    assert orthonormalised(rows).tolist() == gram_schmidt(rows.tolist())


def test_a_basis_is_these_bits_everywhere():
    basis = orthonormalised(drawn(7, 0, 3, 301))
    expected = ["0x1.08ad661a3d2b1p-4", "0x1.28503d6412407p-5", "0x1.341ccd8393300p-6"]
    assert [value.hex() for value in basis[:, 300].tolist()] == expected
