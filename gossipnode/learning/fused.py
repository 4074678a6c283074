"""y ← αx + βy in one pass over memory, by the BLAS that numpy brought with it.

numpy has no operation that multiplies and adds at once, so that a merge costs it three passes;
even where two of them stay in the cache, 25 M float32 take 10 ms, in one pass 6. numpy's wheels
(and conda's, and Debian's with OpenBLAS) come with a BLAS that has ``axpby`` but do not hand it
on; here it is called through ctypes, which lets other threads run meanwhile, as numpy does.

Invariant: nothing depends on it. Where there is no such function, or it fails ``_is_sound``,
``axpby`` returns None and the caller computes with numpy. It runs in the calling thread alone.
Only numpy and the standard library may enter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Axpby = Callable[[float, NDArray[Any], float, NDArray[Any]], None]

# The names under which numpy's BLAS may have it, and its integers: of the wheels, of a BLAS with
# 64-bit integers, of any other.
_NAMES: Final = (
    ("scipy_cblas_{}axpby64_", ctypes.c_int64),
    ("cblas_{}axpby64_", ctypes.c_int64),
    ("cblas_{}axpby", ctypes.c_int),
)
# A call takes this many elements, for BLAS's integers may have 32 bits.
ELEMENTS_MAX: Final = 2**30


@lru_cache(maxsize=4)
def axpby(letter: str) -> Axpby | None:
    """Return the function for float32 (``f``) or float64 (``d``), or None where there is none.

    ``axpby(α, x, β, y)`` sets y ← αx + βy in place, x and y of one shape (d,), contiguous and
    aligned, of the dtype with that letter; no rounding between the two products' second and the
    sum, so that α + β = 1 leaves y as it is where x = y, down to the smallest normal numbers.
    """
    found = _find(letter)
    if found is None:
        return None
    function, integer, real = found
    real_pointer = ctypes.c_void_p
    function.argtypes = [integer, real, real_pointer, integer, real, real_pointer, integer]
    function.restype = None

    def call(alpha: float, x: NDArray[Any], beta: float, y: NDArray[Any]) -> None:
        at_x, at_y = x.__array_interface__["data"][0], y.__array_interface__["data"][0]
        for start in range(0, x.size, ELEMENTS_MAX):
            size, skip = min(ELEMENTS_MAX, x.size - start), start * x.itemsize
            function(size, alpha, at_x + skip, 1, beta, at_y + skip, 1)

    return call if _is_sound(call, np.dtype(letter)) else None


def fits(x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Tell whether x and y are such as ``axpby`` takes."""
    x_flags, y_flags = x.flags, y.flags
    return bool(
        x.dtype == y.dtype
        and x.dtype.isnative
        and x_flags.c_contiguous
        and x_flags.aligned
        and y_flags.carray
    )


def shares(weight: float, letter: str) -> tuple[float, float]:
    """Return 1 − weight and weight, 0 ≤ weight ≤ 1, so rounded that their sum is 1 exactly.

    The larger is rounded to the dtype; the smaller, its difference to 1, is then exact, and off
    by 2⁻²⁵ (float64: 2⁻⁵⁴) at most.
    """
    rounded = np.float32 if letter == "f" else np.float64
    if weight < 0.5:
        rest = float(rounded(1 - weight))
        return rest, 1 - rest
    weight = float(rounded(weight))
    return 1 - weight, weight


def _find(letter: str) -> tuple[Any, Any, Any] | None:
    # Any extension of numpy's that is linked to its BLAS would do: a symbol is looked for in
    # what a library depends on, too.
    spec = find_spec("numpy.linalg._umath_linalg")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:
        return None
    blas, real = ("s", ctypes.c_float) if letter == "f" else ("d", ctypes.c_double)
    for name, integer in _NAMES:
        function = getattr(library, name.format(blas), None)
        if function is not None:
            return function, integer, real
    return None


def _is_sound(call: Axpby, dtype: np.dtype[Any]) -> bool:
    """Tell whether ``call`` computes what it should, and leaves y alone where x = y.

    The second fails on a tenth of all elements where both products are rounded before the sum.
    """
    for size in (1, 7, 33, 1031):
        x = np.sin(np.arange(1, size + 1)).astype(dtype)
        other = np.cos(np.arange(size)).astype(dtype)
        for weight in (0.1, 0.3, 0.6, 0.9):
            alpha, beta = shares(weight, dtype.char)
            y = x.copy()
            call(alpha, x, beta, y)
            mixed = other.copy()
            call(alpha, x, beta, mixed)
            away = np.abs(mixed - (x * alpha + other * beta)).max()
            if not np.array_equal(x, y) or away > 2 * np.finfo(dtype).eps:
                return False
    return True
