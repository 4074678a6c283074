"""One pass through numpy's BLAS: what it may differ by, and when it is not used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossipnode.learning import fused

LETTERS = ("f", "d")
BITS = {"f": 24, "d": 53}


@pytest.mark.parametrize("letter", LETTERS)
@given(weight=st.floats(0, 1))
def test_shares_sum_to_one_exactly_and_are_near(letter, weight):
    dtype = np.dtype(letter)
    rest, share = fused.shares(weight, letter)
    assert rest + share == 1
    assert (float(dtype.type(rest)), float(dtype.type(share))) == (rest, share)
    assert abs(share - weight) <= 2.0 ** -(BITS[letter] + 1)


@pytest.mark.parametrize("letter", LETTERS)
def test_a_function_that_computes_something_else_is_not_used(letter):
    def twice(alpha, x, beta, y):
        y[:] = 2 * (alpha * x + beta * y)

    def rounded_in_between(alpha, x, beta, y):
        y *= beta
        y += x * y.dtype.type(alpha)

    dtype = np.dtype(letter)
    assert not fused._is_sound(twice, dtype)
    assert not fused._is_sound(rounded_in_between, dtype)


def test_a_numpy_without_such_a_blas_has_none(monkeypatch):
    monkeypatch.setattr(fused, "_NAMES", (("no_{}_such_function", fused.ctypes.c_int),))
    assert fused.axpby.__wrapped__("f") is None
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    assert fused.axpby.__wrapped__("f") is None


@pytest.mark.parametrize("letter", LETTERS)
def test_long_vectors_are_taken_in_several_calls(letter, monkeypatch):
    function = fused.axpby(letter)
    if function is None:
        pytest.skip("this numpy's BLAS has no axpby")
    monkeypatch.setattr(fused, "ELEMENTS_MAX", 7)
    x, y = np.arange(30, dtype=letter), np.ones(30, letter)
    function(2.0, x, 3.0, y)
    assert np.array_equal(y, 2 * x + 3)


def test_only_arrays_of_one_native_dtype_fit_and_the_result_must_be_writable():
    x, y = np.zeros(4, np.float32), np.zeros(4, np.float32)
    x.flags.writeable = False
    assert fused.fits(x, y)
    assert not fused.fits(y, x)
    assert not fused.fits(x.astype(np.float64), y)
    assert not fused.fits(np.zeros(8, np.float32)[::2], y)
    swapped = np.zeros(4, np.dtype(np.float32).newbyteorder())
    assert not fused.fits(swapped, swapped)
