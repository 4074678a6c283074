"""QSGD: each value a random multiple of ‖x‖₂/s, right in the mean.

Invariant: decoded is norm·(c − s)/s of code c, which is s + x_i·s/‖x‖₂ rounded up or down.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from sys import float_info
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import BITS_MAX, packed_bytes
from gossipnode.codecs.claims import check_nbytes, claimed, refuse
from gossipnode.codecs.norms import euclidean, power_for
from gossipnode.codecs.rounding import Fit, looked_up, ones, rounded

LEVELS_MAX: Final = 2 ** (BITS_MAX - 1) - 1


class QSGD(Codec):
    """Q(x)_i = ‖x‖₂·sign(x_i)·ξ_i/s; E Q(x) = x and E‖Q(x) − x‖² ≤ ω‖x‖².

    ω = min(d/s², √d/s) with s = ``levels``, 1 to 32767; a value takes ⌈log₂(2s+1)⌉ bits.
    ``contractive`` sends C(x) = a·Q(x) instead, a = max(0, ⟨x, Q(x)⟩/‖Q(x)‖²) as it came out:
    ‖x − C(x)‖² = ‖x‖² − ⟨x, Q(x)⟩²/‖Q(x)‖², or ‖x‖² where a = 0. No other a ≥ 0 comes closer, nor
    does 1/(1 + ω), with which the mean is at most (1 − 1/(1+ω))‖x‖²: so C's is as well.
    Decoded values are rounded to the dtype, and those beyond its range become its largest.

    Source: Alistarh et al., NeurIPS 2017, lemma 3.1; 1/(1 + ω): Koloskova et al., ICML 2019.
    Differs from the source: the factor is the best for what was drawn, not for the worst of x.
    """

    name: ClassVar[str] = "qsgd"
    draws = True

    def __init__(self, levels: int, contractive: bool = False) -> None:
        assert 1 <= levels <= LEVELS_MAX, f"{levels} levels"
        self.levels = levels
        self.contractive = contractive
        self.is_unbiased = not contractive

    def omega(self, d: int) -> float:
        """Return min(d/s², √d/s)."""
        return min(d / self.levels**2, sqrt(d) / self.levels)

    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return the codes and the norm; see ``Codec.encode``."""
        s = self.levels
        bits = (2 * s).bit_length()
        power = power_for(x)
        # Of float64 alone can a norm be beyond range; the largest number is still above each |x_i|.
        norm = min(euclidean(x, power), float_info.max * power)
        factor = s * ones(bits) / norm if norm else 0.0
        # To whole numbers c − s: what fits best is a·‖x‖₂/s, the size of a level.
        fit = Fit(bits, shift=-s, power=power) if self.contractive and norm else None
        data = rounded(x, bits, seed, factor=factor, power=power, zero=s, fit=fit)
        if fit is not None:
            norm = min(fit.best() * s, float_info.max * power)
        return Coded(
            self.name, x.dtype.name, x.size, data, bits=bits, norm=norm / power, zero=float(s)
        )

    def delta(self, d: int) -> float:
        """Return 1/(1 + ω) if contractive, else 1 − ω or 0."""
        omega = self.omega(d)
        return 1 / (1 + omega) if self.contractive else max(0.0, 1 - omega)

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Look at norm, zero, bits and nbytes; see ``Codec.check``."""
        claimed("norm", coding.norm, 0.0, float_info.max)
        zero = claimed("zero", coding.zero, 1, LEVELS_MAX)
        if zero != int(zero):
            refuse("zero", "is not whole")
        bits = (2 * int(zero)).bit_length()
        if coding.bits != bits:
            refuse("bits", f"is not {bits}, as zero makes it")
        check_nbytes(coding, packed_bytes(coding.size, bits))

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return norm·(c − s)/s of each code c; see ``Codec.decode``."""
        assert coding.norm is not None, "checked before"
        assert coding.zero is not None, "checked before"
        assert coding.bits is not None, "checked before"
        s, norm = int(coding.zero), coding.norm

        def levels(c: NDArray[np.float64]) -> NDArray[np.float64]:
            c -= s
            c /= s
            c *= norm
            return c

        return looked_up(coding, data, coding.bits, 2 * s + 1, levels)
