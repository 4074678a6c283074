"""Stochastic rounding of a vector to packed codes, and the way back.

Invariant: the code of an element is a function of the element, the numbers told and the seed, bit
for bit, on every machine: only float64 operations that IEEE 754 rounds, and words of Philox.

In fixed point with 32 bits, b of them before the point, the sum of a value and of a uniform
fraction keeps in its upper b bits the value rounded down or up with the right odds::

    t = round(value·2^F)     F = 32 − b
    r = one of 2^F, uniform
    code = ⌊(t + r)/2^F⌋     so E code = t/2^F exactly

Rounding t moves the mean by at most 2^-(F+1), 2^-25 of a level with 8 bits: that is all the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from math import fsum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Coding, Vector
from gossipnode.codecs.bits import BLOCK, code_dtype, pack, packed_bytes, unpack
from gossipnode.codecs.claims import dtype_of
from gossipnode.codecs.norms import Block, blocks, folded, scratch_for
from gossipnode.errors import PeerError

WORD_BITS: Final = 32
_HALF: Final = 2**31
_FEW: Final = 2048  # codes without a table at once: 16 KB

# From codes to what they stand for.
Levels = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def ones(bits: int) -> float:
    """Return 2^F: one level in fixed point with ``bits`` bits before the point."""
    return float(2 ** (WORD_BITS - bits))


def rounded(
    x: Vector, bits: int, seed: int, *, factor: float, power: float = 1.0, low: float = 0.0,
    zero: int = 0, fit: Fit | None = None,
) -> Bytes:  # fmt: skip
    """Return the codes of ``x``, packed: zero + (x·power − low)·factor/2^F, rounded up or down.

    The caller sees to it that every code is 0 to 2^bits − 1; ``factor`` includes the 2^F. ``fit``
    is told of all of them.
    """
    source = np.random.Philox(key=seed)
    data = np.empty(packed_bytes(x.size, bits), np.uint8)
    room = min(x.size, BLOCK)
    values, fixed, codes = (
        scratch_for(room),
        np.empty(room, np.int32),
        np.empty(room, code_dtype(bits)),
    )
    # Fixed point is unsigned, but casts to int32 are four times as fast as those to uint32: what is
    # on both sides of zero fits into one as it is, what is above it is lowered for the cast.
    lowered = 0 if zero else _HALF
    offset = np.uint32(zero * int(ones(bits)) + lowered)
    for at in blocks(x.size):
        n = at.stop - at.start
        value, t, code = values[:n], fixed[:n], codes[:n]
        np.copyto(value, x[at])
        if power != 1.0:
            value *= power
        if low != 0.0:
            value -= low
        value *= factor
        np.rint(value, out=value)
        if lowered:
            value -= lowered
        np.copyto(t, value, casting="unsafe")
        total = t.view(np.uint32)
        total += offset
        total += fractions(source, n, bits)
        total >>= np.uint32(WORD_BITS - bits)
        np.copyto(code, total, casting="unsafe")
        first = at.start * bits // 8
        pack(code, bits, data[first : first + packed_bytes(n, bits)])
        if fit is not None:
            fit.add(x[at], total, values)
    return data


class Fit:
    """The multiple a·q nearest to a vector x, of q_i = step·(c_i + shift)/power with codes c.

    ‖x − a·q‖² = ‖x‖² − 2a⟨x, q⟩ + a²‖q‖² is least at a = ⟨x, q⟩/‖q‖², where it is
    ‖x‖² − ⟨x, q⟩²/‖q‖²; and it is convex, so with any a between 0 and that it is below ‖x‖².
    """

    def __init__(self, bits: int, *, shift: float, step: float = 1.0, power: float = 1.0) -> None:
        self._is_narrow = bits <= 8
        self._wide = np.empty(BLOCK)
        self._shift, self._step, self._power = shift, step, power
        self._products: list[float] = []  # of each block Σ x_i·power·(c_i + shift)
        self._size = self._sum = self._squares = 0  # d, Σ c, Σ c²

    def add(self, x: Vector, code: NDArray[np.uint32], scratch: Block) -> None:
        """Take the next block and its codes, both lost, as is ``scratch``, of ``scratch_for``."""
        value = scratch[: x.size]
        np.copyto(value, code)
        self._size += x.size
        self._sum += int(np.add.reduce(code, dtype=np.uint32))  # of codes to 2^16, 2^31 at most
        if self._is_narrow:  # squares to 2^16
            np.multiply(code, code, out=code)
            self._squares += int(np.add.reduce(code, dtype=np.uint32))
        else:  # their sum is below 2^47: exact, in whatever order numpy adds
            self._squares += int(np.einsum("i,i->", value, value))
        value += self._shift
        if self._power != 1.0:
            value *= self._power
        np.copyto(self._wide[: x.size], x)  # of two types numpy would make one in small pieces
        value *= self._wide[: x.size]
        self._products.append(folded(scratch, x.size))

    def best(self) -> float:
        """Return a; 0 where ⟨x, q⟩ is below 0, or q is zero."""
        shift = self._shift
        # Signs differ, so digits cancel: off by a share ε of d·2⁻⁵² at most. That makes a wrong by
        # ε, and ‖x − a·q‖² by no more than ε²‖x‖², for it is least there.
        squares = self._squares + 2 * shift * self._sum + shift * shift * self._size
        return max(0.0, fsum(self._products) / (self._step * squares)) if squares > 0 else 0.0


def fractions(source: np.random.Philox, n: int, bits: int) -> NDArray[np.uint32]:
    """Return the next ``n`` numbers r, uniform in [0, 2^F), two of each word, its lower half first.

    Of 32 bits the upper F count. After an odd ``n`` half a word is lost.
    """
    words = source.random_raw((n + 1) // 2).astype("<u8", copy=False)
    found: NDArray[np.uint32] = words.view("<u4")[:n]
    found >>= np.uint32(bits)
    return found


def looked_up(coding: Coding, data: Bytes, bits: int, count: int, levels: Levels) -> Vector:
    """Return the vector whose packed codes, below ``count``, are ``data``: ``levels`` of each.

    ``levels`` takes codes as float64, which it may spoil. What is beyond the range of the dtype
    asked for becomes its largest. Raises ``PeerError`` (malformed_frame) for a code that is not
    below ``count``, or bits beyond the last.
    """
    out = np.empty(coding.size, dtype_of(coding))
    codes = np.empty(min(coding.size, BLOCK), code_dtype(bits))
    # A table longer than the vector would let a few bytes claim much more memory than they fill.
    is_short = count > coding.size
    table = None if is_short else _narrowed(levels(np.arange(count, dtype=np.float64)), out.dtype)
    for at in blocks(coding.size):
        code = codes[: at.stop - at.start]
        first = at.start * bits // 8
        unpack(data[first : first + packed_bytes(code.size, bits)], bits, code)
        if np.maximum.reduce(code) >= count:
            raise PeerError("malformed_frame", f"a code is above {count - 1}")
        if table is None:
            for start in range(0, code.size, _FEW):
                few = code[start : start + _FEW].astype(np.float64)
                out[at][start : start + _FEW] = _narrowed(levels(few), out.dtype)
        else:
            np.take(table, code, out=out[at], mode="clip")
    return out


def _narrowed(levels: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return ``levels``, which are lost, in the dtype; beyond its range the largest."""
    most = float(np.finfo(dtype).max)
    return np.clip(levels, -most, most, out=levels).astype(dtype, copy=False)
