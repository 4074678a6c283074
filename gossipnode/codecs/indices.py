"""Which k of d coordinates: sorted distinct positions to few bytes, and back without loss.

Invariant: what is unpacked is k strictly increasing positions below d, whatever the bytes; and
what is packed is the least of four methods, their sizes being computed beforehand. Working
memory is blocks, one array of k positions and at most d flags of a byte. Values may not enter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from gossipnode.codecs.base import Bytes
from gossipnode.errors import PeerError

Positions = np.ndarray[tuple[int], np.dtype[Any]]

# The first byte of a packed index; from RICE on, the parameter is added to it.
ALL: Final = 0
BITMAP: Final = 1
GAMMA: Final = 2
RICE: Final = 64
RICE_MAX: Final = 63

# Sums over a block of steps below 4·SIZE_MAX stay below 2⁶³: 2¹⁵·2⁴².
SIZE_MAX: Final = 2**40
BLOCK: Final = 2**15  # positions at a time; a multiple of 8, so each block begins with a byte
_STRIDE: Final = 2**13  # bytes of flags at a time


def fault(reason: str) -> PeerError:
    """Return the error for bytes that are no encoding of anything."""
    return PeerError("malformed_frame", reason)


def index_nbytes_max(d: int) -> int:
    """Return the most bytes that any choice among ``d`` >= 1 coordinates is packed to."""
    return 1 + _bytes(d)


def position_dtype(bound: int) -> np.dtype[Any]:
    """Return the narrower of uint32 and uint64 that holds all positions below ``bound``."""
    return np.dtype(np.uint32 if bound <= 2**32 else np.uint64)


def pack_positions(positions: Positions, d: int) -> Bytes:
    """Return ``positions``, k >= 1 integers, strictly increasing, below ``d`` <= 2⁴⁰, packed.

    The least number of bytes among the methods; of equally good ones that of the lowest number.
    """
    nbytes, method = _plan(positions, d)
    packed = np.empty(1 + nbytes, np.uint8)
    packed[0], body = method, packed[1:]
    if method == BITMAP:
        _pack_flags(body, (block for _, block in _blocks(positions)))
    elif method == GAMMA:
        _pack_gamma(positions, body)
    elif method >= RICE:
        _pack_rice(positions, method - RICE, body)
    return packed


def unpack_positions(data: Bytes, k: int, d: int) -> Positions:
    """Return the ``k`` positions, strictly increasing and below ``d``, uint32 or uint64.

    ``data`` is a stranger's, and must be used to its last bit; 1 <= k <= d <= 2⁴⁰. Raises
    ``PeerError`` (malformed_frame).
    """
    if data.size == 0:
        raise fault("the index has no bytes")
    method, body = int(data[0]), data[1:]
    if method == ALL:
        if k != d or body.size:
            raise fault("the index says all coordinates, and the part does not")
        return np.arange(d, dtype=position_dtype(d))
    if method == BITMAP:
        return _unpack_bitmap(body, k, d)
    if method == GAMMA:
        return _unpack_gamma(body, k, d)
    if RICE <= method <= RICE + RICE_MAX:
        return _unpack_rice(body, k, d, method - RICE)
    raise fault(f"the index is packed by method {method}, which does not exist")


def _bytes(bits: int) -> int:
    """Return how many bytes so many bits fill."""
    return -(-bits // 8)


def _blocks(positions: Positions) -> Iterator[tuple[int, Positions]]:
    """Give the positions block by block, int64, each with its first one's number."""
    for start in range(0, positions.size, BLOCK):
        yield start, positions[start : start + BLOCK].astype(np.int64)


def _gaps(positions: Positions) -> Iterator[tuple[int, Positions]]:
    """Give how many coordinates are left out before each position, block by block."""
    last = -1
    for start, block in _blocks(positions):
        gaps = _differences(block, last)
        last = int(block[-1])
        yield start, gaps


def _differences(block: Positions, last: int) -> Positions:
    """Return block[i] − block[i−1] − 1 as int64, where ``last`` came before the first."""
    gaps = np.empty(block.size, np.int64)
    gaps[0] = int(block[0]) - last
    np.subtract(block[1:], block[:-1], out=gaps[1:], casting="unsafe")
    gaps -= 1
    return gaps


def _plan(positions: Positions, d: int) -> tuple[int, int]:
    """Return the least (bytes, method).

    Bit b of the gaps, set in c_b of them, tells all: Σ ⌊gap/2ʳ⌋ = Σ_{b≥r} c_b·2ᵇ⁻ʳ.
    """
    k = positions.size
    if k == d:
        return 0, ALL
    c, logs = [0] * d.bit_length(), 0
    for _, gaps in _gaps(positions):
        for b in range((int(gaps.max()) + 1).bit_length()):
            c[b] += int(np.count_nonzero(gaps & (1 << b)))
            logs += int(np.count_nonzero(gaps >= (2 << b) - 1))  # gap + 1 >= 2ᵇ⁺¹
    plans = [(_bytes(d), BITMAP), (_bytes(k + logs) + _bytes(logs), GAMMA)]
    longest = max((b + 1 for b, count in enumerate(c) if count), default=0)
    for r in range(min(longest, d.bit_length() - 1) + 1):  # 2ʳ <= d
        quotients = sum(count << (b - r) for b, count in enumerate(c) if b >= r)
        plans.append((_bytes(k * r) + _bytes(k + quotients), RICE + r))
    return min(plans)


def _pack_flags(body: Bytes, places: Iterator[Positions]) -> None:
    """Set the bits numbered in ``places``, the lowest of a byte first, and no others."""
    flags = np.zeros(8 * body.size, np.bool_)
    for block in places:
        flags[block] = True
    body[:] = np.packbits(flags, bitorder="little")


def _ends(quotients: Iterator[Positions]) -> Iterator[Positions]:
    """Give the bit that ends each quotient written in unary: so many zeros, then a one."""
    last = -1
    for block in quotients:
        block += 1
        np.cumsum(block, out=block)
        block += last
        last = int(block[-1])
        yield block


def _pack_rice(positions: Positions, r: int, body: Bytes) -> None:
    """Write the gaps' lowest ``r`` bits, then the rest of each in unary."""
    lows = _bytes(positions.size * r)
    for start, gaps in _gaps(positions):
        bits = np.empty((gaps.size, r), np.uint8)
        for b in range(r):
            bits[:, b] = (gaps >> b) & 1
        low = np.packbits(bits, bitorder="little")
        body[start * r // 8 :][: low.size] = low
    _pack_flags(body[lows:], _ends(gaps >> r for _, gaps in _gaps(positions)))


def _pack_gamma(positions: Positions, body: Bytes) -> None:
    """Write n = ⌊log₂(gap + 1)⌋ of each in unary, then the n bits below the highest of each."""
    bits = [np.zeros(0, np.bool_)]
    for _, gaps in _gaps(positions):
        n = _lengths(gaps)
        block = np.zeros(int(n.sum()), np.bool_)
        starts = np.cumsum(n) - n
        for b in range(int(n.max())):
            long = np.flatnonzero(n > b)
            block[starts[long] + b] = ((gaps[long] + 1) >> b) & 1
        bits.append(block)
    low = np.packbits(np.concatenate(bits), bitorder="little")
    first = body.size - low.size
    body[first:] = low
    _pack_flags(body[:first], _ends(_lengths(gaps) for _, gaps in _gaps(positions)))


def _lengths(gaps: Positions) -> Positions:
    """Return ⌊log₂(gap + 1)⌋, exactly: a double holds every integer up to 2⁵³."""
    return np.frexp((gaps + 1).astype(np.float64))[1].astype(np.int64) - 1


def _ones(data: Bytes, k: int, dtype: np.dtype[Any]) -> tuple[Positions, int]:
    """Return where the first ``k`` set bits are, and how many bytes they fill.

    Raises ``PeerError`` where there are fewer, or the last one's byte has another after it.
    """
    if k > 8 * data.size:
        raise fault(f"the index has {8 * data.size} bits for {k} positions")
    ones, filled = np.empty(k, dtype), 0
    for start in range(0, data.size, _STRIDE):
        bits = np.unpackbits(data[start : start + _STRIDE], bitorder="little")
        found = np.flatnonzero(bits.view(np.bool_)) + 8 * start
        n = min(found.size, k - filled)
        ones[filled : filled + n] = found[:n]
        filled += n
        if filled == k:
            used = int(ones[-1]) // 8 + 1
            if found.size > n and found[n] < 8 * used:
                raise fault(f"the index has bits set after {k} positions")
            return ones, used
    raise fault(f"the index has {filled} of {k} positions")


def _walk(ones: Positions, d: int, steps_of: Callable[[int, Positions], Positions]) -> Positions:
    """Turn ``ones``, which end the quotients in unary, into positions, in place.

    ``steps_of`` (number of the first, quotients) gives how far to go to each position.
    """
    one, position = -1, -1
    for start in range(0, ones.size, BLOCK):
        block = ones[start : start + BLOCK]
        quotients = _differences(block, one)
        one = int(block[-1])
        walked = np.cumsum(steps_of(start, quotients))
        walked += position
        position = int(walked[-1])
        if position >= d:
            raise fault(f"the index goes past coordinate {d - 1}")
        block[:] = walked
    return ones


def _unpack_bitmap(body: Bytes, k: int, d: int) -> Positions:
    if body.size != _bytes(d):
        raise fault(f"a bitmap of {d} coordinates has {_bytes(d)} bytes, not {body.size}")
    ones, used = _ones(body, k, position_dtype(d))
    if ones[-1] >= d or body[used:].any():
        raise fault(f"the bitmap has more than {k} bits set")
    return ones


def _unpack_rice(body: Bytes, k: int, d: int, r: int) -> Positions:
    lows = _bytes(k * r)
    if 1 << r > d or lows > body.size:
        raise fault(f"the index has {body.size} bytes, too few for {k} remainders of {r} bits")
    low, unary = body[:lows], body[lows:]
    ones, used = _ones(unary, k, position_dtype(max(d, 8 * unary.size)))
    if used != unary.size or not _is_padded(low, k * r):
        raise fault("the index has bits after its last position")
    if int(ones[-1]) + 1 - k << r >= d:
        raise fault(f"the index goes past coordinate {d - 1}")

    def steps(start: int, quotients: Positions) -> Positions:
        n = quotients.size
        flat = np.unpackbits(low[start * r // 8 :][: _bytes(n * r)], bitorder="little")
        bits = flat[: n * r].reshape(n, r)
        quotients <<= r
        for b in range(r):
            quotients |= bits[:, b].astype(np.int64) << b
        quotients += 1
        return quotients

    return _walk(ones, d, steps)


def _unpack_gamma(body: Bytes, k: int, d: int) -> Positions:
    ones, used = _ones(body, k, position_dtype(max(d, 8 * body.size)))
    low, logs = body[used:], int(ones[-1]) + 1 - k
    if low.size != _bytes(logs) or not _is_padded(low, logs):
        raise fault(f"the index has {low.size} bytes for {logs} bits")
    first = 0

    def steps(_start: int, n: Positions) -> Positions:
        nonlocal first
        if int(n.max()) >= d.bit_length():
            raise fault(f"the index goes past coordinate {d - 1}")
        starts = np.cumsum(n) - n + first % 8
        stop = first + int(n.sum())
        bits = np.unpackbits(low[first // 8 : _bytes(stop)], bitorder="little")
        walk = np.left_shift(1, n)
        for b in range(int(n.max())):
            long = np.flatnonzero(n > b)
            walk[long] |= bits[starts[long] + b].astype(np.int64) << b
        first = stop
        return walk

    return _walk(ones, d, steps)


def _is_padded(data: Bytes, bits: int) -> bool:
    """Whether the last byte is zero above ``bits``, which end in it."""
    return bits % 8 == 0 or int(data[-1]) >> bits % 8 == 0
