"""The lag that the machine alone makes: an event loop in a process of its own that does nothing.

``python -m benchmarks.control`` is that process. Where more threads want to run than there are
processors, the kernel lets a loop wait that has nothing to do; only what a node's loop is later
than that is the node's doing. Invariant: it runs beside what is measured, at the same times.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from benchmarks.watching import TICK_S, quantiles

PATIENCE_S = 30.0


class Control:
    """The process, as a context; tell it by ``during`` when what is measured runs."""

    def __init__(self) -> None:
        self._times: dict[str, list[tuple[float, float]]] = {}

    def __enter__(self) -> Self:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.control"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it watches
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Count this time to ``name``."""
        began = time.monotonic()
        yield
        self._times.setdefault(name, []).append((began, time.monotonic()))

    def summary(self) -> dict[str, dict[str, float]]:
        """End it and return by name what ``quantiles`` gives of its lags at those times."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._times) + "\n")
        self._process.stdin.flush()
        found: dict[str, dict[str, float]] = json.loads(self._process.stdout.readline())
        return found


async def watch() -> None:
    """Note each lag until a line comes on standard input, then tell of the times in it."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()
    loop.add_reader(0, lambda: asked.done() or asked.set_result(sys.stdin.readline()))
    fired: list[float] = []
    lags: list[float] = []
    print("watching", flush=True)
    while not asked.done():
        due = loop.time() + TICK_S
        await asyncio.wait([asked], timeout=TICK_S)
        fired.append(time.monotonic())
        lags.append(max(fired[-1] - due, 0.0))
    line = asked.result()
    if not line:
        return
    times: dict[str, list[tuple[float, float]]] = json.loads(line)
    found: dict[str, Any] = {}
    for name, spans in times.items():
        inside = [
            lag
            for began, ended in spans
            for lag in lags[bisect.bisect(fired, began) : bisect.bisect(fired, ended)]
        ]
        found[name] = quantiles(inside)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watch())
