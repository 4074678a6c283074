"""The arithmetic of PowerSGD: a model's matrices to thin factors, and back.

Invariant: what nodes must agree on to the bit (bases, and the products that move x) is computed in
one order on every machine; BLAS may take part only in what is averaged afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from gossipnode.algorithms.base import Vector
from gossipnode.algorithms.vectors import narrowed, widened
from gossipnode.codecs.matrices import Matrix, Rows, Split, drawn, orthonormalised

# Keys of what is drawn, the same on all nodes.
KEY_Q, KEY_P = 1, 2
MARK_BITS = 32  # so that the sum of those of 2²¹ nodes is exact


@dataclass(frozen=True, slots=True)
class Factors:
    """One kind of factor of all matrices: each of shape (r, m), or (r, n)."""

    of: tuple[Rows, ...]

    @classmethod
    def read(cls, vector: Vector, shapes: Sequence[tuple[int, int]]) -> Factors:
        """Return views of ``vector``, the factors one after the other."""
        found: list[Rows] = []
        start = 0
        for shape in shapes:
            end = start + shape[0] * shape[1]
            found.append(vector[start:end].reshape(shape))
            start = end
        return cls(tuple(found))


def owed(half: Vector, x: Vector, e: Vector | None) -> Vector:
    """Return M = half − x + e, float32 at the least."""
    M = widened(half)
    M -= x
    if e is not None:
        M += e
    return M


def first_q(matrices: Sequence[Matrix], x: Vector) -> Vector:
    """Return the first Q of each matrix, one after the other, in the dtype of x."""
    found = [drawn(KEY_Q, i, each.rank, each.columns) for i, each in enumerate(matrices)]
    return np.concatenate([np.zeros(0), *map(np.ravel, found)]).astype(x.dtype)


def mark_of(x: Vector, Q: Vector) -> float:
    """Return a number that tells x and Q from any others."""
    hashed = xxhash.xxh3_64(x.view(np.uint8).data)
    hashed.update(Q.view(np.uint8).data)
    return float(hashed.intdigest() >> 64 - MARK_BITS)


def left_factors(M: Vector, Q: Vector, like: Vector, parted: Split) -> Vector:
    """Return what is in no matrix, and M·Q of each, in the dtype of ``like``."""
    shapes = [(each.rank, each.columns) for each in parted.matrices]
    plain = np.empty(parted.plain_size, M.dtype)
    parted.gathered(M, plain)
    found = [plain]
    for each, q in zip(parted.matrices, Factors.read(widened(Q), shapes).of, strict=True):
        found.append((q @ each.of(M).T).reshape(-1))
    return narrowed(np.concatenate(found), like)


def bases_of(first: Vector, parted: Split) -> Factors:
    """Return P of each matrix, orthonormalised; directions that are missing are drawn."""
    shapes = [(each.rank, each.rows) for each in parted.matrices]
    rows = Factors.read(widened(first[parted.plain_size :]), shapes).of
    spares = [drawn(KEY_P, i, *shape) for i, shape in enumerate(shapes)]
    pairs = zip(rows, spares, strict=True)
    return Factors(tuple(orthonormalised(p, spare).astype(p.dtype) for p, spare in pairs))


def right_factors(M: Vector, bases: Factors, like: Vector, parted: Split) -> Vector:
    """Return Mᵀ·P of each matrix, in the dtype of ``like``."""
    pairs = zip(parted.matrices, bases.of, strict=True)
    found = [(p @ each.of(M)).reshape(-1) for each, p in pairs]
    return narrowed(np.concatenate([np.zeros(0, M.dtype), *found]), like)


def moved(x: Vector, plain: Vector, bases: Factors, Q: Vector, parted: Split) -> Vector:
    """Return x + P·Qᵀ, and x + ``plain`` outside the matrices."""
    moves = np.zeros(x.size, np.result_type(np.float32, x))
    parted.scattered(widened(plain), moves)
    for each, product in _products(bases, Q, parted):
        each.of(moves)[...] = product
    moves += x
    return narrowed(moves, x)


def error_left(M: Vector, bases: Factors, own: Vector, parted: Split) -> Vector:
    """Return M − P·Pᵀ·M, given PᵀM in ``own``; zero outside the matrices. Overwrites M."""
    parted.scattered(np.zeros(parted.plain_size, M.dtype), M)
    for each, product in _products(bases, own, parted):
        each.of(M)[...] -= product
    return M


def _products(bases: Factors, Q: Vector, parted: Split) -> Iterator[tuple[Matrix, Rows]]:
    """Yield each matrix and P·Qᵀ, added up in one order on every machine: by no BLAS."""
    shapes = [(each.rank, each.columns) for each in parted.matrices]
    triples = zip(parted.matrices, bases.of, Factors.read(widened(Q), shapes).of, strict=True)
    for each, p, q in triples:
        product = p[0][:, None] * q[0]
        for c in range(1, each.rank):
            product += p[c][:, None] * q[c]
        yield each, product
