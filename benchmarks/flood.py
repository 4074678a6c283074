"""Measure what a flood costs the pushes of an honest peer, and what is left of it in memory.

``python -m benchmarks.flood [--quick] [--json FILE]``. One node of 340 KB with a bundle; a member
of its swarm pushes to it every 20 ms, for a while undisturbed, then while another process holds 500
half-open connections and 100 that drip, half of them a TLS handshake and half, with a certificate
of the swarm, a body; makes 100 TLS handshakes a second with a certificate of another authority; and
1,000 requests a second on the plain listener: all from addresses of its own. Whatever the node
ends, the flood opens again. Invariant: the honest pushes are the same in both stretches, and timed
from the call to the acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from ssl import CERT_NONE, SSLContext
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
from gossipnode.network.trust.authority import Authority
from gossipnode.network.trust.bundle import Bundle, read_bundle
from gossipnode.network.trust.contexts import context_of
from gossipnode.network.trust.trust import Trust

HALF_OPEN, DRIPPING, REQUESTS_PER_S, FOREIGN_PER_S = 500, 100, 1000, 100
FLOOD_S = {True: 10.0, False: 60.0}
EVERY_S = 0.02
REST_S = 60.0
P99_BAR, MEMORY_BAR = 3.0, 1.1
CONNECTION_BYTES = 64 * 1024
BODY = 340_000
TASKS = 20  # that make requests, each over a connection of its own
FOREIGN_TASKS = 10
# A TLS record that is said to be a long handshake, whose bytes then come one by one.
HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"
# What the flood shows: a member's certificate, and one of another authority.
MEMBER, FOREIGN = "member.bundle", "foreign.bundle"


# -- the flood ------------------------------------------------------------------------------------


async def held(
    port: int, address: str, first: bytes, drip: bytes, tls: SSLContext | None = None
) -> None:
    """Keep a connection that sends ``first`` and then a little now and then; open it again."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0), **_spoken(tls)
            )
            try:
                writer.write(first)
                over = asyncio.ensure_future(reader.read())
                while not (await asyncio.wait([over], timeout=0.5))[0] and not writer.is_closing():
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


async def handshakes(port: int, address: str, per_s: float, tls: SSLContext) -> None:
    """Show a certificate that the node does not know, again and again, and wait for its answer."""
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0
    while True:
        count += 1
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, local_addr=(address, 0), **_spoken(tls)
            )
            with contextlib.suppress(OSError):
                await reader.read(1)  # under TLS 1.3 this is where it hears of it
            writer.transport.abort()
        # Those that could not be made in their time are not made up for all at once.
        began = max(began, loop.time() - (count + 1) / per_s)
        await asyncio.sleep(max(0.0, began + count / per_s - loop.time()))


def _spoken(tls: SSLContext | None) -> dict[str, Any]:
    return {} if tls is None else {"ssl": tls, "server_hostname": ""}


async def _drain(reader: asyncio.StreamReader) -> None:
    while await reader.read(2**16):
        pass


async def flood(port: int, status: int, folder: str) -> None:
    """Do all of it until killed; the plain listener is on ``status``."""
    member, foreign = (
        context_of(read_bundle(Path(folder) / name)[0], serving=False) for name in (MEMBER, FOREIGN)
    )
    foreign.verify_mode = CERT_NONE  # it takes any node for what it is looking for
    head = f"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY}\r\n\r\nGN".encode()
    async with asyncio.TaskGroup() as group:
        for number in range(HALF_OPEN):
            address = f"127.0.1.{1 + number % 100}"
            group.create_task(held(port, address, HELLO if number % 2 else b"", b""))
        for number in range(DRIPPING):
            address = f"127.0.2.{1 + number % 10}"
            words = (HELLO, b"\1", None) if number % 2 else (head, b"\1", member)
            group.create_task(held(port, address, *words))
        for number in range(TASKS):
            address = f"127.0.3.{1 + number % 4}"
            group.create_task(requests(status, address, REQUESTS_PER_S / TASKS))
        for number in range(FOREIGN_TASKS):
            address, each = f"127.0.4.{1 + number % 4}", FOREIGN_PER_S / FOREIGN_TASKS
            group.create_task(handshakes(port, address, each, foreign))


@contextlib.contextmanager
def flooding(port: int, status: int, folder: str) -> Iterator[None]:
    """Run the flood as a process."""
    words = [sys.executable, "-m", "benchmarks.flood", "--attack", str(port), str(status), folder]
    process = subprocess.Popen(words, env=environment())
    try:
        yield
        assert process.poll() is None, "the flood ended before its time"
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
        ports, bundles = (free_port(), free_port()), issued(Path(folder))
        port, status = ports
        process = stack.enter_context(command(folder, *words_for(folder, *ports)))
        until(partial(asked, status, "/readyz"), "/readyz")
        address = f"https://127.0.0.1:{port}"
        peers = [PeerEntry(id=bundles["n0"].member.id, address=address)]
        config = config_of(folder, bundles["honest"].member.id)
        async with HttpNode(config, peers=peers, trust=Trust(bundles["honest"])) as node:
            await push_for(node, address, process.pid, 2.0)  # to warm up
            asked(status, "/v1/status")
            quiet = await push_for(node, address, process.pid, seconds)
            base = resident(process.pid)
            with flooding(*ports, folder):
                began = time.monotonic()
                while (refused := await asyncio.to_thread(strangers, status)) < FOREIGN_PER_S:
                    assert time.monotonic() < began + REST_S, "the flood does not get under way"
                    await push_for(node, address, process.pid, 0.5)
                loud = await push_for(node, address, process.pid, seconds)
                refused = (await asyncio.to_thread(strangers, status) - refused) / seconds
            back_s = await _back(process.pid, base)
            left = resident(process.pid)
    return _figures(quiet, loud, base, left, back_s, refused)


def issued(folder: Path) -> dict[str, Bundle]:
    """Write what each has, the flood and a stranger included; return them by name."""
    now = datetime.datetime.now(datetime.UTC)
    ours = Authority.create(folder / "ours", "swarm", now)
    theirs = Authority.create(folder / "theirs", "swarm", now)
    names = ("n0", "honest", "member")
    made = dict(zip(names, ours.issue([(name, "") for name in names], now), strict=True))
    made["foreign"] = theirs.issue([("foreign", "")], now)[0]
    for name, bundle in made.items():
        bundle.write(folder / f"{name}.bundle")
    return made


def words_for(folder: str, port: int, status: int) -> list[str]:
    """Return the command of the node that is flooded."""
    words = ["start", "--bundle", "n0.bundle", "--port", str(port)]
    words += ["--status-port", str(status), "--data", "npz:images.npz"]
    words += ["--algorithm", "gossip", "--topology", "random", "--period-s", "86400"]
    words += ["--data-dir", f"{folder}/n0", "--set", "checkpoint.enabled=false"]
    return [*words, "--set", "network.bind=127.0.0.1"]


def strangers(status: int) -> float:
    """Return how many certificates of another authority have been refused."""
    text = asked(status, "/metrics").decode()
    pattern = r"^gossipnode_connections_refused_total\{.*unknown_authority.*\} (\S+)"
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def _back(pid: int, base: float) -> float:
    """Return the seconds until memory is back, at most ``REST_S``."""
    began = time.monotonic()
    while resident(pid) > MEMORY_BAR * base and time.monotonic() < began + REST_S:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def _figures(
    quiet: Stretch, loud: Stretch, base: float, left: float, back_s: float, refused: float
) -> list[Figure]:
    p99, p99_loud = (percentile(each.taken, 0.99) for each in (quiet, loud))
    done = 1 - loud.failed / len(loud.taken)
    connections = HALF_OPEN + DRIPPING + TASKS + FOREIGN_TASKS
    peak = loud.resident_max - base
    return [
        Figure("pushes", "honest pushes in the flood", float(len(loud.taken)), "", "more"),
        Figure("foreign", "foreign certificates refused in it", refused, "1/s", "more"),
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
@click.option("--attack", type=(int, int, str), hidden=True)
def main(quick: bool, path: Path | None, attack: tuple[int, int, str] | None) -> None:
    """Print what a flood costs an honest peer."""
    import uvloop

    work: Any = flood(*attack) if attack is not None else measure(FLOOD_S[quick])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(work)
    if attack is None:
        present(result, path)


if __name__ == "__main__":
    main()
