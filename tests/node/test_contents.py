"""How large a model may be: what is refused, what is let in, and in which terms it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gossipnode.codecs import build_codec
from gossipnode.config import CodecOptions
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout, extent, largest
from gossipnode.node.contents import Bound, checked, read
from gossipnode.wire.frame import encode
from gossipnode.wire.message import Kind, Message, Part

SIZES = (1, 650, 8192, 8193, 20_000, 300_000)
DTYPES = ("float16", "bfloat16", "float32", "float64")


def dtype_named(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def message(parts: Sequence[Part]) -> Message:
    return Message(
        kind=Kind.MODEL, swarm="s", schema="x", algorithm="a", sender="b", epoch=1, seq=1,
        parts=tuple(parts),
    )  # fmt: skip


def judge(vector: np.ndarray, own: np.ndarray, role: str = "x", ratio_max: float = 100.0) -> str:
    """Return the code of the refusal, or "" for none."""
    layout = Layout.of({"x": (vector.size,)}, vector.dtype)
    part = Part.of(role, vector)  # type: ignore[arg-type]
    given = vector.view(np.uint16) if vector.dtype.name == "bfloat16" else vector
    try:
        checked(message([part]), [given], layout, Bound(ratio_max, lambda: own))
    except PeerError as error:
        return error.code
    return ""


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DTYPES)
def test_the_largest_is_exact_and_the_extent_bounds_it(name: str, size: int) -> None:
    rng = np.random.default_rng(size)
    for scale in (1e-6, 1.0, 1e4):
        x = (rng.standard_normal(size) * scale).astype(dtype_named(name))
        for sign in (1, -1):
            y = (sign * x).astype(x.dtype)
            exact = float(np.abs(y.astype(np.float64)).max())
            assert largest(y) == exact
            assert (
                exact
                <= extent(y)
                <= 1.01 * max(exact, float(np.linalg.norm(y.astype(float)))) + 1e-17
            )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_extent(name: str, size: int, bad: float) -> None:
    x = np.ones(size, dtype_named(name))
    x[size // 2] = bad
    assert extent(x) == largest(x) == np.inf


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16"])
def test_the_dtypes_largest_numbers_are_finite(name: str) -> None:
    """Their squares are not."""
    dtype = dtype_named(name)
    most = float(ml_dtypes.finfo(dtype).max)
    x = np.full(3, most, dtype)
    assert largest(x) == most
    assert most <= extent(x) < np.inf


def test_numbers_whose_squares_vanish_are_bounded_all_the_same() -> None:
    x = np.full(100, 1e-30, np.float32)
    assert 0 < largest(x) <= extent(x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DTYPES)
def test_a_model_a_hundred_times_as_large_as_ones_own_is_the_last_that_is_let_in(
    name: str, size: int
) -> None:
    dtype = dtype_named(name)
    own, model = np.zeros(size, dtype), np.zeros(size, dtype)
    for own_largest, limit in ((0.0, 100.0), (0.25, 100.0), (2.0, 200.0), (-4.0, 400.0)):
        own[-1] = own_largest
        for sign in (1, -1):
            model[size // 2] = sign * limit
            assert judge(model, own) == ""
            model[size // 2] = sign * limit * 1.02
            assert judge(model, own) == "out_of_range"
            assert judge(model, own, ratio_max=1000.0) == ""


def test_many_small_values_are_not_a_large_one() -> None:
    """‖x‖ is 800 here; what counts is each value."""
    assert judge(np.full(8000, 9.0, np.float32), np.zeros(8000, np.float32)) == ""


@pytest.mark.parametrize("role", ["x", "half", "phi", "q", "delta"])
def test_models_and_differences_of_models_are_compared(role: str) -> None:
    assert judge(np.full(9, 1e30), np.ones(9), role) == "out_of_range"


@pytest.mark.parametrize("role", ["u", "y", "sum", "g", "m", "c", "p", "v", "sketch"])
def test_sums_and_gradients_are_not(role: str) -> None:
    assert judge(np.full(9, 1e30), np.ones(9), role) == ""
    assert judge(np.full(9, np.nan), np.ones(9), role) == "not_finite"


@pytest.mark.parametrize("name", ["float16", "topk", "sign", "uniform", "qsgd", "randomk"])
def test_what_comes_coded_is_judged_by_what_it_becomes(name: str) -> None:
    layout = Layout.of({"x": (1000,)})
    options = CodecOptions(name=name, fraction=0.1)  # type: ignore[arg-type]
    codec = build_codec(options, layout.tensors)
    assert codec is not None
    bound = Bound(100.0, lambda: np.ones(1000, np.float32))
    for value, is_refused in ((0.5, False), (3e4, True)):
        coded = codec.encode(np.full(1000, value, np.float32), 1)
        part = Part(
            "q", coded.dtype, coded.size, coded.nbytes, coded.codec, bits=coded.bits,
            scale=coded.scale, zero=coded.zero, norm=coded.norm, seed=coded.seed,
        )  # fmt: skip
        if is_refused:
            with pytest.raises(PeerError) as caught:
                checked(message([part]), [coded.data], layout, bound)
            assert caught.value.code == "out_of_range"
        else:
            checked(message([part]), [coded.data], layout, bound)


def test_the_reason_tells_role_magnitude_limit_and_option() -> None:
    layout, vector = Layout.of({"x": (4,)}, "float64"), np.array([0.0, 1.0, -1e30, 2.0])
    sent = message([Part.of("x", vector)])
    body = memoryview(bytearray(vector.tobytes()))
    with pytest.raises(PeerError) as caught:
        read(sent, body, layout, Bound(100.0, lambda: np.array([3.0, -7.0])))
    for words in ("part x", "1e+30", "700", "network.magnitude_ratio_max"):
        assert words in caught.value.reason
    assert caught.value.http_status == 422
    assert encode(sent, [vector]).nbytes  # it was a frame that anybody can send


def test_ones_own_model_is_looked_at_only_where_that_decides() -> None:
    """A pass over the params for each arrival would be a fifth of what merging it costs."""
    looked: list[int] = []

    def own() -> np.ndarray:
        looked.append(1)
        return np.full(20_000, 50.0)

    layout, bound = Layout.of({"x": (20_000,)}, "float64"), Bound(100.0, own)
    for value, times in ((99.0, 0), (4999.0, 1)):
        vector = np.full(20_000, value)
        checked(message([Part.of("x", vector)]), [vector], layout, bound)
        assert len(looked) == times
