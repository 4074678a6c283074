"""Numbers of a few bits, packed: against one large integer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_codecs import packed, philox, unpacked

from gossipnode.codecs.bits import BLOCK, code_dtype, pack, packed_bytes, unpack
from gossipnode.errors import PeerError

WIDTHS = range(1, 17)


def pack_all(codes, bits):
    out = np.full(packed_bytes(codes.size, bits), 0xAA, np.uint8)
    pack(codes, bits, out)
    return out


def unpack_all(data, bits, count):
    out = np.empty(count, code_dtype(bits))
    unpack(data, bits, out)
    return out


@given(st.data(), st.sampled_from(WIDTHS))
def test_packed_are_the_bits_of_one_number_and_come_back(data, bits):
    given_ = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70))
    codes = np.array(given_, code_dtype(bits))
    out = pack_all(codes, bits)
    assert bytes(out) == packed(given_, bits)
    np.testing.assert_array_equal(unpack_all(out, bits, codes.size), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 13])
def test_blocks_join_without_a_gap(bits, size):
    codes = np.random.default_rng(bits).integers(0, 2**bits, size).astype(code_dtype(bits))
    out = pack_all(codes, bits)
    ones = (codes[:, None] >> np.arange(bits)) & 1  # the string of bits itself
    np.testing.assert_array_equal(out, np.packbits(ones.astype(np.uint8), bitorder="little"))
    np.testing.assert_array_equal(unpack_all(out, bits, size), codes)


def test_five_numbers_of_three_bits_by_hand():
    # 1, 2, 3, 4, 5 from the right: 101 100 011 010 001 = 0b0101_1000_1101_0001 = 58d1.
    out = pack_all(np.array([1, 2, 3, 4, 5], np.uint8), 3)
    assert out.tobytes().hex() == "d158"


@given(st.sampled_from(WIDTHS), st.integers(1, 40), st.data())
def test_a_bit_after_the_last_number_is_refused(bits, size, data):
    free = packed_bytes(size, bits) * 8 - size * bits
    if free == 0:
        return
    out = np.zeros(packed_bytes(size, bits), np.uint8)
    assert unpack_all(out, bits, size).max() == 0
    out[-1] = 1 << (7 - data.draw(st.integers(0, free - 1)))
    with pytest.raises(PeerError, match="after the last number") as caught:
        unpack_all(out, bits, size)
    assert caught.value.code == "malformed_frame"


@given(st.sampled_from(WIDTHS), st.integers(1, 9), st.data())
def test_any_bytes_are_read_wherever_they_begin(bits, groups, data):
    noise = data.draw(st.binary(min_size=groups * bits, max_size=groups * bits))
    buffer = np.frombuffer(b"x" + noise, np.uint8)[1:]
    assert unpack_all(buffer, bits, 8 * groups).tolist() == unpacked(noise, bits, 8 * groups)


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_generator_of_the_specification_is_that_of_numpy(seed):
    assert np.random.Philox(key=seed).random_raw(1001).tolist() == philox(seed, 1001)
