"""Low rank: of each matrix, the part that a few directions hold; of all else, everything.

Invariant: M̂ = P·Pᵀ·M with P of orthonormal columns (or zeros), so that ‖M − M̂‖² = ‖M‖² − ‖PᵀM‖²,
whatever directions P has: it never adds to what is left out. Decoding multiplies what was sent,
number by number and without BLAS, whose rounding is each machine's own; how P was found, for which
BLAS serves, only the sender knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp
from typing import Final

import numpy as np

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.claims import check_nbytes, claimed, dtype_of, refuse
from gossipnode.codecs.matrices import Matrix, Rows, Split, drawn, orthonormalised, sizes, split

# Decoding takes rank·size steps, 20 s at most for 25 M params: no stranger may ask for more.
RANK_MAX: Final = 1024
# What rounding to float32 may add to the error, as a share of ‖x‖²: of P 2⁻²⁴, and of the product.
_ROUNDING: Final = 2.0**-20
# Largest values that products may have without that their terms overflow or vanish, as exponents;
# and by what power at most a matrix beyond them is scaled.
_RANGE: Final = {"float32": (-60, 60, 120), "float64": (-400, 400, 1000)}


class LowRank(Codec):
    """P = orthonormalised(M·Q), sent with Q' = Mᵀ·P: one step of power iteration.

    Q is the last Q' of this encoder, unless a random one is sure to hold more: span(M·Q₀) holds
    at least ‖M·Q₀‖², r/n of ‖M‖² on average if Q₀ is drawn, and if Q' holds less, Q₀ is taken.
    So the same x and seed give the same bytes after the same history alone. Of M and Mᵀ, that with
    fewer columns is taken. Products beyond the dtype's range are sent as infinite.

    Source: Vogels, Karimireddy and Jaggi, NeurIPS 2019, algorithm 1. Differs from the source: the
    random directions that a warm start is measured against.
    """

    name = "lowrank"
    draws = True

    def __init__(self, rank: int, tensors: Sequence[Tensor]) -> None:
        assert 1 <= rank <= RANK_MAX, f"rank {rank}"
        self.rank = rank
        self.split = split(tensors, rank)
        self._warm: dict[int, Rows] = {}  # by the matrix's number: the last Q', orthonormalised

    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return the factors of the matrices, and all else as it is; see ``Codec.encode``."""
        left_size, right_size = sizes(self.split.matrices)
        sent = np.empty(left_size + right_size + self.split.plain_size, x.dtype)
        start = 0
        with np.errstate(all="ignore"):
            for number, matrix in enumerate(self.split.matrices):
                for factor in self._factors(matrix, number, x, seed):
                    sent[start : start + factor.size] = factor.reshape(-1)
                    start += factor.size
        self.split.gathered(x, sent[start:])
        data = sent.astype(f"<f{x.itemsize}", copy=False).view(np.uint8)
        return Coded(self.name, x.dtype.name, x.size, data, zero=float(self.rank))

    def _factors(self, matrix: Matrix, number: int, x: Vector, seed: int) -> tuple[Rows, Rows]:
        """Return the columns of the left and of the right factor as rows: (r, m) and (r, n)."""
        M = matrix.of(x)
        is_wide = matrix.columns > matrix.rows
        if is_wide:
            M = M.T
        random = orthonormalised(drawn(seed, number, matrix.rank, M.shape[1])).astype(x.dtype)
        first = random @ M.T
        M, power = _scaled(M, first)
        if power != 1:
            first = random @ M.T
        warm = self._warm.get(number)
        P, Q = _step(M, first) if warm is None else _step(M, warm @ M.T)
        if warm is not None and _squared(Q) < _squared(first):
            P, Q = _step(M, first)
        self._warm[number] = orthonormalised(Q, spare=random).astype(x.dtype)
        Q /= Q.dtype.type(power)
        return (Q, P) if is_wide else (P, Q)

    def delta(self, d: int) -> float:  # noqa: ARG002 - the tensors tell more
        """Return the least r/min(m, n) of the matrices, less what rounding adds; 1 without any."""
        shares = [each.rank / min(each.rows, each.columns) for each in self.split.matrices]
        return max(0.0, min(shares) - _ROUNDING) if shares else 1.0

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:
        """Look at size, at zero, which is the rank, and at nbytes; see ``Codec.check``."""
        if coding.size != sum([tensor.size for tensor in tensors]):
            refuse("size", "is not that of all tensors")
        parted = _split_of(coding, tensors)
        numbers = sum(sizes(parted.matrices)) + parted.plain_size
        check_nbytes(coding, numbers * dtype_of(coding).itemsize)

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:
        """Return the products of the factors, and all else as it came; see ``Codec.decode``."""
        parted, dtype = _split_of(coding, tensors), dtype_of(coding)
        values: Vector = data.view(dtype.newbyteorder("<")).astype(dtype)
        out: Vector = np.empty(coding.size, dtype)
        start = 0
        with np.errstate(all="ignore"):
            for matrix in parted.matrices:
                middle = start + matrix.rank * matrix.rows
                end = middle + matrix.rank * matrix.columns
                left = values[start:middle].reshape(matrix.rank, matrix.rows)
                right = values[middle:end].reshape(matrix.rank, matrix.columns)
                _multiply(left, right, matrix.of(out))
                start = end
        parted.scattered(values[start:], out)
        return out


def _multiply(left: Rows, right: Rows, out: Rows) -> None:
    """Set ``out``, shape (m, n), to Σ_q left_qᵀ·right_q, added in order: the same bits everywhere.

    BLAS would be twice as fast, but every machine's sums would be rounded in its own way.
    """
    step = max(1, BLOCK // right.shape[1])
    scratch = np.empty((min(step, len(out)), right.shape[1]), out.dtype)
    for start in range(0, len(out), step):
        block = out[start : start + step]
        products = scratch[: len(block)]
        for q in range(len(left)):
            np.multiply(left[q, start : start + step, None], right[q], out=products)
            if q:
                block += products
            else:
                block[:] = products


def _split_of(coding: Coding, tensors: Sequence[Tensor]) -> Split:
    """Return the split by the rank that a stranger claims."""
    rank = claimed("zero", coding.zero, 1, RANK_MAX)
    if rank != int(rank):
        refuse("zero", "is not whole")
    return split(tensors, int(rank))


def _step(M: Rows, products: Rows) -> tuple[Rows, Rows]:
    """Return P and Q' = Mᵀ·P, as rows, given M·Q."""
    P = orthonormalised(products).astype(M.dtype)
    return P, P @ M


def _squared(rows: Rows) -> float:
    return float(np.add.reduce(np.square(rows, dtype=np.float64), axis=None))


def _scaled(M: Rows, products: Rows) -> tuple[Rows, float]:
    """Return ``M`` times a power of two, and that; M itself where its ``products`` are common."""
    low, high, most = _RANGE[M.dtype.name]
    largest = np.maximum.reduce(np.absolute(products), axis=None)
    if 2.0**low <= largest <= 2.0**high:
        return M, 1.0
    top = max(float(np.maximum.reduce(M, axis=None)), -float(np.minimum.reduce(M, axis=None)))
    power = 2.0 ** max(-most, min(most, -frexp(top)[1])) if top else 1.0
    return M * M.dtype.type(power), power
