"""Memory: a model may be large, so a dense codec takes its result and some blocks, no more."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from slow_codecs import normal

from gossipnode.codecs import decode
from gossipnode.codecs.halves import BFloat16, Float16
from gossipnode.codecs.qsgd import QSGD
from gossipnode.codecs.sign import Sign
from gossipnode.codecs.uniform import Uniform

SCRATCH_BYTES = 2_000_000  # the vector has 16 MB


@pytest.mark.parametrize(
    "codec",
    [
        Sign(),
        QSGD(16),
        QSGD(1000),
        QSGD(16, contractive=True),
        Uniform(8),
        Uniform(3),
        Uniform(4, contractive=True),
        Float16(),
        BFloat16(),
    ],
    ids=lambda codec: codec.name,
)
def test_no_memory_but_the_result_and_some_blocks(codec):
    x = normal(4_000_000, np.float32)
    codec.encode(x[:100])  # what is imported and kept once
    tracemalloc.start()
    try:
        coded = codec.encode(x)
        assert tracemalloc.get_traced_memory()[1] < coded.nbytes + SCRATCH_BYTES
        tracemalloc.reset_peak()
        y = decode(coded, coded.data, ())
        assert tracemalloc.get_traced_memory()[1] < coded.nbytes + y.nbytes + SCRATCH_BYTES
    finally:
        tracemalloc.stop()
