"""Uniform levels between the least and the greatest value, rounded to at random.

Invariant: decoded is lo·(n − c)/n + hi·c/n of code c, n = 2^b − 1, so both ends come back exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import packed_bytes
from gossipnode.codecs.claims import check_nbytes, claimed, largest_of, refuse
from gossipnode.codecs.norms import extremes, power_for
from gossipnode.codecs.rounding import Fit, looked_up, ones, rounded

BITS_MAX: Final = 8


class Uniform(Codec):
    """Q(x)_i is one of the two levels lo + kΔ around x_i, at random, so that E Q(x) = x.

    lo = min x, hi = max x, Δ = (hi − lo)/(2^b − 1) with b = ``bits``, 1 to 8. A value between two
    levels has E(Q(x)_i − x_i)² ≤ Δ²/4, lo and hi none. As (hi − lo)² ≤ 2(lo² + hi²) ≤ 2‖x‖²,
    E‖Q(x) − x‖² ≤ ω‖x‖² with ω = max(0, d − 2)/(2(2^b − 1)²).
    ``contractive`` sends C(x) = a·Q(x) instead, a = max(0, ⟨x, Q(x)⟩/‖Q(x)‖²) as it came out:
    ‖x − C(x)‖² = ‖x‖² − ⟨x, Q(x)⟩²/‖Q(x)‖², or ‖x‖² where a = 0. No other a ≥ 0 comes closer, nor
    does 1/(1 + ω), with which the mean is at most (1 − 1/(1+ω))‖x‖²: so C's is as well. An a that
    takes an end out of the dtype's range is lessened until it fits, to no less than 1.
    """

    name: ClassVar[str] = "uniform"
    draws = True

    def __init__(self, bits: int, contractive: bool = False) -> None:
        assert 1 <= bits <= BITS_MAX, f"{bits} bits"
        self.bits = bits
        self.contractive = contractive
        self.is_unbiased = not contractive

    def omega(self, d: int) -> float:
        """Return max(0, d − 2)/(2(2^b − 1)²)."""
        levels: int = 2**self.bits - 1
        return max(0, d - 2) / (2 * levels**2)

    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return the codes, the least value and the greatest; see ``Codec.encode``."""
        low, high = extremes(x)
        power = power_for(x, max(-low, high))
        # float64 holds the spread of any float32; the power sees to that of float64.
        spread = high * power - low * power
        n = 2**self.bits - 1
        factor = n * ones(self.bits) / spread if spread else 0.0
        # Where all are equal, and of two, Q(x) is x.
        fits = self.contractive and spread > 0 and x.size > 2
        fit = (
            Fit(self.bits, shift=low * power * n / spread, step=spread / n, power=power)
            if fits
            else None
        )
        data = rounded(x, self.bits, seed, factor=factor, power=power, low=low * power, fit=fit)
        if fit is not None:
            low, high = _scaled(fit.best(), low, high, float(np.finfo(x.dtype).max))
        return Coded(self.name, x.dtype.name, x.size, data, bits=self.bits, zero=low, scale=high)

    def delta(self, d: int) -> float:
        """Return 1/(1 + ω) if contractive, else 1 − ω or 0."""
        omega = self.omega(d)
        return 1 / (1 + omega) if self.contractive else max(0.0, 1 - omega)

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Look at bits, nbytes, zero and scale; see ``Codec.check``."""
        bits = coding.bits
        if bits is None or not 1 <= bits <= BITS_MAX:
            refuse("bits", f"is not 1 to {BITS_MAX}")
        check_nbytes(coding, packed_bytes(coding.size, bits))
        most = largest_of(coding)
        low = claimed("zero", coding.zero, -most, most)
        claimed("scale", coding.scale, low, most)

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return lo·(n − c)/n + hi·c/n of each code c; see ``Codec.decode``."""
        assert coding.bits is not None, "checked before"
        assert coding.zero is not None, "checked before"
        assert coding.scale is not None, "checked before"
        n, low, high = 2**coding.bits - 1, coding.zero, coding.scale

        def levels(c: NDArray[np.float64]) -> NDArray[np.float64]:
            found: NDArray[np.float64] = low * ((n - c) / n) + high * (c / n)
            return found

        return looked_up(coding, data, coding.bits, n + 1, levels)


def _scaled(a: float, low: float, high: float, most: float) -> tuple[float, float]:
    """Return a·low and a·high, with a lessened where one of them is beyond ±``most``."""
    a = min(a, most / max(-low, high))
    return max(-most, a * low), min(most, a * high)
