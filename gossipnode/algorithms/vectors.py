"""Sums of vectors that the algorithms share.

Each returns a new vector, but for ``add_weighted``, which says what it overwrites.
"""

from __future__ import annotations

import numpy as np

from gossipnode.algorithms.base import Vector
from gossipnode.learning.params import all_finite, scale, weighted_sum_into


def descend(x: Vector, direction: Vector, eta: float) -> Vector:
    """Return x − η·direction."""
    step = np.multiply(direction, eta, dtype=direction.dtype)
    return np.subtract(x, step, out=step)


def decay(m: Vector, g: Vector, share: float) -> Vector:
    """Return share·m + g."""
    found = np.multiply(m, share, dtype=m.dtype)
    found += g
    return found


def renew(y: Vector, new: Vector, old: Vector) -> Vector:
    """Return y + new − old."""
    found = np.subtract(new, old)
    found += y
    return found


def halfway(mixed: Vector, own: Vector) -> Vector:
    """Return (I + W)/2 of own, given W of it."""
    found = np.add(mixed, own)
    found *= 0.5
    return found


def widened(x: Vector) -> Vector:
    """Return a copy of x, float32 at the least: sums of narrow numbers are to round once."""
    return x.astype(np.result_type(np.float32, x))


def narrowed(total: Vector, like: Vector) -> Vector:
    """Return ``total`` in the dtype of ``like``: itself, if it has that."""
    return total.astype(like.dtype, copy=False)


def add_weighted(v: Vector, acc: Vector | None, w: float) -> bool:
    """Set v ← acc + w·v, or w·v where there is no sum yet; True."""
    if acc is None:
        scale(v, w)
    else:
        weighted_sum_into(v, acc, w)
    return True


def add_weighted_and_check(v: Vector, acc: Vector | None, w: float) -> bool:
    """Do as ``add_weighted``; whether the sum is finite."""
    return add_weighted(v, acc, w) and all_finite(v)
