"""What both ends of an edge know alike in PowerGossip, and the sums made of it.

Invariant: an edge's basis and the terms of its exchanges are functions of the two ids and of the
messages, computed in the same order at both ends, so that they are the same bits there; ``digest``
tells whether they are. What an exchange adds at the end with the smaller id, it takes away at the
other. No clock, network or params of more than one node may enter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from gossipnode.algorithms.base import Vector
from gossipnode.algorithms.vectors import narrowed, widened
from gossipnode.codecs.matrices import Rows, Split, drawn, orthonormalised, sizes

# As many bits as a float64 holds exactly: a digest travels among the scalars.
DIGESTS: Final = 2**53


@dataclass(frozen=True, slots=True)
class Term:
    """What one exchange found of X_hi − X_lo: Σ_r left_r·right_rᵀ for each matrix, and the rest."""

    left: tuple[Rows, ...]
    right: tuple[Rows, ...]
    plain: Vector


@dataclass(frozen=True, slots=True)
class Edge:
    """The basis V of the next exchange, number ``t`` since the edge began anew.

    Even exchanges take V on the right, (r, n), odd ones on the left, (r, m). ``last`` is what the
    exchange before has added, and ``before`` the digest of then; None without one.
    """

    V: tuple[Rows, ...]
    t: int
    digest: int
    last: Term | None = None
    before: int | None = None

    @classmethod
    def of(cls, V: Sequence[Rows], t: int, last: Term | None, before: int | None) -> Edge:
        """Return the edge with its digest."""
        state = xxhash.xxh3_64(t.to_bytes(8, "little"))
        for rows in V:
            state.update(np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes())
        return cls(tuple(V), t, state.intdigest() % DIGESTS, last, before)

    @property
    def is_right(self) -> bool:
        """Whether V multiplies from the right: what is sent then has as many rows as X."""
        return self.t % 2 == 0

    def taken_back(self) -> Edge:
        """Return the edge as it was before its last exchange, which cannot be taken back too."""
        assert self.last is not None
        V = self.last.left if self.is_right else self.last.right
        return Edge.of(V, self.t - 1, None, None)


def begun(split: Split, i: str, j: str, k: int, dtype: np.dtype[Any]) -> Edge:
    """Return the edge of ``i`` and ``j`` that begins anew in round ``k``, random but alike."""
    key = xxhash.xxh3_64_intdigest(f"{min(i, j)}\n{max(i, j)}\n{k}".encode())
    V = [
        orthonormalised(drawn(key, number, matrix.rank, matrix.columns)).astype(dtype)
        for number, matrix in enumerate(split.matrices)
    ]
    return Edge.of(V, 0, None, None)


def message_sizes(split: Split) -> tuple[int, int]:
    """Return how many numbers an even and an odd exchange send."""
    left, right = sizes(split.matrices)
    return left + split.plain_size, right + split.plain_size


def basis_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of bases and sums: float32 at the least."""
    return np.result_type(np.float32, dtype)


def projected(x: Vector, split: Split, edges: Sequence[Edge]) -> list[Vector]:
    """Return for each edge what is sent: X·V or Xᵀ·V of each matrix, row by row; then the rest."""
    wide, found = x.astype(basis_dtype(x.dtype), copy=False), []
    for edge in edges:
        sent = np.empty(message_sizes(split)[edge.t % 2], x.dtype)
        start = 0
        for matrix, V in zip(split.matrices, edge.V, strict=True):
            X = matrix.of(wide)
            product = V @ (X.T if edge.is_right else X)
            sent[start : start + product.size] = product.reshape(-1)
            start += product.size
        split.gathered(x, sent[start:])
        found.append(sent)
    return found


def exchanged(lo: Vector, hi: Vector, edge: Edge, split: Split) -> Edge | None:
    """Return the edge after an exchange of what both ends sent; None where that is out of range.

    p = (X_hi − X_lo)·V; the next basis is p, orthonormalised. Where p has less than r directions,
    random ones that the digest draws make up for them.
    """
    dtype = basis_dtype(lo.dtype)
    both = np.subtract(hi, lo, dtype=np.float64).astype(dtype)
    if not np.isfinite(both).all():
        return None
    p: list[Rows] = []
    V: list[Rows] = []
    start = 0
    for number, matrix in enumerate(split.matrices):
        extent = matrix.rows if edge.is_right else matrix.columns
        end = start + matrix.rank * extent
        p.append(both[start:end].reshape(matrix.rank, extent))
        V.append(_basis(p[-1], edge.digest, number).astype(dtype))
        start = end
    left, right = (p, edge.V) if edge.is_right else (edge.V, p)
    term = Term(tuple(left), tuple(right), both[start:])
    return Edge.of(V, edge.t + 1, term, edge.digest)


def _basis(p: Rows, key: int, number: int) -> NDArray[np.float64]:
    found = orthonormalised(p)
    if found.any(axis=1).all():
        return found
    return orthonormalised(p, spare=drawn(key, number, *p.shape))


def applied(x: Vector, split: Split, terms: Sequence[tuple[float, Term]]) -> Vector:
    """Return x + Σ weight·term, in the dtype of ``x``."""
    found = widened(x)
    for number, matrix in enumerate(split.matrices):
        left = np.concatenate([weight * term.left[number] for weight, term in terms])
        right = np.concatenate([term.right[number] for _, term in terms])
        X = matrix.of(found)
        X += left.T @ right
    total = np.zeros(split.plain_size, found.dtype)
    for weight, term in terms:
        total += weight * term.plain
    start = 0
    for run in split.plain:
        end = start + run.stop - run.start
        found[run] += total[start:end]
        start = end
    return narrowed(found, x)


def packed(edges: Mapping[str, Edge]) -> tuple[dict[str, Vector], dict[str, Any]]:
    """Return edges, by neighbour, as vectors and as facts for JSON."""
    arrays: dict[str, Vector] = {}
    for j, edge in edges.items():
        arrays[f"v/{j}"] = _joined(edge.V)
        if edge.last is not None:
            arrays[f"left/{j}"], arrays[f"right/{j}"] = map(
                _joined, (edge.last.left, edge.last.right)
            )
            arrays[f"plain/{j}"] = edge.last.plain
    return arrays, {"edges": {j: [edge.t, edge.before] for j, edge in edges.items()}}


def unpacked(
    arrays: Mapping[str, Vector], facts: Mapping[str, Any], split: Split, dtype: np.dtype[Any]
) -> dict[str, Edge]:
    """Return the edges of ``packed``, but for those of another dtype or layout."""
    found: dict[str, Edge] = {}
    left, right = sizes(split.matrices)
    for j, (t, before) in facts.get("edges", {}).items():
        V = arrays[f"v/{j}"]
        if V.size != (left if t % 2 else right) or V.dtype != dtype:
            continue
        last = None
        if before is not None:
            last = Term(
                _parted(arrays[f"left/{j}"], split, rows=True),
                _parted(arrays[f"right/{j}"], split, rows=False),
                arrays[f"plain/{j}"],
            )
        found[j] = Edge.of(_parted(V, split, rows=t % 2 == 1), t, last, before)
    return found


def _joined(factors: Sequence[Rows]) -> Vector:
    flat = [rows.reshape(-1) for rows in factors]
    return np.concatenate(flat) if flat else np.zeros(0, np.float32)


def _parted(flat: Vector, split: Split, *, rows: bool) -> tuple[Rows, ...]:
    found, start = [], 0
    for matrix in split.matrices:
        extent = matrix.rows if rows else matrix.columns
        end = start + matrix.rank * extent
        found.append(flat[start:end].reshape(matrix.rank, extent))
        start = end
    return tuple(found)
