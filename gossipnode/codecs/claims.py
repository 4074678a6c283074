"""What a stranger claims of a coded vector, looked at before any memory is taken.

Invariant: each function returns what may be believed or raises ``PeerError`` (malformed_frame)
whose reason begins with the key. Bytes may not enter.
"""

from __future__ import annotations

from math import isfinite
from typing import NoReturn

import numpy as np

from gossipnode.codecs.base import Coding
from gossipnode.errors import PeerError


def refuse(key: str, what: str) -> NoReturn:
    """Raise the ``PeerError`` that names ``key``."""
    raise PeerError("malformed_frame", f"{key} {what}")


def dtype_of(coding: Coding) -> np.dtype[np.float32] | np.dtype[np.float64]:
    """Return what the vector decodes to: float64 where that is asked for, else float32."""
    return np.dtype(np.float64) if coding.dtype == "float64" else np.dtype(np.float32)


def largest_of(coding: Coding) -> float:
    """Return the largest finite number of ``dtype_of``."""
    return float(np.finfo(dtype_of(coding)).max)


def claimed(key: str, value: float | None, low: float, high: float) -> float:
    """Return ``value`` of ``key``, which must be there, finite, and ``low`` to ``high``."""
    if value is None:
        refuse(key, "is missing")
    if not isfinite(value):
        refuse(key, "is not finite")
    if not low <= value <= high:
        refuse(key, f"is not {low:g} to {high:g}")
    return float(value)


def check_nbytes(coding: Coding, expected: int) -> None:
    """Compare ``nbytes`` with what size and codec make it."""
    if coding.nbytes != expected:
        refuse("nbytes", f"is not {expected}, which size and codec make it")
