"""The number formats of params, and the one in which each is computed.

Invariant: ml_dtypes, which gives numpy its bfloat16 (2.5 MB, 7 ms), is imported by the first who
asks for bfloat16 and by nobody else. Only numpy and the standard library may enter besides.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike

from gossipnode.errors import ConfigError

DTYPES: Final = ("float16", "bfloat16", "float32", "float64")


def dtype_of(dtype: DTypeLike) -> np.dtype[Any]:
    """Return numpy's dtype for one of ``DTYPES`` (a name, or a dtype already).

    Raises ConfigError where it is none of them, or bfloat16 and ml_dtypes is not installed.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return _bfloat16()
    kind = np.dtype(dtype)
    if kind.name not in DTYPES:
        raise ConfigError(f"unsupported dtype {kind.name!r}", allowed=", ".join(DTYPES))
    return kind


def computed_in(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the dtype in which params of ``dtype`` are computed: float32 at the least.

    >>> computed_in("float16").name, computed_in("float64").name
    ('float32', 'float64')
    """
    kind = dtype_of(dtype)
    return np.dtype(np.float32) if kind.itemsize < 4 else kind


def epsilon(dtype: DTypeLike) -> float:
    """Return the distance from 1 to the next number, as ``np.finfo`` does for numpy's own.

    >>> epsilon("float16") == 2.0**-10
    True
    """
    kind = dtype_of(dtype)
    return 2.0**-7 if kind.name == "bfloat16" else float(np.finfo(kind).eps)


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError:
        raise ConfigError(
            "bfloat16 needs ml_dtypes: pip install 'gossipnode[bfloat16]'",
            key="task.dtype",
            allowed="float16, float32 or float64 without it",
        ) from None
    kind: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return kind
