"""Unsigned integers of 1 to 16 bits, packed without gaps into bytes and read again.

Invariant: bit k of number i is bit i·b + k of a string of bits, whose bit j is bit j mod 8 (of
value 2^(j mod 8)) of byte ⌊j/8⌋: the least significant bit comes first everywhere. What is left of
the last byte is zero. No loop runs over numbers: eight of them are shifted together inside words
of 64 bits, a block of which stays in the processor's cache. What the numbers mean may not enter.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gossipnode.codecs.base import Bytes, Vector
from gossipnode.errors import PeerError

BITS_MAX: Final = 16
# Numbers treated at once by whoever packs, a multiple of 8 (and of 2, see ``rounding``): 256 KB as
# float64 and 128 KB in each of three narrower scratch arrays leave room in 1 MB of cache.
BLOCK: Final = 32_768

_GROUP: Final = 8  # numbers that fill whole bytes, whatever their width
_WORD: Final = np.dtype("<u8")

Words = NDArray[np.uint64]


def packed_bytes(size: int, bits: int) -> int:
    """Return how many bytes ``size`` numbers of ``bits`` bits fill: ⌈size·bits/8⌉."""
    return -(-size * bits // 8)


def code_dtype(bits: int) -> np.dtype[Any]:
    """Return the dtype that unpacked numbers of ``bits`` bits have: uint8 or uint16."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16)


def pack(codes: Vector, bits: int, out: Bytes) -> None:
    """Write ``codes``, shape (d,) of ``code_dtype(bits)``, each below 2^bits, into ``out``.

    ``out`` has ``packed_bytes(d, bits)`` bytes; ``bits`` is 1 to 16.
    """
    assert 1 <= bits <= BITS_MAX, f"{bits} bits"
    assert codes.dtype == code_dtype(bits), codes.dtype
    assert out.size == packed_bytes(codes.size, bits), "as many bytes as the numbers fill"
    for start in range(0, codes.size, BLOCK):
        block = codes[start : start + BLOCK]
        first = start * bits // 8
        _pack_block(block, bits, out[first : first + packed_bytes(block.size, bits)])


def unpack(data: Bytes, bits: int, out: Vector) -> None:
    """Read the numbers of ``data`` into ``out``, shape (d,) of ``code_dtype(bits)``.

    ``data`` has ``packed_bytes(d, bits)`` bytes. Raises ``PeerError`` (malformed_frame) where
    what is left of the last byte is not zero.
    """
    assert 1 <= bits <= BITS_MAX, f"{bits} bits"
    assert out.dtype == code_dtype(bits), out.dtype
    check_padding(data, out.size, bits)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        first = start * bits // 8
        _unpack_block(data[first : first + packed_bytes(block.size, bits)], bits, block)


def check_padding(data: Bytes, size: int, bits: int) -> None:
    """Raise ``PeerError`` (malformed_frame) where the last byte has bits that no number owns."""
    assert data.size == packed_bytes(size, bits), "as many bytes as the numbers fill"
    used = size * bits % 8
    if used and int(data[-1]) >> used:
        raise PeerError("malformed_frame", "the bits after the last number are not zero")


def _pack_block(codes: Vector, bits: int, out: Bytes) -> None:
    if bits == 8 or bits == 16:
        out[:] = codes.astype(codes.dtype.newbyteorder("<"), copy=False).view(np.uint8)
        return
    if bits == 1:
        out[:] = np.packbits(codes, bitorder="little")
        return
    if bits in (2, 4):
        _pack_pairs(codes, bits, out)
        return
    groups = -(-codes.size // _GROUP)
    lanes = np.zeros(groups * _GROUP, codes.dtype.newbyteorder("<"))
    lanes[: codes.size] = codes
    words = lanes.view(_WORD)
    _squeeze(words, bits, lanes.itemsize * 8)
    if bits > 8:
        # A pair of words of 4·bits each becomes one string of 8·bits.
        low, high = words[0::2], words[1::2]
        low |= high << np.uint64(4 * bits)
        high >>= np.uint64(64 - 4 * bits)
    # Byte k of every group at once: half as long as group by group.
    stuffed, step = words.view(np.uint8), _GROUP * lanes.itemsize
    for k in range(bits):
        column = out[k::bits]
        column[:] = stuffed[k::step][: column.size]


def _unpack_block(data: Bytes, bits: int, out: Vector) -> None:
    if bits == 8:
        out[:] = data
        return
    if bits == 16:
        # Copied first: the bytes of a frame may begin at any address.
        out[:] = data.copy().view("<u2")
        return
    if bits == 1:
        out[:] = np.unpackbits(data, count=out.size, bitorder="little")
        return
    if bits in (2, 4):
        _unpack_pairs(data, bits, out)
        return
    groups = -(-out.size // _GROUP)
    words = np.zeros(groups * out.itemsize, _WORD)
    stuffed, step = words.view(np.uint8), _GROUP * out.itemsize
    for k in range(bits):
        column = data[k::bits]
        stuffed[k::step][: column.size] = column
    if bits > 8:
        low, high = words[0::2], words[1::2]
        high <<= np.uint64(64 - 4 * bits)
        high |= low >> np.uint64(4 * bits)
        low &= np.uint64(2 ** (4 * bits) - 1)
    _spread(words, bits, out.itemsize * 8)
    out[:] = words.view(out.dtype.newbyteorder("<"))[: out.size]


def _squeeze(words: Words, bits: int, lane: int) -> None:
    """Move numbers of ``bits`` bits, one every ``lane`` bits, next to each other."""
    moved = np.empty_like(words)
    run, apart = bits, lane  # what lies next to each other, and how far the next such run is
    while apart < 64:
        np.bitwise_and(words, _ones(run, apart, 2 * apart), out=moved)
        words ^= moved
        moved >>= np.uint64(apart - run)
        words |= moved
        run, apart = 2 * run, 2 * apart


def _spread(words: Words, bits: int, lane: int) -> None:
    """Undo ``_squeeze``."""
    moved = np.empty_like(words)
    run, apart = bits * 64 // lane, 64
    while apart > lane:
        run, apart = run // 2, apart // 2
        np.bitwise_and(words, _ones(run, run, 2 * apart), out=moved)
        words ^= moved
        moved <<= np.uint64(apart - run)
        words |= moved


def _pack_pairs(codes: Vector, bits: int, out: Bytes) -> None:
    """Pack 2 or 4 bits, two numbers into one of twice the bits until bytes are full."""
    while bits < 8:
        pairs = np.zeros((codes.size + 1) // 2, "<u2")
        pairs.view(np.uint8)[: codes.size] = codes
        pairs |= pairs >> np.uint16(8 - bits)
        codes, bits = pairs.astype(np.uint8), 2 * bits  # the lower byte
    out[:] = codes


def _unpack_pairs(data: Bytes, bits: int, out: Vector) -> None:
    """Undo ``_pack_pairs``."""
    width = 8
    while width > bits:
        width //= 2
        pairs = data.astype("<u2")
        pairs |= pairs << np.uint16(8 - width)
        pairs &= np.uint16(257 * (2**width - 1))
        data = pairs.view(np.uint8)
    out[:] = data[: out.size]


@cache
def _ones(run: int, first: int, every: int) -> np.uint64:
    """Return the word with ones at ``run`` bits, from bit ``first`` of every ``every`` bits."""
    return np.uint64(sum((2**run - 1) << (at + first) for at in range(0, 64, every)))
