"""Bits chosen by speed."""

import numpy as np
import pytest

from gossipnode.codecs import decode
from gossipnode.codecs.adaptive import AdaptiveUniform
from gossipnode.codecs.uniform import Uniform

D = 8000  # 8 kB with 8 bits, 4 with 4, 2 with 2


def chosen(compute_s: float, bytes_per_s: float, others: list[float]) -> int:
    codec = AdaptiveUniform()
    codec.adapt(D, compute_s, bytes_per_s, others)
    return codec.bits


def test_it_tells_how_long_a_round_takes_with_eight_bits() -> None:
    assert AdaptiveUniform().full_s(D, 0.5, 4000.0) == 0.5 + 2.0
    assert AdaptiveUniform().full_s(D, 0.5, 0.0) == 0.5


@pytest.mark.parametrize(
    ("bytes_per_s", "bits"),
    [(8000, 8), (7300, 8), (7200, 4), (3650, 4), (3600, 2), (10, 2), (0, 8)],
)
def test_a_slower_line_carries_fewer_bits(bytes_per_s: float, bits: int) -> None:
    """The others take 1 s, so 1.1 s are allowed: 7273 bytes/s do with 8 bits, 3637 with 4."""
    assert chosen(0.0, bytes_per_s, [1.0, 1.0]) == bits


def test_slow_computing_counts_too() -> None:
    assert chosen(0.0, 8000.0, [1.0, 1.0]) == 8
    assert chosen(0.2, 8000.0, [1.0, 1.0]) == 4
    assert chosen(0.8, 8000.0, [1.0, 1.0]) == 2


def test_among_equals_and_alone_all_bits_are_used() -> None:
    assert chosen(3.0, 100.0, []) == 8
    slow = AdaptiveUniform().full_s(D, 3.0, 100.0)
    assert chosen(3.0, 100.0, [slow, slow]) == 8


def test_it_codes_with_the_bits_of_now() -> None:
    codec, x = AdaptiveUniform(contractive=True), np.linspace(-1, 1, 999, dtype=np.float32)
    for others, bits in (([1e-9, 1e-9], 2), ([1e9, 1e9], 8)):
        codec.adapt(x.size, 1.0, 100.0, others)
        coded = codec.encode(x, 7)
        assert coded.bits == bits
        np.testing.assert_array_equal(coded.data, Uniform(bits, True).encode(x, 7).data)
        assert decode(coded, coded.data, ()).shape == x.shape
        assert codec.omega(999) == Uniform(bits).omega(999)
