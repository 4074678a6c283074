"""Two bytes a value: float16 and bfloat16, rounded to the nearest, ties to even.

Invariant: finite values stay finite, and a vector whose largest magnitude is common to the format
is sent as it is; any other is divided by a power of two, ``scale``, before it is rounded, which
costs nothing and keeps small differences of models from becoming zero. numpy has no bfloat16: its
bits are made of those of float32.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import frexp, ldexp
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import BLOCK
from gossipnode.codecs.claims import check_nbytes, claimed, dtype_of, refuse
from gossipnode.codecs.norms import blocks, largest

# Exponents of a scale, by the vector's dtype: it and its inverse are normal numbers, and 2^16 times
# the greatest is the end of the dtype's range.
_EXPONENTS: Final = {"float32": (-126, 112), "float64": (-1022, 1008)}
# The largest magnitude divided by the scale is 2^14 to 2^15, where the exponents allow that.
_TOP: Final = 15

Halves = NDArray[np.uint16]


class _Half(Codec):
    """What both have in common; ``common`` bounds the magnitudes that need no scale."""

    common: ClassVar[tuple[float, float]]
    # The largest that is below 2^16, and so, times the greatest scale, in the dtype's range.
    ceiling: ClassVar[float]

    def encode(self, x: Vector, seed: int = 0) -> Coded:  # noqa: ARG002 - nothing is drawn
        """Return ``x`` in two bytes a value; see ``Codec.encode``."""
        exponent = self._exponent(largest(x), x.dtype.name)
        data = np.empty(2 * x.size, np.uint8)
        scratch = np.empty(min(x.size, BLOCK), x.dtype)
        halves = np.empty(scratch.size, "<u2")
        for at in blocks(x.size):
            n = at.stop - at.start
            block, half = scratch[:n], halves[:n]
            if exponent == 0:
                np.copyto(block, x[at])
            else:
                np.multiply(x[at], x.dtype.type(ldexp(1.0, -exponent)), out=block)
                np.clip(block, -self.ceiling, self.ceiling, out=block)
            self._narrow(block, half)
            data[2 * at.start : 2 * at.stop] = half.view(np.uint8)
        scale = ldexp(1.0, exponent) if exponent else None
        return Coded(self.name, x.dtype.name, x.size, data, scale=scale)

    def _exponent(self, magnitude: float, dtype: str) -> int:
        """Return the scale's logarithm to base 2; 0 where the vector needs none."""
        if magnitude == 0 or self.common[0] <= magnitude <= self.common[1]:
            return 0
        least, greatest = _EXPONENTS[dtype]
        return max(least, min(greatest, frexp(magnitude)[1] - _TOP))

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Look at nbytes and scale; see ``Codec.check``."""
        check_nbytes(coding, 2 * coding.size)
        if coding.scale is not None:
            least, greatest = _EXPONENTS[dtype_of(coding).name]
            scale = claimed("scale", coding.scale, ldexp(1.0, least), ldexp(1.0, greatest))
            if frexp(scale)[0] != 0.5:
                refuse("scale", "is no power of two")

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return the values times the scale; see ``Codec.decode``."""
        out = np.empty(coding.size, dtype_of(coding))
        halves = np.empty(min(coding.size, BLOCK), "<u2")
        for at in blocks(coding.size):
            half, block = halves[: at.stop - at.start], out[at]
            half.view(np.uint8)[:] = data[2 * at.start : 2 * at.stop]
            # Signalling NaN and infinity of a stranger: whoever mixes refuses them.
            with np.errstate(invalid="ignore", over="ignore"):
                cls._widen(half, block)
                if coding.scale is not None:
                    block *= block.dtype.type(coding.scale)
        return out

    @classmethod
    @abstractmethod
    def _narrow(cls, block: NDArray[Any], out: Halves) -> None:
        """Round ``block``, which it may spoil."""

    @classmethod
    @abstractmethod
    def _widen(cls, half: Halves, out: NDArray[Any]) -> None:
        """Write what the bits in ``half`` stand for."""


class Float16(_Half):
    """IEEE 754 binary16: |C(x)_i − x_i| ≤ 2⁻¹¹|x_i|, or ≤ 2⁻²⁵·scale where |x_i| < 2⁻¹⁴·scale.

    Sent as it is where max |x_i| is 2⁻⁴ to 65504.
    """

    name: ClassVar[str] = "float16"
    common = (2.0**-4, 65504.0)
    ceiling = 65504.0

    def delta(self, d: int) -> float:
        """Return 1 − 2⁻²² − d·2⁻⁴²; the largest magnitude must be a normal number."""
        return max(0.0, 1 - 2.0**-22 - d * 2.0**-42)

    @classmethod
    def _narrow(cls, block: NDArray[Any], out: Halves) -> None:
        np.copyto(out.view("<f2"), block, casting="same_kind")

    @classmethod
    def _widen(cls, half: Halves, out: NDArray[Any]) -> None:
        np.copyto(out, half.view("<f2"))


class BFloat16(_Half):
    """The upper half of a float32: |C(x)_i − x_i| ≤ 2⁻⁸|x_i| where |x_i| ≥ 2⁻¹²⁶·scale.

    Sent as it is where max |x_i| is 2⁻⁶⁰ to (2 − 2⁻⁷)2¹²⁷. Float32 above that become that, and
    not infinite.
    """

    name: ClassVar[str] = "bfloat16"
    common = (2.0**-60, (2 - 2.0**-7) * 2.0**127)
    ceiling = (2 - 2.0**-7) * 2.0**15

    def delta(self, d: int) -> float:
        """Return 1 − 2⁻¹⁶ − d·2⁻⁴⁸; the largest magnitude must be a normal number."""
        return max(0.0, 1 - 2.0**-16 - d * 2.0**-48)

    @classmethod
    def _narrow(cls, block: NDArray[Any], out: Halves) -> None:
        if block.dtype == np.float64:
            # By way of float32 alone it would be rounded twice.
            block = _to_eight_bits(block).astype(np.float32)
        word = block.view(np.uint32)
        # Adding just less than half of what is cut off, and the last bit kept, is ties to even.
        rounded = (word >> np.uint32(16)) & np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += word
        rounded >>= np.uint32(16)
        np.copyto(out, rounded, casting="unsafe")

    @classmethod
    def _widen(cls, half: Halves, out: NDArray[Any]) -> None:
        word = half.astype(np.uint32)
        word <<= np.uint32(16)
        np.copyto(out, word.view(np.float32))


def _to_eight_bits(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to eight significant bits, ties to even."""
    word = block.view(np.uint64)
    rounded = (word >> np.uint64(45)) & np.uint64(1)
    rounded += np.uint64(2**44 - 1)
    rounded += word
    rounded &= np.uint64(2**64 - 2**45)
    return rounded.view(np.float64)
