"""Norms of a vector, the same bits on every machine.

Invariant: sums are of float64 and in an order of their own, by adding of halves. The order of
numpy's reductions differs between its versions (1.26 and 2.4), that of BLAS between processors:
neither may enter. No temporary is longer than a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import frexp, fsum, ldexp, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Vector
from gossipnode.codecs.bits import BLOCK

# Within these, squares of float64 neither overflow nor vanish, 2^64 of them summed.
_COMMON: Final = (2.0**-400, 2.0**400)
_EXPONENT_MAX: Final = 1000

Block = NDArray[np.float64]


def blocks(size: int) -> Iterator[slice]:
    """Yield the blocks of a vector of ``size`` elements, in order."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def scratch_for(size: int) -> Block:
    """Return what holds a block of ``size`` elements: a power of two, to be halved to the end."""
    return np.empty(1 << (min(size, BLOCK) - 1).bit_length())


def extremes(x: Vector) -> tuple[float, float]:
    """Return (min, max) of ``x``, exactly."""
    found = [(np.minimum.reduce(x[at]), np.maximum.reduce(x[at])) for at in blocks(x.size)]
    return float(min(low for low, _ in found)), float(max(high for _, high in found))


def largest(x: Vector) -> float:
    """Return max |x_i|, exactly."""
    low, high = extremes(x)
    return max(-low, high)


def power_for(x: Vector, magnitude: float | None = None) -> float:
    """Return the power of two to multiply ``x`` by before it is squared or divided by.

    1 for float32, which fits into float64 squared, and for common float64; elsewhere it brings
    ``magnitude``, by default the largest, near 1.
    """
    if x.dtype == np.float32:
        return 1.0
    magnitude = largest(x) if magnitude is None else magnitude
    if magnitude == 0 or _COMMON[0] <= magnitude <= _COMMON[1]:
        return 1.0
    _, exponent = frexp(magnitude)
    return ldexp(1.0, max(-_EXPONENT_MAX, min(_EXPONENT_MAX, -exponent)))


def mean_magnitude(x: Vector) -> float:
    """Return ‖x‖₁/d."""
    power = power_for(x)
    return _sum(x, power, lambda block: np.absolute(block, out=block)) / x.size / power


def euclidean(x: Vector, power: float) -> float:
    """Return ‖x·power‖₂, at least max |x_i·power|; ``power`` is of ``power_for``."""
    return sqrt(_sum(x, power, lambda block: np.multiply(block, block, out=block)))


def _sum(x: Vector, power: float, change: Callable[[Block], Any]) -> float:
    """Return the sum over i of what ``change`` makes of x_i·power."""
    scratch = scratch_for(x.size)
    sums = []
    for at in blocks(x.size):
        block = scratch[: at.stop - at.start]
        np.copyto(block, x[at])
        if power != 1.0:
            block *= power
        change(block)
        sums.append(folded(scratch, block.size))
    return fsum(sums)


def folded(scratch: Block, n: int) -> float:
    """Return the sum of the first ``n``, by adding the second half to the first until one is left.

    ``scratch`` has a power of two of elements, and is lost.
    """
    scratch[n:] = 0
    block = scratch
    while block.size > 1:
        half = block.size // 2
        block = np.add(block[:half], block[half:], out=block[:half])
    return float(block[0])
