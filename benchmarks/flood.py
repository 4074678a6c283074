"""Measure what a flood costs the pushes of an honest peer, and what is left of it in memory.

``python -m benchmarks.flood [--quick] [--json FILE]``. One node of 340 KB; a peer pushes to it
every 20 ms, for a while undisturbed, then while another process holds 500 half-open connections
and 100 that drip a body, and makes 1,000 requests a second, from addresses of its own. Whatever
the node ends, the flood opens again. Invariant: the honest pushes are the same in both stretches,
and timed from the call to the acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import Figure, present, standard_options
from benchmarks.processes import asked, command, free_port, percentile, save_noise, until
from benchmarks.slow_peer import FEATURES, config_of
from benchmarks.teams import environment
from gossipnode.algorithms.base import Purpose
from gossipnode.config import PeerEntry
from gossipnode.errors import NetworkError, PeerError
from gossipnode.network import HttpNode

HALF_OPEN, DRIPPING, REQUESTS_PER_S = 500, 100, 1000
FLOOD_S = {True: 5.0, False: 60.0}
EVERY_S = 0.02
REST_S = 60.0
P99_BAR, MEMORY_BAR = 3.0, 1.1
CONNECTION_BYTES = 64 * 1024
BODY = 340_000
TASKS = 20  # that make requests, each over a connection of its own


# -- the flood ------------------------------------------------------------------------------------


async def held(port: int, address: str, first: bytes, drip: bytes) -> None:
    """Keep a connection that sends ``first`` and then a little now and then; open it again."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            try:
                writer.write(first)
                over = asyncio.ensure_future(reader.read())
                while not (await asyncio.wait([over], timeout=0.5))[0]:
                    writer.write(drip)
                with contextlib.suppress(OSError):
                    await over
            finally:
                writer.close()
        await asyncio.sleep(0.05)


async def requests(port: int, address: str, per_s: float) -> None:
    """Make requests at a rate over one connection, and read the answers."""
    loop = asyncio.get_running_loop()
    ask = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0)
            )
            reading = asyncio.ensure_future(_drain(reader))
            began, count = loop.time(), 0
            while not reading.done():
                count += 1
                writer.write(ask)
                await writer.drain()
                await asyncio.sleep(max(0.0, began + count / per_s - loop.time()))
            writer.close()
        await asyncio.sleep(0.05)


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(2**16):
        pass


async def flood(port: int) -> None:
    """Do all of it until killed."""
    head = f"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\nGN".encode()
    async with asyncio.TaskGroup() as group:
        for number in range(HALF_OPEN):
            address = f"127.0.1.{1 + number % 100}"
            group.create_task(held(port, address, b"GET / HTT" if number % 2 else b"", b""))
        for number in range(DRIPPING):
            group.create_task(held(port, f"127.0.2.{1 + number % 10}", head, b"\1"))
        for number in range(TASKS):
            address = f"127.0.3.{1 + number % 4}"
            group.create_task(requests(port, address, REQUESTS_PER_S / TASKS))


@contextlib.contextmanager
def flooding(port: int) -> Iterator[None]:
    """Run the flood as a process."""
    words = [sys.executable, "-m", "benchmarks.flood", "--attack", str(port)]
    process = subprocess.Popen(words, env=environment())
    try:
        yield
    finally:
        process.kill()
        process.wait()


# -- the honest peer ------------------------------------------------------------------------------


@dataclass
class Stretch:
    """What became of the pushes of one stretch of time."""

    taken: list[float] = field(default_factory=list)
    failed: int = 0
    resident_max: float = 0.0


async def push_for(node: HttpNode, address: str, pid: int, seconds: float) -> Stretch:
    """Push every 20 ms."""
    loop, stretch = asyncio.get_running_loop(), Stretch()
    began = loop.time()
    while loop.time() < began + seconds:
        frame = node.passive.frame({"x": node.params}, Purpose.MODEL, node.age)
        before = time.perf_counter()
        try:
            receipt = await node.world.push(address, frame, 30.0)
            is_merged = receipt.reply is not None and receipt.reply.status == "merged"
        except (NetworkError, PeerError):
            is_merged = False
        stretch.failed += not is_merged
        stretch.taken.append(time.perf_counter() - before)
        stretch.resident_max = max(stretch.resident_max, resident(pid))
        await asyncio.sleep(EVERY_S)
    return stretch


def resident(pid: int) -> float:
    """Return the resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


async def measure(seconds: float) -> list[Figure]:
    """Return the figures of one flood of ``seconds``."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        save_noise(Path(folder) / "images.npz", 64, FEATURES)
        port = free_port()
        words = ["start", "--id", "n0", "--port", str(port), "--data", "npz:images.npz"]
        words += ["--algorithm", "gossip", "--topology", "random", "--period-s", "86400"]
        words += ["--data-dir", f"{folder}/n0", "--set", "checkpoint.enabled=false"]
        process = stack.enter_context(command(folder, *words))
        until(partial(asked, port, "/readyz"), "/readyz")
        address = f"http://127.0.0.1:{port}"
        peers = [PeerEntry(id="n0", address=address)]
        async with HttpNode(config_of(folder), peers=peers) as node:
            await push_for(node, address, process.pid, 2.0)  # to warm up
            asked(port, "/v1/status")
            quiet = await push_for(node, address, process.pid, seconds)
            base = resident(process.pid)
            with flooding(port):
                await push_for(node, address, process.pid, 1.0)  # until it is under way
                loud = await push_for(node, address, process.pid, seconds)
            back_s = await _back(process.pid, base)
            left = resident(process.pid)
    return _figures(quiet, loud, base, left, back_s)


async def _back(pid: int, base: float) -> float:
    """Return the seconds until memory is back, at most ``REST_S``."""
    began = time.monotonic()
    while resident(pid) > MEMORY_BAR * base and time.monotonic() < began + REST_S:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def _figures(
    quiet: Stretch, loud: Stretch, base: float, left: float, back_s: float
) -> list[Figure]:
    p99, p99_loud = (percentile(each.taken, 0.99) for each in (quiet, loud))
    done = 1 - loud.failed / len(loud.taken)
    connections = HALF_OPEN + DRIPPING + TASKS
    peak = loud.resident_max - base
    return [
        Figure("pushes", "honest pushes in the flood", float(len(loud.taken)), "", "more"),
        Figure("succeeded", "of them merged", done, "", "more", 1.0),
        Figure("p99_ms", "p99 of an honest push, undisturbed", p99 * 1e3, "ms"),
        Figure("p99_flood_ms", "p99 of an honest push, in the flood", p99_loud * 1e3, "ms"),
        Figure("p99_ratio", "p99 in the flood / undisturbed", p99_loud / p99, "", "less", P99_BAR),
        Figure(
            "memory_connection_kb", "memory at most above the base, a connection",
            peak / connections / 1024, "KiB", "less", CONNECTION_BYTES / 1024,
        ),
        Figure("memory_ratio", "memory afterwards / before", left / base, "", "less", MEMORY_BAR),
        Figure("back_s", "time until it is back", back_s, "s", "less", REST_S),
    ]  # fmt: skip


@click.command()
@standard_options
@click.option("--attack", type=int, hidden=True)
def main(quick: bool, path: Path | None, attack: int | None) -> None:
    """Print what a flood costs an honest peer."""
    import uvloop

    work: Any = flood(attack) if attack is not None else measure(FLOOD_S[quick])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(work)
    if attack is None:
        present(result, path)


if __name__ == "__main__":
    main()
