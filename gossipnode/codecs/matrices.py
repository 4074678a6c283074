"""Tensors as matrices of low rank: which are worth it, and bases for their columns and rows.

Invariant: an orthonormal basis is the same bits on every machine, for both ends of an edge compute
the same one and must agree on it. It is computed in float64, number by number, and sums are made by
adding halves: the order of numpy's reductions differs between its versions, that of BLAS between
processors, and neither may enter. Vectors of a basis are rows here, each in one piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import frexp, inf, prod, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Tensor, Vector

Rows = NDArray[np.floating[Any]]

# What is left of a vector, after the others were taken out of it, to be a direction of its own:
# two passes then leave it orthogonal to the last bits, for (2⁻⁵³/2⁻³⁰)² is less than 2⁻⁴⁵ of it.
_LEAST: Final = 2.0**-30


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor as ``rows`` × ``columns`` from ``offset`` on, to be sent by ``rank`` pairs."""

    offset: int
    rows: int
    columns: int
    rank: int

    def of(self, x: Vector) -> Rows:
        """Return the matrix in ``x``, shape (rows, columns): a view."""
        end = self.offset + self.rows * self.columns
        return x[self.offset : end].reshape(self.rows, self.columns)


@dataclass(frozen=True, slots=True)
class Split:
    """A layout's tensors: ``matrices``, and the runs of elements that are ``plain``, in order."""

    matrices: tuple[Matrix, ...]
    plain: tuple[slice, ...]

    @property
    def plain_size(self) -> int:
        """Return how many elements are plain."""
        return sum([run.stop - run.start for run in self.plain])

    def gathered(self, x: Vector, out: Vector) -> None:
        """Copy the plain elements of ``x`` to ``out``, shape (plain_size,)."""
        start = 0
        for run in self.plain:
            end = start + run.stop - run.start
            out[start:end] = x[run]
            start = end

    def scattered(self, values: Vector, out: Vector) -> None:
        """Copy ``values``, shape (plain_size,), to the plain elements of ``out``."""
        start = 0
        for run in self.plain:
            end = start + run.stop - run.start
            out[run] = values[start:end]
            start = end


def split(tensors: Iterable[Tensor], rank: int) -> Split:
    """Tell which tensors ``rank`` >= 1 pairs of vectors say in less than half of the numbers.

    A tensor of two or more dimensions is a matrix of its first extent m × the product n of the
    rest, and r = min(rank, m, n); it is one of the ``matrices`` where r(m + n) < ½mn.
    """
    matrices: list[Matrix] = []
    plain: list[slice] = []
    for tensor in tensors:
        m, n = (tensor.shape[0], prod(tensor.shape[1:])) if len(tensor.shape) > 1 else (0, 0)
        r = min(rank, m, n)
        if 2 * r * (m + n) < m * n:
            matrices.append(Matrix(tensor.offset, m, n, r))
        elif plain and plain[-1].stop == tensor.offset:
            plain[-1] = slice(plain[-1].start, tensor.offset + tensor.size)
        elif tensor.size:
            plain.append(slice(tensor.offset, tensor.offset + tensor.size))
    return Split(tuple(matrices), tuple(plain))


def drawn(key: int, number: int, rank: int, extent: int) -> NDArray[np.float64]:
    """Return ``rank`` random vectors of ``extent`` elements in (−1, 1), not orthonormal yet.

    Element c of all is ((w ≫ 12) + ½)·2⁻⁵¹ − 1 of word w, number c of Philox 4×64 with the key
    ``key`` + ``number``·2⁶⁴; ``key`` is in [0, 2⁶⁴), ``number`` is the matrix's among the matrices.
    """
    words = np.random.Philox(key=key + (number << 64)).random_raw(rank * extent)
    found = (words >> np.uint64(12)).astype(np.float64)
    found += 0.5
    found *= 2.0**-51
    found -= 1.0
    return found.reshape(rank, extent)


def orthonormalised(rows: Rows, spare: Rows | None = None) -> NDArray[np.float64]:
    """Return an orthonormal basis of what ``rows``, shape (r, n), span, row by row.

    Gram and Schmidt's, twice over. In the place of a row that the rows before it span (or that is
    zero, or not finite) comes what is new in that row of ``spare``; zeros without such.
    """
    found = np.zeros(rows.shape)
    for c in range(len(rows)):
        for candidate in (rows, spare):
            new = None if candidate is None else _new_in(candidate[c], found[:c])
            if new is not None:
                found[c] = new
                break
    return found


def _new_in(row: Rows, basis: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return ``row`` less its part in ``basis``, of length 1; None where nothing much is left."""
    largest = max(float(np.maximum.reduce(row)), -float(np.minimum.reduce(row)))
    if not 0 < largest < inf:
        return None
    # By a power of two, exactly: so no square leaves the range.
    left: NDArray[np.float64] = np.ldexp(row.astype(np.float64), -frexp(largest)[1])
    if not np.isfinite(left).all():  # a NaN hides from comparisons
        return None
    before = _length(left)
    for _ in range(2):
        if len(basis):
            inside = _sums(basis * left)
            left -= _sums((inside[:, None] * basis).T)
    length = _length(left)
    if length <= _LEAST * before:
        return None
    left /= length
    return left


def _length(x: NDArray[np.float64]) -> float:
    return sqrt(float(_sums(x * x)))


def _sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums along the last axis, of at least one number; ``terms`` are lost.

    What lies beyond the first half, the larger one, is added to it, until one number is left.
    """
    width = terms.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:width]
        width = half
    found: NDArray[np.float64] = terms[..., 0]
    return found


def sizes(matrices: Sequence[Matrix]) -> tuple[int, int]:
    """Return how many numbers the left and the right factors of ``matrices`` have in all."""
    left = sum([matrix.rank * matrix.rows for matrix in matrices])
    return left, sum([matrix.rank * matrix.columns for matrix in matrices])
