"""The packed index: no loss, the least bytes of all methods, and nothing believed."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from math import log2

import numpy as np
import pytest
import sparse_oracle
from hypothesis import example, given
from hypothesis import strategies as st

from gossipnode.codecs.indices import (
    ALL,
    BITMAP,
    GAMMA,
    RICE,
    SIZE_MAX,
    index_nbytes_max,
    pack_positions,
    unpack_positions,
)
from gossipnode.errors import PeerError


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[int], int]:
    """Some of d coordinates: gaps of one scale, or of all scales, so that each method wins."""
    gap = st.integers(0, draw(st.sampled_from([0, 1, 3, 40, 5000])))
    wide = st.integers(0, 30).map(lambda b: 2**b)
    gaps = draw(st.lists(st.one_of(gap, wide) if draw(st.booleans()) else gap, min_size=1))
    found = (np.cumsum(np.array(gaps, np.int64) + 1) - 1).tolist()
    return found, found[-1] + 1 + draw(st.sampled_from([0, 1, 7, 1000]))


@given(choices())
def test_what_is_packed_comes_back_in_the_least_bytes(choice: tuple[list[int], int]) -> None:
    found, d = choice
    packed = pack_positions(np.array(found), d)
    assert unpack_positions(packed, len(found), d).tolist() == found
    if d <= 20_000:  # the oracle goes bit by bit
        assert sparse_oracle.positions(packed.tobytes(), len(found), d) == found
    assert packed.size == sparse_oracle.least_bytes(found, d) <= index_nbytes_max(d)


@pytest.mark.parametrize(
    ("found", "d", "packed"),
    [
        ([0], 1, "00"),
        ([0, 1, 2], 3, "00"),
        ([0, 1, 3, 4, 6], 8, "015b"),
        ([3, 64, 99], 100, "44c30291"),
        ([0, 1, 2, 3, 4, 5, 6, 999], 1000, "027f0001e101"),
    ],
)
def test_golden(found: list[int], d: int, packed: str) -> None:
    assert pack_positions(np.array(found), d).tobytes().hex() == packed
    assert sparse_oracle.positions(bytes.fromhex(packed), len(found), d) == found
    data = np.frombuffer(bytes.fromhex(packed), np.uint8)
    assert unpack_positions(data, len(found), d).tolist() == found


@pytest.mark.parametrize(
    ("name", "method"), [("dense", BITMAP), ("sparse", RICE), ("runs", GAMMA), ("all", ALL)]
)
def test_more_than_one_block(name: str, method: int) -> None:
    d, rng = 1_000_000, np.random.default_rng(1)
    if name == "runs":  # 200 runs of 200: most gaps are 0, some are thousands
        found = (np.arange(200)[:, None] * 5000 + rng.integers(4000) + np.arange(200)).ravel()
    else:
        share = {"dense": 0.5, "sparse": 0.07, "all": 2.0}[name]
        found = np.flatnonzero(rng.random(d) < share)
    packed = pack_positions(found, d)
    assert int(packed[0]) == method or (method == RICE and packed[0] >= RICE)
    assert np.array_equal(unpack_positions(packed, found.size, d), found)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64])
def test_any_integers_pack_alike(dtype: type) -> None:
    found = np.arange(5, 90_000, 3)
    assert np.array_equal(
        pack_positions(found.astype(dtype), 90_000), pack_positions(found, 90_000)
    )


def test_beyond_32_bits() -> None:
    found = np.array([5, 2**32 - 1, 2**32, SIZE_MAX - 1])
    packed = pack_positions(found, SIZE_MAX)
    assert unpack_positions(packed, 4, SIZE_MAX).tolist() == found.tolist()


def test_one_in_a_hundred_costs_a_third_of_plain_positions() -> None:
    # The entropy of a Bernoulli(0.01) is 8.08 bits for each one of them; plain ones need log2 d.
    d = 1_000_000
    found = np.flatnonzero(np.random.default_rng(0).random(d) < 0.01)
    bits = 8 * pack_positions(found, d).size / found.size
    p = found.size / d
    entropy = -(log2(p) + (1 - p) / p * log2(1 - p))
    assert entropy < bits < 1.01 * entropy < 0.42 * log2(d)


def agreed(data: bytes, k: int, d: int) -> None:
    """The fast reader takes what the slow one takes, and refuses what it refuses."""
    try:
        expected = sparse_oracle.positions(data, k, d)
    except sparse_oracle.MalformedError:
        with pytest.raises(PeerError) as refused:
            unpack_positions(np.frombuffer(data, np.uint8), k, d)
        assert refused.value.code == "malformed_frame"
    else:
        found = unpack_positions(np.frombuffer(data, np.uint8), k, d)
        assert found.tolist() == expected


@given(
    st.sampled_from([ALL, BITMAP, GAMMA, 3, 63, *range(RICE, RICE + 9), 127, 128, 255]),
    st.binary(max_size=40),
    st.data(),
)
@example(GAMMA, bytes(39) + b"\x80", None)
def test_any_bytes_are_read_as_the_page_says_or_refused(
    method: int, body: bytes, data: st.DataObject | None
) -> None:
    d = data.draw(st.integers(1, 400)) if data else 400
    k = data.draw(st.integers(1, d)) if data else 1
    agreed(bytes([method]) + body, k, d)


@given(choices(), st.data())
def test_changed_bytes_are_read_as_the_page_says_or_refused(
    choice: tuple[list[int], int], data: st.DataObject
) -> None:
    found, d = choice
    if d > 5000:
        found, d = [position % 61 + 61 * n for n, position in enumerate(found[:60])], 61 * 60
    packed = bytearray(pack_positions(np.array(found), d).tobytes())
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, 2))
    agreed(bytes(packed[: len(packed) - cut]) + data.draw(st.binary(max_size=2)), len(found), d)


@pytest.mark.parametrize(
    ("packed", "k", "d", "reason"),
    [
        ("", 1, 8, "no bytes"),
        ("00", 1, 8, "says all"),
        ("0000", 8, 8, "says all"),
        ("01ff", 8, 9, "2 bytes, not 1"),
        ("0103", 3, 8, "2 of 3"),
        ("0107", 2, 8, "bits set after"),
        ("010180", 1, 16, "more than 1"),
        ("0180", 1, 7, "more than 1"),
        ("0301", 1, 8, "method 3"),
        ("4003", 1, 8, "bits set after"),
        ("400100", 1, 8, "bits after"),
        ("400001", 1, 8, "past coordinate 7"),
        ("43f101", 1, 8, "bits after"),
        ("447f01", 1, 16, "bits after"),
        ("5001", 1, 70000, "too few"),
        ("7f" + "00" * 9, 1, 8, "too few"),
        ("020001", 1, 200, "0 bytes for 8 bits"),
        ("020400ff", 1, 200, "2 bytes for 2 bits"),
        ("020407", 1, 200, "1 bytes for 2 bits"),
        ("0200100100", 1, 200, "past coordinate 199"),
        ("028081", 1, 500, "1 bytes for 7 bits"),
        ("02000001" + "0000", 1, 200, "past coordinate 199"),
        ("0100000000", 40, 32, "32 bits for 40"),
    ],
)
def test_refused_with_a_reason(packed: str, k: int, d: int, reason: str) -> None:
    with pytest.raises(PeerError, match=reason) as refused:
        unpack_positions(np.frombuffer(bytes.fromhex(packed), np.uint8), k, d)
    assert refused.value.code == "malformed_frame"


@pytest.mark.parametrize("method", [BITMAP, GAMMA, RICE, RICE + 1, RICE + 30, RICE + 40])
@pytest.mark.parametrize("k", [1, 1000, 80_000, 2**39])
@pytest.mark.parametrize("fill", [0x00, 0x01, 0xFF])
def test_a_short_index_of_a_vast_vector_takes_little_memory(method: int, k: int, fill: int) -> None:
    data = np.full(10_001, fill, np.uint8)
    data[0] = method
    tracemalloc.start()
    with suppress(PeerError):
        unpack_positions(data, k, SIZE_MAX)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 80,000 positions of 8 bytes are 64 times the data; a block's scratch is 2¹⁵ numbers.
    assert peak < 64 * data.size + 12 * 8 * 2**15
