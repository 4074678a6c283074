"""What a benchmark watches in its own process: the event loop's lag, and the peak of memory.

Invariant: a lag is entered only while something is ``busy``, so that idle time cannot dilute it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from pathlib import Path

TICK_S = 0.001


class Watch:
    """Lags of a timer of 1 ms in seconds, and resident memory; ``start`` in the running loop."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.busy = busy
        self.lags: list[float] = []
        self.base_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin: what is resident now is the base, and the peak is forgotten."""
        Path("/proc/self/clear_refs").write_text("5")
        self.base_bytes = _resident("VmRSS")
        self._arm(asyncio.get_running_loop())

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def summary(self) -> dict[str, float]:
        """Return base and peak in bytes, and the lag's maximum and 99.9 % quantile in ms."""
        return {
            "base": self.base_bytes,
            "peak": _resident("VmHWM"),
            **quantiles(self.lags),
        }

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + TICK_S
        self._timer = loop.call_later(TICK_S, self._fired, loop, due, self.busy())

    def _fired(self, loop: asyncio.AbstractEventLoop, due: float, was_busy: bool) -> None:
        if was_busy and self.busy():
            self.lags.append(max(time.monotonic() - due, 0.0))
        self._arm(loop)


def quantiles(lags: Collection[float]) -> dict[str, float]:
    """Return of lags in seconds the maximum and the 99.9 % quantile in ms, and their number."""
    ordered = sorted(lags) or [0.0]
    return {
        "lag_ms": 1e3 * ordered[min(int(0.999 * len(ordered)), len(ordered) - 1)],
        "lag_ms_max": 1e3 * ordered[-1],
        "samples": len(lags),
    }


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
