"""docs/wire.md on sparse codecs, read literally: bit by bit, without numpy. Judges the fast one."""

from __future__ import annotations

import struct

WORD = 2**64


class MalformedError(Exception):
    """The bytes are no encoding of anything."""


def need(true: bool) -> None:
    if not true:
        raise MalformedError


class Bits:
    """A string of bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self.bits = [byte >> b & 1 for byte in data for b in range(8)]
        self.at = 0

    def number(self, width: int) -> int:
        need(self.at + width <= len(self.bits))
        self.at += width
        return sum(bit << b for b, bit in enumerate(self.bits[self.at - width : self.at]))

    def zeros(self) -> int:
        count = 0
        while self.number(1) == 0:
            count += 1
        return count

    def pad(self) -> None:
        need(self.number(-self.at % 8) == 0)

    def end(self) -> None:
        self.pad()
        need(self.at == len(self.bits))


def positions(data: bytes, k: int, d: int) -> list[int]:
    need(len(data) > 0)
    method, bits = data[0], Bits(data[1:])
    if method == 0:
        need(k == d)
        found = list(range(d))
    elif method == 1:
        found = [c for c in range(d) if bits.number(1)]
    elif method == 2:
        lengths = [bits.zeros() for _ in range(k)]
        bits.pad()
        need(all(n < 64 for n in lengths))
        found, last = [], -1
        for n in lengths:
            last += 2**n + bits.number(n)
            found.append(last)
    else:
        need(64 <= method <= 127)
        r = method - 64
        lows = [bits.number(r) for _ in range(k)]
        bits.pad()
        found, last = [], -1
        for low in lows:
            last += 1 + (bits.zeros() << r) + low
            found.append(last)
        need(2**r <= d)
    bits.end()
    need(len(found) == k and found[-1] < d)
    return found


def least_bytes(found: list[int], d: int) -> int:
    """The fewest bytes of all methods and parameters, tried one by one."""
    k = len(found)
    if k == d:
        return 1
    gaps = [b - a - 1 for a, b in zip([-1, *found[:-1]], found, strict=True)]
    logs = sum((gap + 1).bit_length() - 1 for gap in gaps)
    sizes = [-(-d // 8), -(-(k + logs) // 8) + -(-logs // 8)]
    sizes += [
        -(-k * r // 8) + -(-(k + sum(gap >> r for gap in gaps)) // 8)
        for r in range(d.bit_length())  # 2ʳ <= d
    ]
    return 1 + min(sizes)


def rounded(value: float, dtype: str) -> float:
    """The value as the vector's type has it."""
    if dtype == "float64":
        return value
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def topk(
    data: bytes, d: int, dtype: str, bits: int, scale: float | None, zero: float | None
) -> list[float]:
    k, used = 0, 0
    while True:
        need(used < min(len(data), 6))
        k |= (data[used] & 127) << 7 * used
        used += 1
        if data[used - 1] < 128:
            break
    need(1 <= k <= d and data[used - 1] > 0)
    stop = used + -(-k * bits // 8)
    need(stop < len(data))
    numbers = Bits(data[used:stop])
    codes = [numbers.number(bits) for _ in range(k)]
    numbers.end()
    out = [0.0] * d
    for position, code in zip(positions(data[stop:], k, d), codes, strict=True):
        out[position] = rounded(_value(code, bits, scale, zero), dtype)
    return out


def _value(code: int, bits: int, scale: float | None, zero: float | None) -> float:
    if bits >= 32:
        form = "<f" if bits == 32 else "<d"
        return float(struct.unpack(form, code.to_bytes(bits // 8, "little"))[0])
    assert scale is not None
    if bits == 16:
        return float(struct.unpack("<e", code.to_bytes(2, "little"))[0]) * scale
    top = 2 ** (bits - 1)
    if bits == 1:
        magnitude = scale
    else:
        assert zero is not None
        magnitude = zero + (scale - zero) * (code % top / (top - 1))
    return -magnitude if code >= top else magnitude


def philox(seed: int, count: int) -> list[int]:
    """The first words of Philox 4x64 with ten rounds, key (seed, 0), counters 1, 2, 3, ..."""
    words: list[int] = []
    block = 0
    while len(words) < count:
        block += 1
        c, key = [block, 0, 0, 0], [seed, 0]
        for _ in range(10):
            p, q = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [q // WORD ^ c[1] ^ key[0], q % WORD, p // WORD ^ c[3] ^ key[1], p % WORD]
            key = [(key[0] + 0x9E3779B97F4A7C15) % WORD, (key[1] + 0xBB67AE8584CAA73B) % WORD]
        words += c
    return words[:count]


def drawn(seed: int, k: int, d: int) -> list[int]:
    words = philox(seed, d)
    return sorted(sorted(range(d), key=lambda c: (words[c], c))[:k])
