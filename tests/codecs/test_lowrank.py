"""Low rank."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from properties import examples
from slow_codecs import mutations

from gossipnode.codecs import build_codec, check, decode
from gossipnode.codecs.lowrank import LowRank
from gossipnode.codecs.matrices import drawn
from gossipnode.config import CodecOptions
from gossipnode.errors import PeerError
from gossipnode.learning.params import Layout

SHAPES = {"w": (64, 10), "bias": (10,), "k": (4, 5, 5), "tiny": (3, 3), "wide": (9, 80), "s": ()}
DTYPES = ["float32", "float64"]
SEEDS = st.integers(0, 2**64 - 1)


def layout_of(dtype, shapes=SHAPES):
    return Layout.of(shapes, dtype)


def normal(layout, seed=0):
    return np.random.default_rng(seed).standard_normal(layout.size).astype(layout.dtype)


def there_and_back(codec, x, layout, seed=0):
    """Encode, and decode as a stranger does; return both."""
    before = x.copy()
    coded = codec.encode(x, seed)
    assert np.array_equal(x, before)
    assert (coded.codec, coded.dtype, coded.size) == ("lowrank", x.dtype.name, x.size)
    check(coded, layout.tensors)
    y = decode(coded, coded.data, layout.tensors)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    assert y.flags.writeable
    return coded, y


def squared(x):
    return float(np.square(x, dtype=np.float64).sum())


def views(layout, x, names):
    """Return the tensors of ``names`` as float64 matrices."""
    found = layout.views(x)
    return {n: found[n].reshape(found[n].shape[0], -1).astype(np.float64) for n in names}


def factors_of(coded, layout, names, rank):
    """Read the body as docs/wire.md has it: column by column, left factor, right factor."""
    numbers = np.frombuffer(coded.data.tobytes(), f"<f{layout.dtype.itemsize}").astype(np.float64)
    found, start = {}, 0
    for name in names:
        m, n = views(layout, layout.zeros(), [name])[name].shape
        r = min(rank, m, n)
        left = numbers[start : start + r * m].reshape(r, m).T
        right = numbers[start + r * m : start + r * (m + n)].reshape(r, n).T
        found[name], start = (left, right), start + r * (m + n)
    return found, numbers[start:]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_are_factors_and_then_all_else(dtype):
    layout, names = layout_of(dtype), ["w", "wide"]
    x = normal(layout)
    coded, y = there_and_back(LowRank(2, layout.tensors), x, layout)
    assert coded.zero == 2
    assert coded.nbytes == layout.dtype.itemsize * (2 * (64 + 10 + 9 + 80) + 10 + 100 + 9 + 1)
    factors, rest = factors_of(coded, layout, names, 2)
    there, decoded = layout.views(x), layout.views(y)
    plain = [there[name].reshape(-1) for name in ("bias", "k", "tiny", "s")]
    assert rest.tolist() == np.concatenate(plain).tolist()
    assert all(np.array_equal(there[n], decoded[n]) for n in ("bias", "k", "tiny", "s"))
    kind = layout.dtype.type
    for name, M in views(layout, y, names).items():
        (a, c), (b, d) = (factor.T.astype(dtype) for factor in factors[name])
        expected = [[float(kind(p * q) + kind(r * s)) for q, s in zip(b, d, strict=True)]
                    for p, r in zip(a, c, strict=True)]  # fmt: skip
        assert M.tolist() == expected


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("float64", 1e-13)])
def test_what_is_sent_is_a_step_of_power_iteration(dtype, atol):
    """P = orth(M Q), Q' = MᵀP; then Q is the last Q'. Of the matrix and its transpose, the tall."""
    layout = layout_of(dtype, {"a": (40, 12), "b": (12, 40)})
    codec, x = LowRank(2, layout.tensors), normal(layout)
    matrices = views(layout, x, ["a", "b"])
    Q = {name: drawn(5, number, 2, 12).T for number, name in enumerate(matrices)}
    for _ in range(6):
        _, y = there_and_back(codec, x, layout, seed=5)
        found = views(layout, y, matrices)
        for name, M in matrices.items():
            tall = M if name == "a" else M.T
            P, _ = np.linalg.qr(tall @ Q[name])
            Q[name] = tall.T @ P
            expected = P @ Q[name].T
            got = found[name] if name == "a" else found[name].T
            np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_what_is_left_out_is_what_the_directions_do_not_hold(dtype, data):
    """‖M − M̂‖² = ‖M‖² − ‖PᵀM‖², for P of orthonormal columns or zeros."""
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, min_side=5, max_side=40))
    rank = data.draw(st.integers(1, 3))
    layout = layout_of(dtype, {"M": shape})
    # Sums of a few products: ranks from 0 on, and values that are equal.
    values = st.integers(-3, 3).map(float)
    k = data.draw(st.integers(0, 4))
    a = data.draw(arrays(np.float64, (shape[0], k), elements=values))
    b = data.draw(arrays(np.float64, (k, shape[1]), elements=values))
    x = (a @ b).reshape(-1).astype(dtype)
    codec = LowRank(rank, layout.tensors)
    for seed in data.draw(st.lists(SEEDS, min_size=1, max_size=3)):
        coded, y = there_and_back(codec, x, layout, seed)
        assert np.isfinite(y).all()
        eps = float(np.finfo(dtype).eps)
        if not codec.split.matrices:
            assert np.array_equal(x, y)
            return
        left, right = factors_of(coded, layout, ["M"], rank)[0]["M"]
        P, Q, M = (right, left, (a @ b).T) if shape[1] > shape[0] else (left, right, a @ b)
        there = P.any(axis=0)
        np.testing.assert_allclose(P.T @ P, np.diag(there.astype(float)), rtol=0, atol=8 * eps)
        assert not Q[:, ~there].any()
        slack = 64 * eps * squared(x)
        assert abs(squared(x - y) - (squared(x) - squared(P.T @ M))) <= slack
        if k <= rank:  # all of it can be told
            assert squared(x - y) <= slack


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_matrix_of_no_more_than_that_rank_arrives_whole(dtype, rank):
    layout = layout_of(dtype, {"M": (30, 20)})
    rng = np.random.default_rng(rank)
    M = rng.standard_normal((30, rank)) @ rng.standard_normal((rank, 20))
    _, y = there_and_back(LowRank(3, layout.tensors), M.reshape(-1).astype(dtype), layout)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y.reshape(30, 20), M, rtol=0, atol=100 * eps)


def test_steps_come_close_to_the_best_that_there_is():
    layout = layout_of("float64", {"M": (60, 40)})
    rng = np.random.default_rng(0)
    U, _, V = np.linalg.svd(rng.standard_normal((60, 40)), full_matrices=False)
    sigma = 0.8 ** np.arange(40)
    x = (U * sigma @ V).reshape(-1)
    best = squared(sigma[4:])
    codec, errors = LowRank(4, layout.tensors), []
    for seed in range(12):
        _, y = there_and_back(codec, x, layout, seed)
        errors.append(squared(x - y))
    assert errors == sorted(errors, reverse=True)
    assert best <= errors[-1] <= best * 1.01 < errors[0]


@pytest.mark.parametrize("shape", [(24, 10), (10, 24), (12, 12)])
def test_random_directions_hold_as_large_a_share_as_delta_says_on_average(shape):
    """An orthogonal matrix is the worst: every direction holds as much as any other."""
    layout, n = layout_of("float64", {"M": shape}), min(shape)
    rng = np.random.default_rng(0)
    U, _, V = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    delta = LowRank(1, layout.tensors).delta(layout.size)
    assert delta == pytest.approx(1 / n, abs=2e-6)
    worst, steep = (U @ V).reshape(-1), (U * np.arange(1, n + 1) ** 2 @ V).reshape(-1)
    for x, exact in ((worst, True), (steep, False)):
        errors = []
        for seed in range(300):
            _, y = there_and_back(LowRank(1, layout.tensors), x, layout, seed)
            errors.append(squared(x - y) / squared(x))
        if exact:
            np.testing.assert_allclose(errors, 1 - 1 / n, rtol=1e-12)
        else:
            assert np.mean(errors) < 1 - 2 * delta


def test_a_warm_start_never_holds_less_than_random_directions_are_sure_to():
    layout = layout_of("float64", {"M": (20, 14)})
    codec, rng = LowRank(2, layout.tensors), np.random.default_rng(0)
    left, random_ones = normal(layout), 0
    for seed in range(60):
        if seed % 7 == 0:
            left = left + rng.standard_normal(layout.size) * 0.1 ** (seed % 3)
        random_ = np.linalg.qr(drawn(seed, 0, 2, 14).T)[0]
        sure = squared(left.reshape(20, 14) @ random_)
        coded, y = there_and_back(codec, left, layout, seed)
        assert squared(left - y) <= (squared(left) - sure) * (1 + 1e-12)
        cold = LowRank(2, layout.tensors).encode(left, seed)
        random_ones += bytes(cold.data) == bytes(coded.data)
        left = left - y
    assert 1 < random_ones < 60  # the first has no other


def test_where_the_last_directions_hold_next_to_nothing_random_ones_are_taken():
    """Of a matrix whose large part is gone, what is left may be elsewhere."""
    layout = layout_of("float64", {"M": (20, 14)})
    codec, cold = LowRank(1, layout.tensors), LowRank(1, layout.tensors)
    one, rest = np.zeros((20, 14)), np.random.default_rng(0).standard_normal((20, 14))
    rest[0] = rest[:, 0] = 0
    one[0, 0] = 1e-3
    codec.encode(one.reshape(-1), 1)
    x = (one + rest).reshape(-1)
    assert bytes(codec.encode(x, 3).data) == bytes(cold.encode(x, 3).data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_error_feedback_all_of_a_matrix_arrives(dtype):
    layout = layout_of(dtype)
    x = normal(layout)
    codec, left = LowRank(1, layout.tensors), x.copy()
    for seed in range(150):
        _, y = there_and_back(codec, left, layout, seed)
        left -= y
    assert squared(left) < 1e-8 * squared(x)


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [("float32", 1e-44), ("float32", 1e-30), ("float32", 1e19), ("float32", 1e37),
     ("float64", 5e-324), ("float64", 1e-300), ("float64", 1e200), ("float64", 1e306)],
)  # fmt: skip
def test_values_near_the_ends_of_the_range(dtype, largest):
    layout = layout_of(dtype, {"M": (30, 20)})
    x = normal(layout)
    x = (x / np.abs(x).max() * x.dtype.type(largest)).astype(dtype)
    _, y = there_and_back(LowRank(2, layout.tensors), x, layout)
    assert np.isfinite(y).all()
    unit = x.dtype.type(largest)
    whole, left = squared(x / unit), squared(x / unit - y / unit)
    assert 0 < left < whole * (1.2 if largest < 1e-40 else 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros_and_do_no_harm_to_what_follows(dtype):
    layout = layout_of(dtype)
    codec, zeros, x = LowRank(2, layout.tensors), layout.zeros(), normal(layout)
    for _ in range(2):
        assert not there_and_back(codec, zeros, layout)[1].any()
    _, y = there_and_back(codec, x, layout, 1)
    assert squared(x - y) < squared(x)


def test_the_same_history_gives_the_same_bytes_and_another_seed_others():
    layout = layout_of("float32")
    one, two, other = (LowRank(1, layout.tensors) for _ in range(3))
    for k in range(5):
        x = normal(layout, k)
        data = bytes(one.encode(x, k).data)
        assert bytes(two.encode(x, k).data) == data
        assert bytes(other.encode(x, k + 1).data) != data or k


def test_without_matrices_everything_is_sent_as_it_is():
    layout = layout_of("float32", {"a": (4, 4), "b": (7,)})
    codec, x = LowRank(2, layout.tensors), normal(layout)
    coded, y = there_and_back(codec, x, layout)
    assert (codec.delta(23), coded.nbytes) == (1, 92)
    assert np.array_equal(x, y)


def test_delta_is_the_least_of_the_matrices():
    delta = LowRank(2, layout_of("float32").tensors).delta(layout_of("float32").size)
    assert delta == pytest.approx(min(2 / 10, 2 / 9), abs=2e-6)


def test_the_config_names_it():
    layout = layout_of("float32")
    codec = build_codec(CodecOptions(name="lowrank", rank=3), layout.tensors)
    assert isinstance(codec, LowRank)
    assert (codec.rank, codec.draws, codec.is_unbiased) == (3, True, False)


# -- strangers ------------------------------------------------------------------------------------


def coded_of(layout):
    return LowRank(2, layout.tensors).encode(normal(layout))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"zero": None}, "zero is missing"),
        ({"zero": 0.0}, "zero is not 1 to"),
        ({"zero": 1025.0}, "zero is not 1 to"),
        ({"zero": 1.5}, "zero is not whole"),
        ({"zero": float("nan")}, "zero is not finite"),
        ({"zero": 1.0}, "nbytes is not"),
        ({"size": 1}, "size is not"),
        ({"dtype": "float64"}, "nbytes is not"),
    ],
)
def test_what_cannot_be_is_refused(changed, reason):
    layout = layout_of("float32")
    coding = replace(coded_of(layout), **changed)
    with pytest.raises(PeerError, match=reason) as caught:
        check(coding, layout.tensors)
    assert caught.value.code == "malformed_frame"


def test_a_larger_rank_than_any_matrix_has_is_capped():
    layout = layout_of("float32", {"M": (200, 40)})
    parted = LowRank(1024, layout.tensors)
    assert parted.split.matrices == ()


@examples(60, 200)
@given(st.data())
def test_whatever_is_claimed_is_refused_or_a_vector(data):
    layout = layout_of("float32")
    claim = data.draw(mutations(coded_of(layout)))
    noise: random.Random = data.draw(st.randoms(use_true_random=False))
    try:
        check(claim, layout.tensors)
    except PeerError as error:
        refused = error.code
    else:
        refused = ""
    if refused:
        assert refused == "malformed_frame"
        return
    y = decode(claim, np.frombuffer(noise.randbytes(claim.nbytes), np.uint8), layout.tensors)
    assert (y.shape, y.dtype) == ((claim.size,), np.dtype(claim.dtype))


def test_bytes_at_any_address():
    layout = layout_of("float64")
    coded = coded_of(layout)
    shifted = np.empty(coded.nbytes + 3, np.uint8)[3:]
    shifted[:] = coded.data
    assert np.array_equal(
        decode(coded, shifted, layout.tensors), decode(coded, coded.data, layout.tensors)
    )
