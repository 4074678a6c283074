"""The dense codecs once more, number by number in plain Python, as docs/wire.md has them.

And what their tests share: vectors to code, and what a stranger may make of a coding.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossipnode.codecs import check, decode
from gossipnode.errors import PeerError

FLOAT32_MAX = float(np.finfo(np.float32).max)
ODD_SIZES = (1, 2, 3, 7, 8, 9, 63, 64, 65, 1000)


def philox(seed, count):
    """Salmon et al., SC 2011: Philox 4×64 with 10 rounds; the counter begins at 1."""
    low64 = 2**64 - 1
    words = []
    for number in range(1, -(-count // 4) + 1):
        c, k = [number, 0, 0, 0], [seed, 0]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & low64, (a >> 64) ^ c[3] ^ k[1], a & low64]
            k = [(k[0] + 0x9E3779B97F4A7C15) & low64, (k[1] + 0xBB67AE8584CAA73B) & low64]
        words += c
    return words[:count]


def packed(codes, bits):
    """The codes as one number, the first in its lowest bits."""
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    return number.to_bytes((len(codes) * bits + 7) // 8, "little")


def unpacked(data, bits, count):
    number = int.from_bytes(data, "little")
    return [(number >> (i * bits)) % 2**bits for i in range(count)]


def rounded(values, bits, seed):
    """Codes of ``values``, which are in units of 2^-F of a level."""
    F = 32 - bits
    words = philox(seed, (len(values) + 1) // 2)
    codes = []
    for i, value in enumerate(values):
        half = words[i // 2] >> (32 * (i % 2)) & 0xFFFFFFFF
        codes.append((round(value) + (half >> bits)) >> F)
    return codes


def to_float32(value):
    """The nearest float32, or the largest."""
    value = max(-FLOAT32_MAX, min(FLOAT32_MAX, value))
    return struct.unpack("<f", struct.pack("<f", value))[0]


def narrowed(values, dtype):
    return [to_float32(value) if dtype == "float32" else value for value in values]


def added(values):
    """The order of adding that every machine is to have: value i of a half to i of the other."""
    half = 1
    while half < len(values):
        half *= 2
    values = values + [0.0] * (half - len(values))
    while half > 1:
        half //= 2
        values = [values[i] + values[i + half] for i in range(half)]
    return values[0]


def sign_encoded(x):
    return packed([value < 0 for value in x], 1)


def qsgd_encoded(x, levels, norm, seed):
    bits = (2 * levels).bit_length()
    F = 32 - bits
    factor = levels * 2.0**F / norm if norm else 0.0
    return packed([levels + c for c in rounded([v * factor for v in x], bits, seed)], bits)


def qsgd_decoded(coded):
    s = int(coded.zero)
    codes = unpacked(bytes(coded.data), coded.bits, coded.size)
    return narrowed([coded.norm * ((c - s) / s) for c in codes], coded.dtype)


def uniform_encoded(x, bits, seed):
    lo, hi, n = min(x), max(x), 2**bits - 1
    factor = n * 2.0 ** (32 - bits) / (hi - lo) if hi > lo else 0.0
    return packed(rounded([(v - lo) * factor for v in x], bits, seed), bits)


def uniform_decoded(coded):
    n = 2**coded.bits - 1
    codes = unpacked(bytes(coded.data), coded.bits, coded.size)
    lo, hi = coded.zero, coded.scale
    return narrowed([lo * ((n - c) / n) + hi * (c / n) for c in codes], coded.dtype)


# -- vectors --------------------------------------------------------------------------------------


def vectors(*dtypes, max_size=70, **bounds):
    """Finite vectors; without ``bounds`` of any magnitude, subnormal numbers among them."""

    def of(dtype):
        elements = st.floats(
            width=np.dtype(dtype).itemsize * 8, allow_nan=False, allow_infinity=False, **bounds
        )
        return st.integers(1, max_size).flatmap(lambda d: arrays(dtype, d, elements=elements))

    return st.one_of(*(of(dtype) for dtype in dtypes or (np.float32, np.float64)))


def there_and_back(codec, x, seed=0):
    """Encode, and decode as a stranger does; return both."""
    before = x.copy()
    coded = codec.encode(x, seed)
    np.testing.assert_array_equal(x, before)
    check(coded, ())
    y = decode(coded, coded.data, ())
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.flags.writeable
    assert np.isfinite(y).all()
    return coded, y


def normal(d, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(d).astype(dtype)


# -- exact errors ----------------------------------------------------------------------------------


def inner(x, y):
    return sum(map(lambda a, b: a * b, x, y))


def squared(x, y):
    return inner(left := [a - b for a, b in zip(x, y, strict=True)], left)


def fractions(x):
    return [Fraction(v) for v in x.tolist()]


def slack(x, least=2.0**-1074):
    """How much ``least``, by which each value may be off, makes of ‖x − y‖² with ‖y‖ ≤ 2‖x‖."""
    return 6 * Fraction(least) * sum(map(abs, x)) + len(x) * Fraction(least) ** 2


# -- strangers ------------------------------------------------------------------------------------

_NUMBERS = st.one_of(
    st.none(),
    st.floats(),
    st.floats(0, 300),
    st.integers(-2, 40).map(float),
    st.sampled_from([2.0**e for e in (-1074, -1022, -126, 112, 113, 1008, 1023)]),
)


def mutations(coded):
    """Codings that differ from ``coded`` in up to all numbers, and bytes of that length."""
    size = st.one_of(st.just(coded.size), st.integers(1, 300), st.sampled_from([2**40, 2**63 - 1]))
    nbytes = st.one_of(st.just(coded.nbytes), st.integers(0, 700), st.just(2**62))
    bits = st.one_of(st.just(coded.bits), st.none(), st.integers(1, 64))

    def kept(name):
        return st.one_of(st.just(getattr(coded, name)), _NUMBERS)

    return st.builds(
        Claim,
        codec=st.just(coded.codec),
        dtype=st.sampled_from(["float32", "float64"]),
        size=size,
        nbytes=nbytes,
        bits=bits,
        scale=kept("scale"),
        zero=kept("zero"),
        norm=kept("norm"),
    )


class Claim:
    """What a stranger says: here nbytes need not be the length of anything."""

    seed = None

    def __init__(self, **told):
        self.__dict__.update(told)

    def __repr__(self):
        return f"Claim({self.__dict__})"


def refused_or_a_vector(claim, noise):
    """Whatever is claimed, it is refused or decodes to what was claimed."""
    reason, y = refusal_of(claim), None
    if reason is None and claim.nbytes > 2**20:
        return  # sound, and far beyond any layout, which bounds the size before a codec is asked
    if reason is None:
        data = np.frombuffer(noise.randbytes(claim.nbytes), np.uint8)
        reason = refusal_of(claim, data)
        y = None if reason else decode(claim, data, ())
    assert reason or (y.shape == (claim.size,) and y.dtype == claim.dtype)


def refusal_of(claim, data=None):
    """The reason why a claim, or the bytes that follow it, is refused; None if it is not."""
    code, reason = "malformed_frame", None
    try:
        check(claim, ())
        if data is not None:
            decode(claim, data, ())
    except PeerError as error:
        code, reason = error.code, error.reason
    assert code == "malformed_frame"
    return reason


def refusal(coded, **changed):
    """The reason why ``coded`` is refused if it is ``changed``."""
    names = ("codec", "dtype", "size", "nbytes", "bits", "scale", "zero", "norm")
    return refusal_of(Claim(**{name: getattr(coded, name) for name in names} | changed))


def with_bytes(coded, data):
    return replace(coded, data=np.frombuffer(bytes(data), np.uint8))
