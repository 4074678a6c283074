"""Random-k: k coordinates that a seed draws; the values alone are sent.

Invariant: both ends draw the same k coordinates, from raw words of the generator, for what numpy
makes of the words may change. The values of the vector may not enter the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isqrt
from typing import Any, Final

import numpy as np

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.claims import dtype_of, refuse

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

_BLOCK: Final = 2**14  # words at a time, 128 KiB
_WORDS: Final = 2**64
_SPREAD: Final = 8  # deviations; beyond them is one seed in 10¹⁵


class RandomK(Codec):
    """Keep max(1, fraction·d) coordinates that the seed draws, each k of them as likely.

    fraction·d, a product of doubles, is rounded to the nearest integer, halves to the even one.
    ``unbiased`` multiplies the values by d/k: right on average, and no contraction.

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", 2018, definition 2.2.
    """

    name = "randomk"
    draws = True

    def __init__(self, fraction: float, unbiased: bool = False) -> None:
        assert 0 < fraction <= 1, fraction
        self.fraction, self.is_unbiased = fraction, unbiased

    def count(self, d: int) -> int:
        """Return k, how many of ``d`` >= 1 coordinates are kept."""
        return min(d, max(1, round(self.fraction * d)))

    def encode(self, x: Vector, seed: int = 0) -> Coded:
        """Return the coordinates of ``x`` that ``seed`` draws; see ``Codec.encode``."""
        d, k = x.size, self.count(x.size)
        values = x[drawn(seed, k, d)]
        if self.is_unbiased:
            # What grows beyond the type is sent as infinite, and refused by who receives it.
            with np.errstate(over="ignore"):
                values *= x.dtype.type(d / k)
        data = values.astype(f"<f{x.itemsize}", copy=False).view(np.uint8)
        return Coded(self.name, x.dtype.name, d, data, seed=seed)

    def delta(self, d: int) -> float:
        """Return k/d: E‖x − C(x)‖² = (1 − k/d)‖x‖². Unbiased: 0, for that is (d/k − 1)‖x‖²."""
        return 0.0 if self.is_unbiased else self.count(d) / d

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Raise ``PeerError`` without a seed or with values not 1 to d; see ``Codec.check``."""
        if coding.seed is None:
            refuse("seed", "is missing")
        each = dtype_of(coding).itemsize
        if coding.nbytes % each or not each <= coding.nbytes <= each * coding.size:
            refuse("nbytes", f"is not {each} for each of 1 to {coding.size} values")

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return the vector, zero but for what the seed draws; see ``Codec.decode``."""
        assert coding.seed is not None
        values = data.view(dtype_of(coding).newbyteorder("<"))
        out = np.zeros(coding.size, dtype_of(coding))
        out[drawn(coding.seed, values.size, coding.size)] = values
        return out


# One that is shared by a swarm is drawn for every message of a round: of 10⁶ coordinates in 11 ms.
@lru_cache(maxsize=1)
def drawn(seed: int, k: int, d: int) -> Mask:
    """Return which ``k`` of ``d`` coordinates a seed in [0, 2⁶⁴) draws, 1 <= k <= d; not writable.

    Word c of Philox 4×64 with key ``seed`` belongs to coordinate c; drawn are those of the k
    smallest words, and of equal words those of the lowest coordinates.

    >>> import numpy as np
    >>> np.flatnonzero(drawn(7, 3, 100)).tolist()
    [8, 34, 37]
    """
    mask = np.ones(d, np.bool_) if k == d else _drawn(seed, k, d)
    mask.flags.writeable = False
    return mask


def _drawn(seed: int, k: int, d: int) -> Mask:
    """Return which ``k`` < ``d`` coordinates a seed draws."""
    # The k-th smallest of d uniform words is within a few √(k(1 − k/d))/d of k/d: the words there
    # alone are sorted, and more of them where that was not enough.
    spread = _SPREAD
    while True:
        around = spread * (isqrt(k * (d - k) // d) + 1)
        low = max(0, (k - around) * _WORDS // d)
        high = min(_WORDS, (k + around) * _WORDS // d)
        mask, places, words = _split(seed, d, low, high)
        missing = k - int(np.count_nonzero(mask))
        if 0 <= missing <= places.size:
            mask[places[np.argsort(words, kind="stable")[:missing]]] = True
            return mask
        spread *= 4


def _split(
    seed: int, d: int, low: int, high: int
) -> tuple[Mask, np.ndarray[tuple[int], np.dtype[Any]], np.ndarray[tuple[int], np.dtype[Any]]]:
    """Return which words are below ``low``, and where those in [low, high) are, and by how much.

    0 <= low < high <= 2⁶⁴.
    """
    generator, mask = np.random.Philox(key=seed), np.empty(d, np.bool_)
    places, words = [], []
    for start in range(0, d, _BLOCK):
        block = generator.random_raw(min(_BLOCK, d - start))
        np.less(block, np.uint64(low), out=mask[start : start + _BLOCK])
        block -= np.uint64(low)  # those below wrap around to the far end
        near = np.flatnonzero(block <= np.uint64(high - low - 1))
        places.append(near + start)
        words.append(block[near])
    return mask, np.concatenate(places), np.concatenate(words)
