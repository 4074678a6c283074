"""What every codec keeps: strangers, the same bits, special values, contraction."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from properties import examples
from slow_codecs import fractions, normal, slack, squared

from gossipnode.codecs import CODECS, Codec, check, decode, randomk
from gossipnode.codecs.halves import BFloat16, Float16
from gossipnode.codecs.lowrank import LowRank
from gossipnode.codecs.qsgd import LEVELS_MAX, QSGD
from gossipnode.codecs.randomk import RandomK
from gossipnode.codecs.sign import Sign
from gossipnode.codecs.topk import TopK
from gossipnode.codecs.uniform import Uniform
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout
from gossipnode.wire import frame
from gossipnode.wire.message import Kind, Message, Part

DTYPES = ("float32", "float64")
SEEDS = st.integers(0, 2**64 - 1)


@dataclass(frozen=True)
class Case:
    """A codec with options; it ``grows`` if what it sends can be larger than what it is given."""

    make: Callable[..., Codec]
    grows: bool = False


CASES = {
    "topk": Case(lambda _: TopK(0.1)),
    "topk, 16 bits": Case(lambda _: TopK(0.3, 16)),
    "topk, 8 bits": Case(lambda _: TopK(0.1, 8)),
    "topk, 4 bits": Case(lambda _: TopK(0.5, 4)),
    "topk, 1 bit": Case(lambda _: TopK(0.2, 1)),
    "topk, all": Case(lambda _: TopK(1.0)),
    "randomk": Case(lambda _: RandomK(0.5)),
    "randomk, unbiased": Case(lambda _: RandomK(0.1, unbiased=True), grows=True),
    "sign": Case(lambda _: Sign()),
    "qsgd": Case(lambda _: QSGD(300)),
    "qsgd, all levels": Case(lambda _: QSGD(LEVELS_MAX)),
    "qsgd, contractive": Case(lambda _: QSGD(4, contractive=True)),
    "uniform": Case(lambda _: Uniform(8)),
    "uniform, contractive": Case(lambda _: Uniform(3, contractive=True)),
    "float16": Case(lambda _: Float16()),
    "bfloat16": Case(lambda _: BFloat16()),
    "lowrank": Case(lambda tensors: LowRank(3, tensors), grows=True),
}
NAMES = sorted(CASES)
# An upper bound of how much ``grows`` may mean below: d/k, or a matrix's ‖M‖₂ by its largest.
GROWTH = 64

LAYOUTS = {
    "one": {"v": (1,)},
    "matrix": {"w": (24, 9), "b": (9,)},
    "mixed": {"s": (), "w": (13, 14), "k": (3, 4, 5), "t": (2, 2), "u": (40,)},
}


def layout_of(shapes, dtype):
    return Layout.of(shapes, dtype)


def of_size(d, dtype):
    """A matrix of nine columns as far as that goes, and the rest."""
    shapes = {"w": (d // 9, 9), "b": (d % 9,)} if d >= 45 and d % 9 else {"v": (d,)}
    return layout_of(shapes, dtype)


def test_every_codec_is_here():
    assert {name.partition(",")[0] for name in CASES} == set(CODECS)


# -- strangers ------------------------------------------------------------------------------------


def part_of(coded, **changed):
    """What a message says of ``coded``."""
    keys = ("dtype", "size", "nbytes", "codec", "bits", "scale", "zero", "norm", "seed")
    return Part("q", **{key: getattr(coded, key) for key in keys} | changed)


def numbers():
    """What a header's numbers may be."""
    return st.one_of(
        st.none(),
        st.floats(),
        st.integers(-2, 70_000).map(float),
        st.sampled_from([2.0**e for e in (-1074, -1022, -126, -20, 112, 113, 127, 1008, 1023)]),
    )


@st.composite
def claims(draw, name):
    """A layout's tensors, a claim that fits its size and dtype, and as many bytes as it says."""
    dtype = draw(st.sampled_from(DTYPES))
    layout = layout_of(LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))], dtype)
    if draw(st.booleans()):
        layout = of_size(draw(st.integers(1, 300)), dtype)
    x = normal(layout.size, np.dtype(dtype), seed=draw(st.integers(0, 9)))
    coded = CASES[name].make(layout.tensors).encode(x, draw(SEEDS))
    told = {
        "bits": st.one_of(st.none(), st.integers(1, 64)),
        "scale": numbers(),
        "zero": numbers(),
        "norm": numbers(),
        "seed": st.one_of(st.none(), SEEDS),
        "nbytes": st.integers(0, 9 * layout.size),
    }
    # A few lies at a time: with more, none would get by the first check.
    lies = draw(st.lists(st.sampled_from(sorted(told)), max_size=3, unique=True))
    part = part_of(coded, **{key: draw(told[key]) for key in lies})
    if part.nbytes == coded.nbytes and draw(st.booleans()):
        data = bytearray(coded.data)
        for at, value in draw(
            st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=6)
        ):
            data[at] = value
    else:
        # From a few bytes repeated: what hypothesis draws and shortens has to stay small.
        few = draw(st.binary(min_size=1, max_size=40))
        data = (few * (part.nbytes // len(few) + 1))[: part.nbytes]
    return layout.tensors, part, np.frombuffer(bytes(data), np.uint8)


def outcome(part, data, tensors):
    """What a stranger's bytes become, None if they are refused, and the peak of memory."""
    tracemalloc.start()
    y, refused = None, None
    try:
        check(part, tensors)
        y = decode(part, data, tensors)
    except PeerError as error:
        refused = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert y is not None or refused.code == "malformed_frame"
    return y, peak


def memory_for(part):
    """Three models, twice the bytes, and 64 KiB."""
    return 3 * part.size * np.dtype(part.dtype).itemsize + 2 * part.nbytes + 64 * 1024


@pytest.mark.parametrize("name", NAMES)
@examples(50, 150)
@given(data=st.data())
def test_whatever_a_stranger_says_becomes_a_vector_or_is_refused(name, data):
    tensors, part, noise = data.draw(claims(name))
    outcome(part, noise, tensors)  # what is imported the first time is no stranger's doing
    randomk.drawn.cache_clear()
    y, peak = outcome(part, noise, tensors)
    assert peak <= memory_for(part)
    if y is not None:
        assert (y.shape, y.dtype) == ((part.size,), np.dtype(part.dtype))
        assert y.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [1, 300, 5000, 16_384, 20_000, 40_000, 66_000, 300_001])
def test_memory_is_that_of_some_models(d, name, dtype):
    layout = of_size(d, dtype)
    coded = CASES[name].make(layout.tensors).encode(normal(d, np.dtype(dtype)), 1)
    part = part_of(coded)
    decode(part, coded.data, layout.tensors)  # what is kept once
    randomk.drawn.cache_clear()  # but not what is kept of the last message
    y, peak = outcome(part, coded.data, layout.tensors)
    assert y is not None
    assert peak <= memory_for(part)


# -- the same bits --------------------------------------------------------------------------------


def elements(dtype, most):
    return st.floats(-most, most, width=np.dtype(dtype).itemsize * 8, allow_subnormal=True)


@st.composite
def vectors_for(draw, case):
    """A layout and a vector of it, any finite values that the codec can bring over."""
    dtype = draw(st.sampled_from(DTYPES))
    layout = of_size(draw(st.integers(1, 300)), dtype)
    most = float(np.finfo(dtype).max) / (GROWTH if case.grows else 1)
    fill = draw(st.sampled_from([0.0, 1.0, -most, most, float(np.finfo(dtype).smallest_subnormal)]))
    x = draw(arrays(dtype, layout.size, elements=elements(dtype, most), fill=st.just(fill)))
    return layout, x


def same(a, b):
    return replace(a, data=None) == replace(b, data=None) and bytes(a.data) == bytes(b.data)


@pytest.mark.parametrize("name", NAMES)
@examples(25, 60)
@given(data=st.data(), seed=SEEDS)
def test_the_same_vector_gives_the_same_bytes_and_those_the_same_bits(name, data, seed):
    case = CASES[name]
    layout, x = data.draw(vectors_for(case))
    before = x.tobytes()
    coded, again = (case.make(layout.tensors).encode(x, seed) for _ in range(2))
    assert same(coded, again)
    assert x.tobytes() == before
    check(coded, layout.tensors)
    ys = [decode(coded, coded.data, layout.tensors) for _ in range(2)]
    assert ys[0].tobytes() == ys[1].tobytes()
    assert ys[0] is not ys[1]
    assert np.isfinite(ys[0]).all()


@pytest.mark.parametrize("name", NAMES)
@examples(20, 40)
@given(data=st.data(), seed=SEEDS)
def test_sender_and_receiver_hold_the_same_bits(name, data, seed):
    layout, x = data.draw(vectors_for(CASES[name]))
    coded = CASES[name].make(layout.tensors).encode(x, seed)
    message = Message(
        kind=Kind.MODEL, swarm="s", schema="0" * 32, algorithm="choco", sender="a", epoch=1, seq=2,
        parts=(part_of(coded),),
    )  # fmt: skip
    sent = decode(coded, coded.data, layout.tensors)
    told, bodies = frame.decode(frame.encode(message, [coded.data]).tobytes())
    (part,), (body,) = told.parts, bodies
    assert part == message.parts[0]
    check(part, layout.tensors)
    received = decode(part, body, layout.tensors)
    assert received.dtype == sent.dtype == x.dtype
    assert received.tobytes() == sent.tobytes()


# -- contraction ----------------------------------------------------------------------------------


def special(d, dtype):
    """Vectors that are hard on arithmetic."""
    kind, n = np.finfo(dtype), normal(d, np.dtype(dtype))
    signs = np.where(np.arange(d) % 2, -1, 1).astype(dtype)
    return {
        "zeros": np.zeros(d, dtype),
        "negative zeros": -np.zeros(d, dtype),
        "largest": np.full(d, kind.max),
        "both largest": signs * kind.max,
        "subnormal": np.full(d, kind.smallest_subnormal * 3, dtype),
        "least": signs * kind.smallest_subnormal,
        "tiny": n * kind.tiny * dtype(2**30),
        "constant": np.full(d, 0.1, dtype),
        "one": np.eye(1, d, d // 2, dtype=dtype)[0],
        "normal": n,
        "heavy": n**9,
        "all sizes": np.ldexp(signs, np.arange(d) % (kind.maxexp - kind.minexp) + kind.minexp),
    }


SPECIAL = sorted(special(1, np.float32))
WITHOUT_CHANCE = [n for n in NAMES if n.startswith(("topk", "sign", "float16", "bfloat16"))]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", NAMES)
def test_special_values_come_back_finite_without_a_warning(name, kind):
    case = CASES[name]
    for dtype in (np.float32, np.float64):
        for d in (1, 2, 3, 7, 8, 9, 64, 299, 300):
            layout = of_size(d, np.dtype(dtype).name)
            x = special(d, dtype)[kind] / dtype(GROWTH if case.grows else 1)
            coded = case.make(layout.tensors).encode(x, d)
            check(coded, layout.tensors)
            y = decode(coded, coded.data, layout.tensors)
            assert np.isfinite(y).all()
            if not x.any():
                assert not y.any()


def contracted(x, y, delta):
    """‖x − y‖² ≤ (1 − δ)‖x‖², but for the rounding of subnormal numbers, and of δ to a double."""
    v = fractions(x)
    bound = (1 - Fraction(delta) * (1 - Fraction(2) ** -53)) * sum(a * a for a in v)
    return squared(v, fractions(y)) <= bound + slack(v, float(np.finfo(x.dtype).smallest_subnormal))


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
@examples(25, 60)
@given(data=st.data())
def test_what_is_not_drawn_contracts_always(name, data):
    layout, x = data.draw(vectors_for(CASES[name]))
    codec = CASES[name].make(layout.tensors)
    assert not codec.draws
    coded = codec.encode(x)
    assert contracted(x, decode(coded, coded.data, ()), codec.delta(x.size))


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_what_is_not_drawn_contracts_special_values(name, kind):
    for dtype in (np.float32, np.float64):
        for d in (1, 2, 9, 300):
            codec, x = CASES[name].make(()), special(d, dtype)[kind]
            coded = codec.encode(x)
            assert contracted(x, decode(coded, coded.data, ()), codec.delta(d))


# Of one vector, the largest ‖x − C(x)‖²/‖x‖² that can be drawn, given d; see the codecs.
RANGES = {
    "randomk": lambda d: 1.0,
    "qsgd": lambda d: d / 300**2,  # d values, each less than a level, ‖x‖/s, away
    "qsgd, all levels": lambda d: d / LEVELS_MAX**2,
    "qsgd, contractive": lambda d: 1.0,
    "uniform": lambda d: 2 * d / 255**2,  # a level is (hi − lo)/n, and (hi − lo)² ≤ 2‖x‖²
    "uniform, contractive": lambda d: 1.0,
    "lowrank": lambda d: 1.0,
}


@pytest.mark.parametrize("kind", ["both largest", "tiny", "constant", "one", "normal", "heavy"])
@pytest.mark.parametrize("name", sorted(RANGES))
def test_what_is_drawn_contracts_on_average(name, kind):
    """Hoeffding: a mean of N draws in [0, R] is R·√(ln(1/p)/2N) too large with probability p."""
    d, N, p = 225, 400, 1e-9
    for dtype in (np.float32, np.float64):
        layout = of_size(d + 1, np.dtype(dtype).name)
        x = special(layout.size, dtype)[kind] / dtype(GROWTH if CASES[name].grows else 1)
        _, exponent = np.frexp(np.abs(x).max())
        v, errors = np.ldexp(x.astype(np.float64), -exponent), []
        for seed in range(N):
            codec = CASES[name].make(layout.tensors)
            coded = codec.encode(x, seed)
            y = np.ldexp(decode(coded, coded.data, layout.tensors).astype(np.float64), -exponent)
            errors.append(np.square(v - y).sum() / (v @ v))
        delta, most = codec.delta(x.size), RANGES[name](x.size)
        assert codec.draws
        assert delta > 0
        assert max(errors) <= most + 2.0**-20
        assert np.mean(errors) <= 1 - delta + most * math.sqrt(math.log(1 / p) / (2 * N)) + 2.0**-20
