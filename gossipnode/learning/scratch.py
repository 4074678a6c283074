"""Memory that a computation needs while it runs, one set for each thread.

Invariant: what ``scratch`` returns belongs to the caller until somebody in the same thread asks
for the same name; nobody keeps it. So ten thousand simulated nodes, which compute one after the
other, need one set, and a node of its own needs no more than if it had buffers of its own.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_name: dict[str, NDArray[Any]] = {}


_buffers = _Buffers()


def scratch(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array whose content is left from before; a name has one shape at a time."""
    found = _buffers.by_name.get(name)
    if found is None or found.shape != shape or found.dtype != dtype:
        found = _buffers.by_name[name] = np.empty(shape, dtype)
    return found
