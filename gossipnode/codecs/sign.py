"""Signs and one magnitude: a bit a value.

Invariant: sent is s = sign(x), with sign(0) = +1, and a = ‖x‖₁/d; C(x) = a·s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import BLOCK, check_padding, packed_bytes
from gossipnode.codecs.claims import check_nbytes, claimed, dtype_of, largest_of
from gossipnode.codecs.norms import blocks, mean_magnitude

# The signs of the eight values of each byte: bit k set means that value k is negative.
_SIGNS: Final = 1 - 2 * np.unpackbits(
    np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"
).astype(np.int8)
_SCALE_ROUNDING: Final = 2.0**-24


class Sign(Codec):
    """C(x) = ‖x‖₁/d·sign(x): ‖x − C(x)‖² = ‖x‖² − ‖x‖₁²/d.

    The scale is rounded to the dtype of x, from a to a'; that adds exactly d(a' − a)², at most
    2⁻⁴⁸‖x‖₁²/d for float32, where the scale is a normal number.

    Source: Bernstein et al., ICML 2018; the scale: Karimireddy et al., ICML 2019.
    """

    name: ClassVar[str] = "sign"

    def encode(self, x: Vector, seed: int = 0) -> Coded:  # noqa: ARG002 - nothing is drawn
        """Return the signs of ``x`` and the mean magnitude; see ``Codec.encode``."""
        data = np.empty(packed_bytes(x.size, 1), np.uint8)
        negative = np.empty(min(x.size, BLOCK), np.bool_)
        for at in blocks(x.size):
            block = np.less(x[at], 0, out=negative[: at.stop - at.start])
            first = at.start // 8
            packed = np.packbits(block, bitorder="little")
            data[first : first + packed.size] = packed
        scale = float(x.dtype.type(mean_magnitude(x)))
        return Coded(self.name, x.dtype.name, x.size, data, scale=scale)

    def delta(self, d: int) -> float:
        """Return 1/d, less what the rounding of the scale costs; a single spike attains it."""
        return (1 - _SCALE_ROUNDING**2) / d

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Look at nbytes and scale; see ``Codec.check``."""
        check_nbytes(coding, packed_bytes(coding.size, 1))
        claimed("scale", coding.scale, 0.0, largest_of(coding))

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return ± the scale; see ``Codec.decode``."""
        assert coding.scale is not None, "checked before"
        check_padding(data, coding.size, 1)
        dtype = dtype_of(coding)
        table: NDArray[Any] = np.multiply(_SIGNS, dtype.type(coding.scale), dtype=dtype)
        out = np.empty(coding.size, table.dtype)
        whole = coding.size // 8
        rows = out[: whole * 8].reshape(whole, 8)
        for at in blocks(whole):
            np.take(table, data[at], axis=0, out=rows[at], mode="clip")
        if whole < data.size:
            out[whole * 8 :] = table[data[-1]][: coding.size - whole * 8]
        return out
