"""Measure what one slow peer costs the pushes to the others: nothing, at best.

``python -m benchmarks.slow_peer [--quick] [--json FILE]``. One node pushes 340 KB to four others
every 20 ms, through its outbox as an algorithm would; in every second block also to a fifth, whose
line brings it 1 MB/s. Timed is from the call to the acknowledgement, of the four alone. Invariant:
blocks with and without the slow one take turns, and their percentiles are compared pair by pair.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, create_connection, create_server, socket
from typing import Any

import click

from benchmarks.figures import Figure, median_ratio, present, standard_options
from benchmarks.processes import asked, command, free_port, percentile, save_noise, until
from benchmarks.teams import environment
from gossipnode.algorithms.base import Purpose
from gossipnode.config import Config, PeerEntry
from gossipnode.network import HttpNode
from gossipnode.node.outbox import Parcel
from gossipnode.node.world import Posted

OTHERS = 4
# 85,100 params, 340 KB.
FEATURES = 8_509
EVERY_S = 0.02
PUSHES = 100
PAIRS = {True: 3, False: 20}
BAR = 1.2
PROXY_BYTES, PROXY_PAUSE_S = 16_384, 0.016


def slow_line(port: int, target: int) -> None:
    """Pass on what comes to ``port``, 1 MB/s and no faster; answers pass as they come."""
    with create_server(("127.0.0.1", port)) as listener:
        # Little may wait here, or the sender would not notice.
        listener.setsockopt(SOL_SOCKET, SO_RCVBUF, 65_536)
        while True:
            there, _ = listener.accept()
            here = create_connection(("127.0.0.1", target))
            for source, sink, pause_s in ((there, here, PROXY_PAUSE_S), (here, there, 0.0)):
                threading.Thread(target=_pass_on, args=(source, sink, pause_s), daemon=True).start()


def _pass_on(source: socket, sink: socket, pause_s: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PROXY_BYTES):
            sink.sendall(data)
            time.sleep(pause_s)
    with contextlib.suppress(OSError):
        sink.shutdown(1)


@contextlib.contextmanager
def proxy(port: int, target: int) -> Any:
    """Run the slow line as a process."""
    words = [sys.executable, "-m", "benchmarks.slow_peer", "--line", str(port), str(target)]
    process = subprocess.Popen(words, env=environment())
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Sender:
    """A running node that pushes when told to, and knows when each push was acknowledged."""

    def __init__(self, node: HttpNode) -> None:
        self.node, self.taken = node, dict[str, list[float]]()
        self._queued: dict[int, float] = {}
        self._push, self._post = node.world.push, node.world.post
        node.world.push = self._timed  # type: ignore[method-assign]
        node.world.post = self._timed_post  # type: ignore[method-assign]

    async def _timed(self, address: str, frame: Any, timeout_s: float) -> Any:
        receipt = await self._push(address, frame, timeout_s)
        self._over(address, frame, receipt)
        return receipt

    def _timed_post(
        self, address: str, frame: Any, timeout_s: float, answered: Callable[[Posted], None]
    ) -> Posted | None:
        def over(posted: Posted) -> None:
            self._over(address, frame, posted.outcome)
            answered(posted)

        return self._post(address, frame, timeout_s, over)

    def _over(self, address: str, frame: Any, outcome: Any) -> None:
        reply = getattr(outcome, "reply", None)
        if reply is not None and reply.status == "merged":
            taken = time.perf_counter() - self._queued[id(frame)]
            self.taken.setdefault(address, []).append(taken)

    async def block(self, peers: list[str]) -> dict[str, list[float]]:
        """Push ``PUSHES`` times to ``peers``; returns the times by address."""
        loop, node = asyncio.get_running_loop(), self.node
        self.taken, self._queued = {}, {}
        frames = []  # kept, so that an id names one frame
        began = loop.time()
        for number in range(PUSHES):
            await asyncio.sleep(max(began + number * EVERY_S - loop.time(), 0.0))
            frame = node.passive.frame({"x": node.params}, Purpose.MODEL, node.age)
            frames.append(frame)
            # uvloop's clock ticks in milliseconds.
            self._queued[id(frame)] = time.perf_counter()
            for peer in peers:
                parcel = Parcel(frame, Purpose.MODEL, node.params, node.age)
                node.courier.put(peer, parcel, node.tasks)
        await node.courier.outbox.flush(30.0)
        return self.taken


def config_of(folder: str, node_id: str = "sender") -> Config:
    """Return the sender's config: gossip that never comes round to a push of its own."""
    return Config.model_validate(
        {
            "node": {"id": node_id, "data_dir": f"{folder}/sender"},
            "data": {"source": f"npz:{folder}/images.npz"},
            "algorithm": {"name": "gossip", "period_s": 86_400.0},
            "topology": {"graph": "random"},
            "run": {"evaluate_every": 0},
            "checkpoint": {"enabled": False},
            "log": {"level": "error"},
        }
    )


@contextlib.asynccontextmanager
async def running(folder: str) -> AsyncIterator[Sender]:
    """Start the others, the slow line and the sender."""
    save_noise(Path(folder) / "images.npz", 64, FEATURES)
    ports = [free_port() for _ in range(OTHERS + 2)]
    slow_port = ports.pop()
    with contextlib.ExitStack() as stack:
        for number, port in enumerate(ports):
            words = ["start", "--id", f"n{number}", "--port", str(port), "--data", "npz:images.npz"]
            words += ["--algorithm", "gossip", "--topology", "random", "--period-s", "86400"]
            words += ["--data-dir", f"{folder}/n{number}", "--set", "checkpoint.enabled=false"]
            stack.enter_context(command(folder, *words))
        stack.enter_context(proxy(slow_port, ports[-1]))
        for port in (*ports, slow_port):
            until(partial(asked, port, "/readyz"), "/readyz")
        dialled = [*ports[:-1], slow_port]
        peers = [
            PeerEntry(id=f"n{i}", address=f"http://127.0.0.1:{port}")
            for i, port in enumerate(dialled)
        ]
        async with HttpNode(config_of(folder), peers=peers) as node:
            runs = asyncio.Event()
            node.on_measurement = lambda _: runs.set()  # the first one is its first act
            task = asyncio.create_task(node.run())
            await runs.wait()
            yield Sender(node)
            node.request_stop()
            await task


async def measure(pairs: int) -> list[Figure]:
    """Return the figures of ``pairs`` pairs of blocks, after one to warm up."""
    names = [f"n{i}" for i in range(OTHERS + 1)]
    found: dict[str, list[float]] = {f"{s}{w}": [] for s in ("p50", "p99") for w in ("", "_slow")}
    slow_ones: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with running(folder) as sender:
            slow = sender.node.peers[names[-1]].address
            for pair in range(1 + pairs):
                for which, peers in (("", names[:-1]), ("_slow", names)):
                    taken = await sender.block(peers)
                    slow_ones += taken.pop(slow, [])
                    assert len(taken) == OTHERS, f"acknowledged by {sorted(taken)} alone"
                    times = [one for many in taken.values() for one in many]
                    if pair:
                        found[f"p50{which}"].append(statistics.median(times))
                        found[f"p99{which}"].append(percentile(times, 0.99))
    assert slow_ones, "the slow one acknowledged nothing"
    what = f"340 KB to {OTHERS} peers every {EVERY_S * 1e3:.0f} ms"
    figures = []
    for name, text in (("p50", "median"), ("p99", "p99")):
        for which, beside in (("", "none is slow"), ("_slow", "a fifth is slow")):
            value = statistics.median(found[f"{name}{which}"]) * 1e3
            figures.append(Figure(f"{name}{which}_ms", f"{what}: {text}, {beside}", value, "ms"))
    value = statistics.median(slow_ones) * 1e3
    figures.append(Figure("slow_one_ms", f"{what}: median to the slow one", value, "ms"))
    value = median_ratio(found["p99_slow"], found["p99"])
    text = f"{what}: p99 with a slow fifth / without"
    return [*figures, Figure("p99_ratio", text, value, "", "less", BAR)]


@click.command()
@standard_options
@click.option("--line", type=int, nargs=2, hidden=True)
def main(quick: bool, path: Path | None, line: tuple[int, int] | None) -> None:
    """Print what a slow peer costs the others."""
    if line:
        slow_line(*line)
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        present(runner.run(measure(PAIRS[quick])), path)


if __name__ == "__main__":
    main()
