"""Top-k: the k coordinates of largest magnitude, the others zero.

Invariant: exactly k coordinates, ties going to the lowest position, on every platform: magnitudes
are compared by their bits, so no rounding takes part. Randomness may not enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from gossipnode.codecs.base import Bytes, Codec, Coded, Coding, Tensor, Vector
from gossipnode.codecs.bits import check_padding, pack, packed_bytes, unpack
from gossipnode.codecs.claims import claimed, dtype_of, largest_of, refuse
from gossipnode.codecs.indices import (
    BLOCK,
    SIZE_MAX,
    Positions,
    fault,
    index_nbytes_max,
    pack_positions,
    position_dtype,
    unpack_positions,
)

BITS: Final = (32, 16, 8, 4, 1)
_COUNT_BYTES_MAX: Final = 6  # 7 bits each, for k up to SIZE_MAX = 2⁴⁰
# Elements to a histogram: with fewer, clearing and adding its 2¹⁶ counters costs more than the
# counting (25 M elements in 0.27 s by 2¹⁶, 0.037 s by 2¹⁸). Where there are no more altogether,
# they are partitioned: 10⁵ in 0.5 ms, not 2.
_COUNTED: Final = 2**18
# Of the bounds in ``delta``, for the roundings of float32, which are 2⁻²⁴ each.
_SLACK: Final = 1 - 2.0**-20

Read = Callable[[int, int], Vector]


class TopK(Codec):
    """Keep the max(1, fraction·d) coordinates of largest magnitude, in ``bits`` bits each.

    fraction·d, a product of doubles, is rounded to the nearest integer, halves to the even one.
    ``bits``: 32 sends the values as they are (64 bits each if they are float64), 16 as float16 of
    value / largest, 8 and 4 a sign and the nearest of 2ᵇⁱᵗˢ⁻¹ magnitudes from the smallest kept
    to the largest, 1 a sign, for which the mean magnitude stands.

    Source: Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", 2018, definition 2.2.
    """

    name = "topk"

    def __init__(self, fraction: float, bits: int = 32) -> None:
        assert 0 < fraction <= 1, fraction
        assert bits in BITS, bits
        self.fraction, self.bits = fraction, bits

    def count(self, d: int) -> int:
        """Return k, how many of ``d`` >= 1 coordinates are kept."""
        return min(d, max(1, round(self.fraction * d)))

    def encode(self, x: Vector, seed: int = 0) -> Coded:  # noqa: ARG002 - nothing is drawn
        """Return the k largest of ``x``; ``seed`` is not used. See ``Codec.encode``."""
        d, k = x.size, self.count(x.size)
        bits = 8 * x.itemsize if self.bits == 32 else self.bits
        positions = largest(x, k)
        zero, scale = _range(x, positions, bits)
        count, index = _packed_count(k), pack_positions(positions, d)
        first, last = len(count), len(count) + packed_bytes(k, bits)
        data = np.empty(last + index.size, np.uint8)
        data[:first], data[last:] = np.frombuffer(count, np.uint8), index
        _write_values(x, positions, bits, zero, scale, data[first:last])
        has_scale, has_zero = bits <= 16, bits in (4, 8)
        return Coded(
            self.name, x.dtype.name, d, data, bits=bits,
            scale=scale if has_scale else None, zero=zero if has_zero else None,
        )  # fmt: skip

    def delta(self, d: int) -> float:
        """Return a proven δ; of narrow values for vectors without subnormal numbers.

        With t the smallest kept magnitude, which bounds all that are left out, M the largest and
        k > 1:

        - as they are: ‖x_k‖² ≥ (k/d)‖x‖².
        - 16 bits: float16 is off by at most 2⁻¹¹ of the value or 2⁻²⁵M, then doubled at most by
          rounding to the vector's type, which has the value itself: Σe² ≤ 4(2⁻²² + k2⁻⁵⁰)‖x_k‖².
        - 8 and 4: v is off by e ≤ min(v − t, E), E = aM, a = ½/(2ᵇ⁻¹ − 1), and M not at all. Let
          1 − δ bound the error: each v needs (1 − δ)v² − e² ≥ (1 − δ)t² − δE², whose left side
          is least at v = t or t + E. Summed: δ ≤ (M² + (k−1)t²) / (M² + (d−1)t² + (k−2)a²M²), of
          which the least over t²/M² in [0, 1] is at an end.
        - 1: the error is ‖x‖² − ‖x_k‖₁²/k exactly. Let ‖x_k‖₁ = 1: ‖x‖² is convex in x_k, so at
          most one kept value is above t, and convex in t, so t = 0 or 1/k: at most 1 or d/k².
        """
        k = self.count(d)
        if self.bits == 32 or (k == 1 and self.bits != 16):
            return k / d
        if self.bits == 16:
            return k / d * max(0.0, _SLACK - k * 2.0**-48)
        if self.bits == 1:
            return min(1 / k, k / d) * _SLACK
        a: float = 0.5 / (2 ** (self.bits - 1) - 1) + 2.0**-23
        noise = (k - 2) * a * a
        return min(1 / (1 + noise), k / (d + noise)) * _SLACK

    @classmethod
    def check(cls, coding: Coding, tensors: Sequence[Tensor]) -> None:  # noqa: ARG003
        """Raise ``PeerError`` unless bits, scale, zero and nbytes fit; see ``Codec.check``."""
        d, bits = coding.size, coding.bits
        if d > SIZE_MAX:
            refuse("size", f"is above {SIZE_MAX}, the most that topk takes")
        if bits not in (1, 4, 8, 16, 8 * dtype_of(coding).itemsize):
            refuse("bits", f"is no width of values that topk has for {coding.dtype}")
        if bits <= 16:
            scale = claimed("scale", coding.scale, 0, largest_of(coding))
            if bits in (4, 8):
                claimed("zero", coding.zero, 0, scale)
        least = 1 + packed_bytes(1, bits) + 1
        most = len(_packed_count(d)) + packed_bytes(d, bits) + index_nbytes_max(d)
        if not least <= coding.nbytes <= most:
            refuse("nbytes", f"is not {least} to {most}, which size and bits allow")

    @classmethod
    def decode(cls, coding: Coding, data: Bytes, tensors: Sequence[Tensor]) -> Vector:  # noqa: ARG003
        """Return the vector, zero but for k coordinates; see ``Codec.decode``."""
        d, bits = coding.size, coding.bits
        assert bits is not None
        k, first = _unpacked_count(data, d)
        last = first + packed_bytes(k, bits)
        if last >= data.size:
            raise fault(f"{k} values of {bits} bits and their index do not fit {data.size} bytes")
        check_padding(data[first:last], k, bits)
        positions = unpack_positions(data[last:], k, d)
        out = np.zeros(d, dtype_of(coding))
        # A stranger's float16 may be infinite or NaN, as the contract allows.
        with np.errstate(over="ignore", invalid="ignore"):
            read = _reader(coding, data[first:last])
            for start in range(0, k, BLOCK):
                block = positions[start : start + BLOCK]
                out[block] = read(start, block.size)
        return out


def largest(x: Vector, k: int) -> Positions:
    """Return the ``k`` positions of largest magnitude, increasing; of ties, the lowest."""
    threshold, ties = _threshold(x, k)
    positions, filled = np.empty(k, position_dtype(x.size)), 0
    for start in range(0, x.size, 2 * BLOCK):
        m = _magnitudes(x[start : start + 2 * BLOCK])
        kept = m > threshold
        if ties:
            tied = np.flatnonzero(m == threshold)[:ties]
            kept[tied] = True
            ties -= tied.size
        found = np.flatnonzero(kept)
        np.add(found, start, out=positions[filled : filled + found.size], casting="unsafe")
        filled += found.size
    return positions


def _magnitudes(x: Vector) -> Positions:
    """Return the bits of |x| as unsigned integers, which are in the order of |x|."""
    unsigned = np.dtype(f"u{x.itemsize}")
    bits: Positions = x.view(unsigned) & unsigned.type(2 ** (8 * x.itemsize - 1) - 1)
    return bits


def _threshold(x: Vector, k: int) -> tuple[Any, int]:
    """Return the k-th largest magnitude and how many of those equal to it are kept.

    Digit by digit, 16 bits each, by counting: no copy, and no input is slower than others.
    """
    if x.size <= _COUNTED:
        m = _magnitudes(x)
        threshold = np.partition(m, x.size - k)[x.size - k]
        return threshold, k - int(np.count_nonzero(m > threshold))
    found, width = 0, 8 * x.itemsize
    for shift in range(width - 16, -1, -16):
        counts = np.zeros(2**16, np.int64)
        for start in range(0, x.size, _COUNTED):
            m = _magnitudes(x[start : start + _COUNTED])
            if shift < width - 16:
                m = m[m >> m.dtype.type(shift + 16) == m.dtype.type(found)]
            counts += np.bincount(
                (m >> m.dtype.type(shift)) & m.dtype.type(0xFFFF), minlength=2**16
            )
        above = np.cumsum(counts[::-1])
        digit = int(np.searchsorted(above, k))  # from the top
        k -= int(above[digit - 1]) if digit else 0
        found = found << 16 | 0xFFFF - digit
    return np.dtype(f"u{x.itemsize}").type(found), k


def _kept(x: Vector, positions: Positions) -> Iterator[tuple[int, Vector]]:
    """Give the values at ``positions`` block by block, each with its first one's number."""
    for start in range(0, positions.size, BLOCK):
        yield start, x[positions[start : start + BLOCK]]


def _range(x: Vector, positions: Positions, bits: int) -> tuple[float, float]:
    """Return the smallest and largest magnitude kept; of 1 bit, the mean as the latter."""
    low, high = np.inf, 0.0
    if bits > 16:
        return 0.0, 0.0
    for _, values in _kept(x, positions):
        m = np.abs(values)
        low, high = min(low, float(m.min())), max(high, float(m.max()))
    if bits > 1 or high == 0:
        return low, high
    # By the largest first, for the sum of float64 may be too large for one.
    total = sum(float((np.abs(v).astype(np.float64) / high).sum()) for _, v in _kept(x, positions))
    return low, total / positions.size * high


def _write_values(
    x: Vector, positions: Positions, bits: int, zero: float, scale: float, out: Bytes
) -> None:
    """Write the values at ``positions`` to ``out``."""
    for start, values in _kept(x, positions):
        if bits > 16:
            block = values.astype(f"<f{bits // 8}", copy=False).view(np.uint8)
        elif bits == 16:
            parts = values.astype(np.float64) / (scale or 1.0)
            block = parts.astype("<f2").view(np.uint8)
        else:
            codes = (values < 0).astype(np.uint8) << np.uint8(bits - 1)
            if bits > 1:
                codes |= _nearest(np.abs(values), 2 ** (bits - 1) - 1, zero, scale)
            block = np.empty(packed_bytes(codes.size, bits), np.uint8)
            pack(codes, bits, block)
        out[start * bits // 8 :][: block.size] = block


def _nearest(m: Vector, steps: int, zero: float, scale: float) -> Bytes:
    """Return which of the magnitudes zero + (scale − zero)·j/steps is nearest to each of ``m``."""
    parts = m.astype(np.float64)
    parts -= zero
    parts /= (scale - zero) or 1.0
    parts *= steps
    return np.rint(parts, out=parts).astype(np.uint8)


def _reader(coding: Coding, data: Bytes) -> Read:
    """Return what reads from ``data`` the values from a multiple of ``BLOCK`` on, so many."""
    bits, scale = coding.bits, float(coding.scale or 0)
    assert bits is not None
    if bits > 16:
        values = data.view(f"<f{bits // 8}")
        return lambda start, n: values[start : start + n]
    if bits == 16:
        parts = data.view("<f2")
        return lambda start, n: parts[start : start + n].astype(np.float64) * scale
    steps = 2 ** (bits - 1) - 1
    zero = float(coding.zero or 0) if steps else scale
    levels = np.arange(steps + 1) / max(steps, 1) * (scale - zero) + zero
    table = np.concatenate([levels, -levels]).astype(dtype_of(coding))

    def read(start: int, n: int) -> Vector:
        codes = np.empty(n, np.uint8)
        unpack(data[start * bits // 8 :][: packed_bytes(n, bits)], bits, codes)
        return table[codes]

    return read


def _packed_count(k: int) -> bytes:
    """Return ``k`` in bytes of 7 bits, lowest first, the highest bit set in all but the last."""
    out = bytearray()
    while k > 0x7F:
        out.append(k & 0x7F | 0x80)
        k >>= 7
    out.append(k)
    return bytes(out)


def _unpacked_count(data: Bytes, d: int) -> tuple[int, int]:
    """Return k, from 1 to ``d``, and how many bytes of ``data`` tell it."""
    k = 0
    for n, byte in enumerate(data[:_COUNT_BYTES_MAX].tolist()):
        k |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            if byte == 0 or k > d:
                raise fault(f"topk keeps 1 to {d} elements, written shortly, not {k}")
            return k, n + 1
    raise fault("topk does not tell how many elements it keeps")
